from __future__ import annotations

import numpy as np
import pytest
import torch

from busi_monai.imaging.drawn_marks import Calipers, TextLine
from busi_monai.transforms.marks import RandomMarksd, plant_marks, sample_calipers, sample_text

DARK = torch.zeros(1, 192, 192)
CALIPERS = Calipers((0.5, 0.5), (0.5, 0.25), angle=0, arm=4 / 192, stroke=1 / 192, grey=0.8)
TEXT = TextLine("LT 12MHZ", (0.05, 0.9), height=8 / 192, stroke=1 / 192, grey=0.8)
ENDS = [(96, 48), (96, 144), (72, 96), (120, 96)]  # (row, column)


def planted(**changes: object) -> torch.Tensor:
    return plant_marks(DARK, calipers=CALIPERS._replace(**changes))[0]


def test_upright_crosses_stand_at_the_ends_of_both_axes() -> None:
    marked = planted()
    for row, column in ENDS:
        near = marked[row - 6 : row + 7, column - 6 : column + 7]
        assert 0.5 < float(near.max()) < 0.81
        rows, columns = near.sum(1), near.sum(0)
        assert abs(int(rows.argmax()) - 6) <= 1 and abs(int(columns.argmax()) - 6) <= 1
        assert 6 <= int((rows > 0.1).sum()) <= 11  # arms of 4, and half a stroke
        marked[row - 6 : row + 7, column - 6 : column + 7] = 0
    assert float(marked.max()) == 0


def test_diagonal_crosses_leave_what_upright_ones_cover() -> None:
    diagonal = planted(diagonal=(True, False))
    left = diagonal[90:103, 42:55]
    assert float(left[6, 2:4].max()) == 0 and float(left[3:5, 3:5].max()) > 0.3
    assert torch.equal(diagonal[66:79], planted()[66:79])  # the other axis


def test_dots_join_the_crosses() -> None:
    line = planted(dotted=True)[94:99, 56:137].amax(0)
    bright = (line > 0.4).float()
    assert 12 <= float(bright.diff().clamp_min(0).sum()) <= 30
    assert float((line < 0.1).float().mean()) > 0.3


def test_an_angle_turns_the_axes() -> None:
    turned = planted(angle=90)
    assert float(turned[46:51, 94:99].max()) > 0.5 and float(turned[94:99, 46:51].max()) == 0


def test_numbers_stand_beside_the_first_crosses() -> None:
    added = (planted(numbered=True) - planted()).clamp_min(0)
    assert float(added[80:96, 30:48].max()) > 0.3 and float(added[56:72, 78:96].max()) > 0.3
    assert float(added[:, 100:].max()) == 0


def test_marks_grow_with_the_image() -> None:
    for marks in ({"calipers": CALIPERS}, {"text": TEXT}):
        small, large = (
            float(plant_marks(torch.zeros(1, *size), **marks).sum()) / min(size) ** 2
            for size in [(192, 192), (576, 768)]
        )
        assert small == pytest.approx(large, rel=0.4)


def test_text_stands_in_a_line_and_is_cut_at_the_edge() -> None:
    marked = plant_marks(DARK, text=TEXT)[0]
    rows = torch.nonzero(marked.amax(1) > 0.1)
    assert int(rows.min()) >= 162 and int(rows.max()) <= 175
    assert 5 <= int(rows.max() - rows.min()) <= 11
    columns = torch.nonzero(marked.amax(0) > 0.1)
    assert 7 <= int(columns.min()) <= 14 and int(columns.max()) > 40
    beyond = plant_marks(DARK, text=TEXT._replace(place=(0.9, 0.9)))[0]
    assert 0 < float(beyond.sum()) < float(marked.sum())


def test_marks_lie_over_the_image_and_leave_the_rest() -> None:
    grey = torch.full((1, 192, 192), 0.3)
    marked = plant_marks(grey, calipers=CALIPERS)
    assert torch.equal(grey, torch.full((1, 192, 192), 0.3))
    untouched = planted() == 0
    assert torch.equal(marked[0][untouched], grey[0][untouched])
    assert float(marked.min()) == pytest.approx(0.3) and float(marked.max()) < 0.81


def test_sampled_marks_are_of_all_kinds_and_places() -> None:
    transform = RandomMarksd(0.75).set_random_state(0)
    kinds = set()
    for _ in range(60):
        transform.randomize()
        kinds.add((transform.calipers is not None, transform.text is not None))
    assert kinds == {(False, False), (True, False), (False, True), (True, True)}
    state = np.random.RandomState(0)
    calipers = [sample_calipers(state) for _ in range(300)]
    assert np.ptp([c.centre for c in calipers], axis=0).min() > 0.6
    assert len({(c.diagonal, c.dotted, c.numbered) for c in calipers}) == 12
    assert all(0.6 <= c.grey <= 1 and 2 / 192 <= c.arm <= 4 / 192 for c in calipers)
    texts = [sample_text(state) for _ in range(100)]
    assert all(t.place[1] <= 0.15 or t.place[1] >= 0.67 for t in texts)


def test_the_mask_and_the_item_stay_as_they_are() -> None:
    label = torch.ones(1, 192, 192)
    item = {"image": DARK, "label": label, "id": "a"}
    transform = RandomMarksd(1).set_random_state(1)
    marked = [transform(item) for _ in range(10)]
    assert all(new["label"] is label and new["id"] == "a" for new in marked)
    assert all(new["image"].shape == DARK.shape for new in marked)
    assert all(new["image"].dtype == torch.float32 for new in marked)
    assert all(0 < float(new["image"].max()) <= 1 for new in marked)
    assert float(DARK.max()) == 0


def test_no_marks_at_probability_zero() -> None:
    assert RandomMarksd(0).set_random_state(0)({"image": DARK})["image"] is DARK


def test_the_same_seed_plants_the_same() -> None:
    def run(seed: int) -> torch.Tensor:
        transform = RandomMarksd(0.8).set_random_state(seed)
        return torch.stack([transform({"image": DARK})["image"] for _ in range(5)])

    assert torch.equal(run(4), run(4)) and not torch.equal(run(4), run(5))
