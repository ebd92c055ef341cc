"""Zip and tar archives as input: what a command can use of one, unpacked while it runs.

An archive may come from anywhere. A member is unpacked only if its name stays within the archive,
its kind is one that is read, and its size is within the limits; nothing else is written.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from busi_monai.errors import BusiMonaiError, InputError
from busi_monai.files import naming, temporary_folder
from busi_monai.io.image_files import DICOMDIR, id_key, is_hidden, suffix_of
from busi_monai.io.images import is_image_file
from busi_monai.io.video import VIDEO_SUFFIXES

__all__ = ["ARCHIVE_SUFFIXES", "UnpackedArchive", "is_archive", "left_out_sentence", "unpacked"]

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".xlsx", ".txt", ".yaml", ".yml")
"""Tables and annotations of datasets."""

MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 8 * 2**30
MAX_UNPACKED_BYTES = 200 * 2**30
MAX_DISK_SHARE = 0.9
"""Part of the free disk that an archive may take."""

MAX_RATIO = 200
"""Unpacked bytes for each packed one; images of one grey reach it only where they are small."""

MAX_BYTES_AT_ANY_RATIO = 64 * 2**20

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_HEADER_BYTES = 64 * 2**20
"""Longest part of an archive that is read in one piece: a zip's directory, a tar's header."""

_COMPRESSIONS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
)
_UTF_8, _ENCRYPTED = 0x800, 1  # flags of a zip's member
_PREAMBLE = 132  # bytes that tell DICOM
_BLOCK = 512  # of a tar
_CHUNK = 2**20
_SHOWN = 200  # characters of a name in a message


@dataclass(frozen=True)
class UnpackedArchive:
    """An archive whose usable members lie in a folder.

    Attributes:
        path: the archive as it was given.
        folder: the folder, of the archive's name.
        refused: (name, reason) of each member that is not unpacked although its kind is one that is
            read, or whose name or kind is none of a file within the archive.
        left_out: number of other members by their suffix (``".txt"``, or ``"no suffix"``), and of
            ``"hidden file"``, what systems leave behind included.
    """

    path: Path
    folder: Path
    refused: list[tuple[str, str]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Member:
    """What an archive says of a member."""

    name: str  # with the bytes that are not UTF-8 as surrogates
    kind: str  # "file", "folder", or what else it is
    size: int  # unpacked, in bytes
    open: Callable[[], IO[bytes]]
    packed: int | None = None  # bytes as stored, where members are packed one by one
    encrypted: bool = False


def is_archive(path: str | Path) -> bool:
    """Whether a path is a file that is called like an archive."""
    return str(path).lower().endswith(ARCHIVE_SUFFIXES) and Path(path).is_file()


@contextlib.contextmanager
def unpacked(path: str | Path, *, tables: bool = False) -> Iterator[UnpackedArchive]:
    """Unpack what can be used of an archive into a private folder, which the end of the block ends.

    While the block runs, ``named`` calls the files there by archive and member. The archive itself
    is only read.

    Args:
        path: file ending in one of ``ARCHIVE_SUFFIXES``.
        tables: whether tables and annotations are used beside images, as in a dataset; videos
            are otherwise.

    Raises:
        InputError: if the archive is damaged, cut short, or unpacks to more than the limits.
    """
    path = Path(path)
    with temporary_folder() as temporary:
        folder = temporary / path.name
        folder.mkdir()
        with naming(folder, path):
            archive = UnpackedArchive(path, folder)
            _unpack(archive, tables=tables)
            yield archive


def left_out_sentence(left_out: Mapping[str, int]) -> str:
    """Say how many files of which kinds are no images, or not looked at.

    Examples:
        >>> left_out_sentence({".txt": 3, "no suffix": 1, "subfolder": 2})
        'Left out: 3 × .txt, 1 × no suffix, 2 × subfolder'
    """
    return "Left out: " + ", ".join(f"{count} × {kind}" for kind, count in left_out.items())


def _unpack(archive: UnpackedArchive, *, tables: bool) -> None:
    path = archive.path
    is_zip = path.name.lower().endswith(".zip")
    unpacking = _Unpacking(archive, tables=tables, one_by_one=is_zip)
    try:
        for member in _zip_members(path) if is_zip else _tar_members(path):
            unpacking.take(member)
    except BusiMonaiError:
        raise
    except Exception as error:
        # zipfile, tarfile and the decompressors raise anything for damaged files, OSError included
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"{path}: not a readable archive, damaged or cut short ({error}); copy it again"
        ) from error


def _max_unpacked(path: Path) -> int:
    return min(_max_by_ratio(path.stat().st_size), MAX_UNPACKED_BYTES)


def _max_by_ratio(packed: int) -> int:
    return MAX_RATIO * packed + MAX_BYTES_AT_ANY_RATIO


def _too_large(path: Path, most: int) -> InputError:
    return InputError(
        f"{path}: unpacks to more than {most:,} bytes, {MAX_RATIO} times its size or what the disk "
        "has room for; unpack it by hand if you trust it, and give the folder"
    )


class _Unpacking:
    """Decides member by member, and writes those that are used."""

    def __init__(self, archive: UnpackedArchive, *, tables: bool, one_by_one: bool) -> None:
        self.archive = archive
        self._tables = tables
        self._one_by_one = one_by_one  # whether a damaged member leaves the others readable
        self._count = 0
        free = shutil.disk_usage(archive.folder).free
        self._most = self._left = min(_max_unpacked(archive.path), int(free * MAX_DISK_SHARE))
        self._taken: set[str] = set()
        self._folders: set[str] = set()

    def take(self, member: _Member) -> None:
        """Write a member, or note why not; raise if the whole archive goes beyond a limit."""
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise InputError(
                f"{self.archive.path}: more than {MAX_MEMBERS:,} members; unpack it by hand"
            )
        if member.kind == "folder":
            return
        name = member.name.replace("\\", "/")
        reason = _unsafe_name(name)
        if reason is None and member.kind != "file":
            reason = f"a {member.kind}, no file"
        if reason is not None:
            self._refuse(member, reason)
            return
        place = PurePosixPath(name)
        if any(map(is_hidden, place.parts)):
            self._leave_out("hidden file")
        elif not self._is_used(place):
            self._leave_out(suffix_of(place) or "no suffix")
        elif (reason := _unreadable(member) or self._clash(place)) is not None:
            self._refuse(member, reason)
        else:
            self._write(member, place)

    def _is_used(self, place: PurePosixPath) -> bool:
        if not suffix_of(place):  # a DICOMDIR, or perhaps bare DICOM
            return True
        others = TABLE_SUFFIXES if self._tables else VIDEO_SUFFIXES
        return is_image_file(str(place)) or suffix_of(place) in others

    def _clash(self, place: PurePosixPath) -> str | None:
        """Note a name, or return why some file system could not hold it beside those before."""
        key, *folders = (id_key(str(path)) for path in (place, *place.parents[:-1]))
        if key in self._taken:
            return "another member before it has this name, letter case aside"
        if key in self._folders or self._taken.intersection(folders):
            return "a file and a folder have one name"
        self._taken.add(key)
        self._folders.update(folders)
        return None

    def _write(self, member: _Member, place: PurePosixPath) -> None:
        if member.size > self._left:
            raise _too_large(self.archive.path, self._most)
        target = self.archive.folder / place
        try:
            with member.open() as content:
                head = content.read(_PREAMBLE)
                if not (
                    suffix_of(place) or place.name.upper() == DICOMDIR or head[128:] == b"DICM"
                ):
                    self._leave_out("no suffix")
                    return
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    file.write(head)
                    shutil.copyfileobj(content, file, _CHUNK)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError,
                NotImplementedError, RuntimeError, ValueError) as error:  # fmt: skip
            if not self._one_by_one or getattr(error, "errno", None) is not None:
                raise
            target.unlink(missing_ok=True)
            self._refuse(member, f"damaged, or packed in a way that is not read ({error})")
        else:
            self._left -= member.size

    def _refuse(self, member: _Member, reason: str) -> None:
        name = member.name if len(member.name) <= _SHOWN else f"{member.name[:_SHOWN]}…"
        self.archive.refused.append((name, f"left out: {reason}"))

    def _leave_out(self, kind: str) -> None:
        self.archive.left_out[kind] = self.archive.left_out.get(kind, 0) + 1


def _unsafe_name(name: str) -> str | None:
    """Return why a name is none that can be written, ``None`` for a sound one.

    Examples:
        >>> _unsafe_name("../x.png"), _unsafe_name("C:/x.png"), _unsafe_name("a/./x.png")
        ('its name leads out of the archive', 'its name leads out of the archive', None)
    """
    parts = PurePosixPath(name).parts
    if name.startswith("/") or PureWindowsPath(name).drive or ".." in parts:
        return "its name leads out of the archive"
    if not name.isprintable() and re.search(r"[\x00-\x1f\x7f]", name):
        return "its name holds control characters"
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "its name is not UTF-8; pack it again with a tool that writes UTF-8 names"
    if not parts:
        return "it has no name"
    if max(lengths) > MAX_NAME_BYTES or sum(lengths) + len(lengths) > MAX_PATH_BYTES:
        return (
            f"its name is too long; at most {MAX_NAME_BYTES} bytes, {MAX_PATH_BYTES} with folders"
        )
    return None


def _unreadable(member: _Member) -> str | None:
    if member.encrypted:
        return "encrypted; unpack it with its password and give the folder"
    if member.size > MAX_MEMBER_BYTES:
        return f"{member.size:,} bytes unpacked, more than {MAX_MEMBER_BYTES:,}"
    if member.packed is not None and member.size > _max_by_ratio(member.packed):
        return f"{member.size:,} bytes unpacked of {member.packed:,}, more than {MAX_RATIO} times"
    return None


class _Limited:
    """A stream that gives no large piece at once, goes no step back, and ends with an error.

    ``most`` bytes may be read in all; ``None`` for a file that is as large as it is.
    """

    def __init__(self, stream: Any, path: Path, most: int | None = None) -> None:
        self._stream, self._path, self._most = stream, path, most
        self.last = b""  # what was read last

    def read(self, size: int = -1) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise InputError(f"{self._path}: damaged, or made to fill memory; a header is too long")
        self.last = self._stream.read(size)
        self._check(self.tell())
        return self.last

    def tell(self) -> int:
        return int(self._stream.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        if self._most is not None:
            if offset < self.tell() - 1:  # tarfile looks at the byte before a header
                raise InputError(f"{self._path}: damaged, or made to be read for ever")
            self._check(offset)
        return int(self._stream.seek(offset, whence))

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Leave the stream to who opened it."""

    def _check(self, offset: int) -> None:
        if self._most is not None and offset > self._most:
            raise _too_large(self._path, self._most)


