"""A visit to the page in a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from .conftest import Server

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

    def image(self, name: str) -> None:
        if SCREENSHOTS:
            self.page.wait_for_timeout(400)
            self.page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)


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
    visit.page.get_by_role("heading", name="Result").wait_for(timeout=30_000)
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
