from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from busi_monai.cases import CLASSES
from busi_monai.cli.main import main
from busi_monai.outputs import holds_nothing

NAMES = (
    "plain.png",
    "with space (1).png",
    "brackets [2].png",
    "Überblick ß 乳.png",
    "sixteen.png",
    "cmyk.jpg",
    "colour.bmp",
    "palette.png",
)
BAD = ("truncated.png", "zero.png", "animated.tif", "text.png")


def draw() -> np.ndarray:
    rows, columns = np.mgrid[:60, :90]
    return np.clip(rows * 2 + 50 * np.sin(columns / 6), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of every kind that works, and of every kind that does not."""
    path = tmp_path_factory.mktemp("input") / "Bilder [neu] é"
    path.mkdir()
    grey = Image.fromarray(draw())
    for name in NAMES[:4]:
        grey.save(path / name)
    Image.fromarray(draw().astype(np.uint16) * 257).save(path / "sixteen.png")
    grey.convert("CMYK").save(path / "cmyk.jpg")
    Image.merge("RGB", [grey, grey.point(lambda v: v // 2), grey]).save(path / "colour.bmp")
    grey.convert("P").save(path / "palette.png")
    whole = (path / "plain.png").read_bytes()
    (path / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (path / "zero.png").write_bytes(b"")
    (path / "text.png").write_text("not an image")
    grey.save(path / "animated.tif", save_all=True, append_images=[grey, grey])
    return path


@pytest.fixture(scope="module")
def clean(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clean")
    for name in NAMES[:2]:
        (path / name).write_bytes((folder / name).read_bytes())
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, words)])


def table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "predictions.csv", keep_default_na=False)


def test_bad_files_are_listed_and_all_others_done(tiny_bundle, folder, tmp_path):
    result = run(folder, "--out", tmp_path / "out", "--model", tiny_bundle, "--device", "cpu")
    assert result.exit_code == 1, result.output
    rows = table(tmp_path / "out").set_index("id")
    good = rows[rows["error"] == ""]
    assert set(good.index) == {Path(name).stem for name in NAMES}
    assert set(rows[rows["error"] != ""].index) == {Path(name).stem for name in BAD}
    for name in BAD:
        assert name in result.stderr
    assert "several frames" in rows.loc["animated", "error"]
    assert "0 bytes" in rows.loc["zero", "error"]
    for name in good.index:
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{name}.png"))
        assert mask.shape == (60, 90) and set(np.unique(mask)) <= {0, 255}
        assert (tmp_path / "out" / "overlays" / f"{name}.png").is_file()
    assert not (tmp_path / "out" / "masks" / "zero.png").exists()


def test_success_prints_a_summary_and_exits_0(tiny_bundle, clean, tmp_path):
    result = run(clean, "--out", tmp_path / "out", "--model", tiny_bundle, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "2 predicted, 0 failed" in result.stdout
    assert "For research use only; not a medical device." in result.stdout
    assert "with space (1)" in result.stdout


def test_a_image_without_its_dicom_object_was_predicted_all_the_same(tiny_bundle, clean, tmp_path):
    pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
    words = [clean / "plain.png", tmp_path / "no.png", "--format", "dicom-seg"]
    result = run(*words, "--out", tmp_path / "out", "--model", tiny_bundle, "--device", "cpu")
    assert result.exit_code == 1
    assert "1 predicted, 1 failed" in result.stdout
    assert "without the DICOM objects that were asked for: 1" in result.stdout


def test_json_is_all_that_stands_on_stdout(tiny_bundle, clean, tmp_path):
    result = run(
        clean / "plain.png", tmp_path / "no.png", "--out", tmp_path / "out",
        "--model", tiny_bundle, "--device", "cpu", "--json", "--no-overlays",
    )  # fmt: skip
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert content["predicted"] == 1
    assert content["rows"][0]["image"] == str(clean / "plain.png")
    assert sum(content["rows"][0][f"p_{c}"] for c in CLASSES) == pytest.approx(1, abs=1e-5)
    assert content["failures"][0]["file"] == str(tmp_path / "no.png")
    assert not (tmp_path / "out" / "overlays").exists()


def test_quiet_prints_nothing(tiny_bundle, clean, tmp_path):
    result = run(clean, "--out", tmp_path / "out", "--model", tiny_bundle, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("given", ["missing.png", "empty", "no*.png"])
def test_nothing_to_predict_exits_1_and_writes_nothing(tiny_bundle, tmp_path, given):
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / given, "--out", tmp_path / "out", "--model", tiny_bundle)
    assert result.exit_code == 1
    assert given in result.stderr and "nothing was written" in result.stderr
    assert not (tmp_path / "out").exists()


def test_wrong_usage_exits_2(tiny_bundle, clean, tmp_path):
    out = ("--out", tmp_path / "out")
    assert run(*out).exit_code == 2
    assert run(clean).exit_code == 2
    device = run(clean, *out, "--model", tiny_bundle, "--device", "gpu")
    assert device.exit_code == 2 and "cuda:N" in device.stderr
    assert run(clean, *out, "--model", tmp_path / "nowhere").exit_code == 2
    assert run(clean, *out, "--model", tiny_bundle, "--batch-size", "0").exit_code == 2
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_needs_overwrite(tiny_bundle, clean, tmp_path):
    words = (clean, "--out", tmp_path / "out", "--model", tiny_bundle, "--quiet")
    assert run(*words).exit_code == 0
    again = run(*words)
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    assert run(*words, "--overwrite").exit_code == 0


def test_a_missing_checkpoint_exits_1_with_its_remedy(clean, tmp_path, tiny_bundle):
    import shutil

    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "untrained"))
    (bundle / "models" / "model.pt").unlink()
    result = run(clean, "--out", tmp_path / "out", "--model", bundle)
    assert result.exit_code == 1
    assert "model.pt" in result.stderr and "busi-monai train" in result.stderr


def test_ctrl_c_exits_130_and_leaves_nothing_half_written_and_the_way_to_go_on(
    tiny_bundle, clean, tmp_path, monkeypatch
):
    from busi_monai.inference import Predictor

    original = Predictor.predict_many

    def interrupted(self, sources, **options):
        yield next(original(self, sources, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "predict_many", interrupted)
    result = run(clean, "--out", tmp_path / "out", "--model", tiny_bundle, "--device", "cpu")
    assert result.exit_code == 130
    assert "Interrupted" in result.stderr
    assert holds_nothing(tmp_path / "out")
    monkeypatch.undo()
    result = run(
        clean, "--out", tmp_path / "out", "--model", tiny_bundle, "--device", "cpu", "--resume"
    )
    assert result.exit_code == 0 and len(table(tmp_path / "out")) == 2


def test_a_full_disk_exits_1_with_the_systems_words(tiny_bundle, clean, tmp_path, monkeypatch):
    def full(pixels: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("busi_monai.inference.writers.encode_png", full)
    result = run(clean, "--out", tmp_path / "out", "--model", tiny_bundle, "--device", "cpu")
    assert result.exit_code == 1 and "No space left on device" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_more_images_than_fit_a_screen_are_counted(tiny_bundle, clean, tmp_path):
    (tmp_path / "many").mkdir()
    content = (clean / "plain.png").read_bytes()
    for number in range(23):
        (tmp_path / "many" / f"scan {number}.png").write_bytes(content)
    (tmp_path / "many" / "scan 1_mask.png").write_bytes(content)
    result = run(
        tmp_path / "many", "--out", tmp_path / "out", "--model", tiny_bundle, "--batch-size", "8"
    )
    assert result.exit_code == 0, result.output
    assert "and 3 more" in result.stdout
    assert "1 mask file beside its image was skipped" in result.stdout


def test_the_installed_command_takes_a_pattern(tiny_bundle, folder, tmp_path):
    pattern = str(folder).replace("[", "[[]") + "/*ä*.png"
    command = Path(sys.executable).parent / "busi-monai"
    result = subprocess.run(
        [command, "predict", pattern, folder / "Überblick ß 乳.png", "--out", tmp_path / "aus ü",
         "--model", tiny_bundle, "--device", "cpu"],
        capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    assert "no image matches this pattern" in result.stderr
    assert (tmp_path / "aus ü" / "masks" / "Überblick ß 乳.png").is_file()


def test_what_is_left_out_of_a_folder_is_printed_and_recorded(tiny_bundle, clean, tmp_path):
    shutil.copytree(clean, tmp_path / "in")
    (tmp_path / "in" / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    words = (tmp_path / "in", "--out", tmp_path / "out", "--model", tiny_bundle, "--device", "cpu")
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "Left out: 1 × .heic" in result.stdout
    assert result.stderr.startswith("Loading …")
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert record["left_out"] == {".heic": 1}


def test_a_failure_names_a_file_whose_name_is_not_utf_8(tiny_bundle, clean, tmp_path):
    try:
        (tmp_path / os.fsdecode(b"l\xe4sion.png")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system refuses the name")
    shutil.copy(clean / NAMES[0], tmp_path)
    words = (tmp_path, "--out", tmp_path / "out", "--model", tiny_bundle, "--device", "cpu")
    done = run(*words)
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert r"l\udce4sion.png: the file is empty" in done.stderr
    assert len(table(tmp_path / "out")) == 2


def test_options_of_version_0_1_0_are_read_with_a_note(tiny_bundle, clean, tmp_path):
    words = ("--out", tmp_path / "out", "--device", "cpu", "-q", "--no-flip-averaging")
    result = run(clean, *words, f"--run={tiny_bundle}")
    assert result.exit_code == 0
    assert "--run is now --model" in result.stderr
    assert "--no-flip-averaging is now --no-tta-flip" in result.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["bundle"] == str(tiny_bundle) and record["tta_flip"] is False


def test_a_list_names_more_inputs(tiny_bundle, clean, tmp_path, monkeypatch):
    monkeypatch.chdir(clean)
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"\xef\xbb\xbf# two of them\r\nplain.png\r\n\n  \nwith space (1).png")
    out = ["--out", tmp_path / "out", "--model", tiny_bundle, "--device", "cpu"]
    assert run("--list", listed, *out).exit_code == 0
    assert list(table(tmp_path / "out")["id"]) == ["plain", "with space (1)"]
    words = ["predict", "--list", "-", "--overwrite", *map(str, out)]
    result = CliRunner().invoke(main, words, input=b"with space (1).png\n")
    assert result.exit_code == 0
    assert list(table(tmp_path / "out")["id"]) == ["with space (1)"]


def test_a_list_that_is_not_utf_8_or_holds_nothing_is_wrong_usage(tiny_bundle, tmp_path):
    listed = tmp_path / "list.txt"
    for content, told in [
        (b"a.png\nl\xe4sion.png\n", "line 2 is not UTF-8"),
        (b"# x\n", "no input"),
    ]:
        listed.write_bytes(content)
        result = run("--list", listed, "--out", tmp_path / "out", "--model", tiny_bundle)
        assert result.exit_code == 2 and told in result.stderr


def test_shards_are_disjoint_and_complete_and_have_the_ids_of_the_whole(
    tiny_bundle, folder, tmp_path
):
    inputs = [folder, tmp_path / "other", tmp_path / "missing.png"]
    inputs[1].mkdir()
    shutil.copy(folder / "plain.png", inputs[1] / "plain.png")
    words = [*inputs, "--model", tiny_bundle, "--device", "cpu", "--no-overlays"]
    run(*words, "--out", tmp_path / "whole")
    whole = {row["id"]: row["image"] for row in table(tmp_path / "whole").to_dict("records")}
    found: list[tuple[str, str]] = []
    for number in (1, 2, 3):
        out = tmp_path / f"shard{number}"
        run(*words, "--out", out, "--shard", f"{number}/3")
        found += [(row["id"], row["image"]) for row in table(out).to_dict("records")]
    assert len(found) == len(dict(found)) == len(whole) and dict(found) == whole


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_shard_is_one_of_several(clean, tmp_path, shard):
    result = run(clean, "--out", tmp_path / "out", "--shard", shard)
    assert result.exit_code == 2 and "expected I/N" in result.stderr


def test_resuming_a_complete_result_says_so_and_exits_0(tiny_bundle, clean, tmp_path):
    words = [
        clean,
        "--out",
        tmp_path / "out",
        "--model",
        tiny_bundle,
        "--device",
        "cpu",
        "--resume",
    ]
    assert run(*words).exit_code == 0
    result = run(*words)
    assert result.exit_code == 0
    assert "is complete: 2 predicted; nothing was done" in result.stdout
    assert json.loads(run(*words, "--json").stdout)["complete_before"]
