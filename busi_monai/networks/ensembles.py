"""``EnsembleNetwork``: several trained networks that answer as one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["EnsembleNetwork"]


class EnsembleNetwork(nn.Module):
    """The mean of the logits that several networks give.

    Logits are averaged, as for mirrored images: their mean is the normalised geometric mean of
    the members' probabilities (Hinton, "Training products of experts by minimizing contrastive
    divergence", Neural Computation 2002), and nothing saturates.

    Args:
        members: networks that take the same images and return the same heads in a dict.
        temperatures: of each member; its class logits are divided by it before the mean, so that
            members that were calibrated apart weigh the same. One for each by default.

    Shapes:
        ``forward`` takes and returns what the members do. True masks (N, 1, H, W), if given, go to
        those that take them, as ``TwoStageNetwork`` does; scripted, they are left out.

    Raises:
        ValueError: if there is no member, the members' numbers of classes differ, or the
            temperatures are not one above 0 for each.

    Examples:
        >>> import torch
        >>> from busi_monai.networks.multitask import MultiTaskUNet
        >>> options = {"encoder_options": {"widths": [4, 8]}, "head_channels": []}
        >>> ensemble = EnsembleNetwork([MultiTaskUNet("unet", **options) for _ in range(3)]).eval()
        >>> outputs = ensemble(torch.rand(2, 1, 16, 32))
        >>> outputs["seg"].shape, outputs["cls"].shape
        (torch.Size([2, 1, 16, 32]), torch.Size([2, 3]))
    """

    def __init__(
        self, members: Sequence[nn.Module], temperatures: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble needs at least one member")
        counts = [int(getattr(member, "classes", 0)) for member in members]
        if len(set(counts)) > 1:
            raise ValueError(f"the members have different numbers of classes: {counts}")
        scales = [1.0] * len(members) if temperatures is None else [float(t) for t in temperatures]
        if len(scales) != len(members) or not all(scale > 0 for scale in scales):
            raise ValueError(
                f"temperatures must be one number above 0 for each of {len(members)} members, got "
                f"{scales}"
            )
        self.members = nn.ModuleList(members)
        self.temperatures = scales
        self.takes_lesion = [
            "lesion" in inspect.signature(member.forward).parameters for member in members
        ]
        self.classes = counts[0]
        self.stride = math.lcm(*(int(getattr(member, "stride", 1)) for member in members))

    def forward(self, image: Tensor, lesion: Tensor | None = None) -> dict[str, Tensor]:
        """Return the mean logits of each head by its name; see the class."""
        total: dict[str, Tensor] = {}
        for index, member in enumerate(self.members):
            if torch.jit.is_scripting():  # compiles no call that a member does not take
                outputs = member(image)
            elif lesion is not None and self.takes_lesion[index]:
                outputs = member(image, lesion)
            else:
                outputs = member(image)
            for head in ("seg", "cls"):
                if head in outputs:
                    logits = outputs[head]
                    if head == "cls":
                        logits = logits / self.temperatures[index]
                    total[head] = total[head] + logits if head in total else logits
        mean: dict[str, Tensor] = {}
        for head, summed in total.items():
            mean[head] = summed / len(self.members)
        return mean
