r"""Who may use the service: a file of users with scrypt hashes, and of tokens.

One entry a line; empty lines and lines that begin with ``#`` are passed over:

``alice:scrypt$16384$8$1$<salt>$<hash>``
    a user with a password, asked for by the browser (HTTP Basic). Salt and hash are base64.
``robot:token$<sha256>``
    a program, with ``Authorization: Bearer <token>``. A token is 256 random bits, so that its plain
    SHA-256 tells nothing of it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from busi_monai.errors import InputError

__all__ = ["Credentials", "new_token_entry", "password_entry"]

# OWASP password storage cheat sheet: N = 2^14 with r = 8 and p = 5 is one of its equal settings
_COST, _BLOCK, _PARALLEL = 2**14, 8, 5
_MAX_MEMORY = 256 * 1024 * 1024
_REMEMBERED = 256


@dataclass(frozen=True)
class _Password:
    cost: int
    block: int
    parallel: int
    salt: bytes
    digest: bytes

    def accepts(self, password: str) -> bool:
        found = hashlib.scrypt(
            password.encode(),
            salt=self.salt,
            n=self.cost,
            r=self.block,
            p=self.parallel,
            maxmem=_MAX_MEMORY,
            dklen=len(self.digest),
        )
        return hmac.compare_digest(found, self.digest)


class Credentials:
    """The users and tokens of a file.

    Args:
        passwords: by user.
        tokens: SHA-256 in hexadecimal by name.
    """

    def __init__(self, passwords: dict[str, _Password], tokens: dict[str, str]) -> None:
        self._passwords = passwords
        self._tokens = tokens
        self._unknown = _Password(_COST, _BLOCK, _PARALLEL, secrets.token_bytes(16), bytes(32))
        self._key = secrets.token_bytes(32)
        self._accepted: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

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
        passwords: dict[str, _Password] = {}
        tokens: dict[str, str] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, rest = line.strip().partition(":")
            kind, *parts = rest.split("$")
            try:
                if not name or name in passwords or name in tokens:
                    raise ValueError
                if kind == "token" and len(bytes.fromhex(parts[0])) == 32 and len(parts) == 1:
                    tokens[name] = parts[0].lower()
                elif kind == "scrypt":
                    passwords[name] = _password_of(parts)
                else:
                    raise ValueError
            except (ValueError, IndexError, binascii.Error) as error:
                raise InputError(
                    f"{path}, line {number}: expected user:scrypt$… or name:token$…, each name "
                    "once; make an entry by busi-monai serve --new-user NAME or --new-token NAME"
                ) from error
        if not passwords and not tokens:
            raise InputError(
                f"{path}: holds no entry; make one by busi-monai serve --new-user NAME"
            )
        return cls(passwords, tokens)

    def known(self, authorization: str) -> str | None:
        """Return who an ``Authorization`` header was accepted for already, without scrypt."""
        with self._lock:
            return self._accepted.get(self._seal(authorization))

    def accepted(self, authorization: str) -> str | None:
        """Return the name that an ``Authorization`` header proves, or ``None``.

        It takes as long for an unknown user as for a wrong password, some 100 ms.
        """
        kind, _, value = authorization.partition(" ")
        name = None
        if kind.lower() == "bearer":
            name = self._owner_of(value.strip())
        elif kind.lower() == "basic":
            name = self._user_of(value.strip())
        if name is not None:
            with self._lock:
                self._accepted[self._seal(authorization)] = name
                while len(self._accepted) > _REMEMBERED:
                    self._accepted.popitem(last=False)
        return name

    def _owner_of(self, token: str) -> str | None:
        found = hashlib.sha256(token.encode()).hexdigest()
        owners = [name for name, kept in self._tokens.items() if hmac.compare_digest(found, kept)]
        return owners[0] if owners else None

    def _user_of(self, encoded: str) -> str | None:
        try:
            user, found, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (ValueError, binascii.Error):
            return None
        right = self._passwords.get(user, self._unknown).accepts(password)
        return user if found and right and user in self._passwords else None

    def _seal(self, authorization: str) -> bytes:
        return hmac.digest(self._key, authorization.encode(), "sha256")


def password_entry(user: str, password: str) -> str:
    """Return the line of a user for the file.

    Raises:
        InputError: for an empty name, one with a colon, or a password of less than 12 characters.
    """
    _check_name(user)
    if len(password) < 12:
        raise InputError(f"a password needs at least 12 characters, got {len(password)}")
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(
        password.encode(), salt=salt, n=_COST, r=_BLOCK, p=_PARALLEL, maxmem=_MAX_MEMORY, dklen=32
    )
    told = "$".join(base64.b64encode(part).decode() for part in (salt, digest))
    return f"{user}:scrypt${_COST}${_BLOCK}${_PARALLEL}${told}"


def new_token_entry(name: str) -> tuple[str, str]:
    """Return a new token and its line for the file.

    Raises:
        InputError: for an empty name or one with a colon.
    """
    _check_name(name)
    token = secrets.token_urlsafe(32)
    return token, f"{name}:token${hashlib.sha256(token.encode()).hexdigest()}"


def _check_name(name: str) -> None:
    if not name.strip() or ":" in name or name.startswith("#") or not name.isprintable():
        raise InputError(f"expected a name without colon or leading #, got {name!r}")


def _password_of(parts: list[str]) -> _Password:
    cost, block, parallel = (int(part) for part in parts[:3])
    salt, digest = (base64.b64decode(part, validate=True) for part in parts[3:])
    too_weak = len(salt) < 8 or len(digest) < 16 or cost < 2**12
    if too_weak or cost & (cost - 1) or block < 1 or parallel < 1 or 128 * cost * block > 2**27:
        raise ValueError
    return _Password(cost, block, parallel, salt, digest)
