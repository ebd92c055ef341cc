"""``busi-monai predict``: images to masks, overlays and a table."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

import busi_monai
from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.cli.console import console, print_json, say_loading, track
from busi_monai.cli.options import (
    consistency_option,
    device_option,
    flip_option,
    model_option,
    operating_point_option,
    overwrite_option,
    quiet_option,
)

if TYPE_CHECKING:
    from busi_monai.inference import PredictSummary

__all__ = ["command"]

FORMATS = ("png", "nifti", "dicom-seg", "dicom-sr")
"""``busi_monai.inference.PREDICTION_FORMATS``, which a command's help is too quick to import."""


def _shard(_context: click.Context, _option: click.Parameter, given: str) -> tuple[int, int]:
    number, _, of = given.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise click.BadParameter(f"expected I/N with I from 1 to N, such as 2/4; got {given!r}")
    return int(number), int(of)


@click.command("predict")
@click.argument("inputs", metavar="INPUT...", nargs=-1)
@click.option(
    "--list",
    "listed",
    type=click.File("rb"),
    help="More inputs: a file with one path per line (UTF-8); - is standard input.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@model_option
@device_option
@overwrite_option
@click.option(
    "--resume", is_flag=True, help="Go on with what an interrupted prediction has done in --out."
)
@click.option(
    "--shard",
    metavar="I/N",
    default="1/1",
    callback=_shard,
    help="Predict every N-th image from the I-th on, as one of N processes.",
)
@click.option("--no-overlays", is_flag=True, help="Write masks and the table only.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(FORMATS),
    help="Write this too; may be given again. PNG masks are always written.",
)
@click.option(
    "--fractional", is_flag=True, help="DICOM segmentations hold probabilities, not masks."
)
@click.option(
    "--crop-region",
    is_flag=True,
    help="Look at the ultrasound region alone that a DICOM file states.",
)
@click.option(
    "--keep-ids",
    is_flag=True,
    help="DICOM objects name patient and examination; by default they are left empty.",
)
@click.option(
    "--batch-size",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Images for one call of the network.",
)
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    type=click.Choice(("auto", "torch", "onnx", "openvino")),
    help="What computes: the network in torch, or the bundle's exported graph without it.",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    type=click.Choice(("auto", "fp32", "bf16", "fp16")),
    help="Reduced precision moves probabilities by a few thousandths.",
)
@flip_option
@operating_point_option
@consistency_option
@quiet_option()
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    *,
    inputs: tuple[str, ...],
    listed: BinaryIO | None,
    out: Path,
    model: str | None,
    device: str,
    overwrite: bool,
    resume: bool,
    shard: tuple[int, int],
    no_overlays: bool,
    formats: tuple[str, ...],
    fractional: bool,
    crop_region: bool,
    keep_ids: bool,
    batch_size: int,
    engine: str,
    precision: str,
    tta_flip: bool | None,
    operating_point: str | None,
    consistency: bool | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Outline and classify lesions in images.

    INPUT is a file, a folder (the images directly in it, or else the DICOM files of its
    subfolders), an archive (zip, tar; all images in it) or a quoted glob pattern. Each frame of
    a video or DICOM loop is predicted. Except for files that are named, NAME_mask.png is skipped
    where the image NAME lies beside it. Bad files are listed with their reason and the others
    done; the exit code is then 1.

    For research use only; not a medical device.
    """
    from busi_monai.inference.inputs import listed_paths

    say_loading(quiet=quiet)

    def with_progress(items: Iterable[Any], total: int) -> Iterable[Any]:
        return track(items, "Predicting", total=total, quiet=quiet or as_json)

    summary = busi_monai.predict(
        [*inputs, *(listed_paths(listed) if listed else ())],
        out,
        model=model,
        device=device,
        overwrite=overwrite,
        resume=resume,
        shard=shard,
        overlays=not no_overlays,
        batch_size=batch_size,
        engine=engine,
        precision=precision,
        tta_flip=tta_flip,
        operating_point=operating_point,
        consistency=consistency,
        formats=formats,
        fractional=fractional,
        crop_region=crop_region,
        keep_ids=keep_ids,
        progress=with_progress,
    )
    if as_json:
        print_json(summary.as_dict())
    elif summary.complete_before and not quiet:
        click.echo(f"{summary.out} is complete: {summary.predicted} predicted; nothing was done.")
    elif not summary.complete_before:
        _print_summary(summary, quiet=quiet)
    if summary.failures:
        sys.exit(1)


def _print_summary(summary: PredictSummary, *, quiet: bool) -> None:
    from busi_monai.io.archives import left_out_sentence

    for failure in summary.failures:
        click.echo(f"Failed: {failure['message']}", err=True)
    if summary.out is None:
        click.echo("No image could be predicted; nothing was written.", err=True)
        return
    if quiet:
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("id", "class", "probability", "lesion", box=None)
    for row in summary.rows:
        name = row["predicted_class"]
        probability = "–" if name is None else f"{row[f'p_{name}']:.3f}"
        share = f"{100 * row['lesion_fraction']:.1f} %"
        table.add_row(escape(row["id"]), name or "–", probability, share)
    output = console()
    output.print(table)
    if summary.predicted > len(summary.rows):
        output.print(f"… and {summary.predicted - len(summary.rows)} more in predictions.csv")
    classes = ", ".join(f"{name} {count}" for name, count in summary.classes.items())
    unwritten = summary.unwritten
    failed = len(summary.failures) - unwritten
    output.print(f"{summary.predicted} predicted, {failed} failed; {classes}")
    messages: Counter[str] = Counter()
    for warning in summary.warnings:
        messages[warning["message"]] += warning["images"]
    for message, count in messages.items():
        output.print(f"Note on {count} of them: {message} (column warnings)")
    if unwritten:
        output.print(f"Predicted, but without the DICOM objects that were asked for: {unwritten}")
    for cine in summary.cines:
        output.print(escape(_cine_sentence(cine)))
    if summary.skipped_objects:
        output.print(f"DICOM files that hold no image, skipped: {summary.skipped_objects}")
    if summary.skipped_masks:
        one = summary.skipped_masks == 1
        masks = "mask file beside its image was" if one else "mask files beside images were"
        output.print(f"{summary.skipped_masks} {masks} skipped")
    if summary.left_out:
        output.print(left_out_sentence(summary.left_out))
    output.print(f"Engine {escape(summary.engine)}; precision {escape(summary.precision)}")
    output.print(f"Wrote {escape(summary.out)}")
    output.print(NOT_FOR_CLINICAL_USE)


def _cine_sentence(cine: dict[str, Any]) -> str:
    rate = cine["frames_per_second"]
    told = "rate not stated" if rate is None else f"{rate:.3g} frames a second"
    return (
        f"{Path(cine['file']).name}: {cine['frames']} frames, {told}; lesion in "
        f"{cine['with_lesion']}; summary frame {cine['summary_frame']}"
    )
