"""Groups that must not be torn apart, and stratified splits that keep them whole.

The drawing itself is scikit-learn's (``StratifiedGroupKFold``, ``train_test_split``); what stands
here chooses among its folds so that small shares still hold their share of every class.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from busi_monai.cases import CLASSES
from busi_monai.errors import InputError

__all__ = [
    "Leaks",
    "Ratios",
    "connected_groups",
    "find_leaks",
    "group_folds",
    "is_class_conflict",
    "split_groups",
    "split_images",
    "validation_share",
]

VALIDATION_SHARE = 10
"""With folds, one in this many of the cases outside the reported fold is for validation."""


@dataclass(frozen=True)
class Ratios:
    """Shares of train, validation and test in per cent.

    Examples:
        >>> Ratios.parse("70/15/15")
        Ratios(train=70, validation=15, test=15)
    """

    train: int = 80
    validation: int = 10
    test: int = 10

    @classmethod
    def parse(cls, text: str) -> Ratios:
        """Read shares written like ``80/10/10``."""
        try:
            shares = [int(word) for word in text.replace(",", "/").replace(":", "/").split("/")]
        except ValueError:
            shares = []
        if len(shares) != 3 or min(shares) < 0 or sum(shares) != 100 or shares[0] == 0:
            raise InputError(
                f"ratios {text!r}: expected three whole percentages train/validation/test that "
                "add up to 100, such as 80/10/10 or 70/0/30"
            )
        return cls(*shares)

    def __str__(self) -> str:
        return f"{self.train}/{self.validation}/{self.test}"


def connected_groups(ids: Sequence[str], links: Iterable[Collection[str]]) -> dict[str, str]:
    """Name the group of every id: ids that any link joins, directly or in a chain, share one.

    Args:
        ids: all ids, in the order that decides a group's name.
        links: sets of ids that belong together; ids that are not in ``ids`` still connect others.

    Returns:
        ``{id: group}`` for ``ids``, where a group is named after its first member.

    Examples:
        >>> connected_groups(["a", "b", "c", "d"], [["b", "d"], ["d", "a"]])
        {'a': 'a', 'b': 'a', 'c': 'c', 'd': 'a'}
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for link in links:
        first, *others = link
        for other in others:
            parent[root(other)] = root(first)
    names: dict[str, str] = {}
    return {name: names.setdefault(root(name), name) for name in ids}


def is_class_conflict(labels: Iterable[int], patients: Iterable[str | None]) -> bool:
    """Return whether near-duplicates carry classes of which one must be wrong.

    Neighbouring frames of one patient may show the lesion or not: there, a normal beside lesions of
    one class is no conflict.

    Args:
        labels: ``class_label`` of each member of a near-duplicate group.
        patients: the patient of each, ``None`` where the dataset tells none.

    Examples:
        >>> is_class_conflict([0, 1], [None, None]), is_class_conflict([0, 1], ["a", "b"])
        (True, True)
        >>> is_class_conflict([0, 1], ["a", "a"]), is_class_conflict([1, 2], ["a", "a"])
        (False, True)
    """
    found, known = set(labels), set(patients)
    if len(known) == 1 and None not in known:
        found.discard(CLASSES.index("normal"))
    return len(found) > 1


def group_folds(
    labels: Sequence[int], groups: Sequence[str], folds: int, seed: int
) -> NDArray[np.intp]:
    """Give every case a fold so that groups stay whole and every fold has its share of a class.

    Args:
        labels: (N,) class of each case.
        groups: (N,) group of each case.
        folds: how many folds, at least 2.
        seed: of the shuffle.

    Returns:
        (N,) fold numbers from 0.

    Raises:
        InputError: if a class has fewer groups than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if folds < 2:
        raise InputError(f"{folds} folds: expected at least 2")
    rarest, available = _rarest_class(labels, groups)
    if available < folds:
        raise InputError(
            f"{folds} folds: the class {CLASSES[rarest]} has only {_groups(available)} of images "
            f"that can be told apart; choose at most {available} folds"
        )
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold_of = np.zeros(len(labels), dtype=np.intp)
    nothing = np.zeros(len(labels))
    for fold, (_, chosen) in enumerate(splitter.split(nothing, labels, groups)):
        fold_of[chosen] = fold
    return fold_of


def split_groups(
    labels: Sequence[int], groups: Sequence[str], ratios: Ratios, seed: int
) -> list[str]:
    """Give every case a split so that groups stay whole and classes keep their proportions.

    As many folds are drawn as the ratios need (10 for 80/10/10, 20 for 70/15/15), fewer where a
    class has fewer groups; validation and test take the folds that come closest to their share.
    """
    wanted = {name: share for name in ("test", "validation") if (share := getattr(ratios, name))}
    if not wanted:
        return ["train"] * len(labels)
    _check_enough_groups(labels, groups, len(wanted) + 1)
    step = math.gcd(ratios.train, ratios.validation, ratios.test)
    folds = min(100 // step, _rarest_class(labels, groups)[1])
    fold_of = group_folds(labels, groups, folds, seed)
    counts = _class_counts(labels, fold_of, folds)
    split_of_fold = ["train"] * folds
    for name, share in wanted.items():
        number = max(1, round(share * folds / 100))
        free = [fold for fold in range(folds) if split_of_fold[fold] == "train"]
        for fold in _closest_folds(counts, free, number, share / 100):
            split_of_fold[fold] = name
    return [split_of_fold[fold] for fold in fold_of]


def split_images(labels: Sequence[int], ratios: Ratios, seed: int) -> list[str]:
    """Give every case a split by a plain stratified draw that knows of no groups."""
    from sklearn.model_selection import train_test_split

    wanted = {name: share for name in ("test", "validation") if (share := getattr(ratios, name))}
    _check_enough_groups(labels, [str(index) for index in range(len(labels))], len(wanted) + 1)
    splits = ["train"] * len(labels)
    rest = np.arange(len(labels))
    classes = len(set(labels))
    for name, share in wanted.items():
        number = max(classes, round(share * len(labels) / 100))
        try:
            rest, chosen = train_test_split(
                rest, test_size=number, random_state=seed, stratify=np.asarray(labels)[rest]
            )
        except ValueError as error:
            raise InputError(f"{len(labels)} images are too few for {ratios}: {error}") from error
        for index in chosen:
            splits[index] = name
    return splits


def validation_share(labels: Sequence[int], groups: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Choose a stratified tenth of the cases for validation, groups kept whole."""
    _check_enough_groups(labels, groups, 2)
    folds = min(VALIDATION_SHARE, _rarest_class(labels, groups)[1])
    fold_of = group_folds(labels, groups, folds, seed)
    counts = _class_counts(labels, fold_of, folds)
    (chosen,) = _closest_folds(counts, list(range(folds)), 1, 1 / VALIDATION_SHARE)
    return np.asarray(fold_of == chosen)


