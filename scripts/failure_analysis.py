"""Say which lesions a table of predictions misses, what these have in common, what another mends.

    python scripts/failure_analysis.py TABLE --prepared PREPARED         # prints the tables
    python scripts/failure_analysis.py TABLE OTHER --prepared PREPARED   # and what OTHER mends
    python scripts/failure_analysis.py TABLE --prepared PREPARED --keep  # keeps the features

TABLE and OTHER are a ``predictions.csv`` of the same images or its folder, PREPARED the folder of
``busi-monai prepare`` with these images. What was seen by eye is read from ``by_eye.csv`` beside
the kept features.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from lesion_features import measured_features
from scipy.stats import binomtest
from table_cells import figure_cell, markdown

from busi_monai.cases import CLASSES
from busi_monai.evaluation import (
    group_weights,
    percentile_interval,
    read_predictions,
    row_groups,
    usable_rows,
)
from busi_monai.evaluation.resampling import CONFIDENCE, mean_figure
from busi_monai.evaluation.tables import probability_matrix
from busi_monai.files import write_text

__all__ = [
    "BY_EYE",
    "TAGS",
    "analysed",
    "failure_tables",
    "kept_tables",
    "mended_table",
]

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
FEATURES, BY_EYE = "failures/features.csv", "failures/by_eye.csv"
FIRST, SECOND = "out_of_fold", "second_out_of_fold/busi"
"""Folders of results whose tables the page shows."""

MISSED, HALF, SURE = 0.1, 0.5, 0.8
RESAMPLES = 1000
TAGS = {
    "axilla": "axilla (AX) is written in the image",
    "hardly_visible": "hardly another grey than its surroundings, no edge to follow",
    "heterogeneous_mass": "bright and dark parts in one mass or node",
    "bright_mass": "brighter than its surroundings",
    "several_lesions": "another mass in the image that is not in the mask, or several masses",
    "shadow_outlined": "shadow is outlined instead of the lesion or with it",
    "other_structure": "a duct, vessel, node, layer of fat or the like is outlined",
    "mask_doubtful": "no visible edge under the true outline, or an image of the view has another",
    "looks_like_other_class": "edge, form or shadow as of the other class",
    "other": "something else, see the note",
    "plain": "none of these",
}
"""What is noted by eye, an image may have several."""

YES_NO = {
    "axilla": "axilla is written in the image",
    "other_outline": "a near-duplicate has another outline",
    "several_masks": "more than one mask",
    "text": "burned-in text",
    "markers": "caliper markers",
    "duplicated": "near-duplicates among the lesions",
}
THIRDS = {
    "true_lesion_fraction": "part of the image",
    "depth": "depth of the centre",
    "contrast": "lesion less ring, grey",
}


def analysed(table: pd.DataFrame, features: pd.DataFrame, by_eye: pd.DataFrame) -> pd.DataFrame:
    """Join predictions, features and tags, and say which images go wrong.

    Returns:
        The usable rows with ``group``, ``lesion``, ``missed`` (Dice below 0.1), ``sure`` (0.8 or
        more for a wrong class), ``masked`` (a normal with a mask) and ``tags`` (a set, empty if
        nobody looked).

    Raises:
        ValueError: if an image has no features, or a tag is unknown.
    """
    unknown = sorted(set(by_eye["tag"]) - set(TAGS))
    if unknown:
        raise ValueError(f"by_eye.csv: unknown tags {unknown}; expected {', '.join(TAGS)}")
    rows = usable_rows(table)
    missing = sorted(set(rows["id"]) - set(features["id"]))
    if missing:
        raise ValueError(
            f"{len(missing)} images of the table have no features, such as {missing[:3]}: "
            "give the prepared folder that they are in with --prepared"
        )
    rows = rows.assign(group=row_groups(rows)).merge(features, on="id", validate="one_to_one")
    tags = by_eye.groupby("id")["tag"].agg(set)
    rows["tags"] = [tags.get(name, set()) for name in rows["id"]]
    rows["random"] = rows["id"].isin(by_eye.loc[by_eye["drawn"] == "random", "id"])
    rows["axilla"] = [int("axilla" in found) for found in rows["tags"]]
    rows["lesion"] = rows["true_class"] != CLASSES[0]
    mates = rows["lesion"].groupby(rows["group"]).transform("sum")
    rows["duplicated"] = (mates > 1).astype(int)
    is_true = rows["true_class"].to_numpy()[:, None] == np.array(CLASSES)
    wrong = np.where(is_true, 0, probability_matrix(rows, CLASSES))
    rows["missed"] = rows["lesion"] & (rows["dice"] < MISSED)
    rows["sure"] = wrong.max(axis=1) >= SURE
    rows["masked"] = ~rows["lesion"] & (rows["lesion_pixels"] > 0)
    return rows


def failure_tables(rows: pd.DataFrame) -> dict[str, str]:
    """Return the tables of what ``analysed`` gave, as Markdown by name."""
    return {name: table(rows) for name, table in TABLES.items()}


def _share(rows: pd.DataFrame, column: str, *, of_groups: bool = False) -> str:
    """Return the mean of a column with its interval by bootstrap over groups.

    Where all rows or none have it, which leaves a bootstrap no spread, the interval is Wilson's for
    as many independent images as there are groups.
    """
    values = rows[column].astype(float)
    groups = rows["group"].tolist()
    if of_groups:
        values = values.groupby(rows["group"]).mean()
        groups = values.index.tolist()
    numbers = values.to_numpy()
    if column != "dice" and set(numbers) in ({0.0}, {1.0}):
        count = len(set(groups))
        test = binomtest(int(numbers[0]) * count, count)
        interval = test.proportion_ci(CONFIDENCE, method="wilson")
        return figure_cell({"value": numbers[0], "low": interval.low, "high": interval.high})
    return figure_cell(mean_figure(group_weights(groups, RESAMPLES, 0), numbers).as_dict())


def _overview(rows: pd.DataFrame) -> str:
    lesions, normals = rows[rows["lesion"]], rows[~rows["lesion"]]
    dice = lesions["dice"]
    kinds = {
        "lesions not touched": (lesions, dice == 0),
        "lesions with a Dice below 0.1": (lesions, lesions["missed"]),
        "lesions with a Dice of 0.1 to 0.5": (lesions, (dice >= MISSED) & (dice < HALF)),
        "lesions with a Dice of 0.5 or more": (lesions, dice >= HALF),
        "0.8 or more for a wrong class": (rows, rows["sure"]),
        "normals with a mask": (normals, normals["masked"]),
    }
    cells = []
    for name, (chosen, member) in kinds.items():
        if chosen.empty:
            continue
        part = chosen.assign(member=member)
        by_group = part.groupby("group")["member"]
        cells.append([
            name,
            f"{member.sum()} of {len(part)}",
            _share(part, "member"),
            f"{by_group.any().sum()} of {by_group.ngroups}",
            str(by_group.all().sum()),
            _share(part, "member", of_groups=True),
        ])  # fmt: skip
    header = ["kind", "images", "share", "groups with one", "groups of nothing else",
              "share, each group once"]  # fmt: skip
    return markdown(header, cells)


def _parts(lesions: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Yield what lesions are told apart by, each with the rows that have it."""
    yield "all lesions", pd.Series(True, index=lesions.index)
    for name in CLASSES[1:]:
        yield name, lesions["true_class"] == name
    for column, title in THIRDS.items():
        values = lesions[column]
        low, high = np.nanquantile(values, [1 / 3, 2 / 3])
        yield f"{title}: below {low:.3f}", values < low
        yield f"{title}: {low:.3f} to {high:.3f}", (values >= low) & (values < high)
        yield f"{title}: {high:.3f} or more", values >= high
    yield "as bright as the ring or brighter", lesions["contrast"] >= 0
    for column, title in YES_NO.items():
        for answer in (1, 0):
            yield f"{title}: {'yes' if answer else 'no'}", lesions[column] == answer
    bright = lesions["contrast"] >= np.nanquantile(lesions["contrast"], 2 / 3)
    known = (lesions["axilla"] == 1) | (lesions["other_outline"] == 1)
    yield "upper third of grey, axilla or another outline", bright & known
    yield "upper third of grey, neither", bright & ~known


