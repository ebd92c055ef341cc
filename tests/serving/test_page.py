"""The page in a real browser: what a visitor sees, hears, and takes away."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from busi_monai.image_files import ImageBytes
from busi_monai.inference import Predictor
from busi_monai.operating import MalignancyThreshold

from .conftest import Server, png_of, running_server

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
SCREENSHOTS = os.environ.get("BUSI_MONAI_SCREENSHOTS")


@dataclass
class Visit:
    """A page, and what it asked for and said."""

    page: Any
    server: Server
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def upload(self, name: str, content: bytes) -> None:
        file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
        self.page.locator("input[type=file]").set_input_files([file])

    def card(self, number: int = 0) -> Any:
        card = self.page.locator("article").nth(number)
        card.locator(".stack img").nth(1).wait_for(timeout=30_000)
        card.get_by_text("Uncertainty").wait_for(timeout=30_000)
        return card

    def download(self, card: Any, button: str) -> tuple[str, bytes]:
        with self.page.expect_download(timeout=20_000) as found:
            card.get_by_role("button", name=button).click()
        return found.value.suggested_filename, Path(found.value.path()).read_bytes()

    def picture(self, name: str) -> None:
        if SCREENSHOTS:
            self.page.wait_for_timeout(400)
            self.page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with two operating points."""
    bundle = tmp_path_factory.mktemp("page") / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    operating = Predictor.load(bundle, "cpu").operating
    told = {"sensitivity": 0.95, "specificity": 0.5, "ppv": 0.2, "npv": 0.99, "prevalence": 0.1}
    told |= {"missed": 1, "positives": 20, "negatives": 30}
    points = {
        "sensitivity_95": MalignancyThreshold(threshold=0.0, **told),
        "specificity_95": MalignancyThreshold(threshold=1.0, **told),
    }
    replace(operating, operating_points=points).save(bundle / "operating.json")
    return bundle


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Server]:
    if find_spec("playwright") is None:
        pytest.skip("playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium is installed; Debian has one")
    with running_server(bundle, "--page", "--per-minute", 0) as server:
        yield server


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visiting(browser: Any, server: Server, **options: Any) -> Iterator[Visit]:
    """Open the page; at the end it must have said nothing and asked no one else."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    visit = Visit(context.new_page(), server)
    visit.page.on("request", lambda request: visit.requests.append(request.url))
    visit.page.on("console", lambda message: visit.said.append(f"{message.type}: {message.text}"))
    visit.page.on("pageerror", lambda error: visit.said.append(str(error)))
    visit.page.on("filechooser", lambda _: None)  # a real one would wait for ever
    visit.page.goto(server.address)
    visit.page.get_by_role("heading", name="Results").wait_for(timeout=30_000)
    visit.page.locator("input[type=file]").wait_for(state="attached", timeout=30_000)
    yield visit
    hosts = {url.split("/")[2] for url in visit.requests if url.startswith(("http", "ws"))}
    assert hosts == {server.address.split("/")[2]}
    assert visit.said == []
    assert context.cookies() == []
    context.close()


def axe_violations(visit: Visit) -> list[str]:
    found = find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe-playwright-python is not installed")
    script = Path(found.origin).with_name("axe.min.js").read_text("utf-8")
    said = len(visit.said)
    visit.page.evaluate(script)  # over the debugger's line, past the page's policy
    result = visit.page.evaluate("async () => await axe.run(document)")
    visit.page.wait_for_timeout(500)  # what the browser says of axe's own inline styles comes late
    del visit.said[said:]
    assert len(result["passes"]) > 15
    return [
        f"{violation['id']}: {node['html'][:150]} {node['failureSummary'][:200]}"
        for violation in result["violations"]
        for node in violation["nodes"]
    ]


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
        assert "Heat map" in card.locator("img.heat").get_attribute("alt")
        button.click()
        card.locator("img.heat").wait_for(state="detached", timeout=20_000)


def test_a_text_file_called_png_is_explained(browser, server, png):
    with visiting(browser, server) as visit:
        visit.upload("<img src=x onerror=alert(1)>notes.png", b"these are notes")
        alert = visit.page.get_by_role("alert").filter(has_text="not a picture")
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
        visit.picture(label)


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


def test_several_files_can_be_dropped_at_once(browser, server, pixels):
    with visiting(browser, server) as visit:
        files = [
            {"name": f"{n}.png", "mimeType": "image/png", "buffer": png_of(pixels[n:])}
            for n in range(3)
        ]
        visit.page.locator("input[type=file]").set_input_files(files)
        for number in range(3):
            visit.card(number)
        visit.page.locator("article").first.get_by_role("button", name="Remove").click()
        visit.page.wait_for_timeout(1000)
        assert visit.page.locator("article").count() == 2
