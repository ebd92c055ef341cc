"""Names of uploads never are paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from busi_monai.serving.uploads import safe_name, uploads_of

NAMES = [
    "../../etc/passwd", "..\\..\\boot.ini", "/abs/olute.png", "C:\\a.png", "..", ".", "", ".hidden",
    "a/../b.png", "nul\x00l.png", "=HYPERLINK(1)", "@cmd", "<script>x</script>.png",
    "\u202egnp.exe",
    "x" * 500 + ".png", "~root", "a\r\nb: c.png", "😀.png", "%2e%2e%2f.png", "a:b", 'a"b', "-rf",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_a_folder(name, tmp_path):
    safe = safe_name(name)
    (tmp_path / safe).write_bytes(b"")
    assert [path.name for path in tmp_path.iterdir()] == [safe]
    assert (tmp_path / safe).resolve().parent == tmp_path.resolve()
    assert len(safe) <= 80 and safe.isprintable()
    assert not set(safe) & set("<>\"'&:/\\%\r\n")
    assert safe[0] not in "=+-@."


def test_ids_differ_whatever_the_names():
    uploads = uploads_of([(name, b"") for name in [*NAMES, *NAMES]])
    ids = [upload.id.casefold() for upload in uploads]
    assert len(set(ids)) == len(ids)
    assert all(Path(id).name == id for id in ids)
