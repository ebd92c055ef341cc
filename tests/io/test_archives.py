from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_monai.errors import InputError
from busi_monai.files import named
from busi_monai.io import archives
from busi_monai.io.archives import is_archive, unpacked
from busi_monai.io.images import read_image


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(12 * 17, dtype=np.uint8).reshape(12, 17)).save(stream, "PNG")
    return stream.getvalue()


PNG = png()
DICOM = bytes(128) + b"DICM" + bytes(16)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made, empty again at the end; and nothing else is written."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    assert list(place.iterdir()) == []


def surroundings(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "temporary" not in path.parts
    }


def zip_of(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], pack: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", pack) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def tar_of(path: Path, *members: tuple[str | tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


SOUND = ("top/a.png", PNG), ("top/notes.txt", b"x"), ("top/labels.csv", b"image,label\n")
MAKERS: dict[str, Callable[[Path], Path]] = {
    "x.zip": lambda path: zip_of(path, *SOUND, pack=zipfile.ZIP_DEFLATED),
    "x.tar": lambda path: tar_of(path, *SOUND),
    "x.tar.gz": lambda path: tar_of(path, *SOUND, mode="w:gz"),
    "X.TGZ": lambda path: tar_of(path, *SOUND, mode="w:gz"),
    "x.tar.bz2": lambda path: tar_of(path, *SOUND, mode="w:bz2"),
    "x.tar.xz": lambda path: tar_of(path, *SOUND, mode="w:xz"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_used_of_an_archive_lies_in_a_private_folder(name: str, tmp_path: Path) -> None:
    path = MAKERS[name](tmp_path / name)
    before = surroundings(tmp_path)
    assert is_archive(path)
    with unpacked(path) as archive:
        assert names(archive.folder) == ["top/a.png"]
        assert archive.left_out == {".txt": 1, ".csv": 1} and archive.refused == []
        assert stat.S_IMODE(archive.folder.parent.stat().st_mode) == 0o700
        assert read_image(archive.folder / "top/a.png").pixels.shape == (12, 17)
        assert named(f"{archive.folder}/top/a.png: x") == f"{path}/top/a.png: x"
    with unpacked(path, tables=True) as archive:
        assert names(archive.folder) == ["top/a.png", "top/labels.csv", "top/notes.txt"]
    assert surroundings(tmp_path) == before


def zip_mode(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def tar_type(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def encrypted(path: Path) -> Path:
    zip_of(path, ("good.png", PNG), ("bad.png", PNG))
    content = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(mark) + flags] |= 1
    path.write_bytes(content)
    return path


def damaged(path: Path) -> Path:
    zip_of(path, ("bad.png", PNG), ("good.png", PNG))
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    return path


def not_utf_8(path: Path) -> Path:
    zip_of(path, ("good.png", PNG), ("bXd.png", PNG))
    path.write_bytes(path.read_bytes().replace(b"bXd.png", b"b\xe4d.png"))
    return path


GOOD = ("good.png", PNG)
EVIL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "above.zip": (lambda p: zip_of(p, GOOD, ("../bad.png", PNG)), "leads out"),
    "above.tar": (lambda p: tar_of(p, GOOD, ("a/../../bad.png", PNG)), "leads out"),
    "backslash.zip": (lambda p: zip_of(p, GOOD, ("..\\bad.png", PNG)), "leads out"),
    "absolute.zip": (lambda p: zip_of(p, GOOD, ("/outside/bad.png", PNG)), "leads out"),
    "absolute.tar": (lambda p: tar_of(p, GOOD, ("/outside/bad.png", PNG)), "leads out"),
    "drive.zip": (lambda p: zip_of(p, GOOD, ("C:bad.png", PNG)), "leads out"),
    "link.zip": (
        lambda p: zip_of(p, GOOD, (zip_mode("bad.png", stat.S_IFLNK | 0o777), b"/etc/passwd")),
        "a link",
    ),
    "link.tar": (lambda p: tar_of(p, GOOD, (tar_type("bad.png", tarfile.SYMTYPE), b"")), "a link"),
    "hard.tar": (lambda p: tar_of(p, GOOD, (tar_type("bad.png", tarfile.LNKTYPE), b"")), "a link"),
    "device.tar": (
        lambda p: tar_of(p, GOOD, (tar_type("bad.png", tarfile.CHRTYPE), b"")),
        "a device",
    ),
    "pipe.zip": (
        lambda p: zip_of(p, GOOD, (zip_mode("bad.png", stat.S_IFIFO | 0o666), b"")),
        "a device",
    ),
    "encrypted.zip": (encrypted, "encrypted"),
    "damaged.zip": (damaged, "damaged"),
    "twice.tar": (lambda p: tar_of(p, GOOD, ("good.png", b"other")), "has this name"),
    "case.zip": (lambda p: zip_of(p, GOOD, ("GOOD.png", b"other")), "has this name"),
    "composed.zip": (
        lambda p: zip_of(p, GOOD, ("a\u0308.png", PNG), ("\u00e4.png", PNG)),
        "has this name",
    ),
    "both.zip": (lambda p: zip_of(p, GOOD, ("good.png/bad.png", PNG)), "a file and a folder"),
    "latin.zip": (not_utf_8, "not UTF-8"),
    "latin.tar": (lambda p: tar_of(p, GOOD, ("b\udce4d.png", PNG)), "not UTF-8"),
    "long.zip": (lambda p: zip_of(p, GOOD, (f"{300 * 'x'}.png", PNG)), "too long"),
    "deep.zip": (lambda p: zip_of(p, GOOD, (600 * "x/" + "a.png", PNG)), "too long"),
    "lines.tar": (lambda p: tar_of(p, GOOD, ("two\nlines.png", PNG)), "control characters"),
    "bomb.zip": (
        lambda p: zip_of(p, GOOD, ("bad.png", bytes(10**6)), pack=zipfile.ZIP_DEFLATED),
        "bytes unpacked",
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", EVIL)
def test_an_evil_member_is_named_and_left_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES_AT_ANY_RATIO", 10**5)
    make, reason = EVIL[name]
    path = make(tmp_path / name)
    before = surroundings(tmp_path)
    with unpacked(path) as archive:
        assert (archive.folder / "good.png").read_bytes() == PNG
        assert names(archive.folder)[-1] == "good.png"
        assert len(names(archive.folder)) == (2 if name == "composed.zip" else 1)
        ((member, why),) = archive.refused
        assert member and reason in why
        assert surroundings(tmp_path) == before
    assert surroundings(tmp_path) == before


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_other_kinds_are_counted_and_never_unpacked(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    members = [
        ("inner.zip", b"PK"),
        ("inner.tar.gz", b"\x1f\x8b"),
        ("setup.exe", b"MZ"),
        ("README", b"read me"),
        ("IM0001", DICOM),
        ("1.2.840.7", DICOM),
        ("DICOMDIR", DICOM),
        ("__MACOSX/._a.png", b"x"),
        (".hidden.png", PNG),
        ("Thumbs.db", b"x"),
        ("x.nii.gz", b"x"),
    ]
    suffix = "zip" if make is zip_of else "tar"
    with unpacked(make(tmp_path / f"x.{suffix}", *members)) as archive:
        assert names(archive.folder) == ["1.2.840.7", "DICOMDIR", "IM0001", "x.nii.gz"]
        assert archive.refused == []
        assert archive.left_out == {
            ".zip": 1,
            ".gz": 1,
            ".exe": 1,
            "no suffix": 1,
            "hidden file": 3,
        }


def cut(path: Path, maker: Callable[[Path], Path], length: int) -> Path:
    maker(path)
    path.write_bytes(path.read_bytes()[:length])
    return path


def header_of(size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a tar's header with a size field of one's own."""
    info = tarfile.TarInfo("bad.png")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


NEGATIVE = b"\xff" * 11 + b"\x00"
HUGE = b"\x80" + (2**50).to_bytes(11, "big")
BROKEN: dict[str, Callable[[Path], object]] = {
    "empty.zip": lambda p: p.write_bytes(b""),
    "text.zip": lambda p: p.write_bytes(b"no archive at all"),
    "text.tar": lambda p: p.write_bytes(b"no archive at all"),
    "text.tar.gz": lambda p: p.write_bytes(gzip.compress(b"no archive at all")),
    "cut.zip": lambda p: cut(p, MAKERS["x.zip"], 200),
    "cut.tar": lambda p: cut(p, MAKERS["x.tar"], 700),
    "at_header.tar": lambda p: cut(p, MAKERS["x.tar"], 1024),
    "cut.tgz": lambda p: cut(p, MAKERS["x.tar.gz"], 150),
    "cut.tar.bz2": lambda p: cut(p, MAKERS["x.tar.bz2"], 150),
    "cut.tar.xz": lambda p: cut(p, MAKERS["x.tar.xz"], 150),
    "header.tar": lambda p: p.write_bytes(
        MAKERS["x.tar"](p).read_bytes().replace(b"top/notes", b"TOP/NOTES")
    ),
    "negative.tar": lambda p: p.write_bytes(tar_of(p, GOOD).read_bytes()[:1024]
                                            + header_of(NEGATIVE)),
    "far.tar.gz": lambda p: p.write_bytes(gzip.compress(header_of(HUGE) + bytes(1024))),
    "long_header.tar.gz": lambda p: p.write_bytes(
        gzip.compress(header_of(HUGE, tarfile.GNUTYPE_LONGNAME) + bytes(1024))
    ),
    "long_header.tar.bz2": lambda p: p.write_bytes(
        bz2.compress(header_of(HUGE, tarfile.XHDTYPE) + bytes(1024))
    ),
    "zeros.tar.xz": lambda p: p.write_bytes(
        lzma.compress(MAKERS["x.tar"](p).read_bytes() + bytes(10**6))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_an_archive_that_cannot_be_read_whole_is_one_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES_AT_ANY_RATIO", 10**5)
    path = tmp_path / name
    BROKEN[name](path)
    before = surroundings(tmp_path)
    with pytest.raises(InputError, match=name) as caught, unpacked(path, tables=True):
        pass
    assert "busi-monai-" not in str(caught.value)
    assert surroundings(tmp_path) == before


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_MEMBERS", 2), ("MAX_UNPACKED_BYTES", 50), ("MAX_DISK_SHARE", 0)]
)
def test_limits_of_the_whole(
    limit: str, value: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, limit, value)
    with pytest.raises(InputError, match=r"more than"), unpacked(MAKERS[name](tmp_path / name)):
        pass


def test_errors_and_interrupts_leave_nothing_and_name_the_archive(
    tmp_path: Path, temporary: Path
) -> None:
    path = MAKERS["x.zip"](tmp_path / "x.zip")
    with pytest.raises(KeyboardInterrupt), unpacked(path):
        raise KeyboardInterrupt
    with pytest.raises(InputError) as caught, unpacked(path) as archive:
        raise InputError(f"{archive.folder}/top/a.png: is odd")
    assert str(caught.value) == f"{path}/top/a.png: is odd"
    with pytest.raises(FileNotFoundError) as missing, unpacked(path) as archive:
        (archive.folder / "no.png").read_bytes()
    assert str(missing.value).endswith(f"'{path}/no.png'")
    assert list(temporary.iterdir()) == []
