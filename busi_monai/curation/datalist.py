"""``datalist.json``: which image is in which split, and the splits as items for MONAI datasets.

The file is in the style of the Medical Segmentation Decathlon, so that
``monai.data.load_decathlon_datalist(path, is_segmentation=True, data_list_key="training")`` reads
it. It holds no times and no absolute paths: same input and seed give the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from busi_monai.cases import CLASSES, DATALIST_KEYS, SPLITS
from busi_monai.curation.datalist_schema import DATALIST_SCHEMA, SCHEMA_VERSION
from busi_monai.curation.label_hashes import (
    content_sha256,
    labels_sha256,
    with_label_hashes,
    without_label_hashes,
)
from busi_monai.curation.splits import validation_share
from busi_monai.errors import InputError
from busi_monai.files import find_named, read_json, write_text

__all__ = [
    "DATALIST_NAME",
    "Datalist",
    "find_split",
    "inspect_datalist",
    "items_of_split",
    "load_datalist",
    "load_split",
    "shipped_splits",
]

DATALIST_NAME = "datalist.json"

_KEPT_KEYS = ("class_label", "group", "dataset", "sha256")


@dataclass(frozen=True)
class Datalist:
    """The content of a ``datalist.json``.

    Attributes:
        protocol: name of the protocol that made it.
        seed: of its random draws.
        training: items ``{"id", "image", "label", "class_label", "group", "fold", "dataset",
            "sha256", "label_sha256", "spacing_mm", "meta"}``, paths relative to the file,
            ``class_label`` counted in ``CLASSES``, ``sha256`` that of the grey pixels,
            ``label_sha256`` that of the mask (``None`` without one; missing in a shipped split and
            in datalists of versions before it). With folds every case stands here.
        validation: the same.
        test: the same.
        excluded: ``{"id", "reason"}`` of the images that are in no split.
        leaks: how many evaluation images have a near-duplicate in training, and which; for the
            protocol ``official`` also the ``patients`` with images in several folds.
        options: what else decided the content: ratios, folds, how masks were treated.
        classes: the names that ``class_label`` counts in.
        name: what a shipped split is called. The hash leaves it out: what is in which split is the
            same, however it is called.
    """

    protocol: str
    seed: int
    training: Sequence[Mapping[str, Any]] = ()
    validation: Sequence[Mapping[str, Any]] = ()
    test: Sequence[Mapping[str, Any]] = ()
    excluded: Sequence[Mapping[str, str]] = ()
    leaks: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: Sequence[str] = CLASSES
    name: str | None = None

    @property
    def folds(self) -> int:
        """Number of folds, or 0."""
        numbers = {item["fold"] for item in self.training if item["fold"] is not None}
        return max(numbers) + 1 if numbers else 0

    @property
    def sha256(self) -> str:
        """Hash of the content, apart from the name, the masks' hashes and this hash itself."""
        return content_sha256(self.without_label_hashes()._content())

    @property
    def labels_sha256(self) -> str | None:
        """Hash of all masks by id, ``None`` if the items do not tell theirs."""
        return labels_sha256(self.records())

    def without_label_hashes(self) -> Datalist:
        """Return the split alone, which holds for whatever masks its images have."""
        lists = {key: without_label_hashes(getattr(self, key)) for key in DATALIST_KEYS.values()}
        return replace(self, **lists)  # type: ignore[arg-type]

    def with_label_hashes(self, hashes: Mapping[str, str]) -> Datalist:
        """Return it with the hashes of masks, by the path that an item names its mask by."""
        lists = {
            key: with_label_hashes(getattr(self, key), hashes) for key in DATALIST_KEYS.values()
        }
        return replace(self, **lists)  # type: ignore[arg-type]

    def records(self) -> list[dict[str, Any]]:
        """Return the items of all splits, each with its ``split`` added."""
        return [
            {**item, "split": split}
            for split, key in DATALIST_KEYS.items()
            for item in getattr(self, key)
        ]

    def files(self) -> list[str]:
        """Return the images and labels that the items name, each once, sorted."""
        named = {path for item in self.records() for path in (item["image"], item["label"])}
        return sorted(path for path in named if path is not None)

    def as_dict(self) -> dict[str, Any]:
        """Return the content as plain JSON values, with its name, if any, and its hashes."""
        name = {} if self.name is None else {"name": self.name}
        labels = {} if self.labels_sha256 is None else {"labels_sha256": self.labels_sha256}
        return {**name, **self._content(), "sha256": self.sha256, **labels}

    def save(self, path: str | Path) -> Path:
        """Write the file atomically, one item a line so that differences can be read."""
        content = self.as_dict()
        _check_form(content, Path(path))
        repeated = _repeated(content)
        if repeated:
            raise InputError(f"{path}: the ids {', '.join(repeated[:5])} would stand in it twice")
        write_text(path, _pretty(content))
        return Path(path)

    def _content(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "protocol": self.protocol,
            "seed": self.seed,
            "classes": list(self.classes),
            "options": dict(self.options),
            "leaks": dict(self.leaks),
            "excluded": [dict(entry) for entry in self.excluded],
            **{key: [dict(item) for item in getattr(self, key)] for key in DATALIST_KEYS.values()},
        }


