from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

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


def test_a_float_tiff_is_taken_by_its_range(tmp_path: Path, grey: np.ndarray) -> None:
    for name, factor in (("unit", 1 / 255), ("bytes", 1), ("wide", 10)):
        values = grey.astype(np.float32) * np.float32(factor)
        loaded = read_image(save(Image.fromarray(values), tmp_path / f"{name}.tif"))
        shift = values.min() if name == "wide" else 0
        top = {"unit": 1, "bytes": 255, "wide": values.max() - shift}[name]
        assert np.allclose(loaded.pixels, (values - shift) / top, atol=1e-6)


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


def test_a_single_row_is_no_image(tmp_path: Path) -> None:
    path = save(Image.new("L", (9, 1)), tmp_path / "x.png")

    with pytest.raises(ImageReadError, match="9×1 pixels is no image"):
        read_image(path)


def test_nan_is_refused_with_the_files_name(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16"])
def test_a_label_map_of_0_and_1_is_a_mask(tmp_path: Path, lesion: np.ndarray, mode: str) -> None:
    image = Image.fromarray(lesion.astype(np.uint16 if mode == "I;16" else np.uint8))
    image = image if mode == "I;16" else in_mode(np.asarray(image), mode)

    assert np.array_equal(read_mask(save(image, tmp_path / "m.png")), lesion)


def test_grey_edges_and_noise_are_cut_at_half_range(tmp_path: Path) -> None:
    pixels = np.array([[0, 3, 127], [128, 200, 255]], dtype=np.uint8)

    mask = read_mask(save(Image.fromarray(pixels), tmp_path / "m.png"))

    assert mask.tolist() == [[False, False, False], [True, True, True]]


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


def test_an_all_white_mask_is_full(tmp_path: Path) -> None:
    assert read_mask(save(Image.new("L", (5, 4), 255), tmp_path / "m.png")).all()


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
    arrays = (
        grey,
        grey[..., None],
        rgb,
        opaque,
        grey.astype(np.uint16) * 257,
        grey / 255,
        grey * 1.0,
    )

    for array in arrays:
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
    assert np.array_equal(
        read_mask(save_nifti(tmp_path / "b.nii", lesion.astype(np.int16))), lesion
    )


def test_a_nifti_volume_is_refused(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "volume.nii", np.zeros((8, 9, 10), dtype=np.uint8))

    with pytest.raises(ImageReadError, match="expected one 2-D image"):
        read_image(path)


@pytest.fixture
def save_dicom(tmp_path: Path) -> Callable[..., Path]:
    def write(
        pixels: np.ndarray,
        photometric: str = "MONOCHROME2",
        *,
        name: str = "x.dcm",
        encoded: bytes | None = None,
        **tags: object,
    ) -> Path:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = JPEGBaseline8Bit if encoded else ExplicitVRLittleEndian
        dataset = FileDataset(str(tmp_path / name), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID = meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = photometric
        dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = 0
        dataset.PixelData = encapsulate([encoded]) if encoded else pixels.tobytes()
        for tag, value in tags.items():
            setattr(dataset, tag, value)
        dataset.save_as(tmp_path / name)
        return tmp_path / name

    return write


SaveDicom = Callable[..., Path]


def test_dicom_white_or_black_for_the_highest_value(
    save_dicom: SaveDicom, grey: np.ndarray
) -> None:
    assert np.allclose(read_image(save_dicom(grey)).pixels, grey / 255)
    inverted = save_dicom(255 - grey, "MONOCHROME1")
    assert np.allclose(read_image(inverted).pixels, grey / 255, atol=1e-6)


def test_dicom_of_12_bits(save_dicom: SaveDicom, grey: np.ndarray) -> None:
    path = save_dicom(grey.astype(np.uint16) * 16, BitsStored=12, HighBit=11)

    assert np.allclose(read_image(path).pixels, grey / 4095 * 16)


def test_dicom_is_known_without_its_suffix(save_dicom: SaveDicom, grey: np.ndarray) -> None:
    assert np.allclose(read_image(save_dicom(grey, name="IM0001")).pixels, grey / 255)


def two_colours() -> np.ndarray:
    rgb = np.zeros((*SIZE, 3), dtype=np.uint8)
    rgb[:, :16] = (200, 30, 60)
    rgb[:, 16:] = (80, 80, 80)
    return rgb


LUMINANCE = (0.299 * 200 + 0.587 * 30 + 0.114 * 60) / 255


def test_dicom_in_rgb(save_dicom: SaveDicom) -> None:
    loaded = read_image(save_dicom(two_colours(), "RGB"))

    assert loaded.has_colour
    assert loaded.pixels[3, 3] == pytest.approx(LUMINANCE)
    assert loaded.pixels[3, 20] == pytest.approx(80 / 255)


def test_dicom_in_ybr_is_converted_once(save_dicom: SaveDicom) -> None:
    ybr = np.asarray(Image.fromarray(two_colours()).convert("YCbCr"))

    loaded = read_image(save_dicom(ybr, "YBR_FULL"))

    assert loaded.pixels[3, 3] == pytest.approx(LUMINANCE, abs=0.01)
    assert loaded.pixels[3, 20] == pytest.approx(80 / 255, abs=0.01)


def test_dicom_in_jpeg(save_dicom: SaveDicom) -> None:
    stream = io.BytesIO()
    Image.fromarray(two_colours()).save(stream, "JPEG", quality=95)

    path = save_dicom(two_colours(), "YBR_FULL_422", encoded=stream.getvalue())

    loaded = read_image(path)
    assert loaded.pixels[3, 3] == pytest.approx(LUMINANCE, abs=0.02)
    assert loaded.pixels[3, 30] == pytest.approx(80 / 255, abs=0.02)


def test_dicom_with_a_palette(save_dicom: SaveDicom) -> None:
    indices = np.zeros(SIZE, dtype=np.uint8)
    indices[:, 16:] = 1
    tables = {
        f"{name}PaletteColorLookupTable{part}": value
        for name, levels in (("Red", (200, 80)), ("Green", (30, 80)), ("Blue", (60, 80)))
        for part, value in (
            ("Descriptor", [2, 0, 16]),
            ("Data", np.array([level * 257 for level in levels], dtype="<u2").tobytes()),
        )
    }

    loaded = read_image(save_dicom(indices, "PALETTE COLOR", **tables))

    assert loaded.pixels[3, 3] == pytest.approx(LUMINANCE, abs=1e-3)
    assert loaded.pixels[3, 20] == pytest.approx(80 / 255, abs=1e-3)


def region(units: int, x: float, y: float) -> Dataset:
    item = Dataset()
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = x, y
    return item


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, None),
        ({"PixelSpacing": [0.1, 0.2]}, (0.1, 0.2)),
        ({"PixelSpacing": [0, 0]}, None),
        ({"SequenceOfUltrasoundRegions": Sequence([region(3, 0.02, -0.01)])}, (0.1, 0.2)),
        ({"SequenceOfUltrasoundRegions": Sequence([region(4, 0.02, 0.01)])}, None),
        (
            {"SequenceOfUltrasoundRegions": Sequence([region(4, 9, 9), region(3, 0.02, 0.01)])},
            (0.1, 0.2),
        ),
        ({"PixelSpacing": [1, 1]}, None),
        (
            {"PixelSpacing": [1, 1], "SequenceOfUltrasoundRegions": Sequence([region(3, 2, 3)])},
            (30, 20),
        ),
        ({"SequenceOfUltrasoundRegions": Sequence([region(3, 0, 0)])}, None),
    ],
)  # fmt: skip
def test_dicom_spacing_is_rows_then_columns_in_mm(
    save_dicom: SaveDicom,
    grey: np.ndarray,
    tags: dict[str, object],
    expected: tuple[float, float] | None,
) -> None:
    found = read_image(save_dicom(grey, **tags)).spacing_mm

    assert found is None if expected is None else found == pytest.approx(expected)


def test_a_dicom_clip_is_refused(save_dicom: SaveDicom) -> None:
    path = save_dicom(np.zeros(SIZE, dtype=np.uint8), NumberOfFrames=3)

    with pytest.raises(ImageReadError, match=r"a loop of 3 frames; .* export the frame as PNG"):
        read_image(path)


def test_a_dicom_cut_short_or_without_pixels(save_dicom: SaveDicom, grey: np.ndarray) -> None:
    path = save_dicom(grey)
    content = path.read_bytes()
    for length in (200, 400, len(content) - 300):
        path.write_bytes(content[:length])
        with pytest.raises(ImageReadError, match=r"x\.dcm: not a readable DICOM"):
            read_image(path)

    path = save_dicom(grey)
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    with pytest.raises(ImageReadError, match="not a readable DICOM"):
        read_image(path)
