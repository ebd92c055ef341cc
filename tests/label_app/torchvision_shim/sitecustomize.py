"""Lets a torchvision built for CUDA be imported beside a CPU build of torch.

Its compiled operators cannot be loaded then, so that ``nms`` and ``qnms`` have no schema, which
``torchvision/_meta_registrations.py`` asks for. They are defined just before that is imported.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import sys
from typing import Any

SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class DefineSchemas(importlib.abc.MetaPathFinder):
    """Defines the operators when torchvision is about to be imported; finds nothing itself."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name != "torchvision":
            return
        sys.meta_path.remove(self)
        with contextlib.suppress(ImportError):
            import torch

            for operator, schema in SCHEMAS.items():
                with contextlib.suppress(RuntimeError):  # a torchvision that fits has defined it
                    torch.library.define(f"torchvision::{operator}", schema)


sys.meta_path.insert(0, DefineSchemas())
