"""REST: ``/v1/predict``, ``/v1/health``, ``/v1/model``, and a page that describes them."""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from busi_monai.cases import NOT_FOR_CLINICAL_USE
from busi_monai.serving.answers import ImageResult, entry_of
from busi_monai.serving.problems import ApiError, ServiceError, problem_response
from busi_monai.serving.service import PredictionService
from busi_monai.serving.uploads import uploads_of

__all__ = ["rest_application"]

logger = logging.getLogger(__name__)

_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "upload_too_slow",
    413: "too_large",
}

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "PNG, JPEG, BMP, TIFF, NIfTI or DICOM, one or several",
                        }
                    },
                }
            }
        },
    }
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": http.HTTPStatus(status).phrase}
    for status in (400, 401, 403, 408, 413, 422, 429, 500, 503)
}


def rest_application(service: PredictionService) -> FastAPI:
    """Return the application that answers ``/v1/…``."""
    api = FastAPI(
        title="busi-monai",
        version=service.identity.version,
        description=f"Outlines and classifies lesions in breast ultrasound. {NOT_FOR_CLINICAL_USE}",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    api.state.service = service
    _add_problem_handlers(api)

    @api.post("/v1/predict", openapi_extra=_FORM, responses=_ERRORS, summary="Predict images")
    async def predict(
        request: Request, mask: bool = False, operating_point: str | None = None
    ) -> JSONResponse:
        """Outline and classify the lesions of the files sent as ``file``.

        One entry for each image, of a DICOM loop for each frame, in order; a file that cannot be
        read has an entry with an error. ``mask=1`` adds the mask as a PNG file in base64;
        ``operating_point`` names where malignancy is decided.
        """
        unknown = set(request.query_params) - {"mask", "operating_point"}
        if unknown:  # a misspelt operating point would be decided at another one
            message = f"unknown {min(unknown)[:40]!r}; there are: mask, operating_point"
            raise ServiceError(422, "bad_parameter", message)
        service.check_operating_point(operating_point)
        uploads = uploads_of(await _files(request, service.limits.max_files))
        point = operating_point or service.predictor.operating_point

        def predicted() -> tuple[list[ImageResult], list[dict[str, Any]]]:
            results = list(service.results(uploads, point))
            return results, [entry_of(result, with_mask=mask) for result in results]

        results, entries = await service.in_turn(predicted)
        problems = [result.problem for result in results if result.problem is not None]
        if len(problems) < len(results):
            return JSONResponse(entries)
        return _nothing_predicted(problems, results, entries)

    @api.get("/v1/health", summary="Whether the service answers")
    async def health() -> dict[str, Any]:
        """Tell that the service answers, and how many requests are in work or waiting."""
        return {"status": "ok", "requests": service.places.used, "places": service.places.number}

    @api.get("/v1/model", summary="Which model answers")
    async def model() -> dict[str, Any]:
        """Tell the model's identity, its operating points and the service's limits."""
        return model_record(service)

    @api.get("/v1", include_in_schema=False)
    async def reference() -> Response:
        return HTMLResponse(
            _reference_html(api.openapi()),
            headers={"content-security-policy": "default-src 'none'; frame-ancestors 'none'"},
        )

    return api


def model_record(service: PredictionService) -> dict[str, Any]:
    """Return what ``/v1/model`` tells, as plain JSON values."""
    predictor = service.predictor
    points = predictor.settings.operating_points
    return {
        "name": service.identity.name,
        "version": service.identity.version,
        "weights_sha256": service.identity.weights_sha256,
        "classes": list(predictor.settings.classes),
        "image_size": list(predictor.settings.image_size),
        "temperature": predictor.settings.temperature,
        "tta_flip": predictor.tta_flip,
        "device": predictor.device.name,
        "operating_point": predictor.operating_point,
        "operating_points": {name: asdict(point) for name, point in points.items()},
        "consistency": predictor.settings.consistency.as_record(),
        "limits": asdict(service.limits),
        "notice": NOT_FOR_CLINICAL_USE,
    }


async def _files(request: Request, most: int) -> list[tuple[str | None, bytes]]:
    """Return name and content of each file of the form.

    Raises:
        ServiceError: 422 if there is none, or something else is called ``file``.
    """
    expected = "expected multipart/form-data with one or several files in the field 'file'"
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ServiceError(422, "no_file", expected)
    try:
        async with request.form(max_files=most, max_fields=16, max_part_size=4096) as form:
            given = form.getlist("file")
            files = [value for value in given if isinstance(value, UploadFile)]
            if not files or len(files) != len(given):
                raise ServiceError(422, "no_file", expected)
            return [(value.filename, await value.read()) for value in files]
    except (UnicodeError, LookupError) as error:  # of a character set that the header names
        raise ServiceError(422, "bad_form", f"a form of no known encoding; {expected}") from error
    except HTTPException as error:
        if error.status_code != 400:
            raise
        told = str(error.detail).removesuffix(".")
        raise ServiceError(422, "bad_form", f"{told}; {expected}") from error


def _nothing_predicted(
    problems: list[ApiError], results: list[ImageResult], entries: list[dict[str, Any]]
) -> JSONResponse:
    codes = {problem.code for problem in problems}
    status = 500 if "internal" in codes else 503 if codes == {"timed_out"} else 422
    problem = problems[0]
    if len(problems) > 1:
        message = f"none of {len(results)} images could be predicted; first: {problem.message}"
        problem = ApiError(problem.code, message, problem.file)
    headers = {"Retry-After": "5"} if status == 503 else None
    return problem_response(status, problem, headers, {"entries": entries})


def _add_problem_handlers(api: FastAPI) -> None:
    @api.exception_handler(ServiceError)
    async def service_problem(request: Request, error: ServiceError) -> Response:
        return problem_response(error.status, error.problem, error.headers)

    @api.exception_handler(HTTPException)
    async def http_problem(request: Request, error: HTTPException) -> Response:
        code = _CODES.get(error.status_code, "refused")
        message = str(error.detail)
        if error.status_code == 404:
            message = "there is nothing at this address; GET /v1 lists what there is"
        elif error.status_code == 405:
            message = f"{request.method} is not answered here; GET /v1 lists what is"
        headers = dict(error.headers or {})
        return problem_response(error.status_code, ApiError(code, message), headers)

    @api.exception_handler(RequestValidationError)
    async def bad_parameter(request: Request, error: RequestValidationError) -> Response:
        told = "; ".join(f"{entry['loc'][-1]}: {entry['msg']}" for entry in error.errors())
        return problem_response(422, ApiError("bad_parameter", told))

    @api.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> Response:
        message = "the server failed; its log tells why"
        return problem_response(500, ApiError("internal", message))


def _reference_html(openapi: Mapping[str, Any]) -> str:
    """Return a page of an OpenAPI description.

    Examples:
        >>> told = {"info": {"title": "a<b", "version": "1", "description": ""}, "paths": {}}
        >>> "<h1>a&lt;b 1</h1>" in _reference_html(told)
        True
    """
    info = openapi["info"]
    title = f"{info['title']} {info['version']}"
    parts = [
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width"></head><body><main>'
        f"<h1>{escape(title)}</h1><p>{escape(info['description'])}</p>"
        '<p>For programs: <a href="/openapi.json">openapi.json</a>.</p>'
    ]
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method, operation))
    parts.append(
        "<h2>Errors</h2><p>Whatever goes wrong is told as "
        '<code>{"error": {"code", "message", "file"}}</code>; 429 and 503 say by '
        "<code>Retry-After</code> when to try again.</p></main></body></html>"
    )
    return "\n".join(parts)


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    told = [f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"]
    told.append(f"<p>{escape(operation.get('description', ''))}</p>")
    parameters = operation.get("parameters", [])
    if parameters:
        names = ", ".join(f"<code>{escape(parameter['name'])}</code>" for parameter in parameters)
        told.append(f"<p>Parameters: {names}</p>")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        fields = ", ".join(
            f"<code>{escape(name)}</code>: {escape(field.get('description', ''))}"
            for name, field in content["schema"].get("properties", {}).items()
        )
        told.append(f"<p>Body, <code>{escape(kind)}</code>: {fields}</p>")
    told.append(f"<p>Answers: {escape(', '.join(operation.get('responses', {})))}</p>")
    return "\n".join(told)
