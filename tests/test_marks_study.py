from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from busi_monai.imaging.drawn_marks import Calipers, draw_calipers
from busi_monai.imaging.marks import marks_mask
from busi_monai.io.images import write_mask, write_png

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
CALIPERS = Calipers((0.5, 0.5), (0.6, 0.4), angle=10, arm=7 / 120, stroke=1.5 / 120, grey=0.9)


class Reader:
    """A model that knows a lesion by bright pixels alone."""

    def predict(self, pixels: np.ndarray) -> Any:
        marked = bool((pixels > 0.35).any())
        probabilities = {"normal": 1 - 0.8 * marked, "benign": 0.8 * marked, "malignant": 0.0}
        mask = np.full(pixels.shape, marked, np.uint8)
        name = "benign" if marked else "normal"
        return SimpleNamespace(
            mask=mask,
            probabilities=probabilities,
            predicted_class=name,
            lesion_pixels=int(mask.sum()),
        )


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("marks_study")


@pytest.fixture
def items(tmp_path: Path) -> list[dict[str, Any]]:
    """Ten benign lesions with calipers and three normals without, on even grey."""
    even = np.full((120, 160), 0.2, np.float32)
    found = []
    for index in range(13):
        lesion = index < 10
        image, label = tmp_path / f"{index}.png", tmp_path / f"{index}_mask.png"
        pixels = draw_calipers(even, CALIPERS) if lesion else even
        write_png(image, np.round(pixels * 255).astype(np.uint8))
        truth = np.zeros(even.shape, bool)
        truth[40:80, 50:110] = lesion
        write_mask(label, truth)
        found.append(
            {"id": str(index), "group": str(index), "image": image, "label": label,
             "class_label": int(lesion)}
        )  # fmt: skip
    return found


def test_a_model_that_sees_marks_only_is_found_out(
    script: ModuleType, items: list[dict[str, Any]]
) -> None:
    lines = {(what, figure): cells for what, figure, *cells in script.study(Reader(), items, 0)}
    assert lines["marks inpainted", "accuracy"][:3] == ["10", "1.000", "0.000"]
    assert lines["marks inpainted", "accuracy"][3] == "-1.000 (-1.000 to -1.000)"
    assert lines["as much inpainted elsewhere", "accuracy"][1:3] == ["1.000", "1.000"]
    assert lines["calipers planted", "normals left clean"][:3] == ["3", "1.000", "0.000"]
    assert lines["calipers planted", "mean p(normal)"][2] == "0.200"


def test_the_other_place_is_filled_as_much_and_leaves_the_marks(
    script: ModuleType, items: list[dict[str, Any]]
) -> None:
    rng = np.random.default_rng(0)
    pixels = draw_calipers(rng.uniform(0.1, 0.3, (120, 160)).astype(np.float32), CALIPERS)
    mask = marks_mask(pixels)
    changed = script.turned_inpainting(pixels, items[0]) != pixels
    assert not (changed & mask).any()
    assert changed.sum() == pytest.approx(mask.sum(), rel=0.25)
