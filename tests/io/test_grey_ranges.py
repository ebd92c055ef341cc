"""Which stored value is black and which white: files, arrays and DICOM by one table."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from busi_monai.cases import Case
from busi_monai.curation import audit_dataset
from busi_monai.curation.storage import store_case
from busi_monai.datasets import read_dataset
from busi_monai.errors import ImageReadError
from busi_monai.io.grey_ranges import Window, decide_grey_range
from busi_monai.io.images import (
    ImageFile,
    frames_of,
    image_from_array,
    pixel_sha256,
    read_image,
    write_mask,
    write_png,
)
from busi_monai.transforms import LoadUltrasoundd

Save = Callable[..., Path]

SIZE = (24, 36)


@pytest.fixture
def grey() -> np.ndarray:
    """(24, 36) uint8 of 0 to 255, no two lines alike."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return ((rows * 36 + columns) * 255 // (24 * 36 - 1)).astype(np.uint8)


def deep(grey: np.ndarray, bits: int) -> np.ndarray:
    return (grey.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)


@pytest.mark.parametrize(
    ("dtype", "values", "stated", "expected", "code"),
    [
        ("bool", (0, 1), {}, (0, 1), None),
        ("uint16", (0, 900), {"bits": 16, "significant": 12}, (0, 4095), None),
        ("uint16", (0, 900), {"bits": 16, "significant": 16}, (0, 65535), None),
        ("uint16", (0, 65520), {"bits": 16, "significant": 12}, (0, 65535), None),
        ("uint8", (0, 90), {}, (0, 255), None),
        ("uint8", (0, 30), {"bits": 6}, (0, 63), None),
        ("int8", (-100, 90), {"bits": 8}, (-128, 127), None),
        ("uint16", (0, 16384), {}, (0, 65535), None),
        ("uint16", (0, 0), {}, (0, 65535), None),
        ("uint16", (0, 1024), {"bits": 12}, (0, 4095), None),
        ("uint16", (0, 16383), {}, (0, 16383), "grey_depth"),
        ("uint16", (0, 4095), {}, (0, 4095), "grey_depth"),
        ("uint16", (0, 1023), {}, (0, 1023), "grey_depth"),
        ("uint16", (0, 255), {}, (0, 255), "grey_depth"),
        ("uint16", (0, 255), {"bits": 12}, (0, 255), "grey_depth"),
        ("int16", (-20000, 9), {"bits": 16}, (-32768, 32767), None),
        ("int16", (-2000, 2047), {"bits": 16}, (-2048, 2047), "grey_depth"),
        ("int16", (0, 4000), {"bits": 16}, (0, 4095), "grey_depth"),
        ("int16", (0, 30000), {"bits": 16}, (0, 32767), "grey_depth"),
        ("int32", (0, 1), {}, (0, 1), None),
        ("int32", (0, 255), {"bits": 32}, (0, 255), "grey_depth"),
        ("int64", (0, 4000), {}, (0, 4095), "grey_depth"),
        ("int32", (0, 60000), {}, (0, 65535), "grey_depth"),
        ("int32", (0, 70000), {}, (0, 70000), "grey_range_unknown"),
        ("int32", (-5, 70), {}, (-5, 70), "grey_range_unknown"),
        ("float64", (0, 0.7), {}, (0, 1), None),
        ("float32", (0, 200), {}, (0, 255), None),
        ("float32", (0, 4000), {}, (0, 4000), "grey_range_unknown"),
        ("float32", (-1, 1), {}, (-1, 1), "grey_range_unknown"),
        ("uint16", (0, 4000), {"window": Window(100, 3000, 0.01)}, (100, 3000), None),
        ("uint16", (0, 4000), {"window": Window(100, 3000, 0.02)}, (0, 4095), "grey_depth"),
        ("uint16", (0, 255), {"window": Window(0, 65535, 0)}, (0, 255), "grey_depth"),
        ("uint8", (0, 255), {"window": Window(0, 100, 0.3)}, (0, 255), "window_not_applied"),
    ],
)
def test_each_row_of_the_table(
    dtype: str, values: tuple[float, float], stated: dict, expected: object, code: str | None
) -> None:
    found = decide_grey_range(np.dtype(dtype), *values, **stated)

    assert (found.black, found.white) == expected
    codes = [warning.code for warning in found.warnings]
    assert codes[:1] == ([code] if code else [])
    assert ("window_not_applied" in codes) is (stated.get("window", Window(0, 1, 0)).clipped > 0.01)
    assert found.apply(np.array(expected, dtype=np.float64)).tolist() == [0, 1]
    assert found.inverted().apply(np.array(expected, dtype=np.float64)).tolist() == [1, 0]


