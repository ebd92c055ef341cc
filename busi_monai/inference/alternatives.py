"""The same network used otherwise: at another operating point, its weights shared."""

from __future__ import annotations

from dataclasses import asdict

from busi_monai.errors import InputError
from busi_monai.inference.predictor import Predictor, inference_config

__all__ = ["at_operating_point"]


def at_operating_point(predictor: Predictor, name: str | None) -> Predictor:
    """Return a predictor of the same bundle that decides malignancy at another operating point.

    Device, precision, flip averaging and the consistency rule are those of ``predictor``, whose
    network is shared: this takes no memory to speak of.

    Args:
        predictor: of the bundle.
        name: one of its ``operating_points``; ``None`` for the most probable class.

    Raises:
        InputError: if there is no such operating point.
    """
    if name is not None and name not in predictor.settings.operating_points:
        known = ", ".join(predictor.settings.operating_points)
        raise InputError(f"no operating point {name!r}; there are {known or 'none'}")
    parser = inference_config(predictor.bundle, predictor.device.name, predictor.precision.name)
    parser["prediction_inferer#tta_flip"] = predictor.tta_flip
    parser["operating_point"] = name
    parser["consistency"] = asdict(predictor.settings.consistency)
    return Predictor(
        network=predictor.network,
        settings=parser.get_parsed_content("settings"),
        preprocessing=parser.get_parsed_content("preprocessing"),
        postprocessing=parser.get_parsed_content("postprocessing"),
        inferer=parser.get_parsed_content("inferer"),
        device=predictor.device,
        precision=predictor.precision,
        tta_flip=predictor.tta_flip,
        operating_point=name,
        bundle=predictor.bundle,
        weights=predictor.weights,
    )
