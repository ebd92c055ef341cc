"""Which run an app serves: ``served.json`` names it, and publishing another is one rename."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busi_monai.bundle import Bundle
from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json

if TYPE_CHECKING:
    from busi_monai.inference import Predictor

__all__ = ["ServedModel"]


class ServedModel:
    """The run that an app predicts with, the same for all processes of a server.

    Args:
        folder: where ``served.json`` is kept.
        initial: the bundle or run that is served until another one is published.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, where a request names none.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ServedModel(Path(folder), Path("bundle")).run.name
        'bundle'
    """

    def __init__(self, folder: Path, initial: Path, device: str = "auto") -> None:
        self.state = folder / "served.json"
        self.initial = initial
        self.device = device
        self._lock = threading.RLock()
        self._loaded: dict[str, tuple[tuple[str, int], Predictor]] = {}
        self._hashes: dict[tuple[str, int], str] = {}

    @property
    def run(self) -> Path:
        """Folder of the bundle or run that is served now."""
        return Path(self._state().get("run", self.initial))

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return Bundle(self.run).weights

    def publish(self, run: Path, **details: Any) -> None:
        """Serve another run from now on."""
        record = {
            "run": str(run.absolute()),
            "weights_sha256": Bundle(run).weights_sha256,
            "before": str(self.run),
            **details,
        }
        write_json(self.state, record)

    def predictor(self, device: str | None = None) -> Predictor:
        """Return the predictor of the run that is served now, loaded once for each device.

        Raises:
            InputError: if the run is gone.
            WeightsError: if its weights cannot be used.
        """
        from busi_monai.inference import Predictor

        name = device or self.device
        with self._lock:
            key = self._key()
            if name not in self._loaded or self._loaded[name][0] != key:
                self._loaded[name] = key, Predictor.load(Path(key[0]), device=name)
            return self._loaded[name][1]

    def identity(self) -> dict[str, str]:
        """Return name and weights' hash of what is served now."""
        with self._lock:
            key = self._key()
            if key not in self._hashes:
                self._hashes[key] = Bundle(key[0]).weights_sha256
            return {"run": Path(key[0]).name, "weights_sha256": self._hashes[key]}

    def version(self) -> str:
        """Return a short text that changes with what is served."""
        return hashlib.sha256(repr(self._key()).encode()).hexdigest()[:16]

    def _state(self) -> dict[str, Any]:
        if not self.state.is_file():
            return {}
        content = read_json(self.state)
        if not isinstance(content, dict) or not isinstance(content.get("run"), str):
            raise InputError(
                f"{self.state}: expected {{'run': folder}}; delete it to serve {self.initial} again"
            )
        return content

    def _key(self) -> tuple[str, int]:
        run = self.run
        weights = Bundle(run).weights
        if not weights.is_file():
            raise InputError(
                f"{weights} does not exist, so that nothing can be served; delete {self.state} to "
                f"serve {self.initial} again"
            )
        return str(run), weights.stat().st_mtime_ns
