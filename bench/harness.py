"""Rounds, samples and figures: how every measure counts.

All contestants take a turn in each round, and each round begins with another of them, so that a
machine that gets slower or a disk that gets busy meets all alike. What takes less than a
millisecond takes turns step by step (`together`): a virtual machine may be twice as slow a second
later. Ratios are taken within a round and the median of them counts.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from bench.server import Server

T = TypeVar("T")
_ENOUGH_FOR_P99 = 50


class BenchError(Exception):
    """A measurement that can't be believed: a flush failed, or a saver gave back something else
    than was put."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. The defaults are the run that the documentation shows."""

    rounds: int = 5
    rehearse: bool = True  # a first round that doesn't count: imports, prepared statements, caches
    steps: int = 100
    list_steps: int = 300
    graph_runs: int = 3  # in each turn
    slow_steps: int = 25
    slow_node_ms: int = 20
    workers: int = 8
    worker_steps: int = 50
    storage_steps: tuple[int, ...] = (50, 100, 200, 400)
    short_deltas: int = 10
    chat_threads: int = 20
    chat_steps: int = 50
    short_threads: int = 500
    short_steps: int = 4
    note_threads: int = 100
    note_steps: int = 20
    entries: int = 10_000
    table_rows: int = 1_000_000
    query_rows: int = 5_000_000
    query_batch: int = 100_000
    hostile_s: float = 4.0
    memory_mb: int = 256
    large_mb: int = 20
    held_s: float = 4.0
    batch_ms: float = 20.0
    served_runs: int = 20
    served_events: int = 100
    runs_at_once: int = 100
    queued_runs: int = 1000
    queue_workers: int = 100
    paced_runs: int = 200
    crowd: int = 500
    waiting_threads: int = 1000
    sink_ms: float = 20.0
    log_lines: int = 20_000
    log_rate: int = 5000
    consoles: int = 12
    peers: bool = True  # those that have an environment of their own


SMOKE = Scale(
    rounds=1, rehearse=False, steps=2, list_steps=3, graph_runs=1, slow_steps=1, slow_node_ms=1, workers=2,
    worker_steps=2, storage_steps=(1, 3), short_deltas=2, chat_threads=2, chat_steps=3, short_threads=3, short_steps=2,
    note_threads=2, note_steps=2, entries=20, table_rows=200, query_rows=400, query_batch=50, hostile_s=0.3,
    memory_mb=2, large_mb=1, held_s=0.1, batch_ms=0.2, served_runs=1, served_events=2, runs_at_once=2, queued_runs=4,
    queue_workers=2, paced_runs=2, crowd=3, waiting_threads=20, sink_ms=1.0, peers=False,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scene:
    """What a measure works with: its scale, a folder of its own, the server that all share."""

    scale: Scale
    home: Path
    server: Server

    def turns(self, contestants: Sequence[T]) -> Iterator[tuple[int, T]]:
        """Each contestant in each round, with the round's number. Round 0 is the rehearsal."""
        for number in range(0 if self.scale.rehearse else 1, self.scale.rounds + 1):
            shift = (number - 1) % len(contestants)
            for contestant in (*contestants[shift:], *contestants[:shift]):
                gc.collect()
                yield number, contestant

    def together(self, contestants: Sequence[T]) -> Iterator[tuple[int, Sequence[T]]]:
        """All contestants at once in each round, another one first each time. Round 0 is the
        rehearsal."""
        for number in range(0 if self.scale.rehearse else 1, self.scale.rounds + 1):
            shift = (number - 1) % len(contestants)
            gc.collect()
            yield number, (*contestants[shift:], *contestants[:shift])


@dataclass(frozen=True, slots=True)
class Figure:
    """What one contestant reached in one measured thing. `rounds` holds the median of each
    round."""

    measure: str
    key: str
    label: str
    unit: str
    contestant: str
    p50: float
    p99: float | None
    count: int
    rounds: tuple[float, ...]


@dataclass(slots=True)
class Recorder:
    """Collects the samples of one measure."""

    measure: str
    _samples: dict[tuple[str, str, str, str], dict[int, list[float]]] = field(default_factory=dict)

    def add(
        self,
        number: int,
        who: str,
        key: str,
        values: float | list[float],
        *,
        label: str = "",
        unit: str = "ms",
    ) -> None:
        """Add samples of round `number`. What the rehearsal (round 0) measured is dropped."""
        if number == 0:
            return
        rounds = self._samples.setdefault((key, label or key, unit, who), {})
        rounds.setdefault(number, []).extend(values if isinstance(values, list) else [values])

    def figures(self) -> list[Figure]:
        """The figures, in the order in which they were first measured."""
        return [
            _figure(self.measure, key, label, unit, who, list(rounds.values()))
            for (key, label, unit, who), rounds in self._samples.items()
        ]


def _figure(
    measure: str, key: str, label: str, unit: str, who: str, rounds: list[list[float]]
) -> Figure:
    samples = [value for values in rounds for value in values]
    p99 = statistics.quantiles(samples, n=100)[98] if len(samples) >= _ENOUGH_FOR_P99 else None
    medians = tuple(statistics.median(values) for values in rounds)
    return Figure(
        measure, key, label, unit, who, statistics.median(samples), p99, len(samples), medians
    )


def timed(into: list[float], action: Callable[[], Any]) -> Any:
    """Run the action and note its milliseconds."""
    start = time.perf_counter()
    result = action()
    into.append((time.perf_counter() - start) * 1000)
    return result


def seconds(action: Callable[[], Any]) -> float:
    """How long the action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
