from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_monai.cases import Case
from busi_monai.datasets import clean_mask, individual_masks, lesion_mask, read_dataset
from busi_monai.errors import ImageReadError
from busi_monai.io.images import write_mask, write_png


def make_case(folder: Path, *masks: np.ndarray, size: tuple[int, int] = (20, 30)) -> Case:
    write_png(folder / "x.png", np.full(size, 90, dtype=np.uint8))
    paths = []
    for index, mask in enumerate(masks):
        paths.append(folder / f"x_mask_{index}.png")
        write_mask(paths[-1], mask)
    return Case("x", folder / "x.png", tuple(paths), "benign", "busi")


def box(rows: slice, columns: slice, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[rows, columns] = True
    return mask


def test_masks_are_united(tmp_path: Path) -> None:
    first, second = box(slice(2, 6), slice(3, 9)), box(slice(5, 12), slice(20, 28))
    case = make_case(tmp_path, first, second)

    assert np.array_equal(lesion_mask(case), first | second)
    parts = individual_masks(case)
    assert len(parts) == 2
    assert np.array_equal(parts[1], second)


def test_no_mask_is_an_empty_mask_of_the_image_size(tmp_path: Path) -> None:
    mask = lesion_mask(make_case(tmp_path))

    assert mask.shape == (20, 30)
    assert mask.dtype == bool
    assert not mask.any()


def test_a_mask_of_another_size_names_both_sizes(tmp_path: Path) -> None:
    case = make_case(tmp_path, box(slice(0, 3), slice(0, 3)), np.ones((19, 30), dtype=bool))

    with pytest.raises(ImageReadError, match=r"x_mask_1\.png: expected .* 30×20 .* found 30×19"):
        lesion_mask(case)
    with pytest.raises(ImageReadError, match="30×19"):
        individual_masks(case)


def test_a_missing_mask_file_is_named(tmp_path: Path) -> None:
    case = make_case(tmp_path, box(slice(0, 3), slice(0, 3)))
    case.masks[0].unlink()

    with pytest.raises(ImageReadError, match=r"x_mask_0\.png: no such file"):
        lesion_mask(case)


@pytest.mark.parametrize(
    "mask",
    [~box(slice(5, 12), slice(8, 20)), box(slice(1, 19), slice(1, 29)), np.ones((20, 30), bool)],
    ids=["inverted", "nearly all", "all"],
)
def test_a_mask_of_most_of_the_image_or_its_border_is_asked_about(
    tmp_path: Path, mask: np.ndarray
) -> None:
    case = make_case(tmp_path, mask)

    with pytest.raises(ImageReadError, match=r"x_mask_0\.png: inverted\? .* covers \d+%") as caught:
        lesion_mask(case)

    assert caught.value.kind == "inverted_mask"


def test_a_large_lesion_cut_by_the_image_edge_is_a_mask(tmp_path: Path) -> None:
    large = box(slice(0, 15), slice(1, 29))  # 70 % of the image, 29 % of its border

    assert np.array_equal(lesion_mask(make_case(tmp_path, large)), large)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["real_busi", "real_bus_bra", "real_bus_uclm", "real_breast"])
def test_no_real_lesion_comes_near_the_limits(name: str, request: pytest.FixtureRequest) -> None:
    for case in read_dataset(request.getfixturevalue(name)).cases:
        for mask in individual_masks(case):
            border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
            assert mask.mean() < 0.58
            assert border.mean() < 0.07


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_the_size_of_a_turned_photo_counts_as_it_is_read(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"x{suffix}"
    Image.fromarray(np.zeros((20, 30), dtype=np.uint8)).save(path, exif=exif)
    write_mask(tmp_path / "m.png", np.zeros((30, 20), dtype=bool))
    case = Case("x", path, (tmp_path / "m.png",), "benign", "busi")

    assert lesion_mask(case).shape == (30, 20)


def test_a_image_that_is_not_pillows_is_read_for_its_size(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    values = np.zeros((30, 20), dtype=np.uint8)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "x.nii.gz")

    case = Case("x", tmp_path / "x.nii.gz", (), "normal", "busi")

    assert lesion_mask(case).shape == (20, 30)


def speckled(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A disk, and the same with holes, gaps at the edge and specks around."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:120, :150]
    disk = np.hypot(rows - 60, columns - 70) < 35
    noise = rng.random(disk.shape)
    return disk, np.where(disk, noise > 0.04, noise > 0.995)


def test_clean_up_brings_a_speckled_disk_back() -> None:
    disk, noisy = speckled()

    cleaned = clean_mask(noisy)

    overlap = (cleaned & disk).sum() * 2 / (cleaned.sum() + disk.sum())
    assert overlap > 0.99
    assert not cleaned[:20].any()
    assert cleaned[40:80, 50:90].all()


def test_clean_up_leaves_a_clean_mask_alone() -> None:
    disk, _ = speckled()

    assert (clean_mask(disk) ^ disk).sum() <= 0.005 * disk.sum()


def test_clean_up_twice_is_clean_up_once() -> None:
    cleaned = clean_mask(speckled()[1])

    assert (clean_mask(cleaned) ^ cleaned).sum() <= 4


def test_clean_up_keeps_a_second_lesion() -> None:
    mask = box(slice(5, 40), slice(5, 60), (100, 120)) | box(
        slice(60, 90), slice(70, 110), (100, 120)
    )

    assert (clean_mask(mask) ^ mask).sum() <= 16


def test_clean_up_does_not_eat_from_the_edge_of_the_image() -> None:
    mask = box(slice(0, 40), slice(0, 60), (100, 120))

    cleaned = clean_mask(mask)

    assert cleaned[0, 0] and cleaned[0, :55].all() and cleaned[:35, 0].all()


def test_clean_up_of_nothing_and_of_specks_alone() -> None:
    empty = np.zeros((30, 30), dtype=bool)
    speck = box(slice(4, 5), slice(4, 5), (30, 30))

    assert not clean_mask(empty).any()
    assert clean_mask(speck).any()


def test_clean_up_on_the_way_to_the_union(tmp_path: Path) -> None:
    disk, noisy = speckled()
    case = make_case(tmp_path, noisy, size=disk.shape)

    assert np.array_equal(lesion_mask(case), noisy)
    assert np.array_equal(lesion_mask(case, cleanup=True), clean_mask(noisy))