def load_datalist(path: str | Path) -> Datalist:
    """Read a ``datalist.json`` and check its form and its hash.

    Args:
        path: the file, or the prepared folder that holds it.

    Raises:
        InputError: if it is missing, is of another form or version, lists an id twice, or was
            changed after it was written (its ``sha256`` does not fit).
    """
    datalist, faults = inspect_datalist(path)
    if faults:
        raise InputError(f"{path}: {faults[0]}; prepare the dataset again")
    return datalist


def inspect_datalist(path: str | Path) -> tuple[Datalist, list[str]]:
    """Read a ``datalist.json`` and say what is wrong with its content."""
    path = Path(path)
    if path.is_dir():
        path = path / DATALIST_NAME
    if not path.is_file():
        raise InputError(
            f"{path} does not exist; expected a prepared dataset, as made by: "
            "busi-monai prepare DATASET --out DIR"
        )
    content = read_json(path)
    _check_form(content, path)
    names = ("protocol", "seed", "excluded", "leaks", "options", *DATALIST_KEYS.values())
    datalist = Datalist(**{name: content[name] for name in names}, name=content.get("name"))
    faults = [f"{name} stands in the datalist more than once" for name in _repeated(content)]
    if datalist.sha256 != content["sha256"]:
        faults.append(
            f"the datalist was changed after it was written: its content hashes to "
            f"{datalist.sha256}, but it states {content['sha256']}"
        )
    if datalist.labels_sha256 != content.get("labels_sha256"):
        faults.append(
            f"the masks' hashes were changed after they were written: they hash to "
            f"{datalist.labels_sha256}, but it states {content.get('labels_sha256')}"
        )
    shipped = shipped_splits().get(datalist.name or "")
    if shipped is not None and read_json(shipped)["sha256"] != datalist.sha256:
        faults.append(f"the datalist is called {datalist.name}, but is not that split")
    return datalist, faults


def load_split(
    dataset_dir: str | Path | Sequence[str | Path], split: str, *, fold: int | None = None
) -> list[dict[str, Any]]:
    """Return one split of one or several prepared datasets as items for a MONAI dataset.

    Without folds in the datalist, ``reported`` is ``test``. With folds, ``reported`` is fold
    ``fold``, ``validation`` a stratified tenth of the other folds with groups kept whole (the same
    every time), and ``train`` what remains. Of several datasets, one whose folds are fewer reports
    nothing of a fold that it does not have: all of it is for ``validation`` and ``train``.

    Args:
        dataset_dir: a prepared folder or several, whose items are concatenated. Of several, ids
            and groups that would collide get the folder's name in front.
        split: one of ``SPLITS``.
        fold: the reported fold, where the datalists have folds.

    Returns:
        Items ``{"id", "image", "label", "class_label", "group", "dataset", "sha256",
        "label_sha256", "birads"}`` with absolute paths; ``label`` is left out where a lesion has no
        mask, ``label_sha256`` is ``None`` there and where the datalist does not tell it,
        ``class_label`` counts in ``CLASSES``, ``birads`` is the category as a string, ``None``
        where there is none.

    Raises:
        InputError: if a datalist is missing, a split is empty, a file is gone, or no datalist has
            the fold.
    """
    folders = [dataset_dir] if isinstance(dataset_dir, (str, Path)) else list(dataset_dir)
    if not folders:
        raise InputError("expected at least one prepared dataset, got none")
    datalists = [(Path(folder), load_datalist(folder)) for folder in folders]
    if fold is not None and not any(datalist.folds for _, datalist in datalists):
        raise InputError(
            f"fold {fold}: {_names(folders)} has no folds; leave the fold out, or prepare with "
            "--folds K"
        )
    most = max(datalist.folds for _, datalist in datalists)
    if len(datalists) > 1 and fold is not None and not 0 <= fold < most:
        raise InputError(f"fold {fold}: {_names(folders)} have the folds 0 to {most - 1}")
    loaded = []
    for folder, datalist in datalists:
        own = fold if datalist.folds else None
        chosen = items_of_split(datalist, split, fold=own, where=folder, alone=len(datalists) == 1)
        base = folder if folder.is_dir() else folder.parent
        loaded.append((folder, [_absolute(item, base.absolute()) for item in chosen]))
    return _concatenate(loaded)


