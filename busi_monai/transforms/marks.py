"""Marks that a scanner burns into its images, planted anywhere: calipers and lines of text.

In public sets, marks stand around lesions and hardly ever in normal images: a network may learn
them in place of the lesion. Planted ones fall independently of lesion and class.
``RandomMarksd`` only samples; ``plant_marks`` draws.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable, Transform

from busi_monai.imaging.drawn_marks import Calipers, TextLine, draw_calipers, draw_text
from busi_monai.transforms.sampling import checked_part

__all__ = ["RandomMarksd", "plant_marks", "sample_calipers", "sample_text"]

_PIXEL = 1 / 192  # lengths below are pixels of an image whose shorter side is 192
_LETTERS = list("ABCDEFGHILMNOPQRSTUVX0123456789.")


class RandomMarksd(Randomizable, Transform):
    """Plant calipers, a line of text, or both in ``image``, each a third of the time.

    Args:
        probability: how often.

    Raises:
        InputError: if it is no probability.
    """

    def __init__(self, probability: float) -> None:
        self.probability = checked_part("marks_probability", probability)

    def randomize(self, data: Any = None) -> None:
        """Sample marks, or none."""
        self.calipers: Calipers | None = None
        self.text: TextLine | None = None
        if self.R.random_sample() < self.probability:
            kind = self.R.randint(3)
            self.calipers = sample_calipers(self.R) if kind != 1 else None
            self.text = sample_text(self.R) if kind != 0 else None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with marks in its image; the mask stays as it is."""
        item = dict(data)
        self.randomize()
        if self.calipers is not None or self.text is not None:
            item["image"] = plant_marks(item["image"], calipers=self.calipers, text=self.text)
        return item


def plant_marks(
    image: torch.Tensor, *, calipers: Calipers | None = None, text: TextLine | None = None
) -> torch.Tensor:
    """Return a (1, H, W) float32 tensor in [0, 1] with marks drawn in.

    Args:
        image: the image, which is left alone.
        calipers: two pairs of crosses.
        text: a line of text.
    """
    pixels = image[0].contiguous().numpy()
    if calipers is not None:
        pixels = draw_calipers(pixels, calipers)
    if text is not None:
        pixels = draw_text(pixels, text)
    return torch.from_numpy(pixels)[None]


def sample_calipers(state: np.random.RandomState) -> Calipers:
    """Return calipers around a random ellipse anywhere in the image.

    Crosses are upright, diagonal or, as some scanners tell two axes apart, one pair of each;
    half of them have dotted lines, and half have numbers.
    """
    longer = state.uniform(0.1, 0.6)
    return Calipers(
        centre=(state.uniform(0.15, 0.85), state.uniform(0.1, 0.8)),
        axes=(longer, longer * state.uniform(0.4, 1)),
        angle=state.uniform(-45, 45),
        arm=state.uniform(2, 4) * _PIXEL,
        stroke=_stroke(state),
        grey=state.uniform(0.6, 1),
        diagonal=((False, False), (True, True), (False, True))[state.randint(3)],
        dotted=bool(state.randint(2)),
        numbered=bool(state.randint(2)),
    )


def sample_text(state: np.random.RandomState) -> TextLine:
    """Return one to three words of letters and digits, near the top or in the lower third."""
    words = ["".join(state.choice(_LETTERS, state.randint(2, 8))) for _ in range(state.randint(3))]
    words.append("".join(state.choice(_LETTERS, 3)))
    top, bottom = ((0.04, 0.15), (0.67, 0.99))[state.randint(2)]
    return TextLine(
        text=" ".join(words),
        place=(state.uniform(-0.1, 0.8), state.uniform(top, bottom)),
        height=state.uniform(4, 9) * _PIXEL,
        stroke=_stroke(state),
        grey=state.uniform(0.6, 1),
    )


def _stroke(state: np.random.RandomState) -> float:
    return float(state.uniform(0.6, 1.4) * _PIXEL)
