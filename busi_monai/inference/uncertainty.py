"""How much predictions of one image disagree: between mirror images and an ensemble's members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from busi_monai.metrics import dice

if TYPE_CHECKING:
    from busi_monai.inference.prediction import Prediction

__all__ = ["Uncertainty", "disagreement"]


@dataclass(frozen=True)
class Uncertainty:
    """Disagreement of several predictions of one image.

    Attributes:
        class_disagreement: greatest range of a class's probability, in [0, 1]; ``None`` without
            class head.
        mask_disagreement: 1 − mean Dice of all pairs of masks, in [0, 1]; two empty masks agree.
            ``None`` without mask head.
        views: number of predictions compared.
    """

    class_disagreement: float | None
    mask_disagreement: float | None
    views: int

    @property
    def score(self) -> float:
        """Mean of what is known, in [0, 1]: what images are ranked by for annotation."""
        known = [v for v in (self.class_disagreement, self.mask_disagreement) if v is not None]
        return sum(known) / len(known) if known else 0.0


def disagreement(views: Sequence[Prediction]) -> Uncertainty:
    """Return how much predictions of one image disagree.

    Args:
        views: at least two predictions of the same image, as from ``Predictor.views``.

    Raises:
        ValueError: if there are fewer.
    """
    if len(views) < 2:
        raise ValueError(f"disagreement needs at least two predictions, got {len(views)}")
    ranges = [
        max(view.probabilities[name] for view in views)
        - min(view.probabilities[name] for view in views)
        for name in views[0].probabilities
    ]
    pairs = [dice(first.mask, second.mask) for first, second in combinations(views, 2)]
    return Uncertainty(
        class_disagreement=max(ranges, default=None),
        mask_disagreement=1 - sum(pairs) / len(pairs) if views[0].has_mask else None,
        views=len(views),
    )
