"""One-time tickets for WebSockets and event streams of browsers, which can't send headers."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Protocol

from surgetank.bounded import BoundedMap
from surgetank.encode import jsontext
from surgetank.exceptions import BufferProblem
from surgetank.server.access.roles import Caller, Role
from surgetank.server.access.tokens import digest
from surgetank.server.http.problems import Problem
from surgetank.telemetry import log

TICKET_S = 30.0
_REMEMBERED = 10_000


class KeptTickets(Protocol):
    """What several servers keep together (`surgetank.redis.door`)."""

    def keep_ticket(self, digest: bytes, body: bytes, *, ttl_s: float) -> None:
        """Keep a ticket for so long."""
        ...

    def take_ticket(self, digest: bytes) -> bytes | None:
        """What it stands for, to exactly one caller."""
        ...

    def tickets(self) -> dict[bytes, bytes]:
        """All of them."""
        ...

    def drop_tickets(self, digests: list[bytes]) -> None:
        """Forget these."""
        ...


class Tickets:
    """Bounded, kept by their SHA-256, and gone with the token that they were given for.

    In memory, good at this server; with `together` at every server on the buffer. While that is away, a
    ticket is good at the server that gave it. Methods may wait for a network.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, together: KeptTickets | None = None
    ) -> None:
        self._clock = clock
        self._together = together
        self._lock = threading.Lock()
        self._open = BoundedMap[bytes, tuple[Caller, float]](_REMEMBERED)

    def issue(self, caller: Caller) -> tuple[str, float]:
        """A ticket for this caller, and when it ends."""
        ticket, until = secrets.token_urlsafe(32), self._clock() + TICKET_S
        if self._together is not None:
            try:
                self._together.keep_ticket(digest(ticket), _packed(caller), ttl_s=TICKET_S)
            except BufferProblem as error:
                log.warning("ticket_good_at_one_server", error=error.what)
            else:
                return ticket, until
        with self._lock:
            self._open[digest(ticket)] = (caller, until)
        return ticket, until

    def forget(self, token_id: str) -> None:
        """Its token was revoked."""
        self._forget(lambda caller: caller.token_id == token_id)

    def forget_user(self, user: str) -> None:
        """The user is erased."""
        self._forget(lambda caller: caller.user == user)

    def _forget(self, of: Callable[[Caller], bool]) -> None:
        with self._lock:
            for name in [name for name, (caller, _) in self._open.items() if of(caller)]:
                del self._open[name]
        if self._together is not None:
            try:
                kept = self._together.tickets()
                gone = [name for name, body in kept.items() if of(_unpacked(body))]
                if gone:
                    self._together.drop_tickets(gone)
            except (
                BufferProblem
            ) as error:  # they end within TICKET_S; of a token that has ended, none is taken
                log.warning("tickets_not_forgotten", error=error.what)

    def redeem(self, ticket: str) -> Caller | None:
        """Whose ticket this is; it is good for one time only. Raises `Problem` (503)."""
        name = digest(ticket)
        with self._lock:
            caller, until = self._open.pop(name, (None, 0.0))
        if caller is not None or self._together is None:
            return caller if self._clock() < until else None
        try:
            body = self._together.take_ticket(name)
        except BufferProblem as error:
            raise Problem(
                503, "login-unavailable", "The buffer can't be reached, so that this ticket can't be checked now.",
                remedy="try again in a moment.", headers={"Retry-After": "5"},
            ) from error  # fmt: skip
        return _unpacked(body) if body is not None else None


def _packed(caller: Caller) -> bytes:
    given = None if caller.given is None else dict(caller.given)
    filters = {name: dict(wanted) for name, wanted in caller.filters.items()}
    parts = [caller.user, caller.role.value, caller.token_id, given, filters, caller.only]
    return jsontext.dumps_exact(parts)


def _unpacked(body: bytes) -> Caller:
    user, role, token_id, given, filters, *only = jsontext.loads(body)  # older servers keep five
    return Caller(
        user, Role(role), token_id, given=given, filters=filters, only=next(iter(only), None)
    )
