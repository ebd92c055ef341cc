"""Tables of text beside the images, as spreadsheets and other programs write them."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from busi_monai.cases import CLASSES, DatasetIssue
from busi_monai.datasets.listing import known_class, problem
from busi_monai.errors import InputError
from busi_monai.io.image_files import composed, image_stem, without_image_suffix

__all__ = [
    "ImageNames",
    "LabelTable",
    "find_labels",
    "read_labels",
    "read_lines",
    "read_table",
]

_DELIMITERS = ",;\t"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_STATED = re.compile(r"([0-9]+)\s*=\s*([a-z]+)", re.IGNORECASE)
_SEPARATOR = re.compile(rf'"?sep=([{_DELIMITERS}])"?', re.IGNORECASE)
_NUMBER = re.compile(r"([0-9]+)(?:\.0+)?")
_EXPECTED = ", ".join(CLASSES)


@dataclass(frozen=True)
class LabelTable:
    """What ``labels.csv`` says of the images.

    Attributes:
        path: of the table, or ``None`` where there is none.
        classes: by id of the image.
        refused: ids of the images whose row gives no class, which a problem says.
        provenance: non-empty cells of the further columns that were asked for, by id.
    """

    path: Path | None = None
    classes: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    provenance: dict[str, dict[str, str]] = field(default_factory=dict)


class ImageNames:
    r"""Which image a table's cell means.

    A cell names an image by as much of its path as tells it from the others, with or without what
    leads to the folder of the images (``images/``, ``C:\data\images\``) and the suffix. Letter
    case counts only where it tells two images apart.

    Examples:
        >>> names = ImageNames({"p1-x": Path("images/p1/x.png"), "y": Path("images/y.png")},
        ...                    Path("images"))
        >>> names.find("images\\Y.PNG"), names.find("p1/x"), names.find("x.jpg"), names.find("z")
        (['y'], ['p1-x'], ['p1-x'], [])
    """

    def __init__(self, images: Mapping[str, Path], folder: Path) -> None:
        """Index the images of a folder, given by id."""
        self._folder = composed(folder.name).lower()
        wholes: dict[str, list[str]] = {}
        tails: dict[str, list[str]] = {}
        for case_id, path in images.items():
            within = path.relative_to(folder).with_name(image_stem(path))
            parts = composed(within.as_posix()).split("/")
            wholes.setdefault("/".join(parts), []).append(case_id)
            for start in range(1, len(parts)):
                tails.setdefault("/".join(parts[start:]), []).append(case_id)
        self._indices = (wholes, tails, _in_lower_case(wholes), _in_lower_case(tails))

    def find(self, cell: str) -> list[str]:
        """Return the ids of the images that a cell can mean: none, one or several."""
        steps = composed(cell).replace("\\", "/").split("/")
        parts = [step for step in steps if step not in {"", "."}]
        starts = [0, *(i for i, part in enumerate(parts, 1) if part.lower() == self._folder)]
        for start in starts:
            text = "/".join(parts[start:])
            for name in (without_image_suffix(text), text):
                for index in self._indices:
                    found = index.get(name) or index.get(name.lower())
                    if found:
                        return found
        return []


def _in_lower_case(index: Mapping[str, list[str]]) -> dict[str, list[str]]:
    lower: dict[str, list[str]] = {}
    for name, ids in index.items():
        lower.setdefault(name.lower(), []).extend(ids)
    return lower


def read_labels(
    root: Path,
    names: ImageNames,
    images: Mapping[str, Path],
    problems: list[DatasetIssue],
    further: tuple[str, ...] = (),
) -> LabelTable:
    """Read ``labels.csv`` (``image,label``), whatever its name's letter case, where there is one.

    Labels are class names. Numbers are taken only where the head of their column states them, as
    in ``image,label 0=normal 1=benign 2=malignant``.

    Args:
        root: the dataset's folder.
        names: of the images.
        images: the images by id.
        problems: gets each row that gives no image a class, by its line.
        further: columns to keep as ``provenance``.

    Raises:
        InputError: if a column is missing or there twice, all labels are numbers that nothing
            states, or two rows contradict each other.
    """
    path = find_labels(root)
    if path is None:
        return LabelTable()
    table = LabelTable(path)
    head, rows = _read_rows(path, ("image", "label"), None)
    stated = _stated_classes(path, next(name for name in head if _is_column(name, "label")))
    labels = [row["label"] for _, row in rows if row["label"]]
    if labels and not stated and all(_NUMBER.fullmatch(label) for label in labels):
        found = ", ".join(sorted(set(labels))[:5])
        raise InputError(f"{path}: the labels are numbers ({found}); {_how_to_state(head)}")
    for line, row in rows:
        if not row["image"] and not row["label"]:
            continue
        found_ids = names.find(row["image"])
        case_id = found_ids[0] if len(found_ids) == 1 else without_image_suffix(row["image"])
        number = _NUMBER.fullmatch(row["label"])
        class_name = stated.get(int(number[1])) if number else known_class(row["label"])
        if class_name is None:
            hint = _how_to_state(head) if number else f"expected {_EXPECTED}"
            message = f"row {line}: label {row['label']!r}; {hint}"
            problems.append(problem(root, "unknown_class", path, message, case_id))
            table.refused.update(found_ids)
        elif not found_ids:
            message = f"row {line} lists {row['image']!r}, but there is no such image in images"
            problems.append(problem(root, "missing_image", path, message, case_id))
        elif len(found_ids) > 1:
            several = ", ".join(images[i].relative_to(root).as_posix() for i in found_ids)
            message = (
                f"row {line}: {row['image']!r} stands for several images, {several}; write the "
                "subfolder before the name"
            )
            problems.append(problem(root, "unknown_class", path, message))
        elif table.classes.setdefault(case_id, class_name) != class_name:
            both = f"{table.classes[case_id]} and {class_name}"
            raise InputError(f"{path}: row {line}: {case_id!r} is both {both}; keep one row")
        else:
            table.provenance[case_id] = {name: row[name] for name in further if row.get(name)}
    for case_id in table.refused:
        table.classes.pop(case_id, None)
    return table


def read_table(path: Path, columns: tuple[str, ...], delimiter: str = ",") -> list[dict[str, str]]:
    """Return the rows of a table of text with its cells stripped, a byte-order mark ignored."""
    return [row for _, row in _read_rows(path, columns, delimiter)[1]]


def read_lines(path: Path) -> tuple[list[str], str | None]:
    """Return the lines of a text as spreadsheets write it, with their ends.

    It is UTF-8, or UTF-16 with its mark. Letters are ``composed``.
    """
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith(_UTF16_MARKS) else "utf-8-sig"
    try:
        lines = composed(content.decode(encoding)).splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not a readable text file in UTF-8 or UTF-16 ({error}); save it again"
        ) from error
    stated = _SEPARATOR.fullmatch(lines[0].strip("\r\n")) if lines else None
    return (lines[1:], stated[1]) if stated else (lines, None)


def find_labels(root: Path) -> Path | None:
    """Return ``labels.csv``, also as ``Labels.CSV``."""
    found = (path for path in root.iterdir() if path.name.lower() == "labels.csv")
    return min((path for path in found if path.is_file()), default=None, key=_other_case)


def _other_case(path: Path) -> tuple[bool, str]:
    return path.name != "labels.csv", path.name


def _read_rows(
    path: Path, columns: tuple[str, ...], delimiter: str | None
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the head as written, and the rows with their line, by the names of the columns asked.

    Without a delimiter, it is the one of comma, semicolon and tab that finds the columns.
    """
    lines, stated = read_lines(path)
    columns_as_written = delimiter is not None
    delimiter = delimiter or stated
    try:
        heads = {mark: _head(lines, mark) for mark in delimiter or _DELIMITERS}
        mark = max(heads, key=lambda mark: sum(_has(heads[mark], name) for name in columns))
        reader = csv.reader(lines, delimiter=mark, skipinitialspace=True)
        next(reader, None)
        names = [next((c for c in columns if _is_column(n, c)), n.lower()) for n in heads[mark]]
        if columns_as_written:
            names = [n if n in columns else w for n, w in zip(names, heads[mark], strict=True)]
        rows = [
            (reader.line_num + bool(stated), dict(zip(names, map(str.strip, cells), strict=False)))
            for cells in reader
            if any(cells)
        ]
    except csv.Error as error:
        raise InputError(f"{path}: not a table of text ({error}); save it again") from error
    missing = [name for name in columns if not _has(heads[mark], name)]
    if missing:
        raise InputError(
            f"{path}: expected the columns {', '.join(columns)} separated by "
            f"{' or '.join(map(repr, delimiter or _DELIMITERS))}, found "
            f"{', '.join(heads[mark]) or 'none'}; missing {', '.join(missing)}"
        )
    for name in columns:
        same = [head for head in heads[mark] if _is_column(head, name)]
        if len(same) > 1:
            raise InputError(
                f"{path}: expected one column {name}, found {' and '.join(map(repr, same))}; "
                "remove all but one"
            )
    blank = dict.fromkeys(names, "")
    return heads[mark], [(line, blank | row) for line, row in rows]


def _head(lines: list[str], delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader(lines[:1], delimiter=delimiter), [])]


def _has(head: list[str], column: str) -> bool:
    return any(_is_column(name, column) for name in head)


def _is_column(name: str, column: str) -> bool:
    """Whether a head is a column's, letter case and stated numbers aside."""
    return _STATED.sub("", name).strip(" ,:()").lower() == column.lower()


def _stated_classes(path: Path, head: str) -> dict[int, str]:
    """Return the classes by number from ``label 0=normal 1=benign``."""
    stated = {}
    for number, name in _STATED.findall(head):
        class_name = known_class(name)
        if class_name is None:
            raise InputError(f"{path}: the head {head!r} states {name!r}; expected {_EXPECTED}")
        stated[int(number)] = class_name
    return stated


def _how_to_state(head: list[str]) -> str:
    order = " ".join(f"{number}={name}" for number, name in enumerate(CLASSES))
    heads = ", ".join(f"{name} {order}" if _is_column(name, "label") else name for name in head)
    return (
        f"which class is which is not guessed: write {_EXPECTED}, or state the numbers in the "
        f"first line, if this is their order: {heads}"
    )
