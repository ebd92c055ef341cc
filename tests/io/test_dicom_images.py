from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from busi_monai.errors import ImageReadError
from busi_monai.io.dicom_images import read_dicom_frame, read_dicom_header
from busi_monai.io.image_files import ImageBytes
from busi_monai.io.images import ImageFile, frames_of, read_image

Save = Callable[..., Path]


def loop(frames: int = 5) -> np.ndarray:
    """Frames of 40×60 pixels, each brighter than the one before."""
    ramp = np.linspace(0, 150, 60).astype(np.uint8)
    still = np.broadcast_to(ramp, (40, 60)) + np.arange(40, dtype=np.uint8)[:, None]
    return np.stack([still + np.uint8(10 * number) for number in range(frames)])


def region(bounds: tuple[int, int, int, int], delta: float = 0.01, kind: int = 1) -> Dataset:
    top, left, bottom, right = bounds
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = kind, 1, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right - 1, bottom - 1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX = item.PhysicalDeltaY = delta
    return item


def test_each_frame_of_a_loop_is_read(save_ultrasound: Save, tmp_path: Path) -> None:
    path = save_ultrasound(tmp_path / "cine.dcm", loop())

    frames = frames_of(path)

    assert [image.frame for image in frames.images] == [0, 1, 2, 3, 4]
    for number, image in enumerate(frames.images):
        assert np.allclose(read_image(image).pixels, loop()[number] / 255)
    assert str(frames.images[2]).endswith("cine.dcm frame 3")


def test_a_colour_loop_is_read_frame_by_frame(save_ultrasound: Save, tmp_path: Path) -> None:
    pixels = np.repeat(loop(3)[..., None], 3, axis=-1)
    path = save_ultrasound(tmp_path / "cine.dcm", pixels, "RGB")

    image = read_image(frames_of(path).images[1])

    assert np.allclose(image.pixels, loop(3)[1] / 255)
    assert not image.has_colour


@pytest.mark.parametrize(
    ("tags", "rate"),
    [
        ({}, None),
        ({"FrameTime": 40}, 25),
        ({"FrameTimeVector": [0, 20, 20, 40, 20]}, 40),
        ({"CineRate": 30}, 30),
        ({"RecommendedDisplayFrameRate": 12}, 12),
        ({"FrameTime": 50, "CineRate": 30}, 20),
    ],
)
def test_frames_per_second(
    save_ultrasound: Save, tmp_path: Path, tags: dict[str, object], rate: float | None
) -> None:
    path = save_ultrasound(tmp_path / "cine.dcm", loop(), **tags)

    assert frames_of(path).frames_per_second == rate


def test_a_still_has_no_rate_and_no_frame_number(save_ultrasound: Save, tmp_path: Path) -> None:
    frames = frames_of(save_ultrasound(tmp_path / "still.dcm", loop()[0], CineRate=30))

    assert frames.frames_per_second is None
    assert [image.frame for image in frames.images] == [None]


def test_a_frame_that_is_not_there(save_ultrasound: Save, tmp_path: Path) -> None:
    path = save_ultrasound(tmp_path / "cine.dcm", loop())

    with pytest.raises(ImageReadError, match="there is no frame 6 among 5, counted from 1"):
        read_image(ImageFile(path, 5))
    with pytest.raises(ImageReadError, match="only videos and DICOM files have frames"):
        still = tmp_path / "x.nii"
        still.write_bytes(b"x")
        read_image(ImageFile(still, 1))


def test_the_largest_region_gives_spacing_and_crop(save_ultrasound: Save, tmp_path: Path) -> None:
    regions = Sequence(
        [region((0, 0, 5, 9)), region((4, 10, 30, 50)), region((0, 0, 40, 60), 9, 3)]
    )
    path = save_ultrasound(tmp_path / "x.dcm", loop()[0], SequenceOfUltrasoundRegions=regions)

    whole, cropped = (read_image(ImageFile(path, None, crop)) for crop in (False, True))

    assert whole.pixels.shape == (40, 60)
    assert whole.canvas is None
    assert whole.spacing_mm == pytest.approx((0.1, 0.1))
    assert cropped.canvas == (4, 10, 40, 60)
    assert np.array_equal(cropped.pixels, whole.pixels[4:30, 10:50])


