"""The form of ``datalist.json``, as a JSON Schema (draft 7)."""

from __future__ import annotations

from typing import Any

from busi_monai.cases import CLASSES, DATALIST_KEYS

__all__ = ["DATALIST_SCHEMA", "SCHEMA_VERSION"]

SCHEMA_VERSION = 1

_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_TEXT = {"type": "string", "minLength": 1}
_ITEM: dict[str, Any] = {
    "type": "object",
    "required": [
        "id", "image", "label", "class_label", "group", "fold", "dataset", "sha256", "spacing_mm",
        "meta",
    ],
    "additionalProperties": False,
    "properties": {
        "id": _TEXT,
        "image": _TEXT,
        "label": {"type": ["string", "null"], "minLength": 1},
        "class_label": {"type": "integer", "minimum": 0, "maximum": len(CLASSES) - 1},
        "group": _TEXT,
        "fold": {"type": ["integer", "null"], "minimum": 0},
        "dataset": _TEXT,
        "sha256": _HASH,
        "label_sha256": {"type": ["string", "null"], "pattern": "^[0-9a-f]{64}$"},
        "spacing_mm": {
            "type": ["array", "null"],
            "items": {"type": "number", "exclusiveMinimum": 0},
            "minItems": 2,
            "maxItems": 2,
        },
        "meta": {"type": "object"},
    },
}  # fmt: skip
_LEAKING_PART = {
    "type": "object",
    "required": ["images", "ids"],
    "properties": {
        "images": {"type": "integer", "minimum": 0},
        "ids": {"type": "array", "items": _TEXT},
    },
}

DATALIST_SCHEMA: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "busi_monai datalist",
    "type": "object",
    "required": [
        "schema_version", "protocol", "seed", "classes", "options", "leaks", "excluded",
        *DATALIST_KEYS.values(), "sha256",
    ],
    "properties": {
        "schema_version": {"const": SCHEMA_VERSION},
        "name": _TEXT,
        "protocol": _TEXT,
        "seed": {"type": "integer", "minimum": 0},
        "classes": {"const": list(CLASSES)},
        "options": {"type": "object"},
        "leaks": {
            "type": "object",
            "required": ["count", "evaluation_images", "ids", "parts"],
            "properties": {
                "patients": {"type": "array", "items": _TEXT},
                "count": {"type": "integer", "minimum": 0},
                "evaluation_images": {"type": "integer", "minimum": 0},
                "ids": {"type": "array", "items": _TEXT},
                "parts": {"type": "object", "additionalProperties": _LEAKING_PART},
            },
        },
        "excluded": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "reason"],
                "properties": {"id": {"type": "string"}, "reason": _TEXT},
            },
        },
        **{key: {"type": "array", "items": _ITEM} for key in DATALIST_KEYS.values()},
        "sha256": _HASH,
        "labels_sha256": _HASH,
    },
}  # fmt: skip
"""What ``load_datalist`` accepts."""
