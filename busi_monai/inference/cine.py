"""Cine loops: which frame stands for a loop, and what is told of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from busi_monai.cases import CLASSES
from busi_monai.inference.prediction import Prediction

__all__ = ["CineSummary", "telling_rank"]

*_, MALIGNANT = CLASSES


def telling_rank(prediction: Prediction) -> tuple[bool, float, int]:
    """Return what the summary frame of a loop is the maximum of; the earlier frame where equal.

    A frame with a lesion goes before one without, then the probability of malignancy counts, then
    the size of the lesion.
    """
    malignant = prediction.probabilities.get(MALIGNANT, 0.0)
    return prediction.lesion_pixels > 0, malignant, prediction.lesion_pixels


@dataclass
class CineSummary:
    """What is told of a loop beside the rows of its frames.

    Attributes:
        file: path of the file.
        frames: number of frames.
        frames_per_second: rate of the loop, or ``None`` where it is not stated.
        predicted: number of frames that were predicted.
        with_lesion: number of those with a predicted lesion.
        summary_id: id of the row of the frame that stands for the loop, by ``telling_rank``.
        summary_frame: number of that frame, counted from 1; ``None`` if none was predicted.
    """

    file: str
    frames: int
    frames_per_second: float | None
    predicted: int = 0
    with_lesion: int = 0
    summary_id: str | None = None
    summary_frame: int | None = None
    _rank: tuple[bool, float, int] = (False, -1.0, -1)

    def add(self, id: str, frame: int, prediction: Prediction) -> None:
        """Take a frame's prediction into account.

        Args:
            id: of its row.
            frame: its number, counted from 0.
            prediction: what was predicted for it.
        """
        self.predicted += 1
        self.with_lesion += prediction.lesion_pixels > 0
        rank = telling_rank(prediction)
        if rank > self._rank:
            self._rank, self.summary_id, self.summary_frame = rank, id, frame + 1

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: value for name, value in asdict(self).items() if not name.startswith("_")}
