"""A codec that ends its process costs one image of a batch, and no other one."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_monai.inference import predict
from busi_monai.io import decoding
from busi_monai.io.decoding import FileDecoder
from busi_monai.io.images import frames_of, load_image

ABORTING = """
    import os
    from PIL import Image, ImageFile
    class Aborting(ImageFile.ImageFile):
        format = "ABORTING"
        def _open(self):
            os.abort()
    Image.register_open("ABORTING", Aborting, lambda head: head[:8] == b"ABORTING")
"""


@pytest.fixture
def aborting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image whose codec aborts, in processes that this one starts."""
    codecs = tmp_path / "codecs"
    codecs.mkdir()
    (codecs / "sitecustomize.py").write_text(textwrap.dedent(ABORTING), "utf-8")
    paths = [str(codecs), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    path = tmp_path / "images" / "b_aborting.webp"
    path.parent.mkdir()
    path.write_bytes(b"ABORTING" + bytes(600))
    return path


@pytest.fixture
def odd(tmp_path: Path, save_ultrasound: Callable[..., Path]) -> list[Path]:
    """A WebP, a still and a loop in DICOM, whose decoders are not called in this process."""
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 52), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(folder / "a.webp", lossless=True)
    region = {"PixelSpacing": [0.2, 0.1]}
    return [
        folder / "a.webp",
        save_ultrasound(folder / "c.dcm", pixels[0], **region),
        save_ultrasound(folder / "d_loop.dcm", pixels),
    ]


def test_a_codec_that_aborts_costs_one_image(graph_bundle, aborting, odd, tmp_path, caplog):
    others = multiprocessing.active_children()
    summary = predict(aborting.parent, tmp_path / "out", model=graph_bundle, device="cpu")
    assert "Abnormal termination" in caplog.text
    assert summary.predicted == 5
    (failure,) = summary.failures
    assert failure["file"] == str(aborting) and "its decoder gave up" in failure["message"]
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8") as table:
        rows = {row["id"]: row["error"] for row in csv.DictReader(table)}
    assert len(rows) == 6 and rows["b_aborting"] == failure["message"]
    assert json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))["counts"]["failed"] == 1
    assert set(multiprocessing.active_children()) <= set(others)


def test_images_are_those_that_are_read_in_this_process(odd, tmp_path):
    broken = tmp_path / "images" / "x.dcm"
    broken.write_bytes(odd[1].read_bytes()[:-500])
    with FileDecoder() as decoder:
        for path in odd:
            frames = decoder.frames_of(path)
            assert frames == frames_of(path)
            for image in frames.images:
                read, expected = decoder.load(image), load_image(image)
                assert np.array_equal(read.pixels, expected.pixels)
                assert (read.sha256, read.scale) == (expected.sha256, expected.scale)
        (image,) = decoder.frames_of(broken).images
        with pytest.raises(Exception) as told:
            load_image(image)
        with pytest.raises(type(told.value)) as found:
            decoder.load(image)
        assert str(found.value) == str(told.value)


def test_no_process_is_started_for_common_formats(tmp_path, monkeypatch):
    def start(self: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(decoding.DecodingPool, "_one_process", start)
    image = Image.fromarray(np.arange(2000, dtype=np.uint8).reshape(40, 50))
    with FileDecoder() as decoder:
        for suffix in ("png", "jpg", "bmp", "tif"):
            image.save(tmp_path / f"x.{suffix}")
            (found,) = decoder.frames_of(tmp_path / f"x.{suffix}").images
            assert decoder.load(found).pixels.shape == (40, 50)


def test_a_script_without_a_guarded_main_part_predicts(graph_bundle, odd, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import sys
            from busi_monai.inference.folders import predict
            print(predict(sys.argv[1], sys.argv[2], model=sys.argv[3], device="cpu").predicted)
        """),
        "utf-8",
    )
    words = [sys.executable, script, odd[1], tmp_path / "out", graph_bundle]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
