"""Spilling in tests: a spiller with a clock that stands still, and a program that spills and kills
itself on the way.

python -m support.spilling HOME DATABASE_URL FALLBACK POINT OCCURRENCE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from support.buffers import FakeClock, miscounted
from support.killed import die_in
from support.redis_server import url_for
from surgetank import Surgetank, SurgetankError
from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.redis.buffer import RedisBuffer
from surgetank.buffer.spilling import SpillDue
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.fallback.files import SpillFiles
from surgetank.flush.policy import SpillPolicy
from surgetank.redis.address import parse
from surgetank.spilling.spiller import Spiller

ALL = SpillDue()


class SpillPlace:
    """A folder with a buffer and a fallback location."""

    def __init__(self, folder: Path, kind: str = "sqlite") -> None:
        self.folder = folder
        self.kind = kind
        self.path = folder / "buffer.db"
        self.location = folder / "fallback"
        self.clock = FakeClock()
        self.problems: list[SurgetankError] = []
        self._opened: list[Any] = []

    def open(
        self,
        *,
        name: str = "buffer.db",
        max_bytes: int = 1 << 30,
        spills: bool = True,
        **options: Any,
    ) -> Any:
        """A buffer of the kind, which spills to a folder beside it."""
        options["files"] = SpillFiles(str(self.location) if spills else None)
        options["limits"] = BufferLimits(max_bytes=max_bytes, block_timeout_s=30)
        options |= {"clock": self.clock, "inline_keys": frozenset((b"operation",))}
        buffer: Any
        if self.kind == "redis":
            buffer = RedisBuffer(parse(url_for(self.folder / name)), **options)
        else:
            buffer = SQLiteBuffer(self.folder / name, **options)
        self._opened.append(buffer)
        return buffer

    def spiller(self, buffer: SQLiteBuffer, *streams: str, **policy: Any) -> Spiller:
        return Spiller(
            buffer, streams or ("s",), SpillPolicy(**policy), clock=self.clock, node="spiller", ttl_s=15.0,
            on_problem=self.problems.append,
        )  # fmt: skip

    def spill_all(self, buffer: SQLiteBuffer, stream: str = "s") -> int:
        """Spill everything of a stream; returns how many files that made."""
        count = 0
        while self.spiller(buffer, stream).spill(stream, ALL) is not None:
            count += 1
        return count

    def files(self) -> list[Path]:
        return sorted(self.location.rglob("*.spill"))

    def close(self) -> None:
        """Close what was opened; all that is counted is counted again."""
        if self.kind == "redis" and self._opened:
            again = self.open(spills=False)
            assert again.miscounted() == []
        for buffer in self._opened:
            buffer.close()
        if self.kind == "sqlite":
            for path in {buffer.path for buffer in self._opened}:
                if path.exists():
                    assert miscounted(path) == []


def spill(tank: Surgetank, file_bytes: int = 1 << 20) -> int:
    """Spill all checkpoints of an engine; returns how many files that made."""
    tank.parts.spills._spiller._policy = SpillPolicy(file_bytes=file_bytes, silent_s=0.0)
    count = 0
    while tank.parts.spills._spiller.spill("checkpoints", ALL) is not None:
        count += 1
    return count


def _die_at(tank: Surgetank, point: str, occurrence: int) -> None:
    when, _, method = point.partition("_")
    buffer = tank.parts.buffer
    owner: Any = buffer.files.store() if method in ("write", "delete") else buffer
    die_in(owner, method, when, occurrence)


def main() -> None:
    home, database_url, fallback, point, occurrence = sys.argv[1:]
    tank = Surgetank(
        home, database_url=database_url, fallback_url=fallback, flush_in_process=False, flush_batch_entries=7,
        lease_ttl=0.2,
    )  # fmt: skip
    tank.open()
    _die_at(tank, point, int(occurrence))
    spill(tank, file_bytes=60_000)
    tank.flush()
    tank.parts.spills.clean()
    print("survived", flush=True)
    tank.close()


if __name__ == "__main__":
    main()
