"""Output folders: claimed by one command, staged within, completed by renaming.

No file is replaced or removed that the same command did not make in the same folder.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import socket
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json

__all__ = [
    "HIDDEN_RECORD",
    "PROGRESS",
    "check_file",
    "check_output",
    "check_place",
    "holds_nothing",
    "is_complete",
    "is_finished",
    "made_by",
    "output_folder",
]

logger = logging.getLogger(__name__)

HIDDEN_RECORD = ".busi-monai.json"
"""Record of a folder whose readers would take a ``run.json`` for a stray file."""

RECORD = "run.json"
PROGRESS = "progress.jsonl"
"""File beside the unfinished ones, with which a command can go on; where it lies, these stay."""

STAGE = ".busi-monai-incomplete"
"""Folder within an output folder: the claim (``lock``, ``run.json``) and the unfinished files."""

_NO_CONTENT = {STAGE, "lost+found"}  # the latter lies on every new ext volume
_PARTS = {"images", "labels", "masks", "configs", "models"}
_WHOLES = ("datalist.json", "labels.csv", RECORD, "configs/metadata.json", "configs/inference.yaml")
_PATIENCE = 0.5  # seconds in which a command that is just ending lets go


@contextlib.contextmanager
def output_folder(
    out: str | Path,
    command: str,
    *,
    reads: Iterable[str | Path] = (),
    overwrite: bool = False,
    record: str | None = RECORD,
    resume: bool = False,
) -> Iterator[Path]:
    """Claim ``out`` and yield a folder within it, whose files move to ``out`` at the end.

    If the block raises, ``out`` is as it was, apart from hidden files to go on with where the block
    has written ``PROGRESS`` beside the folder. While the block runs, other commands are refused;
    the claim of a killed process is taken over. ``out`` may be a link or a mount point.

    Args:
        out: the folder to make; its parents are made too.
        command: which command makes it, as ``busi-monai`` calls it.
        reads: files and folders that the command reads.
        overwrite: replace the files that the same command made in ``out`` before. Others stay.
        record: file in ``out`` that gets ``state`` and ``made`` (the command and its files);
            ``None`` for a folder that is never overwritten.
        resume: go on with the files and the ``PROGRESS`` that the same command left unfinished.

    Raises:
        InputError: if ``out`` is refused, see ``check_place``; is not empty, and may not or cannot
            be overwritten; is being made by another process; or cannot be written to.
    """
    with _claimed(out, command, reads, overwrite, record, resume=resume) as old:
        place = _real(out)
        files = place / STAGE / "files"
        files.mkdir(exist_ok=True)
        yield files
        _complete(place, command, record, old)


def check_output(
    out: str | Path, command: str, *, reads: Iterable[str | Path] = (), overwrite: bool = False
) -> None:
    """Raise what ``output_folder`` would raise, before long work, and try whether one can write."""
    with _claimed(out, command, reads, overwrite, RECORD):
        pass


def check_place(out: str | Path, reads: Iterable[str | Path] = ()) -> None:
    """Refuse a folder that equals or holds what is read, or that lies within a dataset or a bundle.

    Links are followed.

    Raises:
        InputError: if ``out`` is a file, equals or holds the working folder or one of ``reads``, or
            lies within the ``images``, ``labels``, ``masks``, ``configs`` or ``models`` of a
            dataset, run or bundle.
    """
    place = _real(out)
    if place.exists() and not place.is_dir():
        raise InputError(f"{out} is a file; expected a folder to make; choose another name")
    above = {place, *place.parents}
    read_above = set()
    with contextlib.suppress(FileNotFoundError):  # a working folder that was removed
        _refuse_around(out, place, _real(Path.cwd()), "the working folder")
    for path in map(_real, reads):  # hundred thousands, of which none is kept
        read_there = "what this command reads" if place == path else f"{path}, which it reads"
        _refuse_around(out, place, path, read_there)
        if path in above:
            read_above.add(path)
    _refuse_within(out, place, read_above)


def check_file(path: str | Path, mark: str, *, overwrite: bool = False) -> None:
    """Refuse to write a file over one without the mark of the command that wrote it.

    Args:
        path: the file to make; not within a part of a dataset or a bundle, as for ``check_place``.
        mark: text that every file of the command holds, in UTF-8 or (as in PDF) UTF-16.
        overwrite: replace a file with the mark.
    """
    place = _real(path)
    _refuse_within(path, place.parent, ())
    if not place.exists():
        return
    content = place.read_bytes() if place.is_file() else b""
    if not any(mark.encode(coding) in content for coding in ("utf-8", "utf-16-be")):
        raise InputError(f"{path} exists and was not made by this command; choose another name")
    if not overwrite:
        raise InputError(f"{path} exists; choose another name or pass --overwrite")


def _refuse_within(out: str | Path, place: Path, read: Container[Path]) -> None:
    for folder in (place, *place.parents):
        whole = folder.parent
        if folder.name.lower() in _PARTS and (
            whole in read or any((whole / name).is_file() for name in _WHOLES)
        ):
            raise InputError(
                f"{out} lies within {folder.name} of {whole}, which is a dataset, run or bundle; "
                f"choose a folder outside, or a new one such as {whole / 'results'}"
            )


def holds_nothing(folder: str | Path) -> bool:
    """Return whether a folder is missing or empty, apart from ``lost+found`` and claims."""
    folder = Path(folder)
    return not folder.is_dir() or all(path.name in _NO_CONTENT for path in folder.iterdir())


def is_complete(folder: str | Path) -> bool:
    """Return whether no process was killed while it moved its files into the folder."""
    return _content(Path(folder) / RECORD).get("state") != "incomplete"


def is_finished(folder: str | Path, command: str) -> bool:
    """Return whether a folder holds a command's complete result, and nothing to go on with."""
    unfinished = (Path(folder) / STAGE / PROGRESS).is_file()
    return made_by(folder) == command and is_complete(folder) and not unfinished


