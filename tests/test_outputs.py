from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from busi_monai.errors import InputError
from busi_monai.outputs import check_output, check_place, is_complete, output_folder
from busi_monai.records import RunRecord


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def make(out: Path, *files: str, command: str = "audit", **options: object) -> None:
    """Make an output folder of files that hold their own names."""
    with output_folder(out, command, **options) as stage:
        RunRecord().write(stage)
        for name in files:
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_text(name)


def record(out: Path) -> dict:
    return json.loads((out / "run.json").read_text("utf-8"))


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with output_folder(out, "audit") as stage:
        (stage / "a.txt").write_text("x")
        assert not [path for path in out.iterdir() if not path.name.startswith(".")]
    assert names(out) == ["a.txt", "run.json"]
    assert record(out) == {
        "state": "complete", "made": {"by": "audit", "files": ["a.txt", "run.json"]}
    }  # fmt: skip


def test_what_the_record_tells_besides_is_kept(tmp_path: Path) -> None:
    make(tmp_path / "out", "a.txt")
    assert {"command", "versions", "state", "made"} <= record(tmp_path / "out").keys()


@pytest.mark.parametrize("there", [False, True])
def test_a_failed_command_leaves_nothing(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / "out", "audit") as stage:
        (stage / "a.txt").write_text("x")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out"] * there


def test_overwriting_replaces_the_commands_own_files_and_tells_of_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    make(out, "a.txt", "figures/old.png", "gone/b.txt")
    (out / "figures" / "mine.png").write_text("mine")
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty.*--overwrite"):
        make(out, "a.txt")
    assert caplog.messages == []
    make(out, "a.txt", "figures/new.png", overwrite=True)
    assert names(out) == [
        "a.txt", "figures", "figures/mine.png", "figures/new.png", "run.json", "thesis.txt"
    ]  # fmt: skip
    (told,) = caplog.messages
    assert "stay: figures/mine.png, thesis.txt" in told


