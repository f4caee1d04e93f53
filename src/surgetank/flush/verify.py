"""Looking whether the sink still has what it acknowledged, without waiting until a partition is
written again.

A database that was restored, or a replica that took over and was behind, is found by the marks of
the partitions that were acknowledged last: one bounded query, at the start, after each new
connection, and now and then (behind a pooler the server may be replaced without a new connection of
ours). The fence looks again at each partition that is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from surgetank.buffer.binding import Fence, Marked
from surgetank.database.pool import Database
from surgetank.flush.doubts import Found
from surgetank.model import Mark
from surgetank.sinks.fence import standings
from surgetank.sinks.standing import Finding, has_gone_back, judge

_PAGE = 1000
_EVERY_S = 60.0


class ProgressCheck:
    """Compares marks with a database's progress. `streams` are those that are written into it."""

    def __init__(
        self,
        buffer: Fence,
        database: Database,
        streams: Collection[str],
        *,
        clock: Callable[[], float],
        on_findings: Callable[[Sequence[Found]], None],
    ) -> None:
        self._buffer = buffer
        self._database = database
        self._streams = frozenset(streams)
        self._clock = clock
        self._on_findings = on_findings
        self._connects = -1
        self._checked_at = float("-inf")

    def is_due(self) -> bool:
        """Whether a connection was lost or made since the last look, or that is long ago."""
        return (
            self._database.connects != self._connects
            or not 0 <= self._clock() - self._checked_at < _EVERY_S
        )

    def run(self) -> list[Found]:
        """Look, and let kept entries of partitions that lost something wait again. Raises what the
        database raises."""
        self._checked_at = self._clock()
        connects = self._database.connects
        lost = self._lost()
        self._connects = max(connects, self._database.connects)
        findings: list[Found] = []
        for marked, standing in lost:
            verdict = judge(standing, marked.mark, ())
            rewound = self._buffer.rewind(marked.stream, marked.partition, verdict.trusted)
            if rewound is not None:  # else somebody flushes it just now, and sees for himself
                findings.append(
                    Found(
                        stream=marked.stream,
                        partition=marked.partition,
                        finding=Finding.WENT_BACK,
                        entries=rewound.entries,
                        again=rewound.entries,
                        gone=rewound.gone,
                    )
                )
        if findings:
            self._on_findings(findings)
        return findings

    def _lost(self) -> list[tuple[Marked, dict[int, Mark]]]:
        """Partitions whose last entry the sink lost, those acknowledged last first, up to a page
        without any."""
        lost: list[tuple[Marked, dict[int, Mark]]] = []
        offset = 0
        while True:
            page = self._buffer.marks(limit=_PAGE, offset=offset)
            asked = [m for m in page if m.stream in self._streams]
            if not asked:
                return lost
            with self._database.connection() as connection, connection.cursor() as cursor:
                there = standings(cursor, self._buffer.id, [(m.stream, m.partition) for m in asked])
            found = [
                (m, standing)
                for m in asked
                if has_gone_back(standing := there.get((m.stream, m.partition), {}), m.mark)
            ]
            lost += found
            if not found or len(page) < _PAGE:
                return lost
            offset += _PAGE
