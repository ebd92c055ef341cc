"""An interrupted prediction goes on where it was, and its result is that of an undisturbed one."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from busi_monai.errors import InputError
from busi_monai.inference import predict
from busi_monai.outputs import PROGRESS, STAGE, holds_nothing

FORMATS = ("nifti",)
TIMES = ("seconds", "started", "command")


@pytest.fixture
def mixed(tmp_path: Path, save_ultrasound: Callable[..., Path]) -> Path:
    """Stills, two loops, one of which warns, an image and a header that cannot be read."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(5):
        pixels = random.integers(0, 255, (40, 50 + number), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"a{number}.png")
        save_ultrasound(folder / f"d{number}.dcm", pixels, SeriesInstanceUID=f"1.2.{number // 3}")
    (folder / "a3_broken.png").write_bytes((folder / "a1.png").read_bytes()[:200])
    loop = random.integers(0, 900, (4, 30, 44), dtype=np.uint16)
    save_ultrasound(folder / "b_loop.dcm", loop, FrameTime=40.0)
    save_ultrasound(folder / "c_loop.dcm", (loop // 4).astype(np.uint8))
    (folder / "b_none.dcm").write_bytes(b"no DICOM")
    # a name that a frame of the loop would have
    shutil.copy(folder / "a0.png", folder / "b_loop_frame_002.png")
    return folder


class StoppedError(Exception):
    """What stops a prediction in these tests, as anything may."""


def interrupting(files: int) -> Callable[..., Any]:
    def wrapped(items, total):
        for count, item in enumerate(items):
            if count == files:
                raise StoppedError
            yield item

    return wrapped


def record(out: Path) -> dict[str, Any]:
    content = json.loads((out / "run.json").read_text("utf-8"))
    return {name: value for name, value in content.items() if name not in TIMES}


def contents(out: Path) -> dict[str, Any]:
    """Return every file of a result, without times and what is drawn for DICOM objects."""
    found: dict[str, Any] = {"run.json": record(out)}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        if name == "predictions.csv":
            rows = csv.reader(path.read_text("utf-8").splitlines())
            head, *rest = rows
            at = head.index("seconds")
            found[name] = [head[:at] + head[at + 1 :]] + [row[:at] + row[at + 1 :] for row in rest]
        elif path.suffix == ".dcm":
            found[name] = objects(path)
        elif path.suffix != ".json":
            found[name] = path.read_bytes()
    return found


def objects(path: Path) -> tuple[str, bytes]:
    import pydicom

    dataset = pydicom.dcmread(path)
    return dataset.Modality, bytes(dataset.get("PixelData") or b"")


@pytest.mark.parametrize("formats", [(), ("nifti", "dicom-seg", "dicom-sr")])
def test_the_result_is_that_of_an_undisturbed_run(graph_bundle, mixed, tmp_path, formats):
    if "dicom-seg" in formats:
        pytest.importorskip("highdicom")
    options = {"model": graph_bundle, "device": "cpu", "formats": formats}
    whole = predict(mixed, tmp_path / "whole", **options)
    expected = contents(tmp_path / "whole")
    assert whole.failures and whole.warnings and len(whole.cines) == 2
    out = tmp_path / "out"
    for files in (2, 5, 8, 11, 14):
        with pytest.raises(StoppedError):
            predict(mixed, out, resume=True, progress=interrupting(files), **options)
        assert holds_nothing(out)
    resumed = predict(mixed, out, resume=True, **options)
    assert contents(out) == expected
    for summary in (whole, resumed):
        summary.out = None
        for row in summary.rows:
            del row["seconds"]
    assert resumed == whole
    assert not (out / STAGE).exists()


def test_objects_made_before_and_after_an_interrupt_share_their_series(
    graph_bundle, mixed, tmp_path
):
    pytest.importorskip("highdicom")
    import pydicom

    options = {"model": graph_bundle, "device": "cpu", "formats": ["dicom-sr"]}
    inputs = [mixed / f"d{number}.dcm" for number in range(5)]
    with pytest.raises(StoppedError):
        predict(inputs, tmp_path / "out", progress=interrupting(4), **options)
    predict(inputs, tmp_path / "out", resume=True, **options)
    made = sorted((tmp_path / "out" / "dicom").iterdir())
    series = [pydicom.dcmread(path).SeriesInstanceUID for path in made]
    assert [series.index(uid) for uid in series] == [0, 0, 0, 3, 3]


@pytest.fixture
def stopped(graph_bundle: Path, mixed: Path, tmp_path: Path) -> Path:
    """A folder with an unfinished prediction of six images."""
    out = tmp_path / "out"
    with pytest.raises(StoppedError):
        predict(mixed, out, model=graph_bundle, device="cpu", progress=interrupting(9))
    assert len((out / STAGE / PROGRESS).read_bytes().splitlines()) > 6
    return out


def predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list that gets the name of each image that is read."""
    from busi_monai.io import decoding

    names: list[str] = []
    read = decoding.load_image
    monkeypatch.setattr(
        decoding, "load_image", lambda image: (names.append(Path(str(image)).name), read(image))[1]
    )
    return names


@pytest.mark.parametrize("harm", ["torn", "zeros", "no mask", "no overlay", "header alone"])
def test_what_is_not_whole_is_done_again(graph_bundle, mixed, tmp_path, stopped, harm, monkeypatch):
    expected = tmp_path / "whole"
    predict(mixed, expected, model=graph_bundle, device="cpu")
    progress = stopped / STAGE / PROGRESS
    lines = progress.read_bytes().splitlines(keepends=True)
    files = stopped / STAGE / "files"
    again = 2
    if harm == "torn":
        progress.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    elif harm == "zeros":
        progress.write_bytes(b"".join(lines[:3]) + bytes(len(lines[3]) - 1) + b"\n")
    elif harm == "no mask":
        (files / "masks" / "a2.png").unlink()
    elif harm == "no overlay":
        (files / "overlays" / "a2.png").unlink()
    else:
        progress.write_bytes(lines[0][:50])
        again = 0
    table = files / "predictions.csv"
    table.write_bytes(table.read_bytes()[:-7])
    names = predicted(monkeypatch)
    predict(mixed, stopped, model=graph_bundle, device="cpu", resume=True)
    assert contents(stopped) == contents(expected)
    assert min(names) == f"a{again}.png"


def test_something_else_asked_for_is_refused_and_costs_nothing(
    graph_bundle, mixed, stopped, monkeypatch
):
    def resumed(given: object = mixed, **options: Any) -> object:
        options = {"model": graph_bundle, "device": "cpu", "resume": True, **options}
        return predict(given, stopped, **options)

    for options, told in [
        ({"tta_flip": False}, "tta_flip was true and is false now"),
        ({"batch_size": 2}, "batch_size was 1 and is 2 now"),
        ({"overlays": False}, "overlays was true and is false"),
        ({"formats": ["nifti"]}, r'formats was \["png"\] and is \["nifti", "png"\]'),
        ({"engine": "torch"}, 'engine was "onnx" and is "torch"'),
        ({"shard": (1, 2)}, "inputs was "),
        ({"consistency": True}, "consistency was "),
    ]:
        with pytest.raises(InputError, match=told):
            resumed(**options)
    os.utime(mixed / "a1.png", ns=(1, 1))
    with pytest.raises(InputError, match="inputs was "):
        resumed()
    before = (stopped / STAGE / PROGRESS).read_bytes()
    assert len(before.splitlines()) > 6


def test_other_weights_are_refused(graph_bundle, tiny_bundle, mixed, stopped, tmp_path):
    import torch

    other = shutil.copytree(tiny_bundle, tmp_path / "other")
    weights = torch.load(other / "models" / "model.pt")
    weights = {name: value * 1.001 for name, value in weights.items()}
    torch.save(weights, other / "models" / "model.pt")
    with pytest.raises(InputError, match=r"(bundle|weights_sha256) was"):
        predict(mixed, stopped, model=other, device="cpu", engine="onnx", resume=True)


def test_nothing_to_resume_begins_and_a_complete_result_stays(graph_bundle, mixed, tmp_path):
    options = {"model": graph_bundle, "device": "cpu", "resume": True}
    out = tmp_path / "out"
    first = predict(mixed, out, **options)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = predict(mixed, out, overwrite=True, **options)
    assert again.complete_before and again.predicted == first.predicted
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(InputError, match="complete result of other inputs"):
        predict(mixed / "a1.png", out, **options)


def test_without_resume_what_was_left_goes_with_a_note(graph_bundle, mixed, stopped, caplog):
    predict([mixed / "a1.png"], stopped, model=graph_bundle, device="cpu")
    assert "its unfinished files are removed (--resume would have gone on" in caplog.text
    assert sorted(path.name for path in (stopped / "masks").iterdir()) == ["a1.png"]


def test_an_interrupted_overwriting_goes_on_beside_the_earlier_result(
    graph_bundle, mixed, tmp_path
):
    options = {"model": graph_bundle, "device": "cpu", "overwrite": True}
    out = tmp_path / "out"
    predict(mixed / "c_loop.dcm", out, **options)
    before = contents(out)
    with pytest.raises(StoppedError):
        predict(mixed, out, progress=interrupting(9), **options)
    shutil.copytree(out, tmp_path / "copy", ignore=shutil.ignore_patterns(STAGE))
    assert contents(tmp_path / "copy") == before
    predict(mixed, out, resume=True, **options)
    predict(mixed, tmp_path / "whole", model=graph_bundle, device="cpu")
    assert contents(out) == contents(tmp_path / "whole")


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from busi_monai.inference.folders import predict
    mixed, out, model, way = sys.argv[1:]
    if way == "renaming":
        rename = Path.rename
        def renamed_then_killed(self, target):
            rename(self, target)
            if self.name == "masks":
                os.kill(os.getpid(), signal.SIGKILL)
        Path.rename = renamed_then_killed
    def stop(items, total):
        for count, item in enumerate(items):
            if count == 9 and way != "renaming":
                os.kill(os.getpid(), getattr(signal, way))
            yield item
    if __name__ == "__main__":
        predict(mixed, out, model=model, device="cpu", progress=stop)
        assert not {"torch", "monai"} & set(sys.modules), "heavy imports"
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "SIGKILL", "renaming"])
def test_a_process_ended_by_a_signal_goes_on(graph_bundle, mixed, tmp_path, way, monkeypatch):
    out, script = tmp_path / "out", tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED), "utf-8")
    words = [sys.executable, script, mixed, out, graph_bundle, way]
    ended = subprocess.run(words, check=False, capture_output=True, text=True)
    assert ended.returncode in {143, -signal.SIGINT, -signal.SIGKILL, 1}, ended.stderr
    if way in {"SIGTERM", "SIGINT"}:
        assert "the same command with --resume goes on" in ended.stderr
    if way == "renaming":
        names = predicted(monkeypatch)
    predict(mixed, out, model=graph_bundle, device="cpu", resume=True)
    if way == "renaming":
        assert names == []
    predict(mixed, tmp_path / "whole", model=graph_bundle, device="cpu")
    assert contents(out) == contents(tmp_path / "whole")


def test_predicting_by_a_graph_imports_neither_torch_nor_monai(graph_bundle, mixed, tmp_path):
    script = tmp_path / "plain.py"
    script.write_text(textwrap.dedent(KILLED), "utf-8")
    words = [sys.executable, script, mixed / "a1.png", tmp_path / "out", graph_bundle, ""]
    ended = subprocess.run(words, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_shards_have_the_ids_of_the_whole_whatever_frames_and_failures_there_are(
    graph_bundle, mixed, tmp_path
):
    def rows(shard: tuple[int, int]) -> list[list[str]]:
        out = tmp_path / "-".join(map(str, shard))
        predict(mixed, out, model=graph_bundle, device="cpu", overlays=False, shard=shard)
        return contents(out)["predictions.csv"][1:]

    whole = rows((1, 1))
    for shards in (2, 4):
        found = [row for number in range(shards) for row in rows((number + 1, shards))]
        assert sorted(found) == sorted(whole)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_prediction_killed_at_a_random_moment_is_resumed_to_the_same_result(repository):
    words = [sys.executable, repository / "scripts" / "kill_test.py", "--count", "60"]
    done = subprocess.run([*words, "--kills", "1"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no difference after 1 kills" in done.stdout
