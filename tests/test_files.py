from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from busi_monai.errors import InputError
from busi_monai.files import (
    atomic_file,
    file_sha256,
    read_json,
    write_json,
    write_text,
)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ünï code (1).txt"
    write_text(path, "löwe\nzwei\n")
    assert path.read_bytes() == "löwe\nzwei\n".encode()
    assert _names(path.parent) == [path.name]


def test_a_failed_write_leaves_the_previous_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("before")
    with pytest.raises(OSError, match="disk"), atomic_file(path) as partial:
        assert partial.name.endswith(".csv")
        partial.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "before"
    assert _names(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("name", ["a.", "..hidden", "benign (1).b" + "c" * 200, "x" * 240 + ".png"])
def test_unusual_names_can_be_written(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "x")
    assert _names(tmp_path) == [name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "x")
    (tmp_path / "plain.txt").write_text("x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "plain.txt")]
    assert modes[0] == modes[1]


def test_the_umask_of_the_process_is_never_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other threads create files meanwhile."""
    changes: list[int] = []
    monkeypatch.setattr(os, "umask", lambda mask: changes.append(mask) or 0o022)
    write_text(tmp_path / "a.txt", "x")
    assert changes == []


def test_json_is_readable_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"name": "größe", "list": [1, 2.5, None]})
    assert read_json(path) == {"name": "größe", "list": [1, 2.5, None]}
    assert "größe" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"value": float("nan")})
    assert read_json(path)["name"] == "größe"


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_what_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is not valid JSON"):
        read_json(path)


def test_a_missing_or_unreadable_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json does not exist"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"abc" * 100_000)
    expected = hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert file_sha256(tmp_path / "a.bin") == expected
