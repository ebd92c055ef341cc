"""The card of one upload on the page: image, probabilities, sizes, downloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui

from busi_monai.inference import Predictor, Uncertainty
from busi_monai.serving.page.elements import ImageStack, Tag
from busi_monai.serving.page.results import ShownFrame, ShownUpload, data_url, heat_png
from busi_monai.serving.page.turns import PageTurns
from busi_monai.serving.service import PredictionService

__all__ = ["ResultCard", "size_sentence"]


class ResultCard:
    """Shows what was predicted of an upload; made within the element that is to hold it."""

    def __init__(
        self,
        service: PredictionService,
        turns: PageTurns,
        removed: Callable[[ResultCard], None],
    ) -> None:
        self._service = service
        self._turns = turns
        self._removed = removed
        self._heated = False
        self._frame_asked = False
        self.result: ShownUpload | None = None
        self._place = 0
        self._predictor: Predictor = service.predictor
        self._box = Tag("article").classes("card")

    async def show(self, result: ShownUpload, predictor: Predictor) -> None:
        """Show a result, of a loop the frame that stands for it."""
        self.result, self._predictor, self._place = result, predictor, result.summary
        self._heated = False
        self._box.clear()
        self._box.props["aria-label"] = result.upload.name
        with self._box:
            Tag("h3", result.upload.name)
            with Tag("div").classes("cols"):
                with Tag("div"):
                    self._stack = ImageStack().on("place", self._choose_frame)
                with Tag("div"):
                    self._told = Tag("div")
                    self._buttons(result)
        await self._show_frame()

    def remove(self) -> None:
        """Take the card away, and what it holds in memory."""
        self.result = None
        self._box.delete()

    @property
    def frame(self) -> ShownFrame:
        """The frame that is shown."""
        if self.result is None:
            raise RuntimeError("nothing is shown yet")
        return self.result.frames[self._place]

    async def _choose_frame(self, event: Any) -> None:
        place = event.args if isinstance(event.args, int) else self._place
        if self.result is not None and 0 <= place < len(self.result.frames):
            self._place = place
            if not self._frame_asked:  # else the place is found when that one's turn comes
                self._frame_asked = True
                if not await self._turns.run(self._show_frame):
                    self._frame_asked = False

    async def _show_frame(self) -> None:
        self._frame_asked = False
        if self.result is None:
            return
        frame, predictor = self.frame, self._predictor

        def looked_at() -> tuple[bytes, bytes, Uncertainty]:
            loaded = self._service.decoding.read(frame.image)
            return *frame.shown(loaded.pixels), predictor.uncertainty(loaded)

        image, outline, unsure = await self._service.in_turn(looked_at)
        if self.result is None or self._turns.closed:
            return
        name, entry = self.result.upload.name, frame.entry
        self._heated = False
        self._heat_button.props["aria-pressed"] = "false"
        self._stack.show(
            image=data_url(image),
            outline=data_url(outline),
            heat="",
            alt=f"Ultrasound image {name} with the predicted outline drawn on it",
            frames=len(self.result.frames),
            place=self._place,
            told=f"{entry['frame']} of {self.result.total}",
        )
        self._told.clear()
        with self._told:
            self._tell(entry, unsure)

    def _tell(self, entry: dict[str, Any], unsure: Uncertainty) -> None:
        if entry["predicted_class"] is not None:
            confidence = f"calibrated probability {entry['confidence']:.0%}"
            Tag("p", f"Predicted class: {entry['predicted_class']}, {confidence}").classes(
                "verdict"
            )
        for name, probability in entry["probabilities"].items():
            Tag("p", f"{name}: {probability:.1%}", aria_hidden="true").classes("bar-label")
            bar = Tag("progress", max=1, value=round(probability, 4)).classes("bar")
            bar.props["aria-label"] = f"Probability of {name}: {probability:.1%}"
        point = self._predictor.operating_point
        Tag("p", f"Decided at: {point or 'the most probable class'}")
        Tag("p", size_sentence(entry))
        Tag("p", _unsure_sentence(unsure))
        if entry["warnings"]:
            with Tag("ul"):
                for warned in entry["warnings"]:
                    Tag("li", f"Note: {warned['message']}.")

    def _buttons(self, result: ShownUpload) -> None:
        id = result.upload.id
        with Tag("div").classes("buttons"):
            self._heat_button = ui.button("Heat map", on_click=self._ask_for_heat)
            self._heat_button.props("outline no-caps aria-pressed=false")
            self._download("Mask PNG", lambda: self.frame.mask_png, "mask.png")
            self._download("Overlay PNG", self._overlay_png, "overlay.png")
            self._download("CSV", result.csv, f"{id}.csv")
            if result.is_dicom:
                identity = self._service.identity
                self._download("DICOM SEG", lambda: result.dicom_seg(identity), f"{id}_seg.dcm")
            ui.button("Remove", on_click=lambda: self._removed(self)).props("flat no-caps")

    def _overlay_png(self) -> bytes:
        frame = self.frame
        return frame.overlay_png(self._service.decoding.read(frame.image).pixels)

    def _download(self, text: str, content: Callable[[], bytes], name: str) -> None:
        async def send() -> None:
            if self.result is None:
                return
            one = name in {"mask.png", "overlay.png"}
            whole = f"{self.frame.entry['id']}_{name}" if one else name
            made = await self._service.in_turn(content)
            if not self._turns.closed:
                ui.download.content(made, whole)

        async def send_in_turn() -> None:
            await self._turns.run(send)

        ui.button(text, on_click=send_in_turn).props("outline no-caps")

    async def _ask_for_heat(self) -> None:
        await self._turns.run(self._toggle_heat)

    async def _toggle_heat(self) -> None:
        if self.result is None:
            return
        frame, predictor = self.frame, self._predictor
        name = frame.entry["predicted_class"]

        def warm() -> bytes:
            loaded = self._service.decoding.read(frame.image)
            return heat_png(predictor.heat_map(loaded, str(name)))

        heat = "" if self._heated else data_url(await self._service.in_turn(warm, alone=True))
        if self.result is None or self._turns.closed:
            return
        self._heated = bool(heat)
        self._heat_button.props["aria-pressed"] = "true" if heat else "false"
        self._stack.show(heat=heat, heatAlt=f"Heat map: what speaks for {name} is red")


def size_sentence(entry: dict[str, Any]) -> str:
    """Return a sentence on the size of the lesion, in millimetres where the spacing is known.

    Examples:
        >>> lesion = {"pixels": 600, "fraction": 0.078, "diameters_px": [30.0, 20.0]}
        >>> lesion |= {"mm2": None, "diameters_mm": None}
        >>> size_sentence({"lesion": lesion})
        'Lesion: 30 × 20 px, 600 px in all, 7.8 % of the image'
    """
    lesion = entry["lesion"]
    if not lesion["pixels"]:
        return "No lesion outlined"
    share = f"{100 * lesion['fraction']:.1f} % of the image"
    if lesion["diameters_mm"] is not None:
        longest, shortest = lesion["diameters_mm"]
        known = lesion["mm2"] is not None  # else another region of the lesion has no scale
        area = f"{lesion['mm2']:.1f} mm²" if known else f"{lesion['pixels']} px"
        return f"Lesion: {longest:.1f} × {shortest:.1f} mm, {area} in all, {share}"
    longest, shortest = lesion["diameters_px"]
    return f"Lesion: {longest:.0f} × {shortest:.0f} px, {lesion['pixels']} px in all, {share}"


def _unsure_sentence(unsure: Uncertainty) -> str:
    told = []
    if unsure.class_disagreement is not None:
        told.append(f"class probabilities differ by up to {unsure.class_disagreement:.1%}")
    if unsure.mask_disagreement is not None:
        told.append(f"outlines by {unsure.mask_disagreement:.1%}")
    return f"Uncertainty: between {unsure.views} views, {', '.join(told)}"
