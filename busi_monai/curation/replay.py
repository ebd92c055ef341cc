"""Repeating a datalist on another copy of its dataset."""

from __future__ import annotations

from busi_monai.curation.datalist import Datalist
from busi_monai.curation.storage import PreparedStore
from busi_monai.datasets import Listing
from busi_monai.errors import InputError

__all__ = ["check_same_dataset", "other_masks", "unlisted"]

_MAX_NAMED = 20


def check_same_dataset(datalist: Datalist, store: PreparedStore, listing: Listing) -> None:
    """Refuse a copy of the dataset that does not hold every image of a datalist, pixel for pixel.

    Args:
        datalist: the one to repeat.
        store: the images and labels of this copy; single masks that the datalist names are added.
        listing: of this copy.

    Raises:
        InputError: naming the cases that are missing or differ.
    """
    missing, different, otherwise = [], [], []
    for item in datalist.records():
        whole = item["meta"].get("part_of", item["id"])
        stored = store.stored.get(whole)
        if stored is None:
            missing.append(whole)
        elif stored.sha256 != item["sha256"]:
            different.append(whole)
        elif stored.case.class_label != item["class_label"]:
            otherwise.append(whole)
        elif "part_of" in item["meta"]:
            store.add_single_masks(whole)
    found = {
        "images that are missing or unusable here": missing,
        "images with other pixels": different,
        "images of another class": otherwise,
    }
    if not any(found.values()):
        found["files that could not be made, such as the label of an empty mask"] = [
            path for path in datalist.files() if not (store.folder / path).is_file()
        ]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:_MAX_NAMED])}"
        + (", …" if len(names) > _MAX_NAMED else "")
        for what, names in found.items()
        if names
    ]
    if faults:
        raise InputError(
            f"{listing.root} is not the dataset of the datalist, which has {'; '.join(faults)}; "
            "get the original files"
        )


def other_masks(datalist: Datalist, repeated: Datalist) -> list[str]:
    """Return the ids whose masks are others than a datalist tells, if it tells them.

    Args:
        datalist: the one that was repeated.
        repeated: the same with the hashes of this copy's masks.
    """
    now = {item["id"]: item["label_sha256"] for item in repeated.records()}
    return [
        item["id"]
        for item in datalist.records()
        if item.get("label_sha256", now[item["id"]]) != now[item["id"]]
    ]


def unlisted(datalist: Datalist, listing: Listing) -> list[str]:
    """Return the ids of a dataset that a datalist neither divides nor excludes."""
    named = {item["id"] for item in (*datalist.records(), *datalist.excluded)}
    return [case.id for case in listing.cases if case.id not in named]
