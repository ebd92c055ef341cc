"""A local folder of images, in which nothing that an annotator said is lost."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore

from busi_monai.datasets import natural_key
from busi_monai.errors import InputError
from busi_monai.files import read_json, write_json
from busi_monai.io.images import IMAGE_SUFFIXES
from busi_monai.label_app.label_files import LABEL_SUFFIXES
from busi_monai.label_app.served import ServedModel
from busi_monai.label_app.submitted_labels import submitted_class

__all__ = ["KeepingDatastore"]

logger = logging.getLogger(__name__)

_LONGEST_FIRST = sorted({*IMAGE_SUFFIXES, *LABEL_SUFFIXES}, key=len, reverse=True)


class KeepingDatastore(LocalDatastore):
    """MONAI Label's folder, with what is said of each label in a file of its own.

    ``datastore_v2.json`` is rewritten whole by every process of a server from its memory, so that a
    class submitted meanwhile is lost from it. ``labels/<tag>/<id>.json`` is written with its label
    and read before it. Suffixes may have any letter case, and ``NAME_mask.png`` beside the image
    ``NAME`` is no image.

    Args:
        studies: the folder.
        model: what is served; each label keeps which weights these were.
        auto_reload: whether the folder is watched for new files.
        read_only: whether the folder's files are taken as ``datastore_v2.json`` lists them.
    """

    def __init__(
        self,
        studies: str,
        model: ServedModel,
        *,
        auto_reload: bool = False,
        read_only: bool = False,
    ) -> None:
        self._model = model
        self._proposals: dict[str, dict[str, Any]] = {}
        patterns = [f"*{suffix}" for suffix in _LONGEST_FIRST]
        patterns += [pattern.upper() for pattern in patterns]
        super().__init__(studies, extensions=patterns, auto_reload=auto_reload, read_only=read_only)

    def note_proposal(self, image_id: str, proposal: dict[str, Any]) -> None:
        """Remember what a model proposed for an image, until a label of it is submitted."""
        self._proposals[image_id] = proposal

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Add an image of a name that is no path."""
        _check_name(image_id or Path(image_filename).name, "image")
        self._init_from_datastore_file()
        added: str = super().add_image(image_id, image_filename, image_info)
        return added

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Save a label in the place of an earlier one, and what is said of it beside it."""
        tag = _tag(label_tag)
        self._init_from_datastore_file()  # what other processes have added
        info = dict(label_info or {})
        _check_class(info)
        info |= {"ts": int(time.time()), "served": self._origin(image_id)}
        if image_id in self._datastore.objects:
            if not Path(label_filename).name.lower().endswith(LABEL_SUFFIXES):
                raise HTTPException(
                    400, f"a label must be one of {', '.join(LABEL_SUFFIXES)}; others lose its edge"
                )
            _, suffix = self._to_id(Path(label_filename).name)
            info["name"] = f"{image_id}{suffix}"
            write_json(self._own_info(image_id, tag), info)
        saved: str = super().save_label(image_id, label_filename, tag, info)
        for path in self._own_info(image_id, tag).parent.iterdir():
            label = path.name.lower().endswith(LABEL_SUFFIXES)
            if label and self._to_id(path.name)[0] == image_id and path.name != info["name"]:
                path.unlink()  # an earlier label in another format
        return saved

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what is said of a label."""
        tag = _tag(label_tag)
        _check_class(info)
        self._init_from_datastore_file()
        super().update_label_info(label_id, tag, info)  # raises if there is no such label
        path = self._own_info(label_id, tag)
        write_json(path, {**_read(path), **info})

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Return what is said of a label; empty if there is none."""
        tag = _tag(label_tag)
        stock = super().get_label_info(label_id, tag)
        known = self._datastore.label(label_id, tag) is not None
        return {**stock, **_read(self._own_info(label_id, tag))} if known else stock

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label and what is said of it."""
        tag = _tag(label_tag)
        super().remove_label(label_id, tag)
        if label_id in self._datastore.objects:
            self._own_info(label_id, tag).unlink(missing_ok=True)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is kept of an image."""
        self._init_from_datastore_file()
        super().update_image_info(image_id, info)

    def _own_info(self, label_id: str, tag: str) -> Path:
        return Path(self._datastore.label_path(tag)) / f"{label_id}.json"

    def _origin(self, image_id: str) -> dict[str, Any]:
        """Return the weights that are served while a label is submitted, and what they proposed."""
        try:
            served: dict[str, Any] = dict(self._model.identity())
        except InputError:
            return {}
        proposal = self._proposals.get(image_id)
        if proposal is None and image_id in self._datastore.objects:
            params = _read(self._own_info(image_id, "original")).get("params")
            proposal = params.get("served") if isinstance(params, dict) else None
        return {**served, "proposed_by": proposal} if proposal else served

    def _to_id(self, file: str) -> tuple[str, str]:
        for suffix in _LONGEST_FIRST:
            if file.lower().endswith(suffix):
                return file[: -len(suffix)], file[-len(suffix) :]
        path = Path(file)
        return path.stem, path.suffix

    def _list_files(self, path: str, patterns: Iterable[str]) -> dict[str, str]:
        files = sorted(Path(path).iterdir(), key=natural_key)
        names = [each.name for each in files if each.is_file()]
        found = {
            name: name
            for name in names
            if name.lower().endswith(tuple(_LONGEST_FIRST)) and not name.startswith(".")
        }
        if Path(path).resolve() != Path(self._datastore.image_path()).resolve():
            return found
        ids = {self._to_id(name)[0] for name in found}
        return {name: name for name in found if not _is_mask(self._to_id(name)[0], ids)}


def _is_mask(image_id: str, ids: set[str]) -> bool:
    image = re.sub(r"_mask(_\d+)?$", "", image_id)
    return image != image_id and image in ids


def _tag(tag: Any) -> str:
    """Return a tag's name, which becomes a folder's."""
    name = str(getattr(tag, "value", tag) or "final")
    _check_name(name, "tag")
    return name


def _check_name(name: str, kind: str) -> None:
    if not name or name.startswith(".") or re.search(r"[/\\\0]", name):
        raise HTTPException(400, f"{kind} {name!r}: expected a name, not a path")


def _check_class(info: dict[str, Any]) -> None:
    """Refuse a misspelt class while its annotator is there."""
    try:
        submitted_class(info)
    except InputError as error:
        raise HTTPException(400, str(error)) from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except InputError as error:
        logger.warning("%s", error)
        return {}
    return content if isinstance(content, dict) else {}
