from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from busi_monai.imaging import lesion_diameters


def ellipse(a: float, b: float, angle: float, size: int = 200) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] - size / 2 + 0.5
    x = columns * np.cos(angle) + rows * np.sin(angle)
    y = rows * np.cos(angle) - columns * np.sin(angle)
    return (x / a) ** 2 + (y / b) ** 2 <= 1


@pytest.mark.parametrize("angle", [0, 0.4, 1.2, 2.5])
def test_axes_of_an_ellipse(angle: float) -> None:
    long, short = lesion_diameters(ellipse(80, 30, angle)) or (0, 0)

    assert long == pytest.approx(160, abs=2)
    assert short == pytest.approx(60, abs=2)


def test_spacing_stretches_before_the_longest_is_sought() -> None:
    lesion = np.zeros((50, 50))
    lesion[10:30, 10:40] = 1  # 20 rows, 30 columns

    assert lesion_diameters(lesion, (2.0, 0.5)) == pytest.approx(
        (np.hypot(40, 15), 2 * 40 * 15 / np.hypot(40, 15))
    )


def test_longest_is_that_of_all_pairs_of_corners() -> None:
    rng = np.random.default_rng(0)
    lesion = np.zeros((30, 30), dtype=bool)
    lesion[5:25, 5:25] = rng.random((20, 20)) < 0.95
    rows, columns = np.nonzero(lesion)
    corners = [
        (r + i, c + j) for r, c in zip(rows, columns, strict=True) for i in (0, 1) for j in (0, 1)
    ]

    found = lesion_diameters(lesion)

    assert found is not None
    assert found[0] == pytest.approx(pdist(corners).max(), abs=1e-5)


def test_only_the_largest_region_counts() -> None:
    lesion = np.zeros((40, 40))
    lesion[5:15, 5:15] = 1
    both = lesion.copy()
    both[35, 35] = 1

    assert lesion_diameters(both) == lesion_diameters(lesion)


def test_no_lesion_and_one_pixel() -> None:
    assert lesion_diameters(np.zeros((5, 5))) is None
    assert lesion_diameters(np.eye(1)) == pytest.approx((np.sqrt(2), np.sqrt(2)))
