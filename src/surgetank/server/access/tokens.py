"""Tokens: 256 random bits behind a prefix that scanners for leaked secrets can recognize.

Only the SHA-256 of a token is stored. That is enough, without salt and slow hashing: nobody can try
2^256 tokens.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row

from surgetank.database.queries import queries
from surgetank.durations import seconds_of
from surgetank.exceptions import InvalidRequest, TokenNotFound
from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.outage import Connections

PREFIX = "stk_"
_SQL = queries("server/access/tokens.sql")
_WRITTEN = re.compile("[0-9]{1,9} ?[smhdw]")  # nothing but a count
_LONGEST_S = 100 * 366 * 86_400
MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; never the token itself. Times are seconds since the epoch."""

    id: str
    user: str
    role: Role
    label: str
    created_at: float
    created_by: str
    expires_at: float | None
    revoked_at: float | None
    revoked_by: str | None
    last_used_at: float | None

    def usable(self, now: float) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    @property
    def caller(self) -> Caller:
        """Who comes with this token."""
        return Caller(self.user, self.role, self.id)


def digest(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def is_token_shaped(text: str) -> bool:
    """Whether it can be one of ours at all."""
    return text.startswith(PREFIX) and len(text) == len(PREFIX) + 43 and text.isascii()


def parse_span(text: str) -> float:
    """Seconds of `30d`, `12h`, `45m`, `2w`. Raises `InvalidRequest`."""
    written = text.strip()
    seconds = seconds_of(written) if _WRITTEN.fullmatch(written) else 0.0
    if not 0 < seconds <= _LONGEST_S:
        raise InvalidRequest(
            f"The time {text[:40]!r} can't be used.",
            remedy="use a number and s, m, h, d or w, as in 30d.",
        )
    return seconds


class TokenStore:
    """The tokens in PostgreSQL. All methods block and raise `DatabaseUnavailable`."""

    def __init__(self, database: Connections) -> None:
        self._database = database

    def _query(self, name: str, **arguments: Any) -> list[dict[str, Any]]:
        with (
            self._database.connection() as connection,
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            found: list[dict[str, Any]] = cursor.execute(_SQL[name], arguments).fetchall()
            return found

    def create(
        self, user: str, role: Role, *, by: str, expires_at: float | None = None, label: str = ""
    ) -> tuple[Token, str]:
        """A new token, and the secret that is shown this once."""
        _check_name("user", user, at_least=1)
        _check_name("label", label, at_least=0)
        secret = PREFIX + secrets.token_urlsafe(32)
        (row,) = self._query(
            "create_token",
            id=secrets.token_hex(6),
            hash=digest(secret),
            user=user,
            role=(Role.VIEWER if role is Role.USER else role).value,
            reads_only=role is Role.VIEWER,
            label=label,
            by=by,
            expires_at=expires_at,
        )
        return _token(row), secret

    def find(
        self, *, secret_digest: bytes | None = None, token_id: str | None = None
    ) -> Token | None:
        """The token with this digest or id, and a note that it is in use, at most one a minute."""
        rows = self._query("find_token", hash=secret_digest, id=token_id)
        return _token(rows[0]) if rows else None

    def touch(self, token_id: str) -> None:
        """Note that the token is in use, at most once a minute."""
        with self._database.connection() as connection:
            connection.execute(_SQL["touch_token"], {"id": token_id})

    def page(self, *, last_id: str | None = None, limit: int = 100) -> list[Token]:
        """Tokens, newest first, after `last_id`; expired and revoked ones included."""
        return [_token(row) for row in self._query("list_tokens", last_id=last_id, limit=limit)]

    def open_of(self, user: str, *, by: str) -> list[str]:
        """The ids of a user's tokens that somebody (`by`) made and that are good still."""
        return [row["id"] for row in self._query("open_tokens", user=user, by=by)]

    def revoke(self, token_id: str, *, by: str) -> Token:
        """End a token for good. Raises `TokenNotFound`."""
        rows = self._query("revoke_token", id=token_id, by=by)
        if not rows:
            raise TokenNotFound(
                f"There is no token {token_id!r}.", remedy="see `surgetank token list`."
            )
        return _token(rows[0])

    def any_usable(self) -> bool:
        """Whether anybody can log in with a token."""
        return bool(self._query("usable_token")[0]["there"])


def _token(row: Mapping[str, Any]) -> Token:
    fields = {name: value for name, value in row.items() if name not in ("user_name", "role")}
    return Token(user=row["user_name"], role=Role(row["role"]), **fields)


def _check_name(field: str, text: str, *, at_least: int) -> None:
    if not at_least <= len(text) <= MAX_NAME or not text.isprintable():
        raise InvalidRequest(
            f"The {field} of a token can't be used.",
            remedy=f"use {at_least} to {MAX_NAME} printable characters.",
        )
