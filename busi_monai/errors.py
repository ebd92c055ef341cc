"""Errors that a user can cause: each says what was expected, what was found, what to do."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["BusiMonaiError", "ImageReadError", "InputError", "WeightsError", "first_cause"]

Kind = TypeVar("Kind", bound=BaseException)


class BusiMonaiError(Exception):
    """Base of all errors raised for something outside the program: a file, an option, a dataset."""


class InputError(BusiMonaiError, ValueError):
    """An option, a folder or a table does not hold what it should. The commands exit with 2."""


class ImageReadError(BusiMonaiError, ValueError):
    """One image or mask file cannot be used. Folder commands list it and go on.

    Attributes:
        kind: of the problem that an audit lists: ``unreadable``, and for a mask that can be read
            ``size_mismatch``, ``mask_values`` or ``inverted_mask``.
    """

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


class WeightsError(BusiMonaiError, ValueError):
    """A checkpoint is missing, is not plain tensors, or belongs to another architecture."""


def first_cause(error: BaseException | None, *kinds: type[Kind]) -> Kind | None:
    """Return the first error of certain kinds in a chain of causes: MONAI wraps what it calls."""
    while error is not None:
        if isinstance(error, kinds):
            return error
        error = error.__cause__ or error.__context__
    return None
