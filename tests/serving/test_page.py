"""The page in a real browser: what a visitor sees, hears, and takes away."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from busi_monai.bundle.shipped import find_bundle
from busi_monai.inference import Predictor
from busi_monai.io.image_files import ImageBytes
from busi_monai.serving.credentials import new_token_entry
from busi_monai.settings import MalignancyThreshold

from .conftest import Server, png_of, running_server
from .images import CLASSES, assert_same
from .visits import axe_violations, visiting

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with two operating points."""
    bundle = tmp_path_factory.mktemp("page") / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    settings = Predictor.load(bundle, "cpu").settings
    told = {"sensitivity": 0.95, "specificity": 0.5, "ppv": 0.2, "npv": 0.99, "prevalence": 0.1}
    told |= {"missed": 1, "positives": 20, "negatives": 30}
    points = {
        "sensitivity_95": MalignancyThreshold(threshold=0.0, **told),
        "specificity_95": MalignancyThreshold(threshold=1.0, **told),
    }
    replace(settings, operating_points=points).save(bundle)
    return bundle


@pytest.fixture(scope="module")
def server(browser: Any, bundle: Path) -> Iterator[Server]:
    with running_server(bundle, "--page", "--per-minute", 0) as server:
        yield server


@pytest.fixture(scope="module")
def released_server(browser: Any) -> Iterator[Server]:
    with running_server(find_bundle(), "--page", "--per-minute", 0) as server:
        yield server


def test_an_upload_gives_the_predictors_mask_and_probabilities(browser, server, predictor, png):
    expected = predictor.predict(ImageBytes(png))
    with visiting(browser, server) as visit:
        visit.upload("Bild ä.png", png)
        card = visit.card()
        assert expected.predicted_class in card.locator(".verdict").inner_text()
        for name, probability in expected.probabilities.items():
            assert card.get_by_text(f"{name}: {probability:.1%}").count() == 1
            bar = card.get_by_role("progressbar", name=f"Probability of {name}")
            assert float(bar.get_attribute("value")) == pytest.approx(probability, abs=1e-4)
        assert f"{expected.lesion_pixels} px in all" in card.inner_text()
        assert "the most probable class" in card.inner_text()
        name, mask = visit.download(card, "Mask PNG")
        assert name == "Bild ä_mask.png"
        pixels = np.asarray(Image.open(io.BytesIO(mask)))
        assert pixels.shape == (70, 110) and np.array_equal(pixels > 0, expected.mask > 0)
        _, table = visit.download(card, "CSV")
        header, row = table.decode().splitlines()
        values = dict(zip(header.split(","), row.split(","), strict=True))
        for name, probability in expected.probabilities.items():
            assert float(values[f"p_{name}"]) == pytest.approx(probability, abs=1e-5)
        _, overlay = visit.download(card, "Overlay PNG")
        assert Image.open(io.BytesIO(overlay)).size[0] == 110
        assert card.get_by_role("button", name="DICOM SEG").count() == 0
        status = visit.page.get_by_role("status").inner_text()
        assert "Bild ä.png" in status and expected.predicted_class in status


def test_the_slider_fades_the_outline_by_keys(browser, server, png):
    with visiting(browser, server) as visit:
        visit.upload("a.png", png)
        card = visit.card()
        slider = card.get_by_label("Opacity of outline")
        slider.focus()
        for _ in range(10):
            visit.page.keyboard.press("ArrowLeft")
        outline = card.locator("img.outline")
        assert outline.evaluate("e => getComputedStyle(e).opacity") == "0.5"
        assert card.locator(".stack img").first.evaluate("e => getComputedStyle(e).opacity") == "1"


def test_the_heat_map_comes_on_demand_and_goes(browser, server, png):
    with visiting(browser, server) as visit:
        visit.upload("a.png", png)
        card = visit.card()
        button = card.get_by_role("button", name="Heat map")
        assert card.locator("img.heat").count() == 0
        button.click()
        card.locator("img.heat").wait_for(timeout=20_000)
        assert button.get_attribute("aria-pressed") == "true"
        assert button.evaluate("e => getComputedStyle(e).boxShadow").endswith("inset")
        assert "Heat map" in card.locator("img.heat").get_attribute("alt")
        button.click()
        card.locator("img.heat").wait_for(state="detached", timeout=20_000)


def test_a_text_file_called_png_is_explained(browser, server, png):
    with visiting(browser, server) as visit:
        visit.upload("<img src=x onerror=alert(1)>notes.png", b"these are notes")
        alert = visit.page.get_by_role("alert").filter(has_text="not an image")
        alert.wait_for(timeout=20_000)
        assert "notes.png" in alert.inner_text()
        assert visit.page.locator("article").count() == 0
        visit.upload("a.png", png)
        visit.card()
        assert visit.page.get_by_role("alert").inner_text() == ""


def test_the_operating_point_decides_and_says_what_it_means(browser, server, png):
    with visiting(browser, server) as visit:
        visit.upload("a.png", png)
        card = visit.card()
        visit.page.get_by_label("Decide malignancy at").select_option("sensitivity_95")
        card.get_by_text("Decided at: sensitivity_95").wait_for(timeout=20_000)
        assert "malignant" in card.locator(".verdict").inner_text()
        told = visit.page.get_by_text("At a prevalence of 10 %".replace(" %", "%")).inner_text()
        assert "95% of 20 malignant" in told and "99.0%" in told
        visit.page.get_by_label("Decide malignancy at").select_option("specificity_95")
        card.get_by_text("Decided at: specificity_95").wait_for(timeout=20_000)
        assert "malignant" not in card.locator(".verdict").inner_text()


