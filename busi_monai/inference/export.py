"""A trained network as one file that other programs run: ONNX, TorchScript, ``torch.export``.

Every file takes ``image`` (N, 1, H, W) float32, preprocessed as ``settings.json`` says, with any
batch size N and the H×W it was exported for; it gives the logits of each head by name. The content
of ``settings.json`` travels inside the file, so that class order, size, normalisation and
temperature cannot be lost on the way.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from busi_monai.errors import InputError
from busi_monai.files import atomic_file
from busi_monai.settings import InferenceSettings

__all__ = ["EXPORT_FORMATS", "ExportReport", "export_bundle_network"]

SETTINGS_KEY = "settings.json"

Heads = tuple[str, ...]


@dataclass(frozen=True)
class ExportReport:
    """What was written and how well it agrees.

    Attributes:
        path: the file.
        format: a name of ``EXPORT_FORMATS``.
        heads: names of the outputs, in the file's order.
        max_abs_difference: greatest absolute difference between a logit of the file, run anew from
            disk with another batch size, and the network's; None if nothing here can run the file.
    """

    path: Path
    format: str
    heads: tuple[str, ...]
    max_abs_difference: float | None


def export_bundle_network(
    network: nn.Module,
    out: str | Path,
    format: str = "onnx",
    *,
    settings: InferenceSettings,
) -> ExportReport:
    """Write a network as one file, run that file and compare.

    Args:
        network: takes (N, 1, H, W) float32 and returns a dict of logits; it is copied, so that its
            device and mode stay as they are.
        out: the file to write, which appears when it is complete; its folder is made.
        format: ``onnx`` (input ``image``, one named output for each head, opset of the installed
            torch), ``torchscript`` or ``pt2`` (``torch.export``).
        settings: say the input's size, and are stored inside the file under ``settings.json``: a
            metadata property of ONNX, an extra file of the others.

    Returns:
        The report with the greatest difference.

    Raises:
        InputError: if the format is unknown, or its package is missing.
    """
    if format not in EXPORT_FORMATS:
        raise InputError(f"format must be one of {', '.join(EXPORT_FORMATS)}, got {format!r}")
    write, run = EXPORT_FORMATS[format]
    network = copy.deepcopy(network).cpu().float().eval()
    images = torch.rand(3, 1, *settings.image_size, generator=torch.Generator().manual_seed(0))
    stored = {SETTINGS_KEY: json.dumps(settings.as_dict())}
    with torch.no_grad(), _quiet():
        expected = network(images)
        with atomic_file(out) as partial:
            write(network, images[:2], tuple(expected), partial, stored)
        found = run(Path(out), images)
    difference = None
    if found is not None:
        difference = max(float((found[head] - expected[head]).abs().max()) for head in expected)
    return ExportReport(Path(out), format, tuple(expected), difference)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the reader can do nothing about: torch.jit's age, an absent torchvision."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        exporter.setLevel(level)


class _InOrder(nn.Module):
    """The heads as a tuple, so that their order in the file is the one that is named."""

    def __init__(self, network: nn.Module, heads: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.heads = heads

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(image)
        return tuple(outputs[head] for head in self.heads)


def _write_onnx(
    network: nn.Module, images: Tensor, heads: Heads, path: Path, stored: dict[str, str]
) -> None:
    missing = [name for name in ("onnx", "onnxscript") if not importlib.util.find_spec(name)]
    if missing:
        raise InputError(
            f"exporting to ONNX needs {' and '.join(missing)}: pip install 'busi-monai[onnx]'"
        )
    program = torch.onnx.export(
        _InOrder(network, heads).eval(),
        (images,),
        input_names=["image"],
        output_names=list(heads),
        dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise InputError("torch gave no ONNX program; install torch>=2.8")
    program.model.metadata_props.update(stored)
    program.save(str(path), external_data=False)


def _run_onnx(path: Path, images: Tensor) -> dict[str, Tensor] | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    heads = [output.name for output in session.get_outputs()]
    arrays = session.run(heads, {"image": images.numpy()})
    return {head: torch.from_numpy(array) for head, array in zip(heads, arrays, strict=True)}


def _write_torchscript(
    network: nn.Module, images: Tensor, heads: Heads, path: Path, stored: dict[str, str]
) -> None:
    torch.jit.save(torch.jit.script(network), str(path), _extra_files=stored)


def _run_torchscript(path: Path, images: Tensor) -> dict[str, Tensor]:
    return torch.jit.load(str(path), map_location="cpu")(images)


def _write_pt2(
    network: nn.Module, images: Tensor, heads: Heads, path: Path, stored: dict[str, str]
) -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (images,), dynamic_shapes={"image": {0: batch}})
    torch.export.save(program, path, extra_files=stored)


def _run_pt2(path: Path, images: Tensor) -> dict[str, Tensor]:
    return torch.export.load(path).module()(images)


EXPORT_FORMATS = {
    "onnx": (_write_onnx, _run_onnx),
    "torchscript": (_write_torchscript, _run_torchscript),
    "pt2": (_write_pt2, _run_pt2),
}
"""How each format is written, and how a written file is run."""
