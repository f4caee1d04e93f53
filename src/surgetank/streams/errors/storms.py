"""Storms of one error: which occurrences go through whole, and which are only counted. Pure.

What is counted is kept by the buffer in the same call (`Buffer.tally`), and sent as one report a
second.
"""

from __future__ import annotations

from dataclasses import dataclass

from surgetank.bounded import BoundedMap

CALM = 20  # occurrences within a window that go through one by one
WINDOW_S = 10.0
SEND_S = 1.0
_REMEMBERED = 10_000


@dataclass(slots=True)
class _Seen:
    began: float
    count: int = 0


class Storms:
    """Knows which errors storm just now. Not thread-safe."""

    def __init__(self) -> None:
        self._seen = BoundedMap[str, _Seen](_REMEMBERED)

    def is_calm(self, fingerprint: str, at: float) -> bool:
        """Whether this occurrence goes through whole."""
        seen = self._seen.use(fingerprint)
        if seen is None:
            seen = self._seen[fingerprint] = _Seen(at)
        if not 0 <= at - seen.began < WINDOW_S:
            seen.began, seen.count = at, 0
        seen.count += 1
        return seen.count <= CALM
