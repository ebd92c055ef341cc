from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from busi_monai.errors import ImageReadError
from busi_monai.io.image_files import ImageBytes
from busi_monai.io.images import read_image

PIXELS = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60).astype(np.uint8)


def encoded(format: str, pixels: np.ndarray = PIXELS) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def nifti(pixels: np.ndarray = PIXELS) -> bytes:
    return nibabel.Nifti1Image(pixels.T, np.diag([0.2, 0.1, 1, 1])).to_bytes()


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("name", ["a.png", "a.dcm", "a.nii.gz", "../../etc/passwd", ""])
def test_bytes_are_read_by_what_they_hold(format: str, name: str) -> None:
    loaded = read_image(ImageBytes(encoded(format), name))

    assert np.allclose(loaded.pixels, PIXELS / 255)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_nifti_bytes(pack: object, tmp_path: Path) -> None:
    content = pack(nifti())  # type: ignore[operator]
    path = tmp_path / ("x.nii" if pack is bytes else "x.nii.gz")
    path.write_bytes(content)

    for source in (path, ImageBytes(content, "x.png")):
        loaded = read_image(source)
        assert np.allclose(loaded.pixels, PIXELS / 255)
        assert loaded.spacing_mm == pytest.approx((0.1, 0.2))


def test_formats_that_call_programs_are_not_tried() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"

    for content in (postscript, encoded("GIF"), encoded("PPM"), b"<svg/>", b"%PDF-1.4"):
        with pytest.raises(ImageReadError, match="not an image that can be read"):
            read_image(ImageBytes(content, "x.png"))


@pytest.mark.parametrize("content", [encoded("PNG"), encoded("TIFF"), nifti()])
def test_too_many_pixels_for_an_untrusted_file(content: bytes) -> None:
    with pytest.raises(ImageReadError, match="more than 1,000"):
        read_image(ImageBytes(content, max_pixels=1_000))


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(nifti(np.zeros((30_000, 2_000), dtype=np.uint8)))
    trailing = gzip.compress(nifti() + bytes(60_000_000))
    assert len(bomb) < 200_000

    tracemalloc.start()
    with pytest.raises(ImageReadError, match="more than 1,000,000 pixels"):
        read_image(ImageBytes(bomb, max_pixels=1_000_000))
    read_image(ImageBytes(trailing, max_pixels=1_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize(
    ("image", "tile"), [((60, 40), (30_000, 30_000)), ((4800, 16), (16, 1_900_000))]
)
def test_tiles_far_larger_than_the_image_are_refused(
    image: tuple[int, int], tile: tuple[int, int]
) -> None:
    """All of them may be the same few bytes."""
    # width, height, bits, compression, grey, samples, tile width and length, offset, byte count
    tags = {256: image[0], 257: image[1], 258: 8, 259: 8, 262: 1, 277: 1}
    tags |= {322: tile[0], 323: tile[1], 324: 200, 325: 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(100)

    with pytest.raises(ImageReadError, match=f"tiles of {tile[0]}×{tile[1]} pixels in an image"):
        read_image(ImageBytes(content))


def test_nifti_pixels_of_many_bytes_are_refused() -> None:
    image = nibabel.Nifti1Image(np.zeros((300, 300, 4), dtype=np.complex128), np.eye(4))

    with pytest.raises(ImageReadError, match="5,760,000 bytes of pixels"):
        read_image(ImageBytes(gzip.compress(image.to_bytes()), max_pixels=100_000))


def test_frames_are_not_counted_to_the_end() -> None:
    stream = io.BytesIO()
    frames = [Image.fromarray(PIXELS)] * 3
    frames[0].save(stream, "TIFF", save_all=True, append_images=frames[1:])

    with pytest.raises(ImageReadError, match="several frames"):
        read_image(ImageBytes(stream.getvalue()))


def test_a_jpeg_of_many_scans_is_refused() -> None:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    assert read_image(ImageBytes(content)).pixels.shape == (40, 60)
    last = content.rindex(b"\xff\xda")

    with pytest.raises(ImageReadError, match="more than 64 scans"):
        read_image(ImageBytes(content[:-2] + content[last:-2] * 70 + b"\xff\xd9"))


def test_a_phones_image_with_a_preview_of_itself() -> None:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(
        stream, "MPO", save_all=True, append_images=[Image.fromarray(PIXELS[:10, :10])]
    )

    assert read_image(ImageBytes(stream.getvalue())).pixels.shape == (40, 60)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"\x1f\x8bxxxx", b"\x89PNG\r\n\x1a\n"])
def test_hardly_any_bytes(content: bytes) -> None:
    with pytest.raises(ImageReadError):
        read_image(ImageBytes(content))