def made_by(folder: str | Path) -> str | None:
    """Return which command made an output folder, ``None`` where its ``run.json`` does not say."""
    made = _content(Path(folder) / RECORD).get("made")
    return str(made.get("by")) if isinstance(made, dict) else None


def _real(path: str | Path) -> Path:
    """Follow all links; unlike for ``resolve``, a circle of them is no error."""
    return Path(os.path.realpath(path))


def _refuse_around(out: str | Path, place: Path, kept: Path, name: str) -> None:
    if place == kept or place in kept.parents:
        verb = "is" if place == kept else "holds"
        raise InputError(f"{out} {verb} {name}; choose another folder, a new one for this output")


@contextlib.contextmanager
def _claimed(
    out: str | Path,
    command: str,
    reads: Iterable[str | Path],
    overwrite: bool,
    record: str | None,
    *,
    resume: bool = False,
) -> Iterator[list[str]]:
    """Hold the claim of a folder, and yield the files in it that are to be replaced."""
    check_place(out, reads)
    place = _real(out)
    stage = place / STAGE
    _old_files(out, command, overwrite, record)  # refused before anything is written
    new = not place.exists()
    lock = _locked(out, stage)
    kept = False
    try:
        old = _old_files(out, command, overwrite, record)  # another command may have made some
        _take_over(out, stage, command, resume=resume)
        process = {"host": socket.gethostname(), "pid": os.getpid()}
        made = {"by": command, "files": []}
        write_json(stage / RECORD, {"state": "incomplete", "made": made, "process": process})
        yield old
    except BaseException:
        kept = (stage / PROGRESS).is_file()
        if kept:
            logger.warning("%s: not complete; the same command with --resume goes on", out)
        raise
    finally:
        if not kept:
            _clear(stage)
        with contextlib.suppress(OSError):  # Windows removes no file that is open
            (stage / "lock").unlink()
            stage.rmdir()
            if new:
                place.rmdir()
        lock.release()


def _locked(out: str | Path, stage: Path) -> FileLock:
    """Make the stage and lock it until this process lets go or ends."""
    lock = FileLock(stage / "lock", thread_local=False)
    while True:
        try:
            stage.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            raise InputError(
                f"{out} is being written by another command{_process(stage)}; wait until it has "
                "ended, or choose another folder"
            ) from None
        except FileNotFoundError:  # a command that failed has just removed its folder
            continue
        except OSError as error:
            if error.errno not in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}:
                raise
            raise InputError(
                f"{out} cannot be written to ({error.strerror}); choose another folder"
            ) from error
        if (stage / "lock").exists():
            return lock
        lock.release()


def _process(stage: Path) -> str:
    with contextlib.suppress(InputError, KeyError, TypeError):
        process = read_json(stage / RECORD)["process"]
        return f" (process {process['pid']} on {process['host']})"
    return ""


def _take_over(out: str | Path, stage: Path, command: str, *, resume: bool) -> None:
    """Remove what a process left that held the claim and is gone, or go on with it."""
    if not (stage / RECORD).is_file():
        return
    resumable = (stage / PROGRESS).is_file() and made_by(stage) == command
    if resumable and resume:
        _take_back(_real(out), stage / "files")
        return
    logger.warning(
        "%s: another command%s ended before it was done; its unfinished files are removed%s",
        out,
        _process(stage),
        " (--resume would have gone on with them)" if resumable else "",
    )
    _clear(stage)


def _take_back(place: Path, files: Path) -> None:
    """Stage anew what a process that was killed while renaming had moved to its place."""
    made = _content(files / RECORD).get("made")
    for name in made["files"] if isinstance(made, dict) and not is_complete(place) else []:
        moved = not os.path.lexists(files / name) and os.path.lexists(place / name)
        if moved and _is_own(place, name):
            (files / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).rename(files / name)


