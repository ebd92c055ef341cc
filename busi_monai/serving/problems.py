"""What goes wrong with a request: every answer tells it as ``{"error": {code, message, file}}``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.responses import JSONResponse

__all__ = ["ApiError", "ServiceError", "problem_response"]


@dataclass(frozen=True)
class ApiError:
    """One thing that went wrong.

    Attributes:
        code: name of the kind, for programs.
        message: what was expected, what was found, what to do.
        file: the upload that it is about, or ``None``.
    """

    code: str
    message: str
    file: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return ``{"error": {...}}``."""
        return {"error": asdict(self)}


class ServiceError(Exception):
    """A request that is not done."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.problem = ApiError(code, message)
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


def problem_response(
    status: int,
    problem: ApiError,
    headers: dict[str, str] | None = None,
    further: dict[str, Any] | None = None,
) -> JSONResponse:
    """Return the answer that tells a problem."""
    from starlette.responses import JSONResponse  # late, so that a missing extra can be told of

    return JSONResponse({**problem.as_dict(), **(further or {})}, status, headers=headers)
