"""Which masks a work rests on: a hash for each, kept beside it and compared when it goes on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json

__all__ = [
    "LABEL_HASHES",
    "check_same_labels",
    "content_sha256",
    "joined_label_hashes",
    "label_hashes",
    "labels_sha256",
    "named_cases",
    "note_without_label_hashes",
    "read_label_hashes",
    "with_label_hashes",
    "without_label_hashes",
    "write_label_hashes",
]

logger = logging.getLogger(__name__)

LABEL_HASHES = "label_hashes.json"
"""File in a run, a cross-validation or a search: the masks that it rests on.

A list of ``{"id", "sha256", "label_sha256"}`` as in the datalists, of all their splits. An
ensemble, which is made to be given away, leaves the ids out.
"""

_SHOWN = 5


def content_sha256(content: Any) -> str:
    """Return the SHA-256 of plain JSON values, the same in whatever order keys stand."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def labels_sha256(items: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the hash of all masks by id, ``None`` if an item does not tell its mask's."""
    if not items or not all("label_sha256" in item for item in items):
        return None
    return content_sha256({item["id"]: item["label_sha256"] for item in items})


def with_label_hashes(
    items: Iterable[Mapping[str, Any]], hashes: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return items with ``label_sha256`` behind ``sha256``."""
    told = []
    for item in without_label_hashes(items):
        own = None if item["label"] is None else hashes[item["label"]]
        keys = list(item)
        place = keys.index("sha256") + 1
        values = {**item, "label_sha256": own}
        told.append({key: values[key] for key in [*keys[:place], "label_sha256", *keys[place:]]})
    return told


def without_label_hashes(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return items without ``label_sha256``."""
    return [{key: item[key] for key in item if key != "label_sha256"} for item in items]


def label_hashes(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return id and both hashes of the items that tell their mask's, as ``LABEL_HASHES`` keeps."""
    keys = ("id", "sha256", "label_sha256")
    return [
        {key: item[key] for key in keys if key in item} for item in items if "label_sha256" in item
    ]


def write_label_hashes(folder: str | Path, items: Iterable[Mapping[str, Any]]) -> None:
    """Write ``LABEL_HASHES`` into a folder."""
    write_json(Path(folder) / LABEL_HASHES, label_hashes(items))


def read_label_hashes(folder: str | Path) -> list[dict[str, Any]]:
    """Return what a folder tells of its masks; empty for one of an earlier version."""
    path = Path(folder) / LABEL_HASHES
    content = read_json(path) if path.is_file() else []
    keys = {"sha256", "label_sha256"}
    if not isinstance(content, list) or not all(
        isinstance(item, dict) and keys <= set(item) for item in content
    ):
        raise InputError(f"{path}: expected a list of {{{', '.join(sorted(keys))}}}")
    return content


def check_same_labels(folder: str | Path, items: Iterable[Mapping[str, Any]], remedy: str) -> None:
    """Refuse to go on with other masks than those that a work was begun with.

    Images are matched by their pixels; those that only one side has are left to the checks of
    images.

    Args:
        folder: of the run, cross-validation or search.
        items: of the datalists that it would go on with.
        remedy: sentence that says what to do.

    Raises:
        InputError: if masks differ; the message counts the cases and names the first.
    """
    before, now = read_label_hashes(folder), label_hashes(items)
    if not before or not now:
        note_without_label_hashes(str(folder) if not before else f"the dataset for {folder}")
        return
    changed = _changed(before, now)
    if changed:
        raise InputError(f"{folder} was begun with other masks of {named_cases(changed)}. {remedy}")


def joined_label_hashes(folders: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Return what several runs tell of their masks, one entry for each image and mask.

    Raises:
        InputError: if an image has other masks in one run than in another.
    """
    told = [read_label_hashes(folder) for folder in folders]
    known = [(folder, items) for folder, items in zip(folders, told, strict=True) if items]
    if known and len(known) < len(told):
        for folder, items in zip(folders, told, strict=True):
            if not items:
                note_without_label_hashes(str(folder))
    joined: dict[tuple[str, str | None], dict[str, Any]] = {}
    for index, (folder, items) in enumerate(known):
        for other, earlier in known[:index]:
            changed = _changed(earlier, items, among=True)
            if changed:
                raise InputError(
                    f"{other} and {folder} were trained with different masks of "
                    f"{named_cases(changed)}; train both on one prepared dataset"
                )
        for item in items:
            joined.setdefault((item["sha256"], item["label_sha256"]), item)
    return list(joined.values())


def named_cases(ids: Sequence[str]) -> str:
    """Return how messages name cases: how many, and the first ids.

    Examples:
        >>> named_cases(["a"]), named_cases(list("abcdefg"))
        ('1 case: a', '7 cases: a, b, c, d, e, …')
    """
    count = "1 case" if len(ids) == 1 else f"{len(ids)} cases"
    return f"{count}: {', '.join(ids[:_SHOWN])}{', …' if len(ids) > _SHOWN else ''}"


@cache
def note_without_label_hashes(where: str) -> None:
    """Say, once for each ``where``, that what lies there does not tell its masks' hashes."""
    logger.warning(
        "%s has hashes of its images only, none of its masks, as written by an earlier version: "
        "whether the masks are the same is not checked",
        where,
    )


def _changed(
    before: Iterable[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], *, among: bool = False
) -> list[str]:
    """Return the ids whose images are in both and have other masks now.

    ``among``: masks that one side has beside those of the other (``--multi-mask split``) are none.
    """
    earlier, later = _masks_by_image(before), _masks_by_image(now)
    changed = []
    for item in now:
        masks = later[item["sha256"]]
        known = earlier.get(item["sha256"], masks)
        if known != masks and not (among and (known < masks or masks < known)):
            changed.append(str(item.get("id", item["sha256"][:12])))
    return changed


def _masks_by_image(items: Iterable[Mapping[str, Any]]) -> dict[str, set[str | None]]:
    found: dict[str, set[str | None]] = {}
    for item in items:
        found.setdefault(item["sha256"], set()).add(item["label_sha256"])
    return found
