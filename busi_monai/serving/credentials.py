r"""Who may use the service: a file of named tokens, of which only hashes are kept.

One token a line; empty lines and lines that begin with ``#`` are passed over:

``robot:token$<sha256>``
    sent as ``Authorization: Bearer <token>``, or as the password that a browser asks for (HTTP
    Basic, with any user name). A token is 256 random bits, so that its plain SHA-256 tells nothing
    of it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from pathlib import Path

from busi_monai.errors import InputError

__all__ = ["Credentials", "new_token_entry"]


class Credentials:
    """The tokens of a file."""

    def __init__(self, tokens: dict[str, str]) -> None:
        self._tokens = tokens

    @classmethod
    def load(cls, path: str | Path) -> Credentials:
        """Read a file of entries.

        Raises:
            InputError: if it is missing, empty, or has a line that is no entry; the message names
                the line's number, not what it says.
        """
        path = Path(path)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {type(error).__name__}") from error
        tokens: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, rest = line.strip().partition(":")
            if rest.startswith("scrypt$"):
                raise InputError(
                    f"{path}, line {number}: passwords are not taken any more; replace the line by "
                    "that of a token, made by busi-monai serve --new-token NAME, which a browser "
                    "takes as the password"
                )
            token = re.fullmatch(r"token\$([0-9a-fA-F]{64})", rest)
            if token is None or not name or name in tokens:
                raise InputError(
                    f"{path}, line {number}: expected name:token$… with each name once; make an "
                    "entry by busi-monai serve --new-token NAME"
                )
            tokens[name] = token[1].lower()
        if not tokens:
            raise InputError(
                f"{path}: holds no entry; make one by busi-monai serve --new-token NAME"
            )
        return cls(tokens)

    def owner(self, authorization: str) -> str | None:
        """Return the name whose token an ``Authorization`` header holds, or ``None``."""
        kind, _, value = authorization.partition(" ")
        token = value.strip()
        if kind.lower() == "basic":
            try:
                token = base64.b64decode(token, validate=True).decode().partition(":")[2]
            except ValueError:
                return None
        elif kind.lower() != "bearer":
            return None
        found = hashlib.sha256(token.encode()).hexdigest()
        owners = [name for name, kept in self._tokens.items() if hmac.compare_digest(found, kept)]
        return owners[0] if owners else None


def new_token_entry(name: str) -> tuple[str, str]:
    """Return a new token and its line for the file.

    Raises:
        InputError: for an empty name, one with a colon or a leading ``#``, or unprintable ones.
    """
    if not name.strip() or ":" in name or name.startswith("#") or not name.isprintable():
        raise InputError(f"expected a name without colon or leading #, got {name!r}")
    token = secrets.token_urlsafe(32)
    return token, f"{name}:token${hashlib.sha256(token.encode()).hexdigest()}"
