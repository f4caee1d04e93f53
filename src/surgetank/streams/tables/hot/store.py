"""The hot rows of tables in one SQLite file, with their segments in a folder beside it.

    hot = SQLiteHotTables(beside(settings.buffer_path), max_bytes=..., row_max_bytes=...)

What is promised is in `protocol.py`. Who accepts, who reads, who flushes and who keeps order are files of their own;
here they are put together.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from surgetank.streams.tables.hot.accepting import Accepting
from surgetank.streams.tables.hot.flushing import Flushing
from surgetank.streams.tables.hot.hot_file import HotFile
from surgetank.streams.tables.hot.leases import Leases
from surgetank.streams.tables.hot.parking import Parking
from surgetank.streams.tables.hot.putting import Putting
from surgetank.streams.tables.hot.reading import Snapshots
from surgetank.streams.tables.hot.segment_files import SegmentFolder
from surgetank.streams.tables.hot.tallies import Tallies
from surgetank.streams.tables.hot.upkeep import Upkeep

MAX_BYTES = 1024**3
ROW_MAX_BYTES = 16 * 1024**2


def segments_beside(path: Path) -> Path:
    """The folder of the segments of a file of tables."""
    return path.with_name(f"{path.stem.removesuffix('-tables')}-segments")


class SQLiteHotTables:
    """`HotTables` on one file. `durability` is `process` or `power`; `before_write` makes room on a
    full disk. Raises `BufferUnavailable`, `BufferCorrupt`."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_BYTES,
        row_max_bytes: int = ROW_MAX_BYTES,
        durability: str = "process",
        before_write: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        path = Path(path)
        folder = SegmentFolder(segments_beside(path))
        file = HotFile(
            path, folder, max_bytes=max_bytes, durability=durability, before_write=before_write,
            clock=clock, rng=rng or random.SystemRandom(),
        )  # fmt: skip
        accepting = Accepting(file, Putting(file), row_max_bytes=row_max_bytes)
        self.accept, self.accept_arrow = accepting.accept, accepting.accept_arrow
        self.too_large, self.large_rows = accepting.too_large, accepting.large_rows
        self.repeated, self.acks = accepting.repeated, accepting.acks
        self.known_keys, self.erasures = accepting.known_keys, accepting.erasures
        self.snapshot = Snapshots(file).snapshot
        leases = Leases(file)
        self.lease, self.renew, self.release = leases.lease, leases.renew, leases.release
        self.fail, self.retry_now = leases.fail, leases.retry_now
        flushing = Flushing(file)
        self.take, self.ack = flushing.take, flushing.ack
        tallies = Tallies(file)
        self.waiting, self.progress, self.depth = tallies.waiting, tallies.progress, tallies.depth
        self.states, self.failures = tallies.states, tallies.failures
        parking = Parking(file)
        self.parked, self.parked_row = parking.parked, parking.parked_row
        self.unpark, self.discard_parked = parking.unpark, parking.discard_parked
        upkeep = Upkeep(file)
        self.forget_table, self.erase_user = upkeep.forget_table, upkeep.erase_user
        self.tables = upkeep.tables
        self.maintain, self.close = upkeep.maintain, file.close
        self.path, self.segments = file.path, folder.path