def test_what_can_be_no_image() -> None:
    for dtype, lowest, highest in (
        ("float32", np.nan, 1),
        ("float32", 0, np.inf),
        ("int32", -1, -1),
    ):
        with pytest.raises(ImageReadError, match="a\\.tif: "):
            decide_grey_range(np.dtype(dtype), lowest, highest, source="a.tif")
    with pytest.raises(ImageReadError, match="expected numbers as pixels"):
        image_from_array(np.zeros((4, 4), dtype=np.complex64))


def tiff(path: Path, data: bytes, size: tuple[int, int], bits: int, photometric: int) -> Path:
    """A TIFF of one strip, as Pillow does not write it."""
    tags = [(256, 4, size[1]), (257, 4, size[0]), (258, 3, bits), (259, 3, 1),
            (262, 3, photometric), (273, 4, 8), (277, 3, 1), (278, 4, size[0]),
            (279, 4, len(data))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    ifd = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + ifd)
    return path


def packed_12(grey: np.ndarray) -> bytes:
    values = deep(grey, 12).astype(np.uint32)
    a, b = values[:, 0::2], values[:, 1::2]
    return np.stack([a >> 4, ((a & 15) << 4) | (b >> 8), b & 255], -1).astype(np.uint8).tobytes()


def with_sbit(bits: int) -> PngInfo:
    info = PngInfo()
    info.add(b"sBIT", bytes([bits]))
    return info


FILES: dict[str, tuple[Callable[[np.ndarray, Path], object], str | None]] = {
    "8 in 16.png": (lambda g, p: Image.fromarray(deep(g, 8)).save(p), "grey_depth"),
    "10 in 16.tif": (lambda g, p: Image.fromarray(deep(g, 10)).save(p), "grey_depth"),
    "12 in 16.tif": (lambda g, p: Image.fromarray(deep(g, 12)).save(p), "grey_depth"),
    "12 in 16.png": (lambda g, p: Image.fromarray(deep(g, 12)).save(p), "grey_depth"),
    "14 in 16.png": (lambda g, p: Image.fromarray(deep(g, 14)).save(p), "grey_depth"),
    "16.png": (lambda g, p: Image.fromarray(deep(g, 16)).save(p), None),
    "sbit 12.png": (
        lambda g, p: Image.fromarray(deep(g, 12)).save(p, pnginfo=with_sbit(12)),
        None,
    ),
    "sbit 12 spread.png": (
        lambda g, p: Image.fromarray(deep(g, 12) * np.uint16(16)).save(p, pnginfo=with_sbit(12)),
        None,
    ),
    "32.tif": (lambda g, p: Image.fromarray(g.astype(np.int32)).save(p), "grey_depth"),
    "float.tif": (lambda g, p: Image.fromarray(g.astype(np.float32)).save(p), None),
    "packed.tif": (lambda g, p: tiff(p, packed_12(g), g.shape, 12, 1), None),
    "white is zero 8.tif": (lambda g, p: tiff(p, (255 - g).tobytes(), g.shape, 8, 0), None),
    "white is zero 16.tif": (
        lambda g, p: tiff(p, (65535 - deep(g, 16)).tobytes(), g.shape, 16, 0),
        None,
    ),
    "white is zero 12 in 16.tif": (
        lambda g, p: tiff(p, (4095 - deep(g, 12)).tobytes(), g.shape, 16, 0),
        "grey_depth",
    ),
    "12.pgm": (
        lambda g, p: p.write_bytes(b"P5\n36 24\n4095\n" + deep(g, 12).astype(">u2").tobytes()),
        None,
    ),
    "dim.pgm": (
        lambda g, p: p.write_bytes(b"P5\n36 24\n65535\n" + deep(g, 16).astype(">u2").tobytes()),
        None,
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_any_depth_is_the_same_image(tmp_path: Path, grey: np.ndarray, name: str) -> None:
    write, code = FILES[name]
    write(grey, tmp_path / name)

    loaded = read_image(tmp_path / name)

    assert np.abs(loaded.pixels - grey / 255).max() < 1.1 / 255
    assert [warning.code for warning in loaded.warnings] == ([code] if code else [])


def test_a_stated_depth_keeps_a_dim_image_dim(tmp_path: Path, grey: np.ndarray) -> None:
    dim = deep(grey, 16) // 20
    Image.fromarray(dim).save(tmp_path / "x.png", pnginfo=with_sbit(16))
    (tmp_path / "x.pgm").write_bytes(b"P5\n36 24\n65535\n" + dim.astype(">u2").tobytes())

    for name in ("x.png", "x.pgm"):
        assert np.allclose(read_image(tmp_path / name).pixels, dim / 65535), name


def test_colours_of_16_bits_that_use_12(tmp_path: Path, grey: np.ndarray) -> None:
    import cv2

    colour = np.dstack([deep(grey, 12)] * 3)
    cv2.imwrite(str(tmp_path / "x.png"), colour)
    cv2.imwrite(str(tmp_path / "full.png"), colour * np.uint16(16))

    loaded = read_image(tmp_path / "x.png")

    assert np.abs(loaded.pixels - grey / 255).max() < 1 / 15  # Pillow keeps the upper 8 bits
    assert [warning.code for warning in loaded.warnings] == ["grey_depth"]
    assert read_image(tmp_path / "full.png").warnings == ()


@pytest.mark.parametrize("channels", [None, 3, 4])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "int64", "uint32"])
def test_arrays_are_read_like_files(grey: np.ndarray, dtype: str, channels: int | None) -> None:
    for bits in (8, 10, 12, 14):
        values = deep(grey, bits).astype(dtype)
        if channels:
            values = np.dstack([values] * 3 + [np.full_like(values, 4095)] * (channels == 4))
        loaded = image_from_array(values)
        assert np.abs(loaded.pixels - grey / 255).max() < 1.1 / 255
        assert [warning.code for warning in loaded.warnings] == ["grey_depth"]
        item = LoadUltrasoundd()({"image": values})
        assert json.loads(item["image"].meta["warnings"])[0]["code"] == "grey_depth"