def _by_feature(rows: pd.DataFrame) -> str:
    lesions = rows[rows["lesion"]]
    cells = []
    for name, member in _parts(lesions):
        part = lesions[member]
        if len(part):
            shares = [_share(part, "missed"), _share(part, "missed", of_groups=True)]
            cells.append([
                name,
                f"{len(part)}, {part['group'].nunique()}",
                str(part["missed"].sum()),
                *shares,
                _share(part, "dice"),
                _share(part, "sure"),
            ])  # fmt: skip
    header = ["lesions", "number, groups", "Dice below 0.1", "share", "share, each group once",
              "lesion Dice", "0.8 or more for a wrong class"]  # fmt: skip
    return markdown(header, cells)


def _by_tag(rows: pd.DataFrame) -> str:
    lesions = rows[rows["lesion"]]
    looked = lesions[lesions["tags"].map(len) > 0]
    columns = {
        "Dice below 0.1": looked[looked["missed"]],
        "drawn from the others": looked[~looked["missed"] & looked["random"]],
        "0.8 or more for a wrong class": rows[rows["sure"] & (rows["tags"].map(len) > 0)],
    }
    titles = [f"{name}, {len(part)} looked at" for name, part in columns.items()]
    cells = []
    for tag, meaning in TAGS.items():
        line = [f"`{tag}`: {meaning}"]
        for part in columns.values():
            has = part.assign(member=[tag in tags for tags in part["tags"]])
            line.append(f"{has['member'].sum()}: {_share(has, 'member')}" if len(has) else "–")
        cells.append(line)
    return markdown(["seen", *titles], cells)