def _zip_members(path: Path) -> Iterator[_Member]:
    with path.open("rb") as file:
        limited: Any = _Limited(file, path)
        with zipfile.ZipFile(limited) as archive:
            for info in archive.infolist():
                name = info.filename
                if not info.flag_bits & _UTF_8:  # not said to be, but most often is
                    name = name.encode("cp437").decode("utf-8", "surrogateescape")
                yield _Member(
                    name=name,
                    kind=_zip_kind(info),
                    size=info.file_size,
                    packed=info.compress_size,
                    encrypted=bool(info.flag_bits & _ENCRYPTED),
                    open=partial(archive.open, info),
                )


def _zip_kind(info: zipfile.ZipInfo) -> str:
    mode = stat.S_IFMT(info.external_attr >> 16)
    if stat.S_ISLNK(mode):
        return "link"
    if info.is_dir() or info.filename.endswith("\\") or stat.S_ISDIR(mode):
        return "folder"
    return "file" if mode in {0, stat.S_IFREG} else "device"


def _tar_members(path: Path) -> Iterator[_Member]:
    with path.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        unpack = next((unpack for magic, unpack in _COMPRESSIONS if head.startswith(magic)), None)
        stream = file if unpack is None else unpack(file)
        limited: Any = _Limited(stream, path, _max_unpacked(path))
        archive: Any = tarfile.TarFile(fileobj=limited, encoding="utf-8", errors="surrogateescape")
        while (info := archive.next()) is not None:
            yield _Member(
                name=info.name,
                kind=_tar_kind(info),
                size=info.size,
                open=partial(archive.extractfile, info),
            )
            archive.members.clear()  # which it keeps for looking up names
        _check_end(limited)


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.isdir():
        return "folder"
    if info.issym() or info.islnk():
        return "link"
    if info.issparse():
        return "sparse file"
    return "file" if info.isreg() else "device"


def _check_end(stream: _Limited) -> None:
    """Raise where a tar's members end without the block of zeros, which tarfile passes over.

    The rest is read, too, so that a compressed file's checksum is compared.
    """
    if stream.last != bytes(_BLOCK):
        raise tarfile.ReadError("the end is missing")
    while stream.read(_CHUNK):
        pass