DICOM: dict[str, tuple[Callable[[np.ndarray], np.ndarray], dict[str, object], list[str]]] = {
    "8 in 16": (lambda g: deep(g, 8), {}, ["grey_depth"]),
    "12 in 16": (lambda g: deep(g, 12), {}, ["grey_depth"]),
    "12 stated": (lambda g: deep(g, 12), {"BitsStored": 12, "HighBit": 11}, []),
    "8 in 12": (lambda g: deep(g, 8), {"BitsStored": 12, "HighBit": 11}, ["grey_depth"]),
    "window": (lambda g: deep(g, 12), {"WindowCenter": 2048, "WindowWidth": 4096}, []),
    "window of 8 bits": (lambda g: g, {"WindowCenter": 128, "WindowWidth": 256}, []),
    "exact window": (
        lambda g: deep(g, 12),
        {"WindowCenter": 2047.5, "WindowWidth": 4095, "VOILUTFunction": "LINEAR_EXACT"},
        [],
    ),
    "several windows": (
        lambda g: deep(g, 12),
        {"WindowCenter": [2048, 100], "WindowWidth": [4096, 200]},
        ["several_windows"],
    ),
    "clipping window": (
        lambda g: deep(g, 12),
        {"WindowCenter": 1000, "WindowWidth": 1000},
        ["grey_depth", "window_not_applied"],
    ),
    "window of all 16 bits": (
        lambda g: deep(g, 12),
        {"WindowCenter": 32768, "WindowWidth": 65536},
        ["grey_depth"],
    ),
    "curve": (
        lambda g: g,
        {"WindowCenter": 128, "WindowWidth": 256, "VOILUTFunction": "SIGMOID"},
        ["grey_table_not_applied"],
    ),
    "slope to 16 bits": (lambda g: deep(g, 8), {"RescaleSlope": 257, "RescaleIntercept": 0}, []),
    "slope below 1": (
        lambda g: deep(g, 12),
        {"BitsStored": 12, "HighBit": 11, "RescaleSlope": 0.0625, "RescaleIntercept": 0},
        [],
    ),
    "falling slope": (lambda g: 255 - g, {"RescaleSlope": -1, "RescaleIntercept": 255}, []),
    "window of rescaled values": (
        lambda g: deep(g, 12),
        {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 3095.5,
         "WindowWidth": 8191},
        [],
    ),
    "window of falling values": (
        lambda g: 4095 - deep(g, 12),
        {"RescaleSlope": -1, "RescaleIntercept": 4095, "WindowCenter": 2048, "WindowWidth": 4096},
        [],
    ),
    "signed": (
        lambda g: deep(g, 12).astype(np.int16), {"PixelRepresentation": 1}, ["grey_depth"]
    ),
    "signed around 0": (
        lambda g: deep(g, 12).astype(np.int16) - np.int16(2048),
        {"PixelRepresentation": 1, "BitsStored": 12, "HighBit": 11},
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("name", DICOM)
def test_a_dicom_file_of_any_depth_is_the_same_image(
    save_ultrasound: Save, tmp_path: Path, grey: np.ndarray, name: str, photometric: str
) -> None:
    store, tags, codes = DICOM[name]
    path = save_ultrasound(tmp_path / "x.dcm", store(grey), photometric, **tags)

    loaded = read_image(path)

    shown = grey / 255 if photometric == "MONOCHROME2" else 1 - grey / 255
    assert np.abs(loaded.pixels - shown).max() < 1.1 / 255
    assert sorted(warning.code for warning in loaded.warnings) == codes


def test_a_window_is_applied(save_ultrasound: Save, tmp_path: Path, grey: np.ndarray) -> None:
    tags = {"WindowCenter": 100.5, "WindowWidth": 161}  # 20 to 180
    path = save_ultrasound(tmp_path / "x.dcm", np.clip(grey, 20, 180), **tags)

    pixels = read_image(path).pixels

    assert np.allclose(pixels, (np.clip(grey, 20, 180) - 20.0) / 160)


def test_all_frames_of_a_loop_have_one_depth(
    save_ultrasound: Save, tmp_path: Path, grey: np.ndarray
) -> None:
    frames = np.stack([deep(grey, 8), deep(grey, 12), deep(grey, 10)])
    path = save_ultrasound(tmp_path / "x.dcm", frames)

    loaded_images = [read_image(ImageFile(path, number)) for number in (0, 2, 1)]

    for loaded, values in zip(loaded_images, frames[[0, 2, 1]], strict=True):
        assert np.allclose(loaded.pixels, values / 4095)
        assert [warning.code for warning in loaded.warnings] == ["grey_depth"]
    # another file of the same name is looked through anew
    save_ultrasound(path, np.stack([deep(grey, 16), deep(grey, 8)]))
    assert np.allclose(read_image(frames_of(path).images[1]).pixels, deep(grey, 8) / 65535)


def test_integers_of_16_bits_keep_their_hash(tmp_path: Path, grey: np.ndarray) -> None:
    values = deep(grey, 12)
    Image.fromarray(values).save(tmp_path / "x.png")
    Image.fromarray(values).save(tmp_path / "stated.png", pnginfo=with_sbit(12))
    hashed = pixel_sha256(values.astype(np.float32) / np.float32(65535))  # as before depths

    for name in ("x.png", "stated.png"):
        assert read_image(tmp_path / name).sha256 == hashed
    assert image_from_array(values).sha256 == hashed
    assert image_from_array(deep(grey, 8).astype(np.int32)).sha256 == (
        image_from_array(grey).sha256
    )


@pytest.mark.parametrize("name", [*FILES, "12 in 16.dcm"])
def test_a_prepared_image_is_the_same_as_its_source(
    tmp_path: Path, save_ultrasound: Save, grey: np.ndarray, name: str
) -> None:
    source = tmp_path / name
    if name.endswith(".dcm"):
        save_ultrasound(source, deep(grey, 12))
    else:
        FILES[name][0](grey, source)
    case = Case("x", source, (), "normal", "folder")

    stored = store_case(case, tmp_path / "prepared")

    prepared = read_image(tmp_path / "prepared" / stored.image)
    original = read_image(source)
    assert np.allclose(prepared.pixels, original.pixels, rtol=0, atol=1e-5)  # 12 bits lie in 16
    assert prepared.sha256 == original.sha256 == stored.sha256


def test_a_dim_float_image_stays_dim_when_prepared(tmp_path: Path, grey: np.ndarray) -> None:
    Image.fromarray((grey / 2000).astype(np.float32)).save(tmp_path / "x.tif")
    case = Case("x", tmp_path / "x.tif", (), "normal", "folder")

    stored = store_case(case, tmp_path / "prepared")

    pixels = read_image(tmp_path / "prepared" / stored.image).pixels
    assert np.abs(pixels - grey / 2000).max() < 1e-4


def test_the_audit_lists_odd_grey_levels(tmp_path: Path, grey: np.ndarray) -> None:
    folder = tmp_path / "set" / "normal"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"normal ({number + 1})_mask.png").parent.mkdir(exist_ok=True)
        write_mask(folder / f"normal ({number + 1})_mask.png", np.zeros(SIZE))
    write_png(folder / "normal (1).png", grey)
    Image.fromarray(deep(grey[::-1], 12)).save(folder / "normal (2).png")
    write_png(folder / "normal (3).png", 100 + grey[:, ::-1] // 12)
    for name in ("benign", "malignant"):
        (tmp_path / "set" / name).mkdir()

    found = audit_dataset(read_dataset(tmp_path / "set")).as_dict()

    assert found["artefacts"]["grey_depth"] == ["normal (2)"]
    assert found["artefacts"]["low_contrast"] == ["normal (3)"]
    assert [problem for problem in found["problems"] if problem["kind"] == "unreadable"] == []
