"""The page in the browser: images in, outlines, classes and files out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Response
from starlette.responses import PlainTextResponse

from busi_monai.cases import CLASSES, NOT_FOR_CLINICAL_USE
from busi_monai.phantoms import draw_phantom
from busi_monai.plots.palette import ACCENT
from busi_monai.serving.answers import ImageResult, png_bytes
from busi_monai.serving.limits import Limits
from busi_monai.serving.problems import ServiceError
from busi_monai.serving.service import PredictionService
from busi_monai.serving.uploads import Upload, uploads_of
from busi_monai.settings import MalignancyThreshold

# NiceGUI would look for a folder below the working directory; nothing is stored
os.environ["NICEGUI_STORAGE_PATH"] = "/nonexistent/nicegui"

from nicegui import Client, core, ui
from nicegui import app as nicegui_app

from busi_monai.serving.page.cards import ResultCard
from busi_monai.serving.page.elements import Choice, Tag, Uploader
from busi_monai.serving.page.results import ShownUpload
from busi_monai.serving.page.turns import PageTurns

__all__ = ["add_page", "point_sentence"]

TITLE = "Breast ultrasound: lesion outline and class"
MOST_PROBABLE = ""
_MAX_CARDS = 12
_MAX_BYTES = 64 * 1024 * 1024
_MAX_PAGES = 100
_EXAMPLE_SIZE = (240, 320)


def add_page(api: FastAPI, service: PredictionService) -> None:
    """Add the page under ``/ui`` to an application; once in a process."""
    examples = _examples()
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")

    @api.get("/examples/{name}.png", include_in_schema=False)
    async def example_image(name: str) -> Response:
        if name not in examples:
            raise ServiceError(404, "not_found", f"there is no example {name[:40]!r}")
        return Response(examples[name], media_type="image/png")

    @nicegui_app.exception_handler(404)
    async def not_found(request: Any, error: Exception) -> Response:
        return PlainTextResponse("There is nothing at this address.", 404)

    @nicegui_app.exception_handler(500)
    async def failed(request: Any, error: Exception) -> Response:
        return PlainTextResponse("The server failed; its log tells why.", 500)

    # what a page's script tells the log is not to be trusted
    core.sio.on("log", _ignore)
    core.sio.eio.cors_allowed_origins = []

    @ui.page("/", title=TITLE, dark=None, language="en-US")
    def index() -> None:
        ui.add_head_html(f"<style>{style}</style>")
        if len(Client.instances) > _MAX_PAGES:
            Tag("p", "Too many pages are open; try again in a minute.", role="alert")
            return
        _Page(service, examples).build()

    # Quasar's bar while something is sent has no name for screen readers; the status says it
    nicegui_app.config.quasar_config["loadingBar"] = {"skipHijack": True}
    nicegui_app.colors(primary=ACCENT)  # the dark page's stands in the style
    ui.run_with(
        api,
        mount_path="/ui",
        title=TITLE,
        dark=None,
        language="en-US",
        tailwind=False,
        storage_secret=None,  # and so no cookie
        gzip_middleware_factory=None,  # the policy's nonce comes first
        show_welcome_message=False,
        reconnect_timeout=30,
        binding_refresh_interval=None,
    )


class _Page:
    """One visitor's page."""

    def __init__(self, service: PredictionService, examples: dict[str, bytes]) -> None:
        self._service = service
        self._examples = examples
        self._cards: list[ResultCard] = []
        self._turns = PageTurns(service, self._complain)
        self._point = service.predictor.operating_point

    def build(self) -> None:
        ui.context.client.on_delete(self._turns.close)
        layout = ui.context.client.layout
        with layout:
            skip = Tag("a", "Skip to the results", href="#results").classes("skip")
            header = Tag("header").classes("notice")
        with header, Tag("div").classes("page"):
            kept = "" if self._service.keeper is None else " Masks and figures are kept here."
            memory = f"Images stay in memory and are dropped with this page.{kept}"
            Tag("p", f"{NOT_FOR_CLINICAL_USE} {memory}")
        header.move(layout, target_index=0)
        skip.move(layout, target_index=0)
        with Tag("div").classes("page"):
            Tag("h1", TITLE)
            with Tag("section", aria_labelledby="h-images"):
                Tag("h2", "Images", id="h-images")
                self._build_uploader(self._service.limits)
                self._build_examples()
                self._build_points()
            self._status = Tag("p", "", role="status", aria_live="polite")
            self._errors = Tag("p", "", role="alert").classes("errors")
            with Tag("section", id="results", tabindex="-1", aria_labelledby="h-results"):
                Tag("h2", "Results", id="h-results")
                self._results = Tag("div")

    def _build_uploader(self, limits: Limits) -> None:
        megabytes = limits.max_bytes // 1024 // 1024
        upload = Uploader(
            multiple=True,
            auto_upload=True,
            max_file_size=limits.max_bytes - 65_536,  # the form's own words
            max_files=limits.max_files,
            label="Choose images",
            on_upload=self._take,
            on_rejected=lambda: self._complain(
                f"Refused: at most {limits.max_files} files of {megabytes} MB each"
            ),
        )
        upload.on("failed", lambda: self._complain("The upload was refused; try again in a minute"))
        upload.props("flat bordered color=transparent")
        with upload.add_slot("header"), Tag("div").classes("drop"):
            Tag("span", "Choose images, or drop them here", aria_hidden="true")
            told = f"PNG, JPEG, BMP, TIFF, NIfTI or DICOM, at most {megabytes} MB each"
            Tag("span", told, id="up-help").classes("small")
            # Quasar's own file input, with the name and the tab stop that QUploader leaves off
            Tag(
                "q-uploader-add-trigger",
                aria_label="Choose images",
                aria_describedby="up-help",
                tabindex=0,
            )
        with upload.add_slot("list"):
            Tag("span")

    def _build_examples(self) -> None:
        Tag("p", "Or try a synthetic phantom (no patient; its class means little):")
        with Tag("div").classes("thumbs"):
            for name in self._examples:
                button = Tag("button", type="button").classes("thumb")
                button.on("click", lambda _, name=name: self._try_example(name))
                with button:
                    Tag("img", src=f"/examples/{name}.png", alt=f"Example phantom: {name}")

    def _build_points(self) -> None:
        points = self._service.predictor.settings.operating_points
        options = {MOST_PROBABLE: "the most probable class", **{name: name for name in points}}
        Choice("Decide malignancy at", options, self._point or MOST_PROBABLE).on(
            "choose", self._choose_point
        )
        self._point_told = Tag("p", self._point_sentence()).classes("small")

    def _point_sentence(self) -> str:
        points = self._service.predictor.settings.operating_points
        if self._point is None:
            return "Malignant is predicted where it is more probable than the other classes."
        return point_sentence(points[self._point])

    async def _choose_point(self, event: Any) -> None:
        chosen = str(event.args)
        if chosen != MOST_PROBABLE and chosen not in self._service.operating_points():
            return
        self._point = chosen or None
        self._point_told.say(self._point_sentence())
        for card in list(self._cards):
            if card.result is not None:
                await self._predict(card.result.upload, card)

    async def _take(self, event: Any) -> None:
        for upload in uploads_of([(event.file.name, await event.file.read())]):
            await self._predict(upload, size=len(upload.content))

    async def _try_example(self, name: str) -> None:
        for upload in uploads_of([(f"phantom {name}.png", self._examples[name])]):
            await self._predict(upload)

    async def _predict(self, upload: Upload, card: ResultCard | None = None, size: int = 0) -> None:
        await self._turns.run(lambda: self._show(upload, card), about=upload.name, size=size)

    async def _show(self, upload: Upload, card: ResultCard | None) -> None:
        service, point = self._service, self._point
        self._status.say(f"Predicting {upload.name} …")

        def predicted_and_shown() -> tuple[list[ImageResult], ShownUpload | None]:
            results = list(service.results([upload], point))
            predicted = [result for result in results if result.prediction is not None]
            return results, ShownUpload.of(upload, predicted, service) if predicted else None

        try:
            results, result = await service.in_turn(predicted_and_shown)
        except ServiceError:
            self._status.say("")
            raise
        if self._turns.closed:
            return
        problems = [result.problem for result in results if result.problem is not None]
        if problems:
            self._complain(problems[0].message)
        else:
            self._errors.say("")
        if result is None:
            self._status.say("")
            return
        if card is None:
            with self._results:
                card = ResultCard(service, self._turns, self._remove)
            self._cards.append(card)
        await card.show(result, service.predictor_at(point))
        self._drop_old()
        entry = result.frames[result.summary].entry
        named = entry["predicted_class"] or "no class"
        of = "" if result.total == 1 else f" in {result.total} frames"
        self._status.say(f"{upload.name}: {named}{of}; the result is below")

    def _complain(self, message: str) -> None:
        self._errors.say(message)

    def _remove(self, card: ResultCard) -> None:
        if card in self._cards:
            self._cards.remove(card)
            card.remove()
            self._status.say("Removed")

    def _drop_old(self) -> None:
        """Keep a page from filling the memory."""
        while len(self._cards) > 1 and (
            len(self._cards) > _MAX_CARDS
            or sum(card.result.size() for card in self._cards if card.result) > _MAX_BYTES
        ):
            self._cards.pop(0).remove()


def point_sentence(point: MalignancyThreshold) -> str:
    """Return a sentence on what an operating point means.

    Examples:
        >>> point_sentence(MalignancyThreshold(0.31, 0.95, 0.8, 0.35, 0.99, 0.1, 2, 40, 200))[:60]
        'Malignant from a probability of 31.0% on. Where it was fitte'
    """
    told = (
        f"Malignant from a probability of {point.threshold:.1%} on. Where it was fitted, it found "
        f"{point.sensitivity:.0%} of {point.positives} malignant and passed "
        f"{point.specificity:.0%} of {point.negatives} other images"
    )
    if point.ppv is None or point.npv is None:
        return f"{told}."
    return (
        f"{told}. At a prevalence of {point.prevalence:.0%}, {point.ppv:.0%} of those called "
        f"malignant are, and {point.npv:.1%} of the others are not."
    )


async def _ignore(*_: Any) -> None:
    """Do nothing with a message."""


def _examples() -> dict[str, bytes]:
    return {
        name: png_bytes(draw_phantom(name, np.random.default_rng(seed), _EXAMPLE_SIZE).pixels)
        for seed, name in enumerate(CLASSES)
    }
