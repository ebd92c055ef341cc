from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from busi_monai.errors import ImageReadError
from busi_monai.io import image_files
from busi_monai.io.images import (
    image_from_array,
    is_image_file,
    pixel_sha256,
    read_image,
    read_mask,
    write_mask,
    write_png,
)

SIZE = (24, 36)


@pytest.fixture
def grey() -> np.ndarray:
    """An image that no turn, flip or transposition leaves alike: (24, 36) uint8."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    pixels = (rows * 5 + columns * 3).astype(np.uint8)
    pixels[2:6, 3:12] = 250
    return pixels


@pytest.fixture
def lesion() -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[4:15, 6:30] = True
    mask[4:8, 6:10] = False
    return mask


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def in_mode(pixels: np.ndarray, mode: str) -> Image.Image:
    """The (H, W) uint8 pixels in another mode, opaque where there is alpha."""
    image = Image.fromarray(pixels)
    if mode == "I;16":
        return Image.fromarray(pixels.astype(np.uint16) * 257)
    if mode == "CMYK":
        zero = Image.new("L", image.size)
        return Image.merge("CMYK", (zero, zero, zero, Image.fromarray(255 - pixels)))
    if mode == "P":
        palette = image.copy()
        palette.putpalette([level for level in range(256) for _ in range(3)])
        return palette
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("L", ".png"), ("LA", ".png"), ("P", ".png"), ("RGB", ".png"), ("RGBA", ".png"),
        ("I;16", ".png"), ("L", ".bmp"), ("RGB", ".bmp"), ("L", ".tif"), ("CMYK", ".tif"),
        ("I;16", ".tif"), ("P", ".gif"), ("RGBA", ".tiff"),
    ],
)  # fmt: skip
def test_grey_in_any_mode_is_the_same_image(
    tmp_path: Path, grey: np.ndarray, mode: str, suffix: str
) -> None:
    path = save(in_mode(grey, mode), tmp_path / f"x{suffix}")

    loaded = read_image(path)

    assert loaded.pixels.shape == SIZE
    assert loaded.pixels.dtype == np.float32
    assert np.allclose(loaded.pixels, grey / 255, atol=1e-6)
    assert not loaded.has_colour
    assert loaded.spacing_mm is None


def test_colours_have_the_same_grey_on_every_processor() -> None:
    rows, columns = np.mgrid[:256, :256]
    colours = np.stack([rows, columns, (3 * rows + 7 * columns) % 256], axis=2).astype(np.uint8)
    pixels = image_from_array(colours).pixels
    assert np.allclose(pixels, colours @ [0.299, 0.587, 0.114] / 255, atol=1e-6)
    assert pixel_sha256(pixels) == (
        "8be46d0105cd5c8099f8817f96969c0d1440a5e2dff6068a96c9bb059212e517"
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_is_nearly_the_same_image(tmp_path: Path, grey: np.ndarray, mode: str) -> None:
    path = save(in_mode(grey, mode), tmp_path / "x.jpeg", quality=98)

    loaded = read_image(path)

    assert np.abs(loaded.pixels - grey / 255).mean() < 0.02
    assert not loaded.has_colour


def test_one_bit(tmp_path: Path, lesion: np.ndarray) -> None:
    path = save(Image.fromarray(lesion), tmp_path / "x.png")

    assert Image.open(path).mode == "1"
    assert np.array_equal(read_image(path).pixels, lesion)


def test_colour_is_seen_and_weighed_as_luminance(tmp_path: Path, grey: np.ndarray) -> None:
    colour = np.repeat(grey[..., None], 3, axis=2)
    colour[3, 4] = (200, 30, 60)

    loaded = read_image(save(Image.fromarray(colour), tmp_path / "x.png"))

    assert loaded.has_colour
    assert loaded.pixels[3, 4] * 255 == pytest.approx(0.299 * 200 + 0.587 * 30 + 0.114 * 60)
    assert loaded.pixels[10, 10] * 255 == pytest.approx(grey[10, 10], abs=1e-3)


def test_transparent_is_black(tmp_path: Path, grey: np.ndarray) -> None:
    alpha = np.full(SIZE, 255, dtype=np.uint8)
    alpha[:, 20:] = 0
    rgba = np.dstack([grey, grey, grey, alpha])

    loaded = read_image(save(Image.fromarray(rgba), tmp_path / "x.png"))

    assert np.allclose(loaded.pixels[:, :20], grey[:, :20] / 255)
    assert not loaded.pixels[:, 20:].any()
    assert not loaded.has_colour


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_exif_orientation_is_applied(
    tmp_path: Path, grey: np.ndarray, orientation: int, suffix: str
) -> None:
    # how a camera held in each way stores the upright image (EXIF 2.3, tag 0x0112)
    stored = {
        1: grey,
        2: grey[:, ::-1],
        3: grey[::-1, ::-1],
        4: grey[::-1],
        5: grey.T,
        6: np.rot90(grey),
        7: grey[::-1, ::-1].T,
        8: np.rot90(grey, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / f"x{suffix}", exif=exif)

    assert read_image(path).pixels.shape == SIZE
    assert np.allclose(read_image(path).pixels, grey / 255)
    assert read_mask(path).shape == SIZE


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(ImageReadError, match="no such file"):
            read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".nii", ".nii.gz", ".dcm", ""])
def test_a_zero_byte_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"leer (1){suffix}"
    path.touch()

    with pytest.raises(ImageReadError, match=r"leer \(1\).*0 bytes"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".nii", ".nii.gz", ".dcm"])
def test_something_else_under_a_images_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_text("not an image at all\n" * 40)

    with pytest.raises(ImageReadError, match="not a"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".gif", ".nii", ".nii.gz"])
def test_cut_anywhere_a_file_is_read_whole_or_not_at_all(
    tmp_path: Path, grey: np.ndarray, suffix: str
) -> None:
    whole = tmp_path / f"whole{suffix}"
    if ".nii" in suffix:
        save_nifti(whole, grey)
    else:
        save(Image.fromarray(grey), whole)
    content, expected = whole.read_bytes(), read_image(whole).pixels
    path = tmp_path / f"cut{suffix}"
    refused = 0
    for length in range(1, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        try:
            pixels = read_image(path).pixels
        except ImageReadError as error:
            assert "cut" in str(error)
            refused += 1
        else:
            # only what ends a file and holds no pixels may be missing
            assert np.array_equal(pixels, expected)
    assert refused >= 20


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".gif", ".nii"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_never_raise_anything_else(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, SIZE).astype(np.uint8)
    path = tmp_path / f"x{suffix}"
    if suffix == ".nii":
        save_nifti(path, pixels)
    else:
        save(Image.fromarray(pixels), path)
    whole = path.read_bytes()
    for _ in range(100):
        content = bytearray(whole)
        for place in rng.integers(0, min(len(content), 400), 3):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            found = read_image(path).pixels
        except ImageReadError as error:
            assert path.name in str(error)
        else:
            assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("suffix", [".gif", ".png", ".tif"])
def test_several_frames_are_refused(tmp_path: Path, grey: np.ndarray, suffix: str) -> None:
    frames = [Image.fromarray(pixels) for pixels in (grey, 255 - grey, grey // 2)]
    path = save(frames[0], tmp_path / f"x{suffix}", save_all=True, append_images=frames[1:])

    with pytest.raises(ImageReadError, match="expected one image, found several frames"):
        read_image(path)


def test_too_many_pixels(tmp_path: Path, grey: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.fromarray(grey), tmp_path / "x.png")
    monkeypatch.setattr(image_files, "MAX_PIXELS", 100)
    with pytest.raises(ImageReadError, match="36×24 pixels, more than 100"):
        read_image(path)

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(ImageReadError, match="too many pixels"):
        read_image(path)


def test_a_row_and_nan_are_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match=r"row\.png: 9×1 pixels is no image"):
        read_image(save(Image.new("L", (9, 1)), tmp_path / "row.png"))
    values = np.full(SIZE, np.nan, dtype=np.float32)
    with pytest.raises(ImageReadError, match=r"nan\.tif: .*NaN"):
        read_image(save(Image.fromarray(values), tmp_path / "nan.tif"))


def test_names_that_end_like_a_image() -> None:
    assert all(is_image_file(name) for name in ("a.PNG", "a.nii.gz", Path("b/a (1).Jpeg"), "x.dcm"))
    assert not any(is_image_file(name) for name in ("a.txt", "png", "a.png.zip", "a.gz"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_mask_in_any_mode(tmp_path: Path, lesion: np.ndarray, mode: str) -> None:
    pixels = np.where(lesion, 255, 0).astype(np.uint8)

    mask = read_mask(save(in_mode(pixels, mode), tmp_path / "m.png"))

    assert mask.dtype == bool
    assert np.array_equal(mask, lesion)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_label_map_of_0_and_1_is_a_mask(tmp_path: Path, lesion: np.ndarray, mode: str) -> None:
    path = save(in_mode(lesion.astype(np.uint8), mode), tmp_path / "m.png")

    assert np.array_equal(read_mask(path), lesion)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255)])
def test_a_mask_in_pure_colour(
    tmp_path: Path, lesion: np.ndarray, colour: tuple[int, int, int]
) -> None:
    pixels = np.zeros((*SIZE, 3), dtype=np.uint8)
    pixels[lesion] = colour

    assert np.array_equal(read_mask(save(Image.fromarray(pixels), tmp_path / "m.png")), lesion)


def test_an_opaque_black_mask_is_empty(tmp_path: Path) -> None:
    for mode in ("1", "L", "RGB", "RGBA", "LA"):
        colour = {"RGBA": (0, 0, 0, 255), "LA": (0, 255)}.get(mode, 0)
        path = save(Image.new(mode, SIZE[::-1], colour), tmp_path / f"{mode}.png")
        assert not read_mask(path).any()


def test_a_written_mask_is_black_and_white_and_reads_back(
    tmp_path: Path, lesion: np.ndarray
) -> None:
    for name, mask in (
        ("bool", lesion),
        ("ones", lesion.astype(np.uint8)),
        ("float", lesion * 0.3),
    ):
        write_mask(tmp_path / "sub" / f"{name}.png", mask)
        with Image.open(tmp_path / "sub" / f"{name}.png") as image:
            assert image.mode == "L"
            assert set(np.unique(np.asarray(image))) == {0, 255}
        assert np.array_equal(read_mask(tmp_path / "sub" / f"{name}.png"), lesion)


def test_a_written_image_reads_back_exactly(tmp_path: Path, grey: np.ndarray) -> None:
    write_png(tmp_path / "x.png", grey.T)

    assert np.array_equal(read_image(tmp_path / "x.png").pixels, (grey.T / 255).astype(np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_an_array_is_read_as_its_file_would_be(tmp_path: Path, grey: np.ndarray) -> None:
    expected = read_image(save(Image.fromarray(grey), tmp_path / "x.png")).pixels
    rgb = np.repeat(grey[..., None], 3, axis=2)
    opaque = np.dstack([rgb, np.full(SIZE, 255, dtype=np.uint8)])
    wide = grey.astype(np.uint16) * 257

    for array in (grey, grey[..., None], rgb, opaque, wide, grey / 255, grey * 1.0):
        loaded = image_from_array(array)
        assert np.allclose(loaded.pixels, expected, atol=1e-6)
        assert not loaded.has_colour


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"found \(5,\)"),
        (np.zeros((4, 4, 2)), r"found \(4, 4, 2\)"),
        (np.full((4, 4), np.inf), "array: .*infinite"),
        (np.zeros((0, 4)), "there are none"),
        (np.full((4, 4), 70000), "every pixel holds 70000"),
        (np.zeros((1, 4)), "4×1 pixels"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageReadError, match=message):
        image_from_array(array)


def save_nifti(
    path: Path,
    pixels: np.ndarray,
    spacing: tuple[float, float] = (1.0, 1.0),
    unit: str | None = None,
) -> Path:
    """Write (H, W) pixels, the first axis of the file being the columns."""
    image = nibabel.Nifti1Image(np.swapaxes(pixels, 0, 1), None)
    zooms = (spacing[1], spacing[0], *([1.0] * (pixels.ndim - 2)))
    image.header.set_zooms(zooms)
    if unit:
        image.header.set_xyzt_units(unit)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
def test_nifti_pixels(tmp_path: Path, grey: np.ndarray, suffix: str) -> None:
    written = save_nifti(tmp_path / f"x{suffix.lower()}", grey)
    path = written.rename(tmp_path / f"y{suffix}")

    loaded = read_image(path)

    assert np.allclose(loaded.pixels, grey / 255)
    assert loaded.spacing_mm is None


@pytest.mark.parametrize(
    ("spacing", "unit", "expected"),
    [
        ((0.1, 0.2), "mm", (0.1, 0.2)),
        ((0.1, 0.2), None, (0.1, 0.2)),
        ((100.0, 200.0), "micron", (0.1, 0.2)),
        ((0.0001, 0.0002), "meter", (0.1, 0.2)),
        ((1.0, 1.0), "mm", None),
        ((1.0, 1.0), None, None),
    ],
)
def test_nifti_spacing_is_rows_then_columns_in_mm(
    tmp_path: Path,
    grey: np.ndarray,
    spacing: tuple[float, float],
    unit: str | None,
    expected: tuple[float, float] | None,
) -> None:
    found = read_image(save_nifti(tmp_path / "x.nii.gz", grey, spacing, unit)).spacing_mm

    if expected is None:
        assert found is None
    else:
        assert found == pytest.approx(expected, rel=1e-5)


def test_nifti_with_single_axes_and_other_types(tmp_path: Path, grey: np.ndarray) -> None:
    single = save_nifti(tmp_path / "single.nii", grey[:, :, None])
    wide = save_nifti(tmp_path / "wide.nii", grey.astype(np.int16))
    unit = save_nifti(tmp_path / "unit.nii", (grey / 255).astype(np.float32))

    for path in (single, wide, unit):
        assert np.allclose(read_image(path).pixels, grey / 255, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nifti_spacing_is_that_of_the_images_axes(
    tmp_path: Path, grey: np.ndarray, axis: int
) -> None:
    zooms = [0.1, 0.3]
    zooms.insert(axis, 5.0)
    image = nibabel.Nifti1Image(np.expand_dims(grey.T, axis), np.diag([*zooms, 1.0]))
    nibabel.save(image, tmp_path / "x.nii.gz")

    assert read_image(tmp_path / "x.nii.gz").spacing_mm == pytest.approx((0.3, 0.1))


def test_nifti_in_colour(tmp_path: Path, grey: np.ndarray) -> None:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb = np.zeros(SIZE[::-1], dtype=kind)
    for channel in "RGB":
        rgb[channel] = grey.T
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii")
    rgba = np.dstack([grey, grey, grey, np.full(SIZE, 255, dtype=np.uint8)])

    for path in (tmp_path / "rgb.nii", save_nifti(tmp_path / "rgba.nii", rgba)):
        loaded = read_image(path)
        assert np.allclose(loaded.pixels, grey / 255)
        assert not loaded.has_colour


def test_an_opaque_nifti_mask_is_not_all_lesion(tmp_path: Path, lesion: np.ndarray) -> None:
    pixels = np.where(lesion, 255, 0).astype(np.uint8)
    rgba = np.dstack([pixels, pixels, pixels, np.full(SIZE, 255, dtype=np.uint8)])

    assert np.array_equal(read_mask(save_nifti(tmp_path / "m.nii", rgba)), lesion)


def test_a_nifti_volume_is_refused(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "volume.nii", np.zeros((8, 9, 10), dtype=np.uint8))

    with pytest.raises(ImageReadError, match="expected one 2-D image"):
        read_image(path)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_a_png_holds_the_pixels_that_were_written(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "x.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), pixels)
