"""The model card of a run: its bundle's, with what that tells of other weights replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from busi_monai.cases import CLASSES, NOT_FOR_CLINICAL_USE
from busi_monai.settings import InferenceSettings

__all__ = ["ensemble_sections", "replaced_sections", "training_sections"]

_LIMITATIONS = """\
- Validated on nothing but what its evaluations say.
- Other hospitals, machines, probes and populations than those of the training will do worse.
- One image at a time: no other views, no patient history, no video.
- Sizes are in pixels unless the file states a pixel spacing.
- Probabilities are only as calibrated as the data that the temperature was fitted on."""
_PERFORMANCE = """\
Nothing had been measured when this card was written. `busi-monai evaluate` measures on images
that were not trained on, and writes `metrics.json` and `report.md`: lesion Dice per image at
native size, accuracy, AUC, calibration and more, each with a bootstrap interval over groups of
near-duplicates."""


def replaced_sections(card: str, sections: Mapping[str, str]) -> str:
    r"""Return a card with the text under some of its headings of the first level replaced.

    Args:
        card: Markdown. Headings that it does not have are passed over.
        sections: new text by heading.

    Examples:
        >>> replaced_sections("# Data\n\nBUSI\n\n# License\n\nfree\n", {"Data": "phantoms"})
        '# Data\n\nphantoms\n\n# License\n\nfree\n'
    """
    kept: list[str] = []
    fenced = replaced = False
    for line in card.splitlines():
        fenced ^= line.startswith("```")
        heading = line[2:].strip() if line.startswith("# ") and not fenced else None
        if heading is not None:
            replaced = heading in sections
            kept += [line, "", sections[heading], ""] if replaced else [line]
        elif not replaced:
            kept.append(line)
    return "\n".join(kept).rstrip() + "\n"


def training_sections(
    items: Sequence[Mapping[str, Any]],
    settings: InferenceSettings,
    cost: Mapping[str, Any],
    datalists: Mapping[str, Iterable[str | None]],
    *,
    classes: Sequence[str] = CLASSES,
    segmentation: bool = True,
    encoder_weights: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return a card's text by heading for a run that is about to be trained.

    Args:
        items: what it is trained on, with ``class_label`` and, where known, ``dataset``.
        settings: how the trained network is to be used.
        cost: of the network, as from ``network_cost``.
        datalists: hashes of the datalists and their masks, as ``DatalistHashes.by_name``.
        classes: what ``class_label`` counts in; maybe more than the network tells apart.
        segmentation: whether the network has a mask head.
        encoder_weights: where the encoder's pretrained weights came from, as from
            ``load_encoder_weights``.
    """
    height, width = settings.image_size
    configuration = [
        f"- Network: {cost['parameters'] / 1e6:.1f} million parameters, "
        f"{cost['flops'] / 1e9:.1f} GFLOPs for one image.",
        f"- Input: one channel, {height} × {width} px, {settings.aspect}, "
        f"{settings.normalisation}.",
        f"- Classes: {', '.join(settings.classes) or 'none'}.",
        *_pretrained(encoder_weights),
        "- Everything else: `configs/train.yaml`; the course: `history.csv`, `run.json`.",
    ]
    does = ["outlines the lesion"] if segmentation else []
    if settings.classes:
        does.append(f"tells {', '.join(settings.classes)} apart")
    return {
        "Model overview": f"A network for 2-D B-mode breast ultrasound that {' and '.join(does)}. "
        f"**{NOT_FOR_CLINICAL_USE}**",
        "Data": _data(items, classes, datalists),
        "Training configuration": "\n".join(configuration),
        "Performance": _PERFORMANCE,
        "Limitations": _LIMITATIONS,
    }


def ensemble_sections(members: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return a card's text by heading for an ensemble.

    Args:
        members: of each its ``name`` and ``weights_sha256``.
    """
    names = [
        f"- {member['name']}, weights `{member['weights_sha256'][:12]}…`" for member in members
    ]
    return {
        "Model overview": f"{len(members)} networks for 2-D B-mode breast ultrasound as one. "
        f"**{NOT_FOR_CLINICAL_USE}**",
        "Data": "That of the members; `training_images.json` holds the hashes of all images that "
        "any of them has seen. No images are part of this bundle.",
        "Training configuration": f"An ensemble of {len(members)} networks, whose logits are "
        "averaged:\n\n" + "\n".join(names) + "\n\n`run.json` tells how each was trained.",
        "Performance": _PERFORMANCE,
        "Limitations": _LIMITATIONS,
    }


def _pretrained(weights: Mapping[str, str] | None) -> list[str]:
    if weights is None:
        return []
    name = " ".join(weights[key] for key in ("name", "version") if key in weights)
    return [f"- The encoder started from pretrained weights: {name} (`{weights['sha256'][:12]}…`)."]


def _data(
    items: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    datalists: Mapping[str, Iterable[str | None]],
) -> str:
    counts = Counter(int(item.get("class_label", -1)) for item in items)
    named = [f"{counts[index]} {name}" for index, name in enumerate(classes) if counts[index]]
    datasets = sorted({str(item["dataset"]) for item in items if item.get("dataset")})
    text = f"Trained on {len(items)} images"
    text += f" ({', '.join(named)})" if named else ""
    text += f" of {', '.join(datasets)}" if datasets else ""
    lines = [f"{text}."]
    for title, ending in (("Datalists", "datalist_sha256"), ("Their masks", "labels_sha256")):
        told = [
            value for name, found in datalists.items() if name.endswith(ending) for value in found
        ]
        if any(told):
            hashes = [f"`{value[:12]}…`" if value else "not told" for value in told]
            lines.append(f"- {title}: {', '.join(hashes)}.")
    lines.append(
        "- `training_images.json` holds the hashes of all images that the weights have seen, "
        "by which an evaluation knows them. No images are part of this bundle."
    )
    return "\n".join(lines)
