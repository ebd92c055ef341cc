from __future__ import annotations

import numpy as np
import pytest

from busi_monai.cases import CLASSES
from busi_monai.curation.audit_report import (
    Sample,
    class_counts_figure,
    contact_sheets,
    lesion_pixels_figure,
    sample_grid,
    sizes_figure,
)
from busi_monai.plots.palette import TRUE_OUTLINE


def sample(name: str = "benign (1)", class_name: str = "benign", size=(60, 90)) -> Sample:
    mask = np.zeros(size, dtype=bool)
    mask[20:40, 30:60] = True
    return Sample(name, class_name, np.full(size, 90, dtype=np.uint8), mask)


def test_bars_carry_the_counts():
    figure = class_counts_figure({"normal": 3, "benign": 5, "malignant": 0})
    bars, pie = figure.axes
    assert [bar.get_height() for bar in bars.patches] == [3, 5, 0]
    assert len(pie.patches) == 2  # an empty class has no slice


@pytest.mark.parametrize("counts", [{}, dict.fromkeys(CLASSES, 0)])
def test_no_images_give_an_empty_figure(counts):
    class_counts_figure(counts).canvas.draw()


def test_lesion_shares_of_each_class_are_in_the_legend():
    figure = lesion_pixels_figure({"benign": [0.02, 0.04], "malignant": [0.2]}, 10, 90)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["benign: median 3.0 % of 2", "malignant: median 20.0 % of 1"]
    figure.canvas.draw()


def test_figures_of_nothing_can_be_drawn():
    lesion_pixels_figure({}, 0, 0).canvas.draw()
    sizes_figure({}).canvas.draw()
    assert sample_grid([]).shape[2] == 3
    assert list(contact_sheets({})) == []


def test_width_is_across():
    figure = sizes_figure({"benign": [(300, 500)]})
    (points,) = figure.axes[0].collections
    assert points.get_offsets().tolist() == [[500, 300]]


def test_outline_is_drawn_on_the_sample():
    grid = sample_grid([sample()])
    assert (np.abs(grid.astype(int) - TRUE_OUTLINE).max(axis=-1) < 60).any()


def test_many_groups_take_several_pages():
    groups = {n: [sample(f"a ({n})"), sample(f"b ({n})")] for n in range(1, 61)}
    pages = list(contact_sheets(groups))
    assert len(pages) > 1
    assert len({page.shape[1] for page in pages}) == 1


def test_group_wider_than_a_page_is_broken_into_rows():
    (page,) = contact_sheets({1: [sample(f"x ({n})") for n in range(12)]})
    (short,) = contact_sheets({1: [sample()]})
    assert page.shape[0] > short.shape[0]


def test_the_heading_of_a_class_conflict_stands_out():
    (calm,) = contact_sheets({1: [sample(), sample()]})
    (conflict,) = contact_sheets({1: [sample(), sample(class_name="malignant")]}, {1})

    def dark(page):
        return (page[6:22, 6:120] < 100).mean()

    assert dark(calm) < 0.3 and dark(conflict) > 0.6
