"""The exported page in a real browser, against ``Predictor``."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from busi_monai.cases import CLASSES
from busi_monai.imaging import decide
from busi_monai.inference import Prediction, export_web
from busi_monai.inference.web_export import RUNTIME
from busi_monai.settings import Consistency, InferenceSettings
from tests.serving.visits import axe_violations, visiting

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


class Quiet(SimpleHTTPRequestHandler):
    """As ``python -m http.server``, without its log."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def folder(ort_web: Path, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the released weights."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    out = tmp_path_factory.mktemp("web") / "page"
    export_web("breast_ultrasound_segmentation_classification", out, ort_web)
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Any]:
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield SimpleNamespace(address=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def ready(visit: Any) -> None:
    visit.page.get_by_text("Ready:").wait_for(timeout=90_000)


def predicted(visit: Any, name: str, content: bytes) -> tuple[np.ndarray, list[float]]:
    """Return the mask that the page saves, and the probabilities of its bars."""
    visit.upload(name, content)
    visit.page.get_by_role("status").get_by_text(f"{name}: ").filter(
        has_text="The result is below"
    ).wait_for(timeout=90_000)
    with visit.page.expect_download(timeout=20_000) as found:
        visit.page.get_by_role("link", name="Save the mask (PNG)").click()
    mask = np.asarray(Image.open(found.value.path()).convert("L"))
    bars = visit.page.get_by_role("progressbar")
    return mask, [bars.nth(at).evaluate("e => e.value") for at in range(bars.count())]


def check_same(visit: Any, name: str, content: bytes, expected: Prediction) -> None:
    mask, probabilities = predicted(visit, name, content)
    assert mask.shape == expected.mask.shape, name
    assert probabilities == pytest.approx(list(expected.probabilities.values()), abs=1e-3), name
    verdict = visit.page.locator("#verdict").inner_text()
    assert verdict.startswith(str(expected.predicted_class)), name
    assert np.mean((mask > 0) != (expected.mask > 0)) <= 1e-3, name


def test_twenty_phantoms_are_the_predictors(browser, page, twenty, expected):
    with visiting(browser, page) as visit:
        ready(visit)
        for path in sorted(twenty.iterdir()):
            check_same(visit, path.name, path.read_bytes(), expected[path.stem])


@pytest.mark.realdata
def test_twenty_images_of_busi_are_the_predictors(browser, page, released, real_busi):
    found = {
        name: sorted(path for path in (real_busi / name).glob("*.png") if "_mask" not in path.name)
        for name in CLASSES
    }
    paths = [*found["normal"][:4], *found["benign"][:8], *found["malignant"][:8]]
    with visiting(browser, page) as visit:
        ready(visit)
        for path in paths:
            check_same(visit, path.name, path.read_bytes(), released.predict(path))


def test_every_kind_of_file_is_read_as_busi_monai_reads_it(
    browser, page, released, twenty, tmp_path
):
    grey = Image.open(next(twenty.glob("0 benign*"))).convert("L")
    tinted = Image.merge("RGB", (grey, grey.point(lambda v: v * 0.7), grey.point(lambda v: v // 2)))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "tinted.png": (tinted, {}),
        "opaque.png": (tinted.convert("RGBA"), {}),
        "palette.png": (grey.convert("P"), {}),
        "turned.jpg": (grey, {"exif": turned, "quality": 95}),
        "colours.jpg": (tinted, {"quality": 95, "subsampling": 0}),
        "grey.bmp": (grey, {}),
        "tinted.webp": (tinted, {"lossless": True}),
    }
    with visiting(browser, page) as visit:
        ready(visit)
        for name, (image, options) in kinds.items():
            image.save(tmp_path / name, **options)
            content = (tmp_path / name).read_bytes()
            check_same(visit, name, content, released.predict(tmp_path / name))
        assert visit.page.locator("#notes li").count() == 0


def test_the_rules_are_those_of_python(browser, page):
    draw = np.random.default_rng(0)
    asked, answers = [], []
    for _ in range(400):
        classes = CLASSES if draw.random() < 0.8 else CLASSES[1:]
        limits = {name: draw.random() for name in classes if draw.random() < 0.3}
        normal = None if draw.random() < 0.5 else draw.random()
        fraction, empties = draw.choice([0.0, 0.001, 0.1]), bool(draw.random() < 0.7)
        rule = Consistency(bool(draw.random() < 0.8), fraction, normal, empties)
        settings = InferenceSettings(
            classes=classes, mask_threshold=draw.choice([0.3, 0.5, 0.99, 1.0]),
            class_thresholds=limits, consistency=rule,
        )  # fmt: skip
        lesion = draw.random((6, 8), dtype=np.float32) * (draw.random() < 0.9)
        found = draw.dirichlet(np.ones(len(classes))).tolist()
        asked.append([lesion.ravel().tolist(), found, asdict(settings)])
        mask, name = decide(lesion, found, settings)
        answers.append([mask.ravel().tolist(), name])
    script = """async (asked) => {
        const { decide } = await import("./decide.js");
        return asked.map((words) => {
            const { mask, predictedClass } = decide(...words);
            return [Array.from(mask), predictedClass];
        });
    }"""
    with visiting(browser, page) as visit:
        assert visit.page.evaluate(script, json.loads(json.dumps(asked))) == answers
        ready(visit)


def test_a_wrong_file_is_explained_and_the_next_one_works(browser, page, released, twenty):
    content = (twenty / "asymmetric.png").read_bytes()
    stream = io.BytesIO()
    Image.new("L", (1, 30)).save(stream, "PNG")
    with visiting(browser, page) as visit:
        ready(visit)
        alert = visit.page.get_by_role("alert")
        for name, wrong, words in (
            ("<img src=x onerror=alert(1)>notes.png", b"these are notes", "no image that the"),
            ("half.png", content[:40], "no image that the browser"),
            ("thin.png", stream.getvalue(), "1×30 pixels is no image"),
        ):
            visit.upload(name, wrong)
            alert.filter(has_text=words).wait_for(timeout=90_000)
            assert alert.inner_text().startswith(name)
        assert visit.page.locator("#name").inner_text().strip() == ""
        check_same(visit, "asymmetric.png", content, released.predict(twenty / "asymmetric.png"))
        assert alert.inner_text() == ""


def test_deep_and_transparent_images_come_with_a_note(browser, page):
    grey = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)
    deep, clear = io.BytesIO(), io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 500).save(deep, "PNG")
    Image.fromarray(np.stack([grey] * 3 + [grey // 2], axis=-1)).save(clear, "PNG")
    with visiting(browser, page) as visit:
        ready(visit)
        for name, content, words in (
            ("deep.png", deep, "Of the 16 bits of this PNG the browser reads 8"),
            ("clear.png", clear, "The image is partly transparent"),
        ):
            predicted(visit, name, content.getvalue())
            assert visit.page.get_by_text(words).count() == 1


@pytest.mark.parametrize(
    ("label", "options"),
    [
        ("desktop", {}),
        ("dark", {"color_scheme": "dark"}),
        ("phone", PHONE),
        ("phone-dark", {**PHONE, "color_scheme": "dark"}),
    ],
)
def test_axe_finds_nothing_and_nothing_is_cut_off(browser, page, label, options):
    with visiting(browser, page, **options) as visit:
        ready(visit)
        assert axe_violations(visit) == []
        visit.image(f"web-{label}-empty")
        visit.page.get_by_role("button", name="Example phantom: benign").click()
        visit.page.get_by_text("The result is below").wait_for(timeout=90_000)
        assert visit.page.locator("#outline .line").get_attribute("d").startswith("M")
        assert visit.page.locator("#outline").bounding_box()["width"] > 100
        assert axe_violations(visit) == []
        visit.image(f"web-{label}")
        widths = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1]
        visit.page.keyboard.press("End")
        notice = visit.page.get_by_text("For research use only; not a medical device")
        assert 0 <= notice.bounding_box()["y"] < visit.page.evaluate("innerHeight")


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_nothing_moves_while_the_page_starts_and_shows(browser, page, options):
    shifts = """() => new Promise((done) => {
        const found = [];
        new PerformanceObserver((list) => found.push(...list.getEntries())).observe(
            { type: "layout-shift", buffered: true });
        setTimeout(() => done(found.flatMap((one) => one.sources.map(
            ({ node }) => `${node?.id || node?.nodeName} ${one.value}`))), 300);
    })"""
    with visiting(browser, page, **options) as visit:
        ready(visit)
        visit.page.get_by_role("button", name="Example phantom: benign").click()
        visit.page.get_by_text("The result is below").wait_for(timeout=90_000)
        assert visit.page.evaluate(shifts) == []


def test_the_keyboard_alone_is_enough(browser, page, twenty):
    with visiting(browser, page) as visit:
        ready(visit)
        visit.page.keyboard.press("Tab")
        with visit.page.expect_file_chooser(timeout=10_000) as chooser:
            visit.page.keyboard.press("Enter")
        chooser.value.set_files([twenty / "asymmetric.png"])
        status = visit.page.get_by_role("status")
        status.get_by_text("asymmetric.png").filter(has_text="below").wait_for(timeout=90_000)
        visit.page.keyboard.press("Tab")
        visit.page.keyboard.press("Enter")
        status.get_by_text("phantom normal.png").filter(has_text="below").wait_for(timeout=90_000)


def test_a_dropped_file_is_predicted(browser, page, twenty):
    with visiting(browser, page) as visit:
        ready(visit)
        held = {"items": [], "files": [str(twenty / "asymmetric.png")], "dragOperationsMask": 1}
        mouse = visit.page.context.new_cdp_session(visit.page)  # events that the browser trusts
        for kind in ("dragEnter", "dragOver", "dragOver", "drop"):
            place = {"x": 300, "y": 400}
            mouse.send("Input.dispatchDragEvent", {"type": kind, **place, "data": held})
        visit.page.get_by_text("The result is below").wait_for(timeout=90_000)


def test_neither_page_nor_worker_may_ask_another_host(browser, page):
    asked = "fetch('http://127.0.0.2:9/').then(() => 'sent', (error) => error.name)"
    told: list[str] = []
    with visiting(browser, page) as visit:
        ready(visit)
        for place in (visit.page, *visit.page.workers):
            told.append(place.evaluate(asked))
        visit.page.wait_for_timeout(300)
        refused = [text for text in visit.said if "Content Security Policy" in text]
        assert len(visit.page.workers) == 1 and told == ["TypeError", "TypeError"]
        assert len(refused) >= 2
        visit.said.clear()
        visit.requests[:] = [url for url in visit.requests if "127.0.0.2" not in url]


def test_a_missing_file_of_the_folder_is_named(browser, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "page")
    (copy / "runtime" / RUNTIME[-1]).unlink()
    handler = partial(Quiet, directory=str(copy))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened = browser.new_page()
        opened.goto(f"http://127.0.0.1:{server.server_port}")
        alert = opened.get_by_role("alert")
        alert.filter(has_text=f"{RUNTIME[-1]} cannot be loaded").wait_for(timeout=90_000)
        opened.close()
        server.shutdown()
