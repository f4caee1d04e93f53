"""What Surgetank asks of itself, as ratios to a peer measured in the same run, and whether it was
met.

Bars that were moved, and what was measured for it, are in docs/reference/benchmarks.md.

A ratio is taken within each round and the median counts; `low` and `high` show how far the rounds
were apart. Figures of other machines are never compared: only ratios travel.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench import floor
from bench.agent_servers import LANGGRAPH_DEV
from bench.harness import Figure, Scale
from bench.measures import (
    flush,
    loop,
    partitions,
    queue,
    redis_flush,
    redis_put,
    sanitizer,
    tables_flush,
    tables_insert,
    tables_query,
)
from bench.peers import MEMORY, OURS, POOL, POSTGRES, SQLITE


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: `who` against `peer`, or (without a peer) the figure itself."""

    measure: str
    key: str
    peer: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    who: str = OURS

    @property
    def text(self) -> str:
        """The bar in words."""
        bound, word = (
            (self.at_most, "at most") if self.at_most is not None else (self.at_least, "at least")
        )
        assert bound is not None
        number = f"1/{1 / bound:.0f}" if bound < 0.034 and self.peer else f"{bound:g}"
        return f"{word} {number} x {self.peer}" if self.peer else f"{word} {number}"

    def met(self, value: float) -> bool:
        """Whether the value reaches the bar."""
        if self.at_most is not None:
            return value <= self.at_most
        assert self.at_least is not None
        return value >= self.at_least


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar with what was measured: `value` is the ratio, or the figure itself for a bar without a
    peer."""

    bar: Bar
    ours: Figure
    theirs: Figure | None
    value: float
    low: float
    high: float

    @property
    def met(self) -> bool:
        """Whether the bar was reached."""
        return self.bar.met(self.value)


_STORED_STEPS = 400
_WITH_BROWSER = frozenset({"console", "console_tail"})
_OPTIONAL = frozenset({LANGGRAPH_DEV, tables_flush.DELTA})  # measured where they are installed
BARS = (
    Bar("calls", "put", floor.NAME, at_most=1.5),
    Bar("calls", "put_writes", floor.NAME, at_most=1.5),
    Bar("calls", "get_tuple hot", MEMORY, at_most=0.95),
    Bar("calls", "get_tuple newest", POSTGRES, at_most=0.8),
    Bar("calls", "get_tuple cold", POSTGRES, at_most=1.3),
    Bar("lists", "all", POSTGRES, at_most=1.2),
    Bar("lists", "one", POSTGRES, at_most=3),
    Bar("lists", "nested", POSTGRES, at_most=3.5),
    Bar("graph", "sync", MEMORY, at_most=1.5),
    Bar("graph", "async", MEMORY, at_most=1.5),
    Bar("threads", "accepted", POOL, at_least=4),
    Bar("threads", "stored", POOL, at_least=2.2),
    Bar("storage", f"plain {_STORED_STEPS}", POSTGRES, at_most=1 / 30),
    Bar("storage", "DeltaChannel more", SQLITE, at_most=1),
    Bar("storage", "DeltaChannel 100", SQLITE, at_most=1),
    Bar("flush", "long", flush.COPY, at_least=0.06),
    Bar("flush", "short", flush.COPY, at_least=0.15),
    Bar("flush", "notes", flush.COPY, at_least=0.08),
    Bar("tables_flush", "rows", tables_flush.PLAIN, at_least=0.35),
    Bar("tables_flush", "rows", tables_flush.DELTA, at_least=2),
    Bar("tables_flush", "single", tables_flush.PLAIN, at_least=0.15),
    Bar("tables_flush", "memory", at_most=256),
    Bar("tables_flush", "single memory", at_most=256),
    Bar("partitions", "entries", partitions.ONE, at_least=0.3, who=partitions.MANY),
    Bar("sanitizer", "clean chat", sanitizer.ORJSON, at_most=6, who=sanitizer.DUMPS),
    Bar("sanitizer", "clean numbers", sanitizer.ORJSON, at_most=3, who=sanitizer.DUMPS),
    Bar("sanitizer", "clean odd numbers", sanitizer.ORJSON, at_most=4, who=sanitizer.DUMPS),
    Bar("sanitizer", "clean metadata", sanitizer.ORJSON, at_most=11, who=sanitizer.DUMPS),
    Bar("memory", "peak", at_most=300),
    *(Bar("redis_put", size, redis_put.PEER, at_most=3) for size in redis_put.SIZES),
    *(Bar("redis_put", f"{size} sent", at_most=5) for size in redis_put.SIZES),
    Bar("redis_crowd", "puts", POOL, at_least=6),
    Bar("redis_flush", "drained", redis_flush.ONE, at_least=1.6, who=redis_flush.TWO),
    Bar("redis_flush", "drained", redis_flush.ONE, at_least=6, who=redis_flush.EIGHT),
    Bar("loop", "held", at_most=20),
    Bar("loop", "text", loop.PEER, at_most=2),
    Bar("loop", "objects", loop.PEER, at_most=2),
    Bar("telling", "added", at_most=1),
    Bar("telling", "held", at_most=50),
    Bar("queue", "drained", queue.PROCRASTINATE, at_least=5),
    Bar("queue", "start", at_most=15),
    Bar("queue", "round trips", at_most=6),
    Bar("served", "added", at_most=25),
    Bar("served", "event", at_most=5),
    Bar("served", "at once", LANGGRAPH_DEV, at_most=1),
    Bar("crowd", "memory", at_most=5),
    Bar("console", "usable", at_most=1000),
    Bar("console", "memory", at_most=2),
    Bar("console", "warning", at_most=1000),
    Bar("console", "critical", at_most=1000),
    Bar("console_tail", "longest", at_most=200),
    Bar("console_tail", "at once", at_most=200),
    Bar("console_tail", "came", at_least=5000),
    Bar("tables_insert", "1 users", tables_insert.PARQUET, at_most=1.67),
    Bar("tables_insert", "1000 users", tables_insert.PARQUET, at_most=2.5),
    Bar("tables_insert", "single", tables_insert.SQLITE, at_most=1.67),
    Bar("tables_upkeep", "commits", at_least=50),
    Bar("tables_upkeep", "files", at_most=4),
    Bar("tables_upkeep", "erase", at_most=2000),
    Bar("tables_insert", "threads", tables_insert.ONE, at_most=1),
    Bar("tables_query", "point", tables_query.DUCKDB, at_most=2.5),
    Bar("tables_query", "append-only", tables_query.DUCKDB, at_most=1.5),
    Bar("tables_query", "updated", tables_query.DUCKDB, at_most=3),
    Bar("tables_query", "beside", tables_query.ALONE, at_most=2),
)


def judge(figures: Sequence[Figure]) -> list[Verdict]:
    """A verdict for each bar whose figures were measured."""
    found = {(f.measure, f.key, f.contestant): f for f in figures}
    verdicts = []
    for bar in BARS:
        ours = found.get((bar.measure, bar.key, bar.who))
        theirs = found.get((bar.measure, bar.key, bar.peer)) if bar.peer else None
        if ours is not None and (theirs is not None or bar.peer is None):
            verdicts.append(_verdict(bar, ours, theirs))
    return verdicts


def unjudged(figures: Sequence[Figure], measures: Iterable[str], scale: Scale) -> list[Bar]:
    """The bars of these measures that have no figures although the scale asks for them: someone
    renamed a key."""
    judged = {verdict.bar for verdict in judge(figures)}
    expected = (
        set(measures) if _STORED_STEPS in scale.storage_steps else set(measures) - {"storage"}
    )
    here = {figure.contestant for figure in figures}
    measured = {figure.measure for figure in figures}
    return [
        bar
        for bar in BARS
        if bar.measure in expected
        and bar not in judged
        and (bar.peer not in _OPTIONAL or bar.peer in here)
        and (bar.measure not in _WITH_BROWSER or bar.measure in measured)
    ]


def _verdict(bar: Bar, ours: Figure, theirs: Figure | None) -> Verdict:
    values = ratios(ours, theirs) if theirs is not None else list(ours.rounds)
    return Verdict(bar, ours, theirs, statistics.median(values), min(values), max(values))


def ratios(ours: Figure, theirs: Figure) -> list[float]:
    """Ours divided by theirs, round by round."""
    return [a / b for a, b in zip(ours.rounds, theirs.rounds, strict=True)]
