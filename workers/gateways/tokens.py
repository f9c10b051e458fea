"""Token file: who may use the gateways, one line each, made at the first start with one token of an admin.

    # name  role  token  [user]
    admin   admin     3vX…
    desk    operator  9aB…
    ada     user      Qm7…   ada

Roles: a `viewer` sees everything but contents; an `operator` sees contents and acts; an `admin` may do all; a `user`
reads and writes the streams of one user and sees no console. Two lines of one name are two valid tokens, so a token is
rotated by adding a line, changing the clients, and removing the old line. The file is read again when it changes.

Only its owner may read the file; with other permissions it is refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import stat
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from petiole.events.errors import UsageError

Role: TypeAlias = Literal["user", "viewer", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""Each may do what those before it may, but for streams: see `may_use_stream`."""

TOKEN_FILE: Final = "tokens"  # noqa: S105 - a file's name
"""The name of the token file in PETIOLE_HOME."""

SESSION_S: Final = 12 * 3_600
"""How long a browser stays signed in."""

_MIN_TOKEN_LENGTH = 20
_MAX_DIGITS = 12
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_HEADER = "# name role token [user]; a line is one valid token. Roles: " + ", ".join(ROLES)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls: a name for audit events, a role, and the user whose streams it may use."""

    name: str
    role: Role
    user_id: str | None = None

    def may(self, role: Role) -> bool:
        """Return whether this identity may do what the role may."""
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True, slots=True)
class _Line:
    identity: Identity
    token: str


class TokenFile:
    """The tokens of a file, which is made if it does not exist. Raises UsageError if it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._read_at: tuple[int, int] | None = None
        self._lines: Sequence[_Line] = ()
        try:
            self.is_new = not path.exists() and _create(path)
        except OSError as error:
            problem = f"cannot be made: {error.strerror}; let PETIOLE_HOME name a folder that this process may write"
            raise _unusable(path, problem) from error
        self._current()

    def find(self, token: str) -> Identity | None:
        """Return whose token it is. Takes as long for a wrong token as for a right one."""
        wanted, found = _digest(token), None
        for line in self._current():
            if hmac.compare_digest(_digest(line.token), wanted):
                found = line.identity
        return found

    def open_session(self, token: str) -> str | None:
        """Return the value of a cookie that stands for a token for SESSION_S; None for a wrong token."""
        identity = self.find(token)
        if identity is None:
            return None
        claim = f"{_encode(identity.name)}.{int(time.time()) + SESSION_S}"
        return f"{claim}.{_sign(token, claim)}"

    def find_session(self, cookie: str) -> Identity | None:
        """Return whose session it is; None if it has expired, or its token was removed from the file."""
        claim, _, signature = cookie.rpartition(".")
        name, _, expiry = claim.partition(".")
        if not expiry.isdecimal() or len(expiry) > _MAX_DIGITS or int(expiry) < time.time():
            return None
        for line in self._current():
            is_named = _encode(line.identity.name) == name
            if is_named and hmac.compare_digest(_sign(line.token, claim).encode(), signature.encode()):
                return line.identity
        return None

    def _current(self) -> Sequence[_Line]:
        try:
            status = self.path.stat()
        except OSError as error:
            raise _unusable(self.path, f"cannot be read: {error.strerror}") from error
        with self._lock:
            if (status.st_mtime_ns, status.st_size) != self._read_at:
                self._lines = _parse(self.path, status)
                self._read_at = (status.st_mtime_ns, status.st_size)
            return self._lines


def _create(path: Path) -> bool:
    """Write a file with one token of an admin. Returns False if there is one already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written under another name first: another process never reads a half-written file.
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    text = f"{_HEADER}\nadmin admin {secrets.token_urlsafe(32)}\n"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def _parse(path: Path, status: os.stat_result) -> list[_Line]:
    if status.st_mode & _OTHERS:
        raise _unusable(path, f"may be read by other users; run: chmod 600 {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, f"cannot be read: {error}") from error
    lines = [
        _parse_line(path, number, line.split())
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise _unusable(path, "has no token; delete it, and the next start makes a new one")
    return lines


def _parse_line(path: Path, number: int, words: Sequence[str]) -> _Line:
    if len(words) not in {3, 4} or words[1] not in ROLES or len(words[2]) < _MIN_TOKEN_LENGTH:
        reason = (
            f"write: name, one of {', '.join(ROLES)}, a token of {_MIN_TOKEN_LENGTH} or more characters, and a user"
        )
        raise _unusable(path, f"line {number}: {reason}")
    name, token, user_id = words[0], words[2], words[3] if len(words) > 3 else None  # noqa: PLR2004 - as checked above
    role = next(role for role in ROLES if role == words[1])
    if role == "user" and user_id is None:
        raise _unusable(path, f"line {number}: the role user needs the id of its user as fourth word")
    return _Line(Identity(name, role, user_id), token)


def _unusable(path: Path, reason: str) -> UsageError:
    return UsageError(f"the token file {str(path)!r} {reason}", code="unusable_token_file")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _sign(token: str, claim: str) -> str:
    return hmac.new(token.encode(), claim.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _encode(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
