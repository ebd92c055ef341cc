"""What the page is made of: components that need no ``unsafe-eval``, unlike many of NiceGUI's."""

from __future__ import annotations

from typing import Any

from nicegui import ui
from nicegui.elements.upload import Upload

__all__ = ["Choice", "ImageStack", "Tag", "Uploader"]


class Tag(ui.element):
    """An HTML element."""

    def __init__(self, name: str, text: str | None = None, **properties: Any) -> None:
        super().__init__(name)
        if text is not None:
            self._text = text
        for key, value in properties.items():
            self.props[key.replace("_", "-")] = value

    def say(self, text: str) -> None:
        """Replace the text."""
        self._text = text
        self.update()


class Uploader(Upload, component="uploader.js"):
    """``ui.upload`` with a render function in place of its template; its limits hold here, too."""

    async def handle_uploads(self, files: list[Upload.FileUpload]) -> None:
        """Take as many files of a request as the browser would have sent."""
        await super().handle_uploads(files[: self.props["max-files"]])


class ImageStack(ui.element, component="overlay.js"):
    """An image under an outline and a heat map, with a slider, and another one for frames."""

    def show(self, **properties: Any) -> None:
        """Set ``image``, ``outline``, ``heat`` (data URLs), ``alt``, ``frames``, ``place``, …."""
        self.props.update(properties)
        self.update()


class Choice(ui.element, component="choice.js"):
    """A native select."""

    def __init__(self, label: str, options: dict[str, str], chosen: str) -> None:
        super().__init__()
        self.props.update(label=label, options=[list(pair) for pair in options.items()])
        self.props["chosen"] = chosen