def _clear(stage: Path) -> None:
    (stage / PROGRESS).unlink(missing_ok=True)
    for name in ("files", "old"):
        shutil.rmtree(stage / name, ignore_errors=True)
    (stage / RECORD).unlink(missing_ok=True)


def _old_files(out: str | Path, command: str, overwrite: bool, record: str | None) -> list[str]:
    """Return the files that the same command made in ``out``; refuse it if it must stay."""
    place = _real(out)
    if holds_nothing(place):
        return []
    content = _content(place / record) if record is not None else {}
    made = content.get("made")
    files = made.get("files") if isinstance(made, dict) else None
    if isinstance(made, dict) and isinstance(files, list) and made.get("by") == command:
        if overwrite or content.get("state") == "incomplete":  # a process killed while renaming
            return [name for name in files if _is_own(place, name)]
        advice = "it holds a result of this command; choose another folder or pass --overwrite"
    elif isinstance(made, dict):
        advice = f"it was made by busi-monai {made.get('by')}; choose another folder"
    else:
        advice = (
            f"no record in it lists what busi-monai {command} made; choose another folder, or, "
            "if an earlier release made it, remove it by hand"
        )
    raise InputError(f"{out} is not empty: {advice}")


def _content(record: Path) -> dict[str, Any]:
    with contextlib.suppress(InputError):
        content = read_json(record)
        return content if isinstance(content, dict) else {}
    return {}


def _is_own(place: Path, name: object) -> bool:
    """Whether a listed file lies in the folder itself: not above, and not behind a link."""
    if not isinstance(name, str) or PurePosixPath(name).is_absolute() or ".." in name.split("/"):
        return False
    parent = (place / name).parent
    return _real(parent) == parent


def _complete(place: Path, command: str, record: str | None, old: Sequence[str]) -> None:
    """Move the staged files to their places, those that they replace away, or nothing at all."""
    stage, files = place / STAGE, place / STAGE / "files"
    new = list(_files_below(files))
    if record is not None:
        new += [] if record in new else [record]
        _write_record(files / record, command, "complete", new)
    moves = [
        (place / name, stage / "old" / name)
        for name in old
        if name != record and os.path.lexists(place / name)
    ]
    moves += _moves(files, place, {place / name for name in old}, record)
    before = (place / record).read_bytes() if record is not None and old else None
    done: list[tuple[Path, Path]] = []
    try:
        if record is not None:  # a process killed from here on leaves a folder that it owns
            _write_record(
                place / record, command, "incomplete", chain(new, set(old).difference(new))
            )
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)
            done.append((source, target))
        if record is not None:
            (stage / PROGRESS).unlink(missing_ok=True)
            (files / record).replace(place / record)
    except BaseException:
        for source, target in reversed(done):
            target.rename(source)
        if record is not None and before is None:
            (place / record).unlink(missing_ok=True)
        elif record is not None and before is not None:
            (place / record).write_bytes(before)
        raise
    _remove_emptied(place, old)
    if old:
        _tell_others(place, set(new))


def _files_below(folder: Path) -> Iterator[str]:
    """Yield the names of all files, and of links to folders, relative to the folder."""
    for above, folders, files in os.walk(folder):  # rglob would keep all paths in memory
        for name in files + [each for each in folders if Path(above, each).is_symlink()]:
            yield Path(above, name).relative_to(folder).as_posix()


def _write_record(path: Path, command: str, state: str, files: Iterable[str]) -> None:
    made = {"by": command, "files": sorted(files)}
    write_json(path, {**_content(path), "state": state, "made": made})


def _moves(
    source: Path, target: Path, replaced: set[Path], record: str | None = None
) -> Iterator[tuple[Path, Path]]:
    """Yield what is to be renamed to what: whole folders where there is none of the name."""
    for path in sorted(source.iterdir(), reverse=True):  # configs/train.yaml: the rest is there
        place = target / path.name
        if path.name == record:
            continue
        if not os.path.lexists(place) or place in replaced:
            yield path, place
        elif path.is_dir() and place.is_dir() and not place.is_symlink():
            yield from _moves(path, place, replaced)
        else:
            raise InputError(
                f"{place} is in the way: this command did not make it; move it, or choose another "
                "folder"
            )


def _remove_emptied(place: Path, old: Iterable[str]) -> None:
    emptied = {parent for name in old for parent in PurePosixPath(name).parents} - {
        PurePosixPath(".")
    }
    for folder in sorted(emptied, key=lambda parent: -len(parent.parts)):
        with contextlib.suppress(OSError):  # not empty
            (place / folder).rmdir()


def _tell_others(place: Path, new: set[str]) -> None:
    others = sorted(
        name
        for name in _files_below(place)
        if name not in new and name.split("/")[0] not in _NO_CONTENT
    )
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        logger.warning(
            "%s: files that this command did not make stay: %s%s",
            place,
            ", ".join(others[:5]),
            more,
        )
