"""The tables of LangGraph's own PostgreSQL and SQLite savers, read row by row, values as the bytes
that they are.

Nothing is deserialized on the way, so the application's classes needn't be importable, and what is
equal in bytes is equal in value and type. Rows that can't be carried raise `BrokenRow`; nothing is
ever written here.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import psycopg
from langgraph.checkpoint.serde.types import TASKS
from psycopg.rows import tuple_row

from surgetank.database.pool import redact_url
from surgetank.encode.codes import LG_DELTA
from surgetank.exceptions import BrokenRow, InvalidRequest
from surgetank.streams.checkpoints.envelope import version_text
from surgetank.streams.checkpoints.raw import RawCheckpoint
from surgetank.streams.checkpoints.refs import CheckpointRef, ParentedRef
from surgetank.streams.checkpoints.serde.serializer import FaithfulSerializer
from surgetank.streams.checkpoints.transfer.official_rows import (
    json_of,
    make_raw,
    parents_first,
    refuse_schema,
    unreachable,
)
from surgetank.streams.checkpoints.transfer.packed import (
    Typed,
    check,
    extension_of,
    pack_tree,
    typed_of,
    unpack_tree,
)

_PG_TABLES = {"checkpoints", "checkpoint_blobs", "checkpoint_writes"}
_SQLITE_TABLES = {"checkpoints", "writes"}
_ORPHAN = (
    "NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.thread_id = w.thread_id"
    " AND c.checkpoint_ns = w.checkpoint_ns AND c.checkpoint_id = w.checkpoint_id)"
)
_serde = FaithfulSerializer()


class Official(Protocol):
    """A database of one of LangGraph's savers."""

    address: str

    def threads(self) -> list[str]:
        """All thread ids, in order."""
        ...

    def refs(self, thread_id: str) -> list[ParentedRef]:
        """The checkpoints of a thread, parents before their children."""
        ...

    def read(self, thread_id: str, ns: str, checkpoint_id: str) -> RawCheckpoint:
        """One checkpoint with values and writes. Raises `BrokenRow`."""
        ...

    def counts(self, thread_id: str) -> tuple[int, int]:
        """How many writes the thread has, and how many of them belong to no checkpoint (nobody can
        see those)."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def open_official(address: str) -> Official:
    """The database behind a PostgreSQL URL, a `sqlite:///path` or a path.

    Raises `InvalidRequest` (no such file, not a checkpoint database, an older schema),
    `DatabaseUnavailable`.
    """
    if is_postgres(address):
        return PostgresTables(address)
    return SqliteTables(sqlite_path(address))


def is_postgres(address: str) -> bool:
    """Whether the address is a PostgreSQL URL."""
    return address.startswith(("postgresql://", "postgres://"))


def sqlite_path(address: str) -> Path:
    """The file behind `sqlite:///path` or a plain path. Raises `InvalidRequest` for other
    URLs."""
    scheme, separator, rest = address.partition("://")
    if separator and scheme != "sqlite":
        raise InvalidRequest(
            f"An address with the scheme {scheme!r} can't be used.",
            remedy="give a postgresql:// URL, sqlite:///path/to/file, or a path.",
        )
    if not separator:
        return Path(address).expanduser()
    # sqlite:///data/x.db is the absolute path that most people mean by it
    return Path(rest).expanduser()


class PostgresTables:
    """The tables of `PostgresSaver`."""

    def __init__(self, url: str) -> None:
        self.address = redact_url(url)
        try:
            self._connection = psycopg.connect(
                url, autocommit=True, prepare_threshold=None, connect_timeout=10
            )
        except psycopg.ProgrammingError as error:
            raise InvalidRequest(
                "The PostgreSQL URL can't be read.", remedy="postgresql://user@host/db"
            ) from error
        except psycopg.OperationalError as error:
            raise unreachable(self.address, error) from error
        try:
            self._check_schema()
        except BaseException:
            self._connection.close()
            raise

    def _rows(self, query: str, *arguments: Any) -> list[Any]:
        try:
            with self._connection.cursor(binary=True, row_factory=tuple_row) as cursor:
                return cursor.execute(query.encode(), arguments).fetchall()
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise unreachable(self.address, error) from error

    def _check_schema(self) -> None:
        found = self._rows(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = ANY(current_schemas(false)) AND table_name = ANY(%s)",
            list(_PG_TABLES),
        )
        refuse_schema(
            self.address,
            {t for t, _ in found},
            _PG_TABLES,
            ("checkpoint_writes", "task_path") in found,
        )

    def threads(self) -> list[str]:
        """All thread ids, in order."""
        return [
            t
            for (t,) in self._rows(
                'SELECT DISTINCT thread_id COLLATE "C" FROM checkpoints ORDER BY 1'
            )
        ]

    def refs(self, thread_id: str) -> list[ParentedRef]:
        """The checkpoints of a thread, parents before their children."""
        return parents_first(
            self._rows(
                "SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id FROM checkpoints WHERE "
                "thread_id = %s",
                thread_id,
            )
        )

    def counts(self, thread_id: str) -> tuple[int, int]:
        """How many writes the thread has, and how many of them belong to no checkpoint."""
        (row,) = self._rows(
            f"SELECT count(*), count(*) FILTER (WHERE {_ORPHAN}) FROM checkpoint_writes w WHERE "
            f"thread_id = %s",
            thread_id,
        )
        return row[0], row[1]

    def read(self, thread_id: str, ns: str, checkpoint_id: str) -> RawCheckpoint:
        """One checkpoint with values and writes. Raises `BrokenRow`."""
        ref = CheckpointRef(thread_id, ns, checkpoint_id)
        where = "WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = %s"
        rows = self._rows(
            f"SELECT parent_checkpoint_id, checkpoint, metadata FROM checkpoints {where}", *ref
        )
        if not rows:
            raise BrokenRow(ref, "it is gone")
        parent, checkpoint, metadata = rows[0]
        if not isinstance(checkpoint, dict) or not isinstance(
            checkpoint.get("channel_versions"), dict
        ):
            raise BrokenRow(ref, "the column `checkpoint` is not a checkpoint")
        versions = checkpoint["channel_versions"]
        values = {
            c: _serde.dumps_typed(v) for c, v in (checkpoint.get("channel_values") or {}).items()
        }
        scalars = dict(checkpoint.get("channel_values") or {})
        for channel, type_, data in self._rows(
            "SELECT channel, type, blob FROM checkpoint_blobs WHERE thread_id = %s AND "
            "checkpoint_ns = %s"
            " AND (channel, version) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
            thread_id, ns, list(versions), [version_text(v) for v in versions.values()],
        ):  # fmt: skip
            is_snapshot = (
                type_ == "msgpack"
                and extension_of((type_, data)) == LG_DELTA
                and channel not in scalars
            )
            version = version_text(versions[channel])
            if is_snapshot and parent and self._version(thread_id, ns, parent, channel) == version:
                continue  # it was put with an ancestor, and is found here because the version is the same
            if type_ != "empty":
                values[channel] = check(ref, f"$.channel_values.{channel}", type_, data)
                scalars.pop(channel, None)
        writes = self._rows(
            f"SELECT task_id, idx, task_path, channel, type, blob FROM checkpoint_writes {where}",
            *ref,
        )
        if checkpoint.get("v", 4) < 4 and parent:
            self._add_sends(ref, parent, versions, values)
        return make_raw(ref, parent, checkpoint, metadata, values, scalars, writes)

    def _version(self, thread_id: str, ns: str, checkpoint_id: str, channel: str) -> str | None:
        """A channel's version in another checkpoint."""
        rows = self._rows(
            "SELECT checkpoint -> 'channel_versions' ->> %s FROM checkpoints"
            " WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = %s",
            channel, thread_id, ns, checkpoint_id,
        )  # fmt: skip
        return rows[0][0] if rows else None

    def _add_sends(
        self,
        ref: CheckpointRef,
        parent: str,
        versions: dict[str, Any],
        values: dict[str, Typed],
    ) -> None:
        """What `PostgresSaver` shows of checkpoints older than version 4: their parent's sends as a
        channel."""
        sends = self._rows(
            "SELECT type, blob FROM checkpoint_writes WHERE thread_id = %s AND checkpoint_id = %s "
            "AND channel = %s"
            " ORDER BY task_path, task_id, idx",
            ref[0], parent, TASKS,
        )  # fmt: skip
        if sends:
            trees = [unpack_tree(check(ref, "$.pending_sends", t, d)) for t, d in sends]
            values[TASKS] = ("msgpack", pack_tree(trees))
            versions[TASKS] = max(versions.values()) if versions else f"{1:032}.0"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class SqliteTables:
    """The tables of `SqliteSaver`, opened for reading only."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        if not path.is_file():
            raise InvalidRequest(
                f"There is no file {path}.", remedy="check the path of the SQLite database."
            )
        try:
            self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
            found = self._connection.execute(
                "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE "
                "m.type = 'table'"
            ).fetchall()
        except sqlite3.DatabaseError as error:
            raise InvalidRequest(
                f"{path} can't be read as a SQLite database ({error}).", remedy="check the path."
            ) from error
        refuse_schema(
            self.address, {t for t, _ in found}, _SQLITE_TABLES, ("writes", "task_path") in found
        )

    def _rows(self, query: str, *arguments: Any) -> list[Any]:
        try:
            with closing(self._connection.execute(query, arguments)) as cursor:
                return cursor.fetchall()
        except sqlite3.OperationalError as error:
            raise unreachable(self.address, error) from error

    def threads(self) -> list[str]:
        """All thread ids, in order."""
        return [t for (t,) in self._rows("SELECT DISTINCT thread_id FROM checkpoints ORDER BY 1")]

    def refs(self, thread_id: str) -> list[ParentedRef]:
        """The checkpoints of a thread, parents before their children."""
        return parents_first(
            self._rows(
                "SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id FROM checkpoints WHERE "
                "thread_id = ?",
                thread_id,
            )
        )

    def counts(self, thread_id: str) -> tuple[int, int]:
        """How many writes the thread has, and how many of them belong to no checkpoint."""
        (row,) = self._rows(
            f"SELECT count(*), count(*) FILTER (WHERE {_ORPHAN}) FROM writes w WHERE thread_id = ?",
            thread_id,
        )
        return row[0], row[1]

    def read(self, thread_id: str, ns: str, checkpoint_id: str) -> RawCheckpoint:
        """One checkpoint with values and writes. Raises `BrokenRow`."""
        ref = CheckpointRef(thread_id, ns, checkpoint_id)
        where = "WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
        try:
            rows = self._rows(
                f"SELECT parent_checkpoint_id, type, checkpoint, metadata FROM checkpoints {where}",
                *ref,
            )
            writes = self._rows(
                f"SELECT task_id, idx, task_path, channel, type, value FROM writes {where}", *ref
            )
        except sqlite3.DatabaseError as error:
            raise BrokenRow(ref, f"SQLite can't read it ({error})") from error
        if not rows:
            raise BrokenRow(ref, "it is gone")
        parent, type_, data, metadata = rows[0]
        if "+" in (type_ or ""):
            raise BrokenRow(ref, "it is encrypted as a whole, so its channels can't be told apart")
        checkpoint = unpack_tree(check(ref, "$", type_, data))
        if not isinstance(checkpoint, dict) or not isinstance(
            checkpoint.get("channel_versions"), dict
        ):
            raise BrokenRow(ref, "the column `checkpoint` is not a checkpoint")
        found = checkpoint.get("channel_values") or {}
        values = {channel: typed_of(value) for channel, value in found.items()}
        return make_raw(ref, parent, checkpoint, json_of(ref, metadata), values, found, writes)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
