"""Storms of one error: the first occurrences go through whole, then one report a second carries the count. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from surgetank.encode.errors import ErrorReport

CALM = 20  # occurrences within a window that go through one by one
WINDOW_S = 10.0
SEND_S = 1.0
_REMEMBERED = 10_000


@dataclass(slots=True)
class _Seen:
    began: float
    count: int = 0
    sent_at: float = 0.0
    held: dict[str | None, ErrorReport] = field(default_factory=dict)  # by thread


class Storms:
    """Decides what is sent now. Not thread-safe."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def take(self, report: ErrorReport) -> ErrorReport | None:
        """What to send for this occurrence now; None: it is counted, and `due` gives it back."""
        if len(self._seen) > _REMEMBERED:
            self._seen = {name: seen for name, seen in self._seen.items() if seen.held}
        seen = self._seen.setdefault(report.fingerprint, _Seen(report.at))
        if not 0 <= report.at - seen.began < WINDOW_S:
            seen.began, seen.count = report.at, 0
        seen.count += 1
        if seen.count <= CALM:
            return report
        held = seen.held.get(report.thread_id)
        seen.held[report.thread_id] = replace(report, count=report.count + (held.count if held else 0))
        return None

    def due(self, now: float, *, all_: bool = False) -> list[ErrorReport]:
        """What was held back for a second, with its counts."""
        sent: list[ErrorReport] = []
        for seen in self._seen.values():
            if seen.held and (all_ or not 0 <= now - seen.sent_at < SEND_S):
                sent += seen.held.values()
                seen.held = {}
                seen.sent_at = now
        return sent
