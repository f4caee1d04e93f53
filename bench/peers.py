"""Who is compared: LangGraph's savers and ours, as a user would open them.

Each gets a database of its own on the same server. Surgetank runs with its default settings, flush
thread included, unless a measure says otherwise: what the flush takes from the caller is part of
the figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from bench.harness import BenchError, Scene
from bench.server import stored_bytes
from surgetank import Surgetank
from surgetank.streams.checkpoints.envelope import STREAM as CHECKPOINTS

MEMORY = "InMemorySaver"
SQLITE = "SqliteSaver"
POSTGRES = "PostgresSaver"
POOL = "PostgresSaver, pool"
OURS = "Surgetank"
NO_SAVER = "no checkpointer"
ALL = (MEMORY, SQLITE, POSTGRES, POOL, OURS)
# As the documentation of PostgresSaver asks for.
_CONNECTION = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class BufferFile:
    """The file that Surgetank's buffer lives in, its log included."""

    tank: Surgetank

    def file_bytes(self) -> int:
        """What it takes on disk."""
        path = Path(self.tank.parts.buffer.name)
        return sum(f.stat().st_size for f in path.parent.glob(f"{path.name}*"))

    def tidy(self) -> None:
        """The housekeeping that the flush thread does now and then."""
        self.tank.parts.buffer.maintain()


@dataclass(frozen=True, slots=True)
class Contestant:
    """A saver to be measured. `saver` is Any because the peers' generics differ.

    `settle` does what a saver left for later, outside of what is timed; `stored` is what it takes
    on disk (in memory for InMemorySaver), in bytes.
    """

    name: str
    saver: Any
    stored: Callable[[], int]
    settle: Callable[[], None] = _nothing
    buffer: BufferFile | None = None


@contextmanager
def contestants(scene: Scene, names: Sequence[str] = ALL) -> Iterator[list[Contestant]]:
    """The named savers, open, on fresh storage."""
    with ExitStack() as stack:
        yield [stack.enter_context(_OPENERS[name](scene)) for name in names]


@contextmanager
def open_tank(scene: Scene, url: str, **settings: Any) -> Iterator[Surgetank]:
    """Surgetank on a fresh home, with default settings but for what is given."""
    with Surgetank(mkdtemp(dir=scene.home), database_url=url, **settings) as tank:
        yield tank


def flush_all(tank: Surgetank) -> None:
    """Wait until everything is in the database. Raises `BenchError` when it isn't."""
    job = tank.flush()
    if not job.ok or tank.parts.buffer.last_seq(CHECKPOINTS):
        raise BenchError(f"the flush failed: {job.result}")


@contextmanager
def _memory(_scene: Scene) -> Iterator[Contestant]:
    saver = InMemorySaver()
    yield Contestant(MEMORY, saver, partial(_memory_bytes, saver))


def _memory_bytes(saver: InMemorySaver) -> int:
    """Serialized bytes that the saver holds, without what Python's objects add."""
    values = sum(len(data) for _, data in saver.blobs.values())
    checkpoints = sum(
        len(checkpoint[1]) + len(metadata[1])
        for namespaces in saver.storage.values()
        for by_id in namespaces.values()
        for checkpoint, metadata, _ in by_id.values()
    )
    return (
        values
        + checkpoints
        + sum(len(w[2][1]) for task in saver.writes.values() for w in task.values())
    )


@contextmanager
def _sqlite(scene: Scene) -> Iterator[Contestant]:
    path = Path(mkdtemp(dir=scene.home)) / "peer.db"
    with SqliteSaver.from_conn_string(str(path)) as saver:
        saver.setup()
        yield Contestant(SQLITE, saver, partial(_sqlite_bytes, saver, path))


def _sqlite_bytes(saver: SqliteSaver, path: Path) -> int:
    with saver.lock:
        saver.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


@contextmanager
def _postgres(scene: Scene) -> Iterator[Contestant]:
    with scene.server.database() as url, PostgresSaver.from_conn_string(url) as saver:
        saver.setup()
        yield Contestant(POSTGRES, saver, partial(stored_bytes, url))


@contextmanager
def _pool(scene: Scene) -> Iterator[Contestant]:
    size = scene.scale.workers
    with (
        scene.server.database() as url,
        ConnectionPool(
            url,
            connection_class=Connection[dict[str, Any]],
            kwargs=_CONNECTION,
            min_size=size,
            max_size=size,
        ) as pool,
    ):
        saver = PostgresSaver(pool)
        saver.setup()
        yield Contestant(POOL, saver, partial(stored_bytes, url))


@contextmanager
def _ours(scene: Scene) -> Iterator[Contestant]:
    with scene.server.database(migrated=True) as url, open_tank(scene, url) as tank:
        with tank.parts.database.connection():
            pass  # the first connection makes the tables
        yield Contestant(
            OURS,
            tank.checkpointer(),
            partial(stored_bytes, url),
            partial(flush_all, tank),
            BufferFile(tank),
        )


_OPENERS: dict[str, Callable[[Scene], AbstractContextManager[Contestant]]] = {
    MEMORY: _memory, SQLITE: _sqlite, POSTGRES: _postgres, POOL: _pool, OURS: _ours,
}  # fmt: skip