def items_of_split(
    datalist: Datalist,
    split: str,
    *,
    fold: int | None = None,
    where: str | Path = "the datalist",
    alone: bool = True,
) -> list[Mapping[str, Any]]:
    """Return the items of one split as they stand in the datalist.

    Args:
        datalist: as loaded.
        split: one of ``SPLITS``.
        fold: the reported fold, needed where there are folds.
        where: how errors call the datalist.
        alone: whether the fold must exist. Beside other datasets, one that it does not have leaves
            all for validation and training, and nothing to report.

    Raises:
        InputError: if the split is empty, or the fold is missing or does not exist.
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if datalist.folds:
        if split == "reported" and not alone and fold is not None and fold >= datalist.folds:
            return []
        items = _items_of_fold(datalist, split, fold, where, alone=alone)
    else:
        items = list(getattr(datalist, DATALIST_KEYS["test" if split == "reported" else split]))
    if not items:
        held = ", ".join(f"{n} {len(getattr(datalist, key))}" for n, key in DATALIST_KEYS.items())
        advice = (
            "test is empty with folds: take --split reported and a --fold"
            if datalist.folds
            else "choose another --split, or prepare again with other --ratios or --protocol"
        )
        raise InputError(
            f"{where}: the split {split} is empty (the dataset holds {held}); {advice}"
        )
    return items


def _items_of_fold(
    datalist: Datalist, split: str, fold: int | None, where: str | Path, *, alone: bool
) -> list[Mapping[str, Any]]:
    if split == "test":
        return list(datalist.test)
    numbers = f"0 to {datalist.folds - 1}"
    if fold is None:
        raise InputError(
            f"{where} has {datalist.folds} folds; say which to report: {numbers}, as in --fold 0"
        )
    if fold < 0 or (alone and fold >= datalist.folds):
        raise InputError(f"fold {fold}: {where} has the folds {numbers}")
    whole = [item for item in datalist.training if "part_of" not in item["meta"]]
    if split == "reported":
        return [item for item in whole if item["fold"] == fold]
    rest = [item for item in whole if item["fold"] != fold]
    held_out = validation_share(
        [item["class_label"] for item in rest],
        [item["group"] for item in rest],
        datalist.seed + fold,
    )
    chosen = {item["id"] for item, out in zip(rest, held_out, strict=True) if out}
    if split == "validation":
        return [item for item in rest if item["id"] in chosen]
    return [
        item
        for item in datalist.training
        if item["fold"] != fold and item["meta"].get("part_of", item["id"]) not in chosen
    ]


def _absolute(item: Mapping[str, Any], base: Path) -> dict[str, Any]:
    paths = {"image": base / item["image"]}
    if item["label"] is not None:
        paths["label"] = base / item["label"]
    for path in paths.values():
        if not path.is_file():
            raise InputError(
                f"{path} is gone, but {base / DATALIST_NAME} lists it; prepare the dataset again"
            )
    birads = item["meta"].get("birads")
    return {
        "id": item["id"],
        **{key: str(path) for key, path in paths.items()},
        **{key: item[key] for key in _KEPT_KEYS},
        "label_sha256": item.get("label_sha256"),
        "birads": None if birads is None else str(birads),
    }


def _concatenate(loaded: Sequence[tuple[Path, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    seen = Counter(item["id"] for _, items in loaded for item in items)
    grouped = Counter(group for _, items in loaded for group in {item["group"] for item in items})
    joined = []
    for folder, items in loaded:
        for item in items:
            qualified = dict(item)
            if seen[item["id"]] > 1:
                qualified["id"] = f"{folder.name} {item['id']}"
            if grouped[item["group"]] > 1:
                qualified["group"] = f"{folder.name} {item['group']}"
            joined.append(qualified)
    return joined


def _check_form(content: Any, path: Path) -> None:
    from jsonschema import Draft7Validator

    error = next(iter(Draft7Validator(DATALIST_SCHEMA).iter_errors(content)), None)
    if error is not None:
        place = "/".join(str(step) for step in error.absolute_path) or "the top level"
        raise InputError(
            f"{path} is not a datalist of schema version {SCHEMA_VERSION}: at {place}: "
            f"{error.message[:200]}; prepare the dataset again"
        )


def _repeated(content: Mapping[str, Any]) -> list[str]:
    ids = Counter(item["id"] for key in DATALIST_KEYS.values() for item in content[key])
    return [name for name, number in ids.items() if number > 1]


def _names(folders: Sequence[str | Path]) -> str:
    return ", ".join(str(folder) for folder in folders)


def _pretty(content: Mapping[str, Any]) -> str:
    """Return JSON with one line per item."""
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in value)
            text = f"[\n{rows}\n  ]"
        else:
            text = json.dumps(value, ensure_ascii=False)
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


_FOLDER = Path(__file__).resolve().parent.parent / "published_splits"


def shipped_splits() -> dict[str, Path]:
    """Return the datalists of the shipped splits by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.json"), key=lambda p: p.stem)}


def find_split(name_or_path: str | Path) -> Path:
    """Return the path of a shipped split's datalist by name, or of another datalist."""
    return find_named(name_or_path, shipped_splits(), "datalist", "a datalist.json")