def test_a_failure_before_or_while_renaming_leaves_the_earlier_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    make(out, "a.txt", "masks/b.png")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(RuntimeError), output_folder(out, "audit", overwrite=True) as stage:
        (stage / "c.txt").write_text("x")
        raise RuntimeError("stop")
    rename, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(self.name)
        if len(calls) == 4:  # two old files are away and one new is there
            raise PermissionError(13, "in use")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(PermissionError):
        make(out, "a.txt", "masks/b.png", "masks/c.png", overwrite=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_file_of_another_origin_in_the_way_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, "a.txt")
    (out / "overlays").write_text("mine")
    with pytest.raises(InputError, match=r"overlays is in the way.*move it"):
        make(out, "b.txt", "overlays/b.png", overwrite=True)
    assert (out / "overlays").read_text() == "mine"
    assert names(out) == ["a.txt", "overlays", "run.json"]


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (None, "no record.*busi-monai audit made.*earlier release.*remove it by hand"),
        ({"command": ["busi-monai"]}, "no record.*earlier release.*remove it by hand"),
        ({"made": {"by": "predict", "files": []}}, "made by busi-monai predict"),
        ({"made": {"by": "audit"}}, "made by"),
    ],
)
def test_what_another_has_made_is_refused_whatever_the_flag(
    tmp_path: Path, content: dict | None, advice: str
) -> None:
    (tmp_path / "a.txt").write_text("mine")
    if content is not None:
        (tmp_path / "run.json").write_text(json.dumps(content))
    before = names(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(InputError, match=f"not empty.*{advice}") as refused:
            make(tmp_path, "a.txt", overwrite=overwrite)
        assert "--overwrite" not in str(refused.value)
    assert names(tmp_path) == before


@pytest.mark.parametrize("listed", ["../thesis.txt", "link/thesis.txt", "{absolute}", 7])
def test_a_record_cannot_reach_beyond_its_folder(tmp_path: Path, listed: object) -> None:
    thesis = tmp_path / "else" / "thesis.txt"
    thesis.parent.mkdir()
    for path in (thesis, tmp_path / "thesis.txt"):
        path.write_text("mine")
    out = tmp_path / "out"
    make(out, "a.txt")
    (out / "link").symlink_to(thesis.parent)
    content = record(out)
    content["made"]["files"].append(str(thesis) if listed == "{absolute}" else listed)
    (out / "run.json").write_text(json.dumps(content))
    make(out, "a.txt", overwrite=True)
    assert thesis.read_text() == (tmp_path / "thesis.txt").read_text() == "mine"


def test_what_is_read_and_the_working_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    (data / "work").mkdir(parents=True)
    (data / "a.png").write_text("x")
    (tmp_path / "link").symlink_to(data)
    for out in (data, tmp_path, tmp_path / "link", data / "work" / ".."):
        for read in (data, data / "a.png", tmp_path / "link" / "a.png"):
            with pytest.raises(InputError, match=r"(is|holds) .*reads; choose another"):
                check_place(out, [read])
    check_place(data / "new", [data])
    monkeypatch.chdir(data / "work")
    for out in (".", "..", tmp_path):
        with pytest.raises(InputError, match="the working folder; choose another"):
            check_place(out)
    check_place("new")


@pytest.mark.parametrize("part", ["images", "labels", "masks", "configs", "models"])
def test_the_parts_of_a_dataset_or_bundle_are_refused(tmp_path: Path, part: str) -> None:
    check_place(tmp_path / part / "new")
    for whole in ("datalist.json", "labels.csv", "run.json", "configs/metadata.json"):
        place = tmp_path / whole.replace("/", "-")
        (place / whole).parent.mkdir(parents=True, exist_ok=True)
        (place / whole).write_text("{}")
        for out in (place / part, place / part / "new" / "deep"):
            with pytest.raises(InputError, match=f"within {part} of .*such as .*results"):
                check_place(out)
        check_place(place / "evaluation")
    with pytest.raises(InputError, match="lies within"):
        check_place(tmp_path / part / "new", [tmp_path])


def test_a_file_in_place_of_the_folder_or_its_parent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        make(tmp_path / "out")
    with pytest.raises(InputError, match="cannot be written to"):
        make(tmp_path / "out" / "deep")


def test_a_link_leads_to_the_folder(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big")
    (tmp_path / "dangling").symlink_to(tmp_path / "later")
    make(tmp_path / "link", "a.txt")
    make(tmp_path / "dangling", "a.txt")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "big") == names(tmp_path / "later") == ["a.txt", "run.json"]


def test_a_new_volume_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    make(tmp_path, "a.txt")
    make(tmp_path, "a.txt", overwrite=True)
    assert names(tmp_path) == ["a.txt", "lost+found", "run.json"]


MOUNTED = """
    import sys
    from pathlib import Path
    from busi_monai.errors import InputError
    from busi_monai.outputs import check_output, output_folder
    out = Path(sys.argv[1])
    for place in (out, out / "new"):
        with output_folder(place, "audit") as stage:
            (stage / "a.txt").write_text("x")
        print(sorted(path.name for path in place.iterdir()))
        if place == out:
            for path in out.iterdir():
                path.unlink()
    try:
        check_output(out.parent / "beside", "audit")
    except InputError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts by unshare, which only Linux has")
def test_a_mount_point_in_a_parent_that_is_read_only(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    (parent / "volume").mkdir(parents=True)
    mount = (
        'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && '
        'mount -t tmpfs none "$1/volume" || exit 77; "$2" -c "$3" "$1/volume"'
    )
    words = ["sh", "-c", mount, "sh", str(parent), sys.executable, textwrap.dedent(MOUNTED)]
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    try:
        done = subprocess.run([*unshare, *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode in {1, 77} and "Traceback" not in done.stderr:
        pytest.skip(f"this system lets nobody mount here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    whole, new, refused = done.stdout.splitlines()
    assert whole == new == "['a.txt', 'run.json']"
    assert "beside cannot be written to (Read-only file system); choose another folder" in refused


def test_one_cannot_write_is_told_before_the_work(tmp_path: Path) -> None:
    check_output(tmp_path / "out", "audit")
    assert names(tmp_path) == []
    make(tmp_path / "out", "a.txt")
    with pytest.raises(InputError, match="--overwrite"):
        check_output(tmp_path / "out", "audit")
    check_output(tmp_path / "out", "audit", overwrite=True)
    assert names(tmp_path / "out") == ["a.txt", "run.json"]


def _race(out: Path, start: object, results: object, name: str) -> None:
    start.wait()  # type: ignore[attr-defined]
    try:
        make(out, f"{name}.txt")
        results.put((name, ""))  # type: ignore[attr-defined]
    except InputError as error:
        results.put((name, str(error)))  # type: ignore[attr-defined]


def test_of_several_commands_at_once_one_makes_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(3), context.Queue()
    workers = [
        context.Process(target=_race, args=(tmp_path / "out", start, results, name))
        for name in ("one", "two", "three")
    ]
    for worker in workers:
        worker.start()
    found = dict(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    (winner,) = [name for name, refusal in found.items() if not refusal]
    refusals = [refusal for refusal in found.values() if refusal]
    assert all("written by another command" in r or "not empty" in r for r in refusals)
    assert names(tmp_path / "out") == sorted([f"{winner}.txt", "run.json"])


def test_a_claim_is_held_against_others_within_a_process_too(tmp_path: Path) -> None:
    with output_folder(tmp_path / "out", "audit") as stage:
        (stage / "a.txt").write_text("x")
        with pytest.raises(InputError, match=rf"written by another .*process {os.getpid()} on "):
            make(tmp_path / "out", "b.txt")
    assert names(tmp_path / "out") == ["a.txt", "run.json"]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from busi_monai.outputs import output_folder
    if sys.argv[2] == "renaming":
        rename = Path.rename
        def renamed_then_killed(self, target):
            rename(self, target)
            os.kill(os.getpid(), signal.SIGKILL)
        Path.rename = renamed_then_killed
    with output_folder(sys.argv[1], "audit") as stage:
        (stage / "half.txt").write_text("x")
        (stage / "other.txt").write_text("x")
        if sys.argv[2] == "working":
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("when", ["working", "renaming"])
def test_the_claim_of_a_killed_process_is_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-c", textwrap.dedent(KILLED), str(out), when]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert is_complete(out) == (when == "working")
    if when == "renaming":  # some files are there, which are the command's alone to replace
        with pytest.raises(InputError, match="made by busi-monai audit"):
            make(out, "b.txt", command="predict", overwrite=True)
    make(out, "b.txt")
    assert names(out) == ["b.txt", "run.json"] and is_complete(out)
    assert "ended before it was done" in caplog.text
