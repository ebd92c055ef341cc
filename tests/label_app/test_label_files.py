from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from busi_monai.errors import ImageReadError
from busi_monai.label_app.label_files import read_label_values

DRAWN = np.array([[0, 0, 2], [1, 0, 0]], dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".PNG"])
def test_numbers_as_drawn(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(DRAWN).save(tmp_path / f"label{suffix}")
    assert np.array_equal(read_label_values(tmp_path / f"label{suffix}"), DRAWN)


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 1)])
def test_volumes_are_in_index_order(tmp_path: Path, shape: tuple[int, ...]) -> None:
    volume = nibabel.Nifti1Image(DRAWN.T.reshape(shape), np.eye(4))
    nibabel.save(volume, tmp_path / "label.nii.gz")
    assert np.array_equal(read_label_values(tmp_path / "label.nii.gz"), DRAWN)


def test_nrrd_as_3d_slicer_saves_it(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd", reason="pynrrd comes with the extra label")
    nrrd.write(str(tmp_path / "label.nrrd"), DRAWN.T[..., None])
    assert np.array_equal(read_label_values(tmp_path / "label.nrrd"), DRAWN)


def test_colours_and_transparency(tmp_path: Path) -> None:
    coloured = np.zeros((2, 3, 4), dtype=np.uint8)
    coloured[0, 1] = 255, 0, 0, 255
    coloured[1, 2] = 255, 255, 255, 0  # transparent
    Image.fromarray(coloured).save(tmp_path / "label.png")
    expected = np.zeros((2, 3), dtype=int)
    expected[0, 1] = 255
    assert np.array_equal(read_label_values(tmp_path / "label.png"), expected)


def test_a_palettes_indices_are_the_segments(tmp_path: Path) -> None:
    palette = Image.fromarray(DRAWN, mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "label.png")
    assert np.array_equal(read_label_values(tmp_path / "label.png"), DRAWN)


def test_probabilities_are_no_label(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.full((3, 2), 0.5), np.eye(4)), tmp_path / "p.nii")
    with pytest.raises(ImageReadError, match="whole numbers"):
        read_label_values(tmp_path / "p.nii")


def test_several_slices_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 2, 4)), np.eye(4)), tmp_path / "v.nii")
    with pytest.raises(ImageReadError, match="one slice, found"):
        read_label_values(tmp_path / "v.nii")


def test_blurring_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match=r"expected a label in \.png"):
        read_label_values(tmp_path / "label.jpg")


@pytest.mark.parametrize("name", ["cut.png", "cut.nii.gz"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x89PNG damaged")
    with pytest.raises(ImageReadError, match=name):
        read_label_values(tmp_path / name)
