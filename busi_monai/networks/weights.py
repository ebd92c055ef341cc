"""Weights in files: plain tensors only, loaded into exactly the architecture they belong to."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from busi_monai.errors import WeightsError

__all__ = ["differences", "load_weights", "read_tensors", "read_weights", "save_tensors"]

_SHOWN = 5


def save_tensors(state: Mapping[str, object], path: str | Path) -> None:
    """Write tensors in plain containers; equal tensors give equal files, whatever their name.

    Write into a file that is renamed afterwards (``files.atomic_file``): this one may break off,
    with an OSError on a full disk, or with Ctrl-C's KeyboardInterrupt.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_tensors({"bias": torch.zeros(2)}, Path(folder) / "model.pt")
        ...     read_weights(Path(folder) / "model.pt")
        {'bias': tensor([0., 0.])}
    """
    # into a stream: torch would write a file's name into the file, and hide a full disk
    with Path(path).open("wb") as stream:
        try:
            torch.save(dict(state), stream)
        except RuntimeError as error:
            # torch closes the archive that a write broke off, and tells of that alone
            if isinstance(error.__context__, (OSError, KeyboardInterrupt)):
                raise error.__context__ from error
            raise


def read_tensors(path: str | Path) -> object:
    """Read what a checkpoint holds, on the CPU, as stored: tensors in plain containers.

    Only ``torch.load(weights_only=True)`` is ever used: a pickled object could run code.

    Raises:
        WeightsError: if the file is damaged, or holds anything but tensors and plain containers.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is refused: it holds pickled objects or is no checkpoint, and loading it "
            "could run code; expected a flat state dict of plain tensors, saved with "
            f"torch.save(network.state_dict(), path) ({_first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path} is damaged or no checkpoint ({_first_line(error)}); copy it again"
        ) from error


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a flat state dict of plain tensors, on the CPU, as stored.

    Raises:
        WeightsError: if the file is missing, damaged, or holds anything but a flat mapping of names
            to tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"{path} does not exist: these weights are not trained or not downloaded yet; train "
            "them (busi-monai train PREPARED --out RUN, then --model RUN) or put model.pt there"
        )
    return state_dict(read_tensors(path), path)


def state_dict(content: object, path: Path) -> dict[str, torch.Tensor]:
    """Return what was read from ``path`` if it is a flat state dict, or raise a WeightsError."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: expected a flat state dict, found a {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(
                f"{path}: expected a flat state dict of tensors, found {type(value).__name__} "
                f"under {name!r}; save network.state_dict() alone"
            )
    return dict(content)


def load_weights(network: torch.nn.Module, path: str | Path) -> None:
    """Load a flat state dict into a network; fp16 or bf16 storage becomes the network's own type.

    Raises:
        WeightsError: as for ``read_weights``, or if the checkpoint belongs to another architecture;
            the message lists the first keys and shapes that differ.

    Examples:
        >>> import tempfile
        >>> network = torch.nn.Linear(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(network.state_dict(), Path(folder) / "model.pt")
        ...     load_weights(torch.nn.Linear(3, 2), Path(folder) / "model.pt")
    """
    state = read_weights(path)
    differing = differences(network.state_dict(), state)
    if differing:
        raise WeightsError(
            f"{path} belongs to another architecture than {type(network).__name__} as configured: "
            f"{differing}. Use the configuration that it was trained with"
        )
    network.load_state_dict(state)


def differences(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str:
    """Say in what names and shapes two state dicts differ, the first few; empty if in none."""
    differing = [
        f"{name} has shape {tuple(found[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    missing = [f"{name} is missing" for name in expected if name not in found]
    unexpected = [f"{name} is unknown to the network" for name in found if name not in expected]
    everything = differing + missing + unexpected
    more = len(everything) - _SHOWN
    return "; ".join(everything[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
