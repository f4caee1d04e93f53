"""Stores of hot rows of both kinds: one file, and a replica of a log in Redis that hosts share."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.redis_server import url_for
from surgetank.redis.address import parse
from surgetank.streams.tables.cold.location import FolderLocation
from surgetank.streams.tables.hot.shared.log import SharedLog
from surgetank.streams.tables.hot.shared.store import SharedHotTables


def replica(
    folder: Path,
    host: str = "a",
    *,
    clock: Callable[[], float] = time.time,
    url: str | None = None,
    **more: Any,
) -> SharedHotTables:
    """A host's replica of the hot rows of a test's folder."""
    return SharedHotTables(
        folder / f"host-{host}" / "buffer-hot.db",
        SharedLog(parse(url or url_for(folder, shards=1))),
        FolderLocation(folder / "storage"),
        clock=clock,
        **more,
    )