def test_a_region_that_is_nonsense_is_not_cropped_to(save_ultrasound: Save, tmp_path: Path) -> None:
    for bounds in ((30, 10, 4, 50), (39, 59, 41, 61), (0, 0, 40, 60)):
        regions = Sequence([region(bounds)])
        path = save_ultrasound(tmp_path / "x.dcm", loop()[0], SequenceOfUltrasoundRegions=regions)
        assert read_image(ImageFile(path, None, crop_to_region=True)).canvas is None, bounds


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_compressed_loops(save_ultrasound: Save, tmp_path: Path, syntax: str) -> None:
    pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
    path = save_ultrasound(tmp_path / "cine.dcm", loop(3))
    dataset = pydicom.dcmread(path)
    dataset.compress(syntax)
    dataset.save_as(path)

    for number, image in enumerate(frames_of(path).images):
        assert np.allclose(read_image(image).pixels, loop()[number] / 255)


def test_a_deflated_file(save_ultrasound: Save, tmp_path: Path) -> None:
    path = save_ultrasound(tmp_path / "x.dcm", loop()[0])
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)

    assert np.allclose(read_image(path).pixels, loop()[0] / 255)


def test_other_objects_are_named(save_ultrasound: Save, tmp_path: Path) -> None:
    for modality, kind in (("SR", "a structured report"), ("SEG", "a segmentation")):
        path = save_ultrasound(tmp_path / "x.dcm", loop()[0], Modality=modality)
        with pytest.raises(ImageReadError, match=kind):
            read_dicom_header(path)


