"""Known answers: another hash, on any processor or library version, would be another identity.

JPEG is left out: its decoders may differ by a grey level.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from busi_monai.io.images import image_from_array, pixel_sha256, read_image

ROWS, COLUMNS = np.mgrid[:12, :16]
GREY = ((ROWS * 21 + COLUMNS * 13) % 256).astype(np.uint8)
GREY_16 = (ROWS * 5003 + COLUMNS * 1237).astype(np.uint16)
BITS = ROWS * COLUMNS % 3 == 0
COLOUR = np.stack([GREY, 255 - GREY, ROWS * COLUMNS % 256], axis=2).astype(np.uint8)
ALPHA = (ROWS * 20 + COLUMNS * 3).astype(np.uint8)
OPAQUE = np.full_like(ALPHA, 255)

HASHES = {
    "grey": "1980a42ae107fd28df2227ff0f8fb47a3da86302d96cb5b5c5c820941b30c3dd",
    "grey, 16 bits": "07870a0a5cc0badff265f2f0a92eb637cbeb572eb612976dfc85330e5c394265",
    "1 bit": "17c8cc1fe31d329e2f493100b32869e04a681307875d1e227082e62931d8adec",
    "colour": "faf961c68bbe788fd26fabfca7464915df74f77421f4546f0fce0ecf0feede18",
    "colour, transparent": "1624438a89ffdd06c9b8df2b189da99e54064ac5847d4ce74b5ea1f93ac01130",
    "grey, transparent": "31ffa649d96b3246687f76fb8ad50fa1db07d6119309bc35d78d02a40cf26844",
}
"""Of (12, 16) pixels, by what they show; how they are stored makes no difference."""


@pytest.mark.parametrize(
    ("shown", "values"),
    [
        ("grey", GREY),
        ("grey", GREY / 255),
        ("grey", np.dstack([GREY] * 3)),
        ("grey", np.dstack([GREY] * 3 + [OPAQUE])),
        ("grey, 16 bits", GREY_16),
        ("1 bit", BITS.astype(np.float32)),
        ("1 bit", BITS * np.uint8(255)),
        ("colour", COLOUR),
        ("colour, transparent", np.dstack([COLOUR, ALPHA])),
        ("grey, transparent", np.dstack([GREY] * 3 + [ALPHA])),
    ],
)
def test_arrays_have_these_hashes(shown: str, values: np.ndarray) -> None:
    assert image_from_array(values).sha256 == HASHES[shown]


@pytest.mark.parametrize(
    ("shown", "mode", "values", "suffixes"),
    [
        ("grey", "L", GREY, ".png .bmp .tif"),
        ("grey", "P", GREY, ".png .bmp .tif"),
        ("grey", "LA", np.dstack([GREY, OPAQUE]), ".png .tif"),
        ("grey", "RGB", np.dstack([GREY] * 3), ".png .bmp .tif"),
        ("grey", "RGBA", np.dstack([GREY] * 3 + [OPAQUE]), ".png .tif"),
        ("grey, 16 bits", "I;16", GREY_16, ".png .tif"),
        ("1 bit", "1", BITS, ".png .bmp .tif"),
        ("1 bit", "L", BITS * np.uint8(255), ".png"),
        ("colour", "RGB", COLOUR, ".png .bmp .tif"),
        ("colour, transparent", "RGBA", np.dstack([COLOUR, ALPHA]), ".png .tif"),
        ("grey, transparent", "LA", np.dstack([GREY, ALPHA]), ".png .tif"),
    ],
)
def test_files_have_these_hashes(
    tmp_path: Path, shown: str, mode: str, values: np.ndarray, suffixes: str
) -> None:
    image = Image.fromarray(values)
    stored = image.convert(mode) if mode == "P" else image
    assert stored.mode == mode
    for suffix in suffixes.split():
        stored.save(tmp_path / f"x{suffix}")
        assert read_image(tmp_path / f"x{suffix}").sha256 == HASHES[shown], suffix


def test_a_nifti_file_has_this_hash(tmp_path: Path) -> None:
    nibabel.Nifti1Image(GREY.T, np.eye(4)).to_filename(tmp_path / "x.nii.gz")
    assert pixel_sha256(read_image(tmp_path / "x.nii.gz").pixels) == HASHES["grey"]


def test_every_grey_level_and_the_shape_count() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    made = [levels, levels.T, levels.reshape(8, 32)]
    for index in range(256):
        made.append(levels.copy())
        made[-1].flat[index] ^= 1
    hashes = {pixel_sha256(image_from_array(values).pixels) for values in made}
    assert len(hashes) == len(made)
