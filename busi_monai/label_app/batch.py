"""Proposals for many images in one go."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from monailabel.interfaces.tasks.batch_infer import BatchInferTask, run_infer_task

from busi_monai.datasets import natural_key

__all__ = ["FolderBatchTask"]

logger = logging.getLogger(__name__)


class FolderBatchTask(BatchInferTask):
    """Goes on past images that fail, one after the other.

    The stock task divides them among as many workers as there are GPUs, and fails where there are
    none.
    """

    def __call__(
        self, request: dict[str, Any], datastore: Any, infer: Callable[..., Any]
    ) -> dict[str, Any]:
        """Save a label of the tag ``original`` for each image and return what was said of it."""
        images = sorted(self.get_images(request, datastore), key=natural_key)
        images = images[: int(request.get("max_batch_size") or 0) or None]
        tag = str(request.get("label_tag") or "original")
        results: dict[str, Any] = {}
        for number, image in enumerate(images, 1):
            task = {**request, "image": image, "save_label": True, "label_tag": tag}
            try:
                results[image] = run_infer_task(task, datastore, infer)
            except Exception as error:
                # one image must not stop the others
                reason = str(getattr(error, "detail", error))
                logger.warning("%s: %s", image, reason)
                results[image] = {"error": reason}
            logger.info("%d of %d", number, len(images))
        return results
