"""Results of statements, kept for a while so that one can turn their pages, draw and download them without running the
statement again; and the statements that run just now, so that they can be cancelled.

In the memory of one server, bounded; each is for the login that asked for it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from surgetank.app.sql import Cancellation, SqlResult
from surgetank.bounded import BoundedMap
from surgetank.exceptions import NotFound

KEPT_S = 900.0
_MOST_BYTES = 128 * 1024**2
_MOST_OF_ONE = 8


@dataclass(frozen=True, slots=True)
class _Kept:
    result: SqlResult
    scope: str
    at: float


def _weight(kept: _Kept) -> int:
    assert kept.result.rows is not None
    return 1024 + int(kept.result.rows.nbytes)


class Results:
    """The results of one server. For any number of threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._server = secrets.token_hex(4)  # by which results of others are known
        self._lock = threading.Lock()
        self._kept: BoundedMap[str, _Kept] = BoundedMap(most_weight=_MOST_BYTES, weigh=_weight)

    def keep(self, scope: str, result: SqlResult) -> str:
        """Keep rows for a caller; by what they are found. The oldest of too many go."""
        name, now = f"{self._server}.{secrets.token_urlsafe(12)}", self._clock()
        with self._lock:
            for old in [key for key, kept in self._kept.items() if not self._is_young(kept)]:
                del self._kept[old]
            mine = [key for key, kept in self._kept.items() if kept.scope == scope]
            for old in mine[: max(0, len(mine) - _MOST_OF_ONE + 1)]:
                del self._kept[old]
            self._kept[name] = _Kept(result, scope, now)
        return name

    def find(self, scope: str, name: str) -> SqlResult:
        """What was kept. Raises `NotFound` when it is no longer there, or somebody else's."""
        with self._lock:
            kept = self._kept.use(name)
        if kept is None and not name.startswith(f"{self._server}."):
            raise NotFound(
                "Another server keeps this result, or it was started again meanwhile.",
                remedy="run the statement again; a balancer should leave a browser at one server.",
            )
        if kept is None or kept.scope != scope or not self._is_young(kept):
            raise NotFound(
                "This result is no longer kept: it is 15 minutes old, or others were larger.",
                remedy="run the statement again.",
            )
        return kept.result

    def clear(self) -> None:
        """Forget all: somebody's data is erased."""
        with self._lock:
            self._kept.clear()

    def _is_young(self, kept: _Kept) -> bool:
        return 0 <= self._clock() - kept.at < KEPT_S


class Running:
    """The statements that run for browsers. For any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], Cancellation] = {}

    @contextmanager
    def run(self, scope: str, name: str) -> Iterator[Cancellation]:
        """A statement that its page can name."""
        cancellation = Cancellation()
        with self._lock:
            self._running[scope, name] = cancellation
        try:
            yield cancellation
        finally:
            with self._lock:
                if self._running.get((scope, name)) is cancellation:
                    del self._running[scope, name]

    def cancel(self, scope: str, name: str) -> bool:
        """End it; whether it ran."""
        with self._lock:
            found = self._running.get((scope, name))
        if found is not None:
            found.cancel()
        return found is not None