def test_no_message_tells_a_value_of_the_file(
    save_ultrasound: Save, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = save_ultrasound(tmp_path / "x.dcm", loop()[0])
    content = path.read_bytes()
    broken = content.replace(b"20200304", b"SecretDa").replace(b"19700102", b"SecretBi")
    for length in (len(broken), len(broken) - 800, 700, 400, 200):
        path.write_bytes(broken[:length])
        try:
            read_image(path)
        except ImageReadError as error:
            assert "ecret" not in str(error), error
            assert error.__cause__ is None
    assert not [warning for warning in recwarn if "ecret" in str(warning.message)]


def test_bytes_are_dicom_by_their_preamble_and_limited(
    save_ultrasound: Save, tmp_path: Path
) -> None:
    content = save_ultrasound(tmp_path / "x.dcm", loop()).read_bytes()

    pixels, _, header = read_dicom_frame(ImageBytes(content, "a.png"), 3)

    assert np.allclose(pixels, loop()[3] / 255)
    assert header.frames == 5
    with pytest.raises(ImageReadError, match=r"12,000 pixels in 5 frames, more than 10,000"):
        read_dicom_header(ImageBytes(content, "a.png", max_pixels=10_000))
    with pytest.raises(ImageReadError, match="not an image"):
        read_image(ImageBytes(content[132:], "a.dcm"))


def test_more_frames_stated_than_there_are(save_ultrasound: Save, tmp_path: Path) -> None:
    path = save_ultrasound(tmp_path / "x.dcm", loop(), NumberOfFrames=2_000_000)

    with pytest.raises(ImageReadError, match="cut short; 2000000 frames are stated"):
        frames_of(path)


@pytest.mark.parametrize("explicit", [True, False])
def test_a_file_without_preamble(save_ultrasound: Save, tmp_path: Path, explicit: bool) -> None:
    path = save_ultrasound(tmp_path / "x.dcm", loop(3))
    dataset = pydicom.dcmread(path)
    pydicom.dcmwrite(path, Dataset(dataset), implicit_vr=not explicit, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"

    assert np.allclose(read_image(frames_of(path).images[2]).pixels, loop()[2] / 255)


def test_signed_pixels(save_ultrasound: Save, tmp_path: Path) -> None:
    signed = (loop()[0].astype(np.int16) - 128).astype(np.int8)
    path = save_ultrasound(tmp_path / "x.dcm", signed, PixelRepresentation=1)

    assert np.allclose(read_image(path).pixels, loop()[0] / 255)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_of_eight_bits_in_words_of_sixteen(
    save_ultrasound: Save, tmp_path: Path, bits: int
) -> None:
    table = np.arange(256, dtype="<u2").tobytes()
    tags: dict[str, object] = {}
    for name in ("Red", "Green", "Blue"):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        tags[f"{name}PaletteColorLookupTableData"] = table
    path = save_ultrasound(tmp_path / "x.dcm", loop()[0], "PALETTE COLOR", **tags)

    assert np.allclose(read_image(path).pixels, loop()[0] / 255, atol=1e-6)


def odd_region(**tags: object) -> Sequence:
    item = region((4, 10, 30, 50))
    for name, value in tags.items():
        setattr(item, name, value)
    return Sequence([item])


@pytest.mark.parametrize(
    "tags",
    [
        {"PixelSpacing": [0.1]},
        {"PixelSpacing": None},
        {"FrameTimeVector": 40, "NumberOfFrames": 1},
        {"SequenceOfUltrasoundRegions": odd_region(PhysicalDeltaX=None)},
        {"SequenceOfUltrasoundRegions": Sequence([Dataset()])},
        {"SequenceOfUltrasoundRegions": odd_region(RegionLocationMinX0=[1, 2])},
    ],
)
def test_a_malformed_accessory_does_not_hide_the_image(
    save_ultrasound: Save, tmp_path: Path, tags: dict[str, object]
) -> None:
    path = save_ultrasound(tmp_path / "x.dcm", loop()[0], **tags)

    assert np.allclose(read_image(path).pixels, loop()[0] / 255)


def test_an_endless_spacing_is_none(save_ultrasound: Save, tmp_path: Path) -> None:
    path = save_ultrasound(tmp_path / "x.dcm", loop()[0], PixelSpacing=[0.25, 0.25])
    path.write_bytes(path.read_bytes().replace(b"0.25\\0.25 ", b"inf\\inf   ", 1))

    image = read_image(path)

    assert image.spacing_mm is None


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_codestream_larger_than_stated_is_not_decoded(
    save_ultrasound: Save, tmp_path: Path, syntax: str
) -> None:
    pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
    path = save_ultrasound(tmp_path / "x.dcm", np.zeros((900, 800), dtype=np.uint8))
    dataset = pydicom.dcmread(path)
    dataset.compress(syntax)
    dataset.save_as(path)
    assert read_image(ImageBytes(path.read_bytes())).pixels.shape == (900, 800)
    dataset.Rows = dataset.Columns = 10
    dataset.save_as(path)

    with pytest.raises(ImageReadError, match="not of the size that is stated"):
        read_image(ImageBytes(path.read_bytes()))


def test_reading_leaves_warnings_and_logs_as_they_were(
    save_ultrasound: Save, tmp_path: Path
) -> None:
    path = save_ultrasound(tmp_path / "x.dcm", loop())
    before = list(warnings.filters)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_image, list(frames_of(path).images) * 4))

    assert list(warnings.filters) == before
    assert not logging.getLogger("pydicom").disabled


def test_dicom_is_known_without_its_suffix(save_ultrasound: Save, tmp_path: Path) -> None:
    path = save_ultrasound(tmp_path / "IM0001", loop()[0])

    assert np.allclose(read_image(path).pixels, loop()[0] / 255)


def two_colours() -> np.ndarray:
    rgb = np.full((24, 36, 3), 80, dtype=np.uint8)
    rgb[:, :16] = (200, 30, 60)
    return rgb