def _confident(rows: pd.DataFrame) -> str:
    wrong = rows[rows["sure"]]
    called = [CLASSES[index] for index in probability_matrix(wrong, CLASSES).argmax(axis=1)]
    cells = []
    for (truth, name), part in wrong.assign(called=called).groupby(["true_class", "called"]):
        dice = f"{part['dice'].median():.2f}" if part["lesion"].all() else "–"
        numbers = [len(part), part["group"].nunique(), part["missed"].sum()]
        cells.append([f"{truth} called {name}", *map(str, numbers), dice])
    return markdown(["mistake", "images", "groups", "Dice below 0.1", "median Dice"], cells)


def _normals(rows: pd.DataFrame) -> str:
    normals = rows[~rows["lesion"]]
    cells = []
    for column in ("text", "markers"):
        for answer in (1, 0):
            part = normals[normals[column] == answer]
            if len(part):
                cells.append([
                    f"{YES_NO[column]}: {'yes' if answer else 'no'}",
                    f"{len(part)}, {part['group'].nunique()}",
                    str(part["masked"].sum()),
                    _share(part, "masked"),
                ])  # fmt: skip
    return markdown(["normals", "number, groups", "with a mask", "share"], cells)


TABLES = {
    "overview": _overview,
    "features": _by_feature,
    "tags": _by_tag,
    "confident": _confident,
    "normals": _normals,
}


def mended_table(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """Return which failures of the first table the second mends, and which it makes anew.

    Args:
        first: as from ``analysed``.
        second: likewise, of the same images.

    Raises:
        ValueError: if the tables hold other images.
    """
    second = second.set_index("id")
    differing = sorted(set(first["id"]) ^ set(second.index))
    if differing:
        raise ValueError(
            f"{len(differing)} images are in one table only, such as {differing[:3]}: "
            "give two tables of the same images"
        )
    second = second.loc[first["id"]].reset_index()
    lesions = first[first["lesion"]]
    missed = (first["missed"], second["missed"], second["dice"] >= HALF)
    parts = [(name, member, missed) for name, member in _parts(lesions)]
    for tag in TAGS:
        has = pd.Series([tag in tags for tags in lesions["tags"]], index=lesions.index)
        parts.append((f"seen: `{tag}`", has, missed))
    parts.append(("not looked at", lesions["tags"].map(len) == 0, missed))
    for name, column in (("0.8 or more for a wrong class", "sure"), ("normals", "masked")):
        every = ~first["lesion"] if column == "masked" else first["sure"] | ~first["sure"]
        title = "normals with a mask" if column == "masked" else f"all images: {name}"
        parts.append((title, every, (first[column], second[column], None)))
    cells = []
    for name, member, (before, after, well) in parts:
        index = member.index[member]
        if len(index):
            was, now = before[index], after[index]
            to_half = "–" if well is None else str((was & well[index]).sum())
            numbers = [len(index), was.sum(), (was & ~now).sum()]
            change = _change(first.loc[index, "group"], was, now)
            cells.append([name, *map(str, numbers), to_half, str((~was & now).sum()), change])
    header = ["lesions", "number", "failures of the first", "mended", "to a Dice of 0.5 or more",
              "made anew", "change of the share"]  # fmt: skip
    return markdown(header, cells)


def _change(groups: pd.Series, before: pd.Series, after: pd.Series) -> str:
    difference = after.to_numpy(dtype=float) - before.to_numpy(dtype=float)
    if not difference.any():
        return f"{0:+.3f}"
    figure = mean_figure(group_weights(groups.tolist(), RESAMPLES, 0), difference)
    low, high = percentile_interval(figure.samples, CONFIDENCE)
    return f"{figure.value:+.3f} ({low:+.3f} to {high:+.3f})"


@cache
def kept_tables(results: Path) -> dict[str, str]:
    """Return the tables of the page from what is kept under ``results``."""
    features, by_eye = (_kept(results / name) for name in (FEATURES, BY_EYE))
    first, second = (
        analysed(read_predictions(results / place), features, by_eye) for place in (FIRST, SECOND)
    )
    return failure_tables(first) | {"mended": mended_table(first, second)}


def _kept(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"id": str})


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("table", type=Path, metavar="TABLE")
    parser.add_argument("other", type=Path, metavar="OTHER", nargs="?")
    parser.add_argument("--prepared", type=Path, required=True, help="folder of these images")
    parser.add_argument("--keep", action="store_true", help="keep the features for the page")
    options = parser.parse_args(arguments)
    features, by_eye = measured_features(options.prepared), _kept(RESULTS / BY_EYE)
    if options.keep:
        write_text(RESULTS / FEATURES, features.to_csv(index=False, lineterminator="\n"))
    first = analysed(read_predictions(options.table), features, by_eye)
    tables = failure_tables(first)
    if options.other:
        second = analysed(read_predictions(options.other), features, by_eye)
        tables["mended"] = mended_table(first, second)
        tables |= {f"{name}, other table": text for name, text in failure_tables(second).items()}
        unseen = second[second["missed"] & (second["tags"].map(len) == 0)]["id"]
        tables["missed by the other, not looked at yet"] = ", ".join(unseen) or "none"
    for name, text in tables.items():
        print(f"## {name}\n\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
