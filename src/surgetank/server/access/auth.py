"""Who is asking: tokens checked against memory first and PostgreSQL second, and failed attempts
slowed down.

What PostgreSQL said of a token is believed for `FRESH_S` (so long a revocation may take), and for
`OUTAGE_S` while PostgreSQL is down. The token of the environment needs no database.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from surgetank.bounded import BoundedMap
from surgetank.exceptions import ConfigurationError, SinkError
from surgetank.server.access.failures import Attempts, FailedLogins
from surgetank.server.access.roles import ENVIRONMENT_ADMIN, LOCAL_ADMIN, Caller
from surgetank.server.access.tokens import Token, TokenStore, digest, is_token_shaped
from surgetank.server.http.problems import Problem
from surgetank.telemetry import log

FRESH_S = 60.0
OUTAGE_S = 15 * 60.0
TICKET_S = 30.0
_REMEMBERED = 10_000
_PATIENCE_S = 5.0
_CHALLENGE = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class _Known:
    token: Token
    checked_at: float


class Authenticator:
    """Tells who presents a token."""

    def __init__(
        self,
        store: TokenStore,
        *,
        admin_token: str | None,
        burst: int = 10,
        no_auth: bool = False,
        clock: Callable[[], float] = time.time,
        together: Attempts | None = None,
    ) -> None:
        self._store = store
        self._admin = digest(admin_token) if admin_token else None
        self._no_auth = no_auth
        self._clock = clock
        self._lock = threading.Lock()
        self._known = BoundedMap[bytes, _Known](_REMEMBERED)
        self._ended = BoundedMap[str, bool](_REMEMBERED)
        self.failures = FailedLogins(burst, clock, together)

    def remembered(self, token: str | None) -> Caller | None:
        """The caller if memory alone can tell. Never blocks."""
        if self._no_auth:
            return LOCAL_ADMIN
        if token is None:
            return None
        secret = digest(token)
        if self._admin is not None and hmac.compare_digest(secret, self._admin):
            return ENVIRONMENT_ADMIN
        known = self._recall(secret)
        return known.token.caller if known and self._young(known, FRESH_S) else None

    def is_own(self, token: str | None) -> bool:
        """Whether a token can be one of ours: another is a matter of the project's own handler."""
        if token is None:
            return False
        own = self._admin is not None and hmac.compare_digest(digest(token), self._admin)
        return own or is_token_shaped(token)

    def authenticate(self, token: str | None, address: str) -> Caller:
        """The caller with this token. May ask the database.

        Raises `Problem`: 401 for a token that is missing or no good, 429 for an address that failed
        too often, 503 when only the database could tell and it is down.
        """
        if caller := self.remembered(token):
            return caller
        if token is None:
            raise Problem(
                401, "not-authenticated", "This needs a token.", headers=_CHALLENGE,
                remedy="send the header `Authorization: Bearer TOKEN`; `surgetank token create` "
                "makes tokens.",
            )  # fmt: skip
        secret = digest(token)
        known = self._recall(secret)
        if known is not None:
            return self._check(secret, token, known, lambda: self.failures.failed(address), address)
        with self.failures.attempt(address) as failed:
            return self._check(secret, token, None, failed, address)

    def _check(
        self,
        secret: bytes,
        token: str,
        known: _Known | None,
        failed: Callable[[], None],
        address: str,
    ) -> Caller:
        try:
            found = self._store.find(secret_digest=secret) if is_token_shaped(token) else None
        except (SinkError, ConfigurationError) as error:
            if known is not None and self._young(known, OUTAGE_S):
                return known.token.caller
            raise _cannot_tell() from error
        if found is None or not found.usable(self._clock()):
            self.forget(secret)
            failed()
            log.warning("login_failed", client=address, token=found.id if found else None)
            raise Problem(
                401,
                "not-authenticated",
                "The token is unknown, expired or revoked.",
                headers=_CHALLENGE,
                remedy="ask an administrator for a new one.",
            )
        self._remember(secret, found)
        return found.caller

    def still_good(self, caller: Caller) -> bool:
        """Whether a caller that was authenticated before still is: for connections that stay open.
        May block."""
        if caller.token_id is None:
            return True
        if self.has_ended(caller):
            return False
        try:
            found = self._store.find(token_id=caller.token_id)
        except (SinkError, ConfigurationError):
            return True  # it can't have been revoked while the database is down
        return found is not None and found.usable(self._clock())

    def has_ended(self, caller: Caller) -> bool:
        """Whether this server knows that the caller's token was revoked. Never blocks."""
        with self._lock:
            return caller.token_id in self._ended

    def forget(self, secret_digest: bytes | None = None, *, token_id: str | None = None) -> None:
        """Believe nothing about a token any more: this server learned that it was revoked."""
        with self._lock:
            if token_id is not None:
                self._ended[token_id] = True
            for name in [
                n for n, k in self._known.items() if n == secret_digest or k.token.id == token_id
            ]:
                del self._known[name]

    def forget_user(self, user: str) -> list[str]:
        """Believe nothing about a user's tokens any more; returns the ids of those that were
        known."""
        with self._lock:
            gone = {n: k.token.id for n, k in self._known.items() if k.token.user == user}
            for name in gone:
                del self._known[name]
        return list(gone.values())

    def _recall(self, secret: bytes) -> _Known | None:
        with self._lock:
            known = self._known.get(secret)
        return known if known is not None and known.token.usable(self._clock()) else None

    def _young(self, known: _Known, limit_s: float) -> bool:
        return 0 <= self._clock() - known.checked_at < limit_s

    def _remember(self, secret: bytes, token: Token) -> None:
        with self._lock:
            self._known[secret] = _Known(token, self._clock())
        used = token.last_used_at
        if used is None or self._clock() - used > FRESH_S:
            try:
                self._store.touch(token.id)
            except SinkError as error:
                log.info("token_use_not_noted", token=token.id, error=error.what)


def _cannot_tell() -> Problem:
    return Problem(
        503,
        "login-unavailable",
        "The database can't be reached, so that this token can't be checked now.",
        remedy="try again in a moment; SURGETANK_ADMIN_TOKEN works without the database.",
        headers={"Retry-After": "5"},
    )