@pytest.mark.parametrize("coding", ["RGB", "YBR_FULL", "YBR_FULL_422"])
def test_colours_are_converted_once(save_ultrasound: Save, tmp_path: Path, coding: str) -> None:
    rgb = Image.fromarray(two_colours())
    pixels = np.asarray(rgb.convert("YCbCr") if coding == "YBR_FULL" else rgb)
    path = save_ultrasound(tmp_path / "x.dcm", pixels, coding)
    if coding == "YBR_FULL_422":
        stream = io.BytesIO()
        rgb.save(stream, "JPEG", quality=95)
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        dataset.PixelData = encapsulate([stream.getvalue()])
        dataset.save_as(path)

    loaded = read_image(path)

    assert loaded.has_colour
    luminance = (0.299 * 200 + 0.587 * 30 + 0.114 * 60) / 255
    assert loaded.pixels[3, 3] == pytest.approx(luminance, abs=0.02)
    assert loaded.pixels[3, 30] == pytest.approx(80 / 255, abs=0.02)


def test_a_palette_of_colours(save_ultrasound: Save, tmp_path: Path) -> None:
    indices = np.repeat([[0, 1]], 24, axis=0).repeat(18, axis=1).astype(np.uint8)
    tags: dict[str, object] = {}
    for name, levels in (("Red", (200, 80)), ("Green", (30, 80)), ("Blue", (60, 80))):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [2, 0, 16]
        table = np.array([level * 257 for level in levels], dtype="<u2").tobytes()
        tags[f"{name}PaletteColorLookupTableData"] = table

    loaded = read_image(save_ultrasound(tmp_path / "x.dcm", indices, "PALETTE COLOR", **tags))

    luminance = (0.299 * 200 + 0.587 * 30 + 0.114 * 60) / 255
    assert loaded.pixels[3, [3, 20]] == pytest.approx([luminance, 80 / 255], abs=1e-3)


def scale_only(units: int, x: float, y: float) -> Dataset:
    item = Dataset()
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = x, y
    return item


@pytest.mark.parametrize(
    ("spacing", "regions", "expected"),
    [
        (None, [], None),
        ([0.1, 0.2], [], (0.1, 0.2)),
        ([0, 0], [], None),
        ([1, 1], [], None),
        (None, [(3, 0.02, -0.01)], (0.1, 0.2)),
        (None, [(4, 0.02, 0.01)], None),
        (None, [(4, 9, 9), (3, 0.02, 0.01)], (0.1, 0.2)),
        ([1, 1], [(3, 2, 3)], (30, 20)),
        (None, [(3, 0, 0)], None),
    ],
)
def test_spacing_is_rows_then_columns_in_mm(
    save_ultrasound: Save,
    tmp_path: Path,
    spacing: list[float] | None,
    regions: list[tuple[int, float, float]],
    expected: tuple[float, float] | None,
) -> None:
    tags: dict[str, object] = {} if spacing is None else {"PixelSpacing": spacing}
    if regions:
        tags["SequenceOfUltrasoundRegions"] = Sequence([scale_only(*each) for each in regions])
    found = read_image(save_ultrasound(tmp_path / "x.dcm", loop()[0], **tags)).spacing_mm

    assert found is None if expected is None else found == pytest.approx(expected)


def test_a_loop_is_no_single_image(save_ultrasound: Save, tmp_path: Path) -> None:
    path = save_ultrasound(tmp_path / "x.dcm", loop(3))

    with pytest.raises(ImageReadError, match=r"a loop of 3 frames; .* export the frame as PNG"):
        read_image(path)


def test_a_file_cut_short_or_without_pixels(save_ultrasound: Save, tmp_path: Path) -> None:
    path = save_ultrasound(tmp_path / "x.dcm", loop()[0])
    whole = pydicom.dcmread(path)
    content = path.read_bytes()
    for length in (200, 400, len(content) - 300):
        path.write_bytes(content[:length])
        with pytest.raises(ImageReadError, match=r"x\.dcm: not a readable DICOM"):
            read_image(path)

    del whole.PixelData
    whole.save_as(path)
    with pytest.raises(ImageReadError, match="not a readable DICOM"):
        read_image(path)