@dataclass(frozen=True)
class Leaks:
    """Evaluation images that have a near-duplicate in the training images of their model.

    Attributes:
        images: number of evaluation images by split: ``validation``, ``test`` or ``fold 0``, ….
        ids: the leaking ones among them, by split.
    """

    images: Mapping[str, int]
    ids: Mapping[str, Sequence[str]]

    @property
    def count(self) -> int:
        """How many evaluation images leak."""
        return sum(map(len, self.ids.values()))

    @property
    def total(self) -> int:
        """How many evaluation images there are."""
        return sum(self.images.values())

    def as_dict(self) -> dict[str, object]:
        """Return the entry of ``datalist.json``."""
        return {
            "count": self.count,
            "evaluation_images": self.total,
            "ids": [name for ids in self.ids.values() for name in ids],
            "parts": {
                name: {"images": self.images[name], "ids": list(ids)}
                for name, ids in self.ids.items()
            },
        }


def find_leaks(
    splits: Mapping[str, str], folds: Mapping[str, int], duplicates: Iterable[Collection[str]]
) -> Leaks:
    """Find the evaluation images with a near-duplicate among the training images.

    Args:
        splits: ``{id: split}``. Without folds, validation and test are evaluated.
        folds: ``{id: fold}`` of the split train, or nothing. With folds, each is evaluated with
            the others as training images.
        duplicates: near-duplicate groups of ids.

    Examples:
        >>> splits = {"a": "train", "b": "test", "c": "test"}
        >>> find_leaks(splits, {}, [["a", "b"]]).as_dict()["parts"]["test"]
        {'images': 2, 'ids': ['b']}
    """
    alike = connected_groups(list(splits), duplicates)
    sides = {name: f"fold {folds[name]}" for name in splits if name in folds} or splits
    wanted = (
        sorted(set(sides.values()), key=lambda name: int(name.removeprefix("fold ")))
        if folds
        else ("validation", "test")
    )
    found: dict[str, list[str]] = {}
    images: dict[str, int] = {}
    for split in wanted:
        members = [name for name, side in sides.items() if side == split]
        seen = {
            alike[n] for n, side in sides.items() if (side != split if folds else side == "train")
        }
        found[split] = [name for name in members if alike[name] in seen]
        images[split] = len(members)
    return Leaks(images, found)


def _class_counts(
    labels: Sequence[int], fold_of: NDArray[np.intp], folds: int
) -> NDArray[np.float64]:
    """Return (folds, classes) numbers of cases."""
    counts = np.zeros((folds, max(labels) + 1))
    np.add.at(counts, (fold_of, np.asarray(labels)), 1)
    return counts


def _closest_folds(
    counts: NDArray[np.float64], free: Sequence[int], number: int, share: float
) -> list[int]:
    """Choose folds one by one so that each class comes closest to its share of the whole."""
    total = counts.sum(axis=0)
    present = total > 0
    left = list(free)
    chosen: list[int] = []
    for taken in range(1, number + 1):
        target = total * share * taken / number
        so_far = counts[chosen].sum(axis=0)

        def distance(
            fold: int, so_far: NDArray[np.float64] = so_far, target: NDArray[np.float64] = target
        ) -> float:
            off = (so_far + counts[fold] - target)[present] / total[present]
            return float(np.square(off).sum())

        best = min(left, key=distance)
        left.remove(best)
        chosen.append(best)
    return chosen


def _rarest_class(labels: Sequence[int], groups: Sequence[str]) -> tuple[int, int]:
    """Return the class with the fewest groups, and how many it has."""
    if not labels:
        raise InputError("no images are left to split; look at the excluded ones and their reasons")
    pairs = set(zip(labels, groups, strict=True))
    per_class = Counter(label for label, _ in pairs)
    return min(sorted(per_class.items()), key=lambda item: item[1])


def _check_enough_groups(labels: Sequence[int], groups: Sequence[str], splits: int) -> None:
    rarest, available = _rarest_class(labels, groups)
    if available < splits:
        raise InputError(
            f"the class {CLASSES[rarest]} has only {_groups(available)} of images that can be told "
            f"apart, too few for {splits} splits; add images, or set a share to 0 with --ratios"
        )


def _groups(number: int) -> str:
    return "1 group" if number == 1 else f"{number} groups"
