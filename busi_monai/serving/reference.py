"""The description of the REST interface as one HTML page that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

__all__ = ["reference_html"]


def reference_html(openapi: Mapping[str, Any]) -> str:
    """Return a page of an OpenAPI description.

    Examples:
        >>> told = {"info": {"title": "a<b", "version": "1", "description": ""}, "paths": {}}
        >>> "<h1>a&lt;b 1</h1>" in reference_html(told)
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
