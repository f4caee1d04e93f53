"""Is all well? One judgement for `surgetank status`, the server's readiness and `surgetank doctor`.
Pure.

Findings say in plain words what is wrong with which part, without names, addresses or data: anybody
may read them. What they are about in detail stands beside them (`Notice`, `SinkStatus`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from surgetank.flush.classify import is_of_the_sink
from surgetank.model import BufferDepth, FailureKind, PartitionState
from surgetank.notify.incidents import NEARLY_FULL


class Level(StrEnum):
    """How bad it is. `warning`: the data is safe, and nobody has to act yet. `critical`: somebody
    has to."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"


_ORDER = list(Level)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said of one part: `database`, `buffer`, `flush`, `saving`, `fallback` or
    `problems`.

    `down`: it doesn't work at all.
    """

    part: str
    level: Level
    detail: str
    down: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """The judgement: what was found of each part."""

    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """The worst that was found."""
        return max((f.level for f in self.findings), key=_ORDER.index, default=Level.OK)

    @property
    def exit_code(self) -> int:
        """For scripts: 0 when all is well, else 1."""
        return 0 if self.level is Level.OK else 1

    def of(self, part: str) -> Finding:
        """What was found of a part; the worst of it."""
        found = [f for f in self.findings if f.part == part]
        return max(found, key=lambda f: _ORDER.index(f.level), default=Finding(part, Level.OK, ""))


@dataclass(frozen=True, slots=True)
class SinkFacts:
    """What is known of a sink: whether it answered (None: it wasn't asked), whether it refused, its
    breaker."""

    stream: str
    reachable: bool | None
    breaker: str
    refused: bool = False
    stopped: bool = False  # an embedded database that nobody has started


@dataclass(frozen=True, slots=True)
class Observed:
    """The breaker of whoever flushes, as far as the buffer shows it."""

    breaker: str
    retry_at: float | None
    last_error: str | None


def judge(
    depth: BufferDepth,
    sinks: Sequence[SinkFacts],
    severities: Sequence[str],
    *,
    lag_s: float,
    flushes: bool | None,
    problems: int,
    patience_s: float,
    fallback_usable: bool | None = None,
) -> Health:
    """The judgement of one moment.

    `severities` are those of the notices, `flushes` whether this process's flush thread runs (None:
    it is not meant to), `patience_s` how long something may wait before that is worth a word,
    `problems` how many other things went wrong.
    """
    waiting = sum(d.entries for d in depth.streams)
    findings = [
        _of_database(sinks, waiting),
        _of_buffer(depth),
        _of_flush(depth, sinks, flushes, lag_s, patience_s),
        _of_saving(depth, severities),
    ]
    if fallback_usable is False:
        findings.append(Finding("fallback", Level.CRITICAL, "the fallback location can't be used"))
    if problems:
        findings.append(Finding("problems", Level.WARNING, f"{problems} problems are recorded"))
    return Health(tuple(findings))


def without_buffer(sinks: Sequence[SinkFacts]) -> Health:
    """The judgement while the buffer does not answer: nobody knows what is in it."""
    away = "does not answer: nothing is accepted, and what waits is not known"
    return Health(
        (
            _of_database(sinks, 1),
            Finding("buffer", Level.CRITICAL, away, down=True),
            Finding("flush", Level.CRITICAL, "can't go on without the buffer", down=True),
            Finding("saving", Level.CRITICAL, "is not known without the buffer"),
        )
    )


def _of_database(sinks: Sequence[SinkFacts], waiting: int) -> Finding:
    if any(s.refused for s in sinks):
        what = "answers, but refuses to be used like this; what is hot is served, what is written waits in the buffer"
        return Finding("database", Level.CRITICAL, what, down=True)
    if all(s.stopped for s in sinks) and sinks:
        if not waiting:
            return Finding("database", Level.OK, "is not running; nothing waits for it")
        return Finding(
            "database",
            Level.WARNING,
            "is not running; what was written waits in the buffer",
            down=True,
        )
    if any(s.reachable is False for s in sinks):
        what = "can't be used; what is hot is served, what is written waits in the buffer"
        return Finding("database", Level.WARNING, what, down=True)
    if any(s.breaker != "closed" for s in sinks):
        return Finding("database", Level.WARNING, "failed lately; it is tried again by itself")
    return Finding(
        "database", Level.OK, "answers" if any(s.reachable for s in sinks) else "was not asked"
    )


def _of_buffer(depth: BufferDepth) -> Finding:
    if depth.fullness >= NEARLY_FULL:
        what = f"{depth.fullness:.0%} full; at 100 % new writes wait or fail"
        return Finding("buffer", Level.CRITICAL, what)
    return Finding("buffer", Level.OK, "accepts and serves")


def _of_flush(
    depth: BufferDepth,
    sinks: Sequence[SinkFacts],
    flushes: bool | None,
    lag_s: float,
    patience_s: float,
) -> Finding:
    if flushes is False:
        return Finding(
            "flush", Level.CRITICAL, "the flush thread ended; restart the process", down=True
        )
    failing, parked = (
        sum(getattr(s, name) for s in depth.streams) for name in ("failing", "parked")
    )
    if failing or parked:
        what = f"{failing} partitions fail, {parked} entries are parked; nothing is lost"
        return Finding("flush", Level.CRITICAL if parked else Level.WARNING, what)
    if lag_s > patience_s and all(s.breaker == "closed" for s in sinks):
        return Finding(
            "flush", Level.WARNING, f"something waits for {lag_s:.0f} s: does anybody flush?"
        )
    return Finding(
        "flush", Level.OK, "under way" if any(d.entries for d in depth.streams) else "up to date"
    )


def _of_saving(depth: BufferDepth, severities: Sequence[str]) -> Finding:
    if not severities:
        return Finding("saving", Level.OK, "nothing fails, nothing is parked")
    level = Level.CRITICAL if "critical" in severities else Level.WARNING
    return Finding(
        "saving",
        level,
        f"{len(severities)} notices; {depth.entries} entries are kept in the buffer",
    )


def observed_breaker(stream: str, failing: Sequence[PartitionState], now: float) -> Observed:
    """The breaker of whoever flushes a stream, out of what it left with the partitions: open while
    partitions wait for the sink as a whole, half open when their time has come.
    """
    away = [
        s
        for s in failing
        if s.stream == stream and s.failure is not None and is_of_the_sink(s.failure)
    ]
    if not away:
        return Observed("closed", None, None)
    newest = max(away, key=lambda s: (s.failing_since or 0.0, s.attempts))
    assert newest.failure is not None
    retry_at = min(s.next_attempt_at for s in away)
    fatal = newest.failure.kind is FailureKind.FATAL
    return Observed(
        "open" if retry_at > now or fatal else "half_open", retry_at, newest.failure.message
    )