def test_a_loop_shows_its_telling_frame_and_any_other(
    browser, server, predictor, pixels, save_ultrasound, tmp_path
):
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    import pydicom

    loop = np.stack([pixels, pixels[::-1], 255 - pixels])
    path = save_ultrasound(tmp_path / "loop.dcm", loop, PixelSpacing=[0.2, 0.2])
    with visiting(browser, server) as visit:
        visit.upload("loop.dcm", path.read_bytes())
        card = visit.card()
        assert re.search(r"\d mm, .* mm² in all", card.inner_text())
        assert "Secret" not in visit.page.content()
        slider = card.get_by_label("Frame of the loop")
        slider.focus()
        visit.page.keyboard.press("Home")
        card.get_by_text("1 of 3").wait_for(timeout=20_000)
        visit.page.wait_for_timeout(1500)
        name, mask = visit.download(card, "Mask PNG")
        assert name == "loop_frame_001_mask.png"
        shown = np.asarray(Image.open(io.BytesIO(mask))) > 0
        assert np.array_equal(shown, predictor.predict(loop[0]).mask > 0)
        _, table = visit.download(card, "CSV")
        assert len(table.decode().splitlines()) == 4
        name, seg = visit.download(card, "DICOM SEG")
        made = pydicom.dcmread(io.BytesIO(seg))
        assert name == "loop_seg.dcm" and made.Modality == "SEG"
        assert made.PatientName == ""


@pytest.mark.parametrize(
    ("label", "options"),
    [("desktop", {}), ("dark", {"color_scheme": "dark"}), ("phone", PHONE)],
)
def test_axe_finds_nothing_and_nothing_is_cut_off(browser, server, label, options):
    with visiting(browser, server, **options) as visit:
        assert axe_violations(visit) == []
        visit.page.get_by_role("button", name="Example phantom: malignant").click()
        card = visit.card()
        card.get_by_role("button", name="Heat map").click()
        card.locator("img.heat").wait_for(timeout=20_000)
        assert axe_violations(visit) == []
        widths = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1]
        background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(18, 18, 18)") == (label == "dark")
        visit.page.keyboard.press("End")
        notice = visit.page.get_by_text("For research use only; not a medical device")
        box = notice.bounding_box()
        height = visit.page.evaluate("innerHeight")
        assert box is not None and 0 <= box["y"] < height
        visit.image(label)


def test_the_keyboard_alone_is_enough(browser, server, png):
    with visiting(browser, server) as visit:
        visit.page.keyboard.press("Tab")
        focused = "document.activeElement.textContent"
        assert visit.page.evaluate(focused) == "Skip to the results"
        visit.page.keyboard.press("Tab")
        with visit.page.expect_file_chooser(timeout=10_000) as chooser:
            visit.page.keyboard.press("Enter")
        file = {"name": "a.png", "mimeType": "image/png", "buffer": png}
        chooser.value.set_files([file])
        visit.card()


def test_several_files_can_be_dropped_at_once(browser, server, pixels, tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(png_of(pixels[number:]))
    with visiting(browser, server) as visit:
        box = visit.page.locator(".q-uploader").bounding_box()
        held = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        mouse = visit.page.context.new_cdp_session(visit.page)  # events that the browser trusts
        for kind in ("dragEnter", "dragOver", "dragOver", "drop"):
            place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
            mouse.send("Input.dispatchDragEvent", {"type": kind, **place, "data": held})
        for number in range(3):
            visit.card(number)
        articles = visit.page.locator("article")
        articles.first.get_by_role("button", name="Remove").click()
        articles.nth(2).wait_for(state="detached", timeout=20_000)
        assert articles.count() == 2


def test_a_visitor_with_a_token_is_let_in(browser, bundle, png, tmp_path):
    token, line = new_token_entry("alice")
    (tmp_path / "tokens").write_text(line)
    words = ("--page", "--per-minute", 0, "--auth-file", tmp_path / "tokens")
    with running_server(bundle, *words) as server:
        assert httpx.get(server.address).status_code == 401
        known = {"username": "alice", "password": token}
        with visiting(browser, server, http_credentials=known) as visit:
            visit.upload("a.png", png)
            _, mask = visit.download(visit.card(), "Mask PNG")
            assert Image.open(io.BytesIO(mask)).size == (110, 70)
            visit.said = [told for told in visit.said if "401" not in told]  # the first question


def test_twenty_downloads_are_the_predictors(browser, released_server, twenty, expected):
    with visiting(browser, released_server) as visit:
        for path in sorted(twenty.iterdir()):
            visit.upload(path.name, path.read_bytes())
            card = visit.page.locator("article").filter(has_text=path.name)
            card.get_by_text("Uncertainty").wait_for(timeout=30_000)
            _, table = visit.download(card, "CSV")
            (row,) = csv.DictReader(io.StringIO(table.decode()))
            _, mask = visit.download(card, "Mask PNG")
            probabilities = {name: float(row[f"p_{name}"]) for name in CLASSES}
            pixels = np.asarray(Image.open(io.BytesIO(mask)))
            assert_same(expected[path.stem], pixels, probabilities, path.name)
            card.get_by_role("button", name="Remove").click()
            card.wait_for(state="detached", timeout=20_000)
