"""``busi-monai export``: a bundle as one file that other programs run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.cli.console import print_json, say_loading
from busi_monai.cli.options import model_option, overwrite_option, quiet_option

__all__ = ["command"]


@click.command("export")
@model_option
@click.option(
    "--format",
    default="onnx",
    show_default=True,
    type=click.Choice(("onnx", "openvino", "torchscript", "pt2", "web")),
    help="What the file is for.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write, by default models/model.onnx of the model itself; for web a folder.",
)
@click.option(
    "--runtime",
    metavar="FOLDER",
    help="For web: the unpacked npm package onnxruntime-web.",
)
@click.option(
    "--check",
    multiple=True,
    metavar="IMAGE",
    help="Image to compare file and network on; may be given again. By default four made ones.",
)
@overwrite_option
@quiet_option()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    *,
    model: str | None,
    format: str,
    out: Path | None,
    runtime: str | None,
    check: tuple[str, ...],
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write a model as one file, and compare that with the model.

    The file takes grey pixels of any size and gives the lesion's probability and mask at native
    size, class logits and features. With models/model.onnx a run is predicted without torch.
    For web, a folder with a page that predicts in the browser; any static server will do.
    """
    if format == "web" and not (out and runtime):
        raise click.UsageError("--format web needs --out FOLDER and --runtime FOLDER")
    if format != "web" and (runtime or overwrite):
        raise click.UsageError("--runtime and --overwrite belong to --format web")
    say_loading(quiet=quiet)
    from busi_monai.bundle.shipped import DEFAULT_BUNDLE
    from busi_monai.inference import export_bundle, export_web, find_images

    images = find_images(check).paths
    model = model or DEFAULT_BUNDLE
    if format == "web" and out and runtime:
        report = export_web(model, out, runtime, check=images, overwrite=overwrite)
    else:
        report = export_bundle(model, out, format, check=images)
    if as_json:
        print_json({**asdict(report), "path": str(report.path)})
    elif not quiet:
        click.echo(
            f"On {report.images} images no probability differs by more than "
            f"{report.max_difference:.1e}, and {100 * report.mask_difference:.2g} % of a mask's "
            f"pixels at most."
        )
        click.echo(f"Wrote {report.path}. {NOT_FOR_CLINICAL_USE}")
        if format == "web":
            click.echo(f"Serve it, such as by: python -m http.server --directory {report.path}")
