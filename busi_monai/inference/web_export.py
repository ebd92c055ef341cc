"""A bundle as a web page that predicts in the browser: files for any static server."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from string import Template

import numpy as np

from busi_monai.bundle import Bundle
from busi_monai.cases import CLASSES, NOT_FOR_CLINICAL_USE
from busi_monai.errors import InputError
from busi_monai.files import write_json
from busi_monai.inference.export import ExportReport, export_bundle
from busi_monai.io.images import write_png
from busi_monai.outputs import output_folder
from busi_monai.phantoms import draw_phantom
from busi_monai.plots.palette import ACCENT, INK, PREDICTED_OUTLINE

__all__ = ["export_web"]

RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Files of onnxruntime-web that the page needs; its other builds are for GPUs, or larger."""

_PAGE = Path(__file__).parent / "web"
_EXAMPLE_SIZE = (240, 320)


def export_web(
    model: str | Path,
    out: str | Path,
    runtime: str | Path,
    *,
    check: Iterable[str | Path] = (),
    overwrite: bool = False,
) -> ExportReport:
    """Write a folder with a page that predicts images in the browser.

    The page runs the bundle's graph by ONNX Runtime's WebAssembly build and decides as the
    bundle's ``settings.json`` says. Any static server will do; nothing is loaded from elsewhere.

    Args:
        model: name or folder of a bundle or run.
        out: the folder to make.
        runtime: the unpacked npm package ``onnxruntime-web``, or its ``dist``.
        check: images on which the graph is compared with the network, as for ``export_bundle``.
        overwrite: replace what this command made in ``out`` before.

    Returns:
        The report on the graph, with the folder as its path and ``web`` as its format.

    Raises:
        InputError: if the folder is refused, the runtime is not there, or ``export_bundle`` raises.
    """
    bundle = Bundle.open(model)
    check = list(check)
    reads = [bundle.folder, runtime, *check]
    files = _runtime_files(Path(runtime))
    with output_folder(out, "export", reads=reads, overwrite=overwrite) as folder:
        report = export_bundle(model, folder / "model.onnx", check=check)
        for path in _PAGE.iterdir():
            shutil.copyfile(path, folder / path.name)
        colours = {"accent": ACCENT, "ink": INK, "outline": f"rgb{PREDICTED_OUTLINE}"}
        for name, values in (
            ("index.html", {"intended_use": NOT_FOR_CLINICAL_USE}),
            ("style.css", colours),
        ):
            text = Template((_PAGE / name).read_text("utf-8")).substitute(values)
            (folder / name).write_text(text, "utf-8")
        licence = bundle.folder / "LICENSE"
        if licence.is_file():
            shutil.copyfile(licence, folder / licence.name)
        (folder / "runtime").mkdir()
        for path in files:
            shutil.copyfile(path, folder / "runtime" / path.name)
        (folder / "examples").mkdir()
        for seed, name in enumerate(CLASSES):
            phantom = draw_phantom(name, np.random.default_rng(seed), _EXAMPLE_SIZE)
            write_png(folder / "examples" / f"{name}.png", phantom.pixels)
        about = {
            "model": bundle.name,
            "settings": bundle.settings.as_dict(),
            "weights_sha256": bundle.weights_sha256,
            "prediction_sha256": bundle.prediction_sha256,
            "version": version("busi-monai"),
            "intended_use": NOT_FOR_CLINICAL_USE,
        }
        write_json(folder / "model.json", about)
    return replace(report, path=Path(out), format="web")


def _runtime_files(folder: Path) -> list[Path]:
    """Return the files of ``RUNTIME`` in a package's folder or in its ``dist``."""
    advice = (
        "expected the unpacked npm package onnxruntime-web; get it with "
        "'npm pack onnxruntime-web' and unpack the .tgz"
    )
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: {advice}")
    place = folder / "dist" if (folder / "dist").is_dir() else folder
    missing = [name for name in RUNTIME if not (place / name).is_file()]
    if missing:
        raise InputError(f"{place} holds no {' and no '.join(missing)}: {advice}")
    return [place / name for name in RUNTIME]
