"""Failed logins, counted for each address: over all servers where these have one buffer, in memory else."""

from __future__ import annotations

import ipaddress
import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from surgetank.bounded import BoundedMap
from surgetank.exceptions import BufferProblem
from surgetank.server.http.problems import Problem
from surgetank.telemetry import log

_REMEMBERED = 10_000
_PATIENCE_S = 5.0
_POLL_S = 0.05  # for attempts that are under way at other servers


class Attempts(Protocol):
    """What several servers count together (`surgetank.redis.door`)."""

    def begin(self, name: str, attempt: str, *, burst: int) -> tuple[bool, float]:
        """Whether an attempt may be made now, and how many failures are left."""
        ...

    def done(self, name: str, attempt: str, *, burst: int, failed: bool) -> None:
        """It is over."""
        ...

    def left(self, name: str, *, burst: int) -> float:
        """How many failures are left."""
        ...


class FailedLogins:
    """How many failures each client address has left: `burst`, given back at `burst` a minute.
    Bounded.

    Attempts that are under way count as failures until it is known: of any number at once, no more
    than are left are tried, and the others wait for their outcome. With `together` all servers count
    as one; while that is away each counts for itself.
    """

    def __init__(
        self, burst: int, clock: Callable[[], float], together: Attempts | None = None
    ) -> None:
        self._burst = burst
        self._together = together
        self._alone = _InMemory(float(burst), clock)

    @contextmanager
    def attempt(self, address: str) -> Iterator[Callable[[], None]]:
        """One attempt to log in; what it yields is called when it failed. Raises `Problem` (429).

        Waits while as many attempts as are left are under way, at most `_PATIENCE_S`.
        """
        name, attempt = _network(address), secrets.token_hex(8)
        together = self._begun(name, attempt)
        if together is None:
            with self._alone.attempt(name) as failing:
                yield failing
            return
        outcome = _Outcome()
        try:
            yield outcome.fail
        finally:
            try:
                together.done(name, attempt, burst=self._burst, failed=outcome.failed)
            except BufferProblem as error:  # it is given up there by itself
                _away(error)
                if outcome.failed:
                    self._alone.failed(name)

    def _begun(self, name: str, attempt: str) -> Attempts | None:
        """Where the attempt is counted; None: by this server alone."""
        together, until = self._together, time.monotonic() + _PATIENCE_S
        try:
            while together is not None:
                goes, left = together.begin(name, attempt, burst=self._burst)
                if goes:
                    break
                if left < 1 or time.monotonic() >= until:
                    raise _too_many(self._until_next(left) if left < 1 else 1.0)
                time.sleep(_POLL_S)
        except BufferProblem as error:
            _away(error)
            return None
        return together

    def wait_s(self, address: str) -> float:
        """Seconds until the address may try again; 0 when it may now."""
        name = _network(address)
        return self._until_next(self._left(name))

    def failed(self, address: str) -> None:
        """Count a failure."""
        name, attempt = _network(address), secrets.token_hex(8)
        if self._together is not None:
            try:
                self._together.done(name, attempt, burst=self._burst, failed=True)
            except BufferProblem as error:
                _away(error)
            else:
                return
        self._alone.failed(name)

    def _left(self, name: str) -> float:
        if self._together is not None:
            try:
                return self._together.left(name, burst=self._burst)
            except BufferProblem as error:
                _away(error)
        return self._alone.left(name)

    def _until_next(self, left: float) -> float:
        return _until_next(left, self._burst)


class _Outcome:
    """Of an attempt: good, unless somebody says that it failed."""

    failed = False

    def fail(self) -> None:
        self.failed = True


class _InMemory:
    """The same for one server."""

    def __init__(self, burst: float, clock: Callable[[], float]) -> None:
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._outcome = threading.Condition(self._lock)
        self._left = BoundedMap[str, tuple[float, float]](_REMEMBERED)
        self._under_way: Counter[str] = Counter()

    @contextmanager
    def attempt(self, name: str) -> Iterator[Callable[[], None]]:
        """See `FailedLogins.attempt`."""
        until = time.monotonic() + _PATIENCE_S
        with self._outcome:
            while (left := self._now(name)) - self._under_way[name] < 1:
                rest = until - time.monotonic()
                if left < 1 or rest <= 0:
                    raise _too_many(_until_next(left, self._burst) if left < 1 else 1.0)
                self._outcome.wait(rest)
            self._under_way[name] += 1
        outcome = _Outcome()
        try:
            yield outcome.fail
        finally:
            with self._outcome:
                self._under_way[name] -= 1
                if not self._under_way[name]:
                    del self._under_way[name]
                if outcome.failed:
                    self._count(name)
                self._outcome.notify_all()

    def left(self, name: str) -> float:
        """How many failures are left."""
        with self._lock:
            return self._now(name)

    def failed(self, name: str) -> None:
        """Count a failure."""
        with self._lock:
            self._count(name)

    def _count(self, name: str) -> None:
        self._left[name] = (self._now(name) - 1, self._clock())

    def _now(self, name: str) -> float:
        left, at = self._left.get(name, (self._burst, 0.0))
        return min(self._burst, left + max(0.0, self._clock() - at) * self._burst / 60)


def _until_next(left: float, burst: float) -> float:
    return 0.0 if left >= 1 else (1 - left) * 60 / burst


def _away(error: BufferProblem) -> None:
    log.warning("failed_logins_counted_alone", error=error.what)


def _network(address: str) -> str:
    """The address; of IPv6 the /64, which is what one client has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address


def _too_many(wait_s: float) -> Problem:
    return Problem(
        429, "too-many-failed-logins", "Too many failed logins from this address.",
        remedy="wait as long as Retry-After says, then use a good token.",
        headers={"Retry-After": str(math.ceil(wait_s))},
    )  # fmt: skip
