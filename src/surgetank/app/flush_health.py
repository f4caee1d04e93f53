"""How well flushes went over time, by stream and by table, out of the records of jobs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from surgetank.model import FlushJob, JobStatus

TABLES = "tables"  # the stream whose partitions are those of tables


@dataclass(slots=True)
class Health:
    """Of one stream or table: how many jobs there were, how many saved everything, had warnings or failed,
    and the same in steps of time. `rows` of a table are not counted. `last` is the newest job."""

    name: str
    good: list[int]
    warned: list[int]
    failed: list[int]
    rows: list[int]
    seconds: float = 0.0
    last: FlushJob | None = field(default=None, repr=False)

    @classmethod
    def empty(cls, name: str, steps: int) -> Health:
        """Nothing was counted yet."""
        return cls(name, [0] * steps, [0] * steps, [0] * steps, [0] * steps)

    @property
    def jobs(self) -> int:
        """All of them."""
        return sum(self.good) + sum(self.warned) + sum(self.failed)

    def count(self, job: FlushJob, at: int, *, failed: bool, warned: bool) -> None:
        """Add a job."""
        (self.failed if failed else self.warned if warned else self.good)[at] += 1
        if self.last is None or job.created_at > self.last.created_at:
            self.last = job


@dataclass(frozen=True, slots=True)
class FlushHealth:
    """The picture: where each step of time begins (seconds since the epoch), and who did how well.
    `since` is the oldest job that is remembered, if that is later than what was asked for."""

    at: tuple[float, ...]
    streams: tuple[Health, ...]
    tables: tuple[Health, ...]
    since: float


def health_of(
    jobs: Iterable[FlushJob], *, streams: Iterable[str], since: float, until: float, steps: int = 48
) -> FlushHealth:
    """Out of jobs that have ended. Of a job those tables are counted that its record names: at most 50
    partitions, those with trouble first."""
    width = max(1.0, (until - since) / steps)
    found = {stream: Health.empty(stream, steps) for stream in streams}
    tables: dict[str, Health] = {}
    oldest = until
    for job in jobs:
        ended = job.finished_at
        health = found.get(job.stream)
        if ended is None or health is None or not since <= ended < until:
            continue
        oldest = min(oldest, ended)
        at = min(steps - 1, int((ended - since) / width))
        failed = job.status is JobStatus.FAILED
        health.count(job, at, failed=failed, warned=bool(job.warnings))
        health.rows[at] += job.result.rows_flushed or 0
        health.seconds += ended - (job.started_at or ended)
        if job.stream == TABLES:
            for name, (bad, odd) in _tables_of(job).items():
                table = tables.setdefault(name, Health.empty(name, steps))
                table.count(job, at, failed=bad, warned=odd)
    used = [each for each in found.values() if each.jobs]
    return FlushHealth(
        tuple(since + n * width for n in range(steps)),
        tuple(used),
        tuple(tables[name] for name in sorted(tables)),
        oldest,
    )


def _tables_of(job: FlushJob) -> Mapping[str, tuple[bool, bool]]:
    """The tables that a job was about: whether a part of one failed, and whether rows were set aside."""
    found: dict[str, tuple[bool, bool]] = {}
    for part in job.result.partitions or ():
        name = str(part.get("partition", "")).partition("/")[0]
        bad, odd = found.get(name, (False, False))
        found[name] = (bad or bool(part.get("failed")), odd or bool(part.get("parked")))
    return found
