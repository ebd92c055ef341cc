"""What a prediction has done so far, on the disk, so that an interrupted one goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from busi_monai.errors import InputError
from busi_monai.outputs import PROGRESS

__all__ = ["ProgressFile"]

Entry = dict[str, Any]


class ProgressFile:
    """Lines of JSON beside the unfinished files: what was asked for, then an entry for each step.

    An entry stands there only once the files of its ``made`` are on the disk to stay. The last line
    of a process that was killed may be torn; it counts as not written.

    Args:
        stage: folder of the unfinished files, as from ``output_folder``.
        asked: plain JSON values that must be the same when it goes on.
    """

    def __init__(self, stage: Path, asked: Mapping[str, Any]) -> None:
        self._stage = stage
        self._path = stage.parent / PROGRESS
        self._asked = json.loads(json.dumps(asked))

    def entries(self, is_end: Callable[[Entry], bool]) -> Iterator[Entry]:
        """Yield what was done, up to the last end before a file that is missing; drop the rest.

        Args:
            is_end: whether it can go on behind an entry.

        Raises:
            InputError: if something else was asked for; the message names it.
        """
        if not self._path.is_file():
            return
        with self._path.open("rb+") as stream:
            size = 0
            for entry in self._whole_lines(stream):
                if not all(os.path.lexists(self._stage / name) for name in entry["made"]):
                    break
                if is_end(entry):
                    size = stream.tell()
            stream.seek(0)
            self._check(_entry(stream.readline()))
            stream.truncate(max(size, stream.tell()))
            for line in stream:
                yield json.loads(line)

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries so that they stay; the first ones behind what was asked for."""
        content = b"".join(map(_line, entries))
        with self._path.open("ab", buffering=0) as stream:
            size = stream.tell()
            content = content if size else _line(self._asked) + content
            try:
                while content:
                    content = content[stream.write(content) :]
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(size)
                raise

    def forget(self) -> None:
        """Leave nothing to go on with."""
        self._path.unlink(missing_ok=True)

    def _whole_lines(self, stream: IO[bytes]) -> Iterator[Entry]:
        stream.readline()
        while (entry := _entry(stream.readline())) is not None:
            yield entry

    def _check(self, before: Entry | None) -> None:
        if before is None:  # torn: nothing was done
            self.forget()
            return
        keys = dict.fromkeys([*self._asked, *before])
        differences = [
            f"{key} was {_told(before.get(key))} and is {_told(self._asked.get(key))} now"
            for key in keys
            if before.get(key) != self._asked.get(key)
        ]
        if differences:
            raise InputError(
                f"{self._stage.parent.parent}: cannot be resumed: {'; '.join(differences)}; ask "
                "for the same, or start anew without --resume"
            )


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode("ascii") + b"\n"


def _entry(line: bytes) -> Entry | None:
    """Return what a line says, ``None`` for one that is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry: Entry = json.loads(line)
    except ValueError:
        return None
    return entry


def _told(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
