"""What a file may do to the process that decodes it, and what it may not do to the service."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

from busi_monai.errors import ImageReadError
from busi_monai.io.decoding import DecodingPool
from busi_monai.io.image_files import ImageBytes
from busi_monai.io.images import ImageFile, read_image

from . import misbehaving
from .conftest import png_of
from .misbehaving import chatter, circumstances, crash, fill, hang, own_id

pytestmark = pytest.mark.skipif(os.name == "nt", reason="limits and signals are POSIX")


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecodingPool]:
    tests = Path(__file__).resolve().parents[1]  # where the process finds what misbehaves
    monkeypatch.setattr(sys, "path", [str(tests), *sys.path])
    pool = DecodingPool(seconds=3.0)
    yield pool
    pool.close()


def run(pool: DecodingPool, function: Callable[[ImageBytes], object], content: bytes) -> object:
    source = ImageBytes(content, "x.png")
    return pool._run(function, source)


def test_images_are_those_of_read_image(pool, pixels, save_ultrasound, tmp_path):
    still = ImageBytes(png_of(pixels))
    assert pool.header(still) is None
    assert np.array_equal(pool.read(ImageFile(still)).pixels, read_image(still).pixels)
    path = save_ultrasound(
        tmp_path / "x.dcm", np.stack([pixels, pixels[::-1]]), PixelSpacing=[0.2, 0.1]
    )
    loop = ImageBytes(path.read_bytes())
    assert pool.header(loop).frames == 2
    for frame in (1, 0, 1):
        found, expected = (
            pool.read(ImageFile(loop, frame)),
            read_image(ImageFile(path, frame)),
        )
        assert np.array_equal(found.pixels, expected.pixels)
        assert found.spacing_mm == (0.2, 0.1)


def test_what_is_wrong_with_a_file_is_told_as_ever(pool):
    with pytest.raises(ImageReadError, match=r"notes\.png: not an image that can be read"):
        pool.read(ImageFile(ImageBytes(b"notes", "notes.png")))
    with pytest.raises(TypeError, match="ImageBytes"):
        pool.read(ImageFile(Path("x.png")))


@pytest.mark.parametrize(
    ("misbehave", "told"), [(crash, "Abnormal termination"), (hang, "Task timeout")]
)
def test_a_decoder_that_crashes_or_hangs_costs_its_own_answer(pool, png, caplog, misbehave, told):
    others = [png_of(np.full((20 + n, 30), 90, dtype=np.uint8)) for n in range(8)]
    with ThreadPoolExecutor(4) as threads:
        bad = threads.submit(run, pool, misbehave, png)
        read = threads.map(lambda c: pool.read(ImageFile(ImageBytes(c))).pixels.shape, others)
        assert list(read) == [(20 + n, 30) for n in range(8)]
        with pytest.raises(ImageReadError, match=r"x\.png: .* gave up, or took too long"):
            bad.result()
    assert told in caplog.text
    assert pool.read(ImageFile(ImageBytes(png))).pixels.shape == (70, 110)


def test_a_process_has_one_thread_no_core_dump_and_nothing_of_the_service(pool, png):
    # a variable of this process, as the tokens and images of a service are
    misbehaving.SECRET.append("secret")
    try:
        assert run(pool, circumstances, png) == {"threads": 1, "core": (0, 0), "secret": []}
    finally:
        misbehaving.SECRET.clear()


def test_memory_is_limited(pool, png):
    with pytest.raises(ImageReadError, match=r"x\.png: cannot be read \(MemoryError\)"):
        run(pool, fill, png)


def test_a_process_that_was_ended_while_idle_is_replaced(pool, png):
    image = ImageFile(ImageBytes(png))
    for idle in {run(pool, own_id, png) for _ in range(3)}:
        os.kill(idle, signal.SIGKILL)
    assert pool.read(image).pixels.shape == (70, 110)


def test_what_decoders_print_is_no_answer(pool, capfd):
    assert run(pool, chatter, b"four") == 4
    assert capfd.readouterr() == ("", "")


def test_callers_beside_each_other_get_their_own(pool):
    sizes = [(20 + n, 30 + n) for n in range(12)]
    contents = [png_of(np.full(size, 90, dtype=np.uint8)) for size in sizes]
    with ThreadPoolExecutor(4) as threads:
        read = threads.map(lambda c: pool.read(ImageFile(ImageBytes(c))).pixels.shape, contents)
    assert list(read) == sizes


def test_a_jpeg_that_aborts_its_decoder_leaves_the_service_up(client, save_ultrasound, tmp_path):
    pytest.importorskip("gdcm", reason="python-gdcm is not installed")
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (48, 48), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    whole = stream.getvalue()
    path = save_ultrasound(tmp_path / "x.dcm", pixels)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGExtended12Bit
    for cut in (len(whole) // 2, 200, 30):
        dataset.PixelData = encapsulate([whole[:cut] + b"\x5a\xff\xc9" + whole[cut:]])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        response = client.post("/v1/predict", files=[("file", ("x.dcm", path.read_bytes()))])
        assert response.status_code in {200, 422}
    assert client.get("/v1/health").json()["requests"] == 0
