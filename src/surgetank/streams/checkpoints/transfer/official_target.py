"""Writing into LangGraph's own savers, through their own `put` and `put_writes`, values as the
bytes that they are.

A checkpoint is put after its writes, so that a checkpoint that is there is there with its writes:
an interrupted export sees by it where to go on. What LangGraph's serializer can't read is
deserialized and serialized again by it; where that would alter a value, it is refused with its
place, or (lossy) done and told.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import psycopg
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import INTERRUPT, _DeltaSnapshot
from psycopg.rows import DictRow, dict_row

from surgetank.encode.codes import LG_DELTA
from surgetank.encode.equality import difference
from surgetank.exceptions import BrokenRow, InvalidRequest
from surgetank.streams.checkpoints.any_saver.calls import calls_of
from surgetank.streams.checkpoints.raw import RawCheckpoint, RawWrite
from surgetank.streams.checkpoints.refs import config_of
from surgetank.streams.checkpoints.serde.serializer import FaithfulSerializer
from surgetank.streams.checkpoints.transfer.official import (
    PostgresTables,
    SqliteTables,
    is_postgres,
    sqlite_path,
)
from surgetank.streams.checkpoints.transfer.official_rows import unreachable
from surgetank.streams.checkpoints.transfer.packed import (
    Typed,
    extension_of,
    is_foreign,
    pack_tree,
    unpack_tree,
)

_LOSSY = "leave it out with --on-error skip, or take the altered form with --lossy."
_official = JsonPlusSerializer()
_faithful = FaithfulSerializer()


@dataclass(frozen=True, slots=True)
class Packed:
    """A value that is serialized already."""

    typed: Typed


class PackedSerializer(JsonPlusSerializer):
    """Gives packed values out as they are, alone or inside a checkpoint (`SqliteSaver` serializes
    those whole)."""

    def dumps_typed(self, obj: Any) -> Typed:
        if isinstance(obj, Packed):
            return obj.typed
        if isinstance(obj, _DeltaSnapshot) and isinstance(obj.value, Packed):
            return obj.value.typed
        if isinstance(obj, dict) and isinstance(obj.get("channel_values"), dict):
            return "msgpack", pack_tree(
                {**obj, "channel_values": {k: _tree(v) for k, v in obj["channel_values"].items()}}
            )
        return super().dumps_typed(obj)


def _tree(value: Any) -> Any:
    inner = value.value if isinstance(value, _DeltaSnapshot) else value
    return unpack_tree(inner.typed) if isinstance(inner, Packed) else inner


class OfficialTarget:
    """One of LangGraph's savers as the place that threads are exported to.

    For a dry run, a target that isn't there yet is neither made nor prepared: an empty one stands
    in for it.
    """

    def __init__(self, address: str, *, lossy: bool = False, dry_run: bool = False) -> None:
        self._close: list[Callable[[], None]] = []
        self._lossy = lossy
        self.altered: list[str] = []
        self._saver: BaseCheckpointSaver[Any]
        try:
            if dry_run and self._is_new(address):
                folder = TemporaryDirectory(prefix="surgetank-")
                self._close.append(folder.cleanup)
                address = str(Path(folder.name) / "empty.sqlite")
            if is_postgres(address):
                self._saver, self.tables = self._postgres(address)
            else:
                self._saver, self.tables = self._sqlite(address)
        except BaseException:
            self.close()
            raise
        self._saver.serde = PackedSerializer()

    @staticmethod
    def _is_new(address: str) -> bool:
        """Whether an export would have to make the target first."""
        if not is_postgres(address):
            path = sqlite_path(address)
            return path.parent.is_dir() and not path.exists()
        try:
            with psycopg.connect(address, prepare_threshold=None) as connection:
                row = connection.execute("SELECT to_regclass('checkpoints') IS NULL").fetchone()
        except psycopg.OperationalError as error:
            raise unreachable("The target", error) from error
        return row is not None and bool(row[0])

    def _postgres(self, url: str) -> tuple[BaseCheckpointSaver[Any], PostgresTables | SqliteTables]:
        try:
            from langgraph.checkpoint.postgres import PostgresSaver  # noqa: PLC0415 - optional
        except ModuleNotFoundError as error:
            raise _missing("PostgreSQL", "langgraph-checkpoint-postgres") from error
        try:
            connection = psycopg.Connection[DictRow].connect(
                url, autocommit=True, prepare_threshold=None, row_factory=dict_row
            )
            self._close.append(connection.close)
            saver = PostgresSaver(connection)
            saver.setup()
        except psycopg.OperationalError as error:
            raise unreachable("The target", error) from error
        tables = PostgresTables(url)
        self._close.append(tables.close)
        return saver, tables

    def _sqlite(
        self, address: str
    ) -> tuple[BaseCheckpointSaver[Any], PostgresTables | SqliteTables]:
        try:
            from langgraph.checkpoint.sqlite import SqliteSaver  # noqa: PLC0415 - optional
        except ModuleNotFoundError as error:
            raise _missing("SQLite", "langgraph-checkpoint-sqlite") from error
        path = sqlite_path(address)
        if not path.parent.is_dir():
            raise InvalidRequest(
                f"There is no folder {path.parent}.", remedy="make it, or give another path."
            )
        try:
            connection = sqlite3.connect(path)
            self._close.append(connection.close)
            saver = SqliteSaver(connection)
            saver.setup()
        except sqlite3.OperationalError as error:
            raise unreachable(str(path), error) from error
        except sqlite3.DatabaseError as error:
            raise InvalidRequest(
                f"{path} is no SQLite database.", remedy="give another path."
            ) from error
        tables = SqliteTables(path)
        self._close.append(tables.close)
        return saver, tables

    def fit(self, raw: RawCheckpoint) -> RawCheckpoint:
        """The checkpoint as the saver can hold it. Raises `BrokenRow` for what it would alter,
        unless lossy."""
        where = (raw.thread_id, raw.checkpoint_ns, raw.checkpoint_id)
        blobs = {
            c: self._fit(where, f"$.channel_values.{c}", typed) for c, typed in raw.blobs.items()
        }
        writes: list[RawWrite] = []
        for w in raw.writes:
            # LangGraph writes its interrupts as a tuple and reads a list as well.
            loose = w.record.channel == INTERRUPT
            typed = self._fit(
                where, f"$.writes.{w.record.channel}", (w.record.type, w.record.data), loose=loose
            )
            writes.append(replace(w, record=replace(w.record, type=typed[0], data=typed[1])))
        metadata = _faithful.loads_typed((raw.record.metadata_type, raw.record.metadata))
        try:
            shown = json.loads(json.dumps(metadata))
        except (TypeError, ValueError) as error:
            raise BrokenRow(where, f"$.metadata is no JSON ({error})", remedy=_LOSSY) from error
        self._judge(where, difference(metadata, shown, "$.metadata", json_like=True))
        metadata_type, packed = _faithful.dumps_typed(shown)
        record = replace(raw.record, metadata_type=metadata_type, metadata=packed)
        return replace(raw, record=record, blobs=blobs, writes=writes)

    def _fit(
        self, where: tuple[str, str, str], path: str, typed: Typed, *, loose: bool = False
    ) -> Typed:
        if not is_foreign(typed):
            return typed
        try:
            value = _faithful.loads_typed(typed)
            again = _official.dumps_typed(value)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise BrokenRow(
                where, f"{path} can't be read or written ({reason})", remedy=_LOSSY
            ) from error
        expected = list(value) if loose and type(value) is tuple else value
        self._judge(where, difference(expected, _faithful.loads_typed(again), path))
        return again

    def _judge(self, where: tuple[str, str, str], reason: str | None) -> None:
        if reason is None:
            return
        if not self._lossy:
            raise BrokenRow(where, f"LangGraph's own saver would alter it: {reason}", remedy=_LOSSY)
        self.altered.append(f"{where[0]} {where[2]} {reason}")

    def put(self, raw: RawCheckpoint, new: dict[str, str | int | float]) -> None:
        """Write a checkpoint that `fit` gave, its writes first. `new` are the channels whose values
        aren't there yet.

        Raises `BrokenRow` for what the saver refuses, `DatabaseUnavailable`.
        """
        where = (raw.thread_id, raw.checkpoint_ns, raw.checkpoint_id)
        try:
            for task_id, task_path, writes in calls_of(
                (w.task_id, w.idx, w.record) for w in raw.writes
            ):
                values = [(w.channel, Packed((w.type, w.data))) for w in writes]
                self._saver.put_writes(cast("Any", config_of(*where)), values, task_id, task_path)
            checkpoint = {
                **raw.structure,
                "channel_values": {c: _handed(t) for c, t in raw.blobs.items()},
            }
            if raw.record.extra is not None:
                checkpoint["pending_sends"] = (
                    _faithful.loads_typed(raw.record.extra) if raw.record.extra[0] else []
                )
            metadata = _faithful.loads_typed((raw.record.metadata_type, raw.record.metadata))
            config: Any = config_of(raw.thread_id, raw.checkpoint_ns, raw.parent_id)
            self._saver.put(config, cast("Any", checkpoint), metadata, new)
        except (psycopg.OperationalError, sqlite3.OperationalError) as error:
            raise unreachable(self.tables.address, error) from error
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise BrokenRow(
                where, f"the saver refuses it ({type(error).__name__}: {reason})", remedy=_LOSSY
            ) from error

    def delete(self, thread_id: str) -> None:
        """Delete a thread."""
        self._saver.delete_thread(thread_id)

    def is_empty(self) -> bool:
        """Whether no thread is there."""
        return not self.tables.threads()

    def close(self) -> None:
        """Close the connections. Idempotent."""
        while self._close:
            self._close.pop()()


def _handed(typed: Typed) -> Any:
    """A value as a saver is to see it: scalars plain, as `PostgresSaver` keeps them in JSON; all
    else packed."""
    tree = unpack_tree(typed) if typed[0] in ("msgpack", "null") else Packed(typed)
    if tree is None or type(tree) in (str, int, float, bool):
        return tree
    return _DeltaSnapshot(Packed(typed)) if extension_of(typed) == LG_DELTA else Packed(typed)


def _missing(what: str, package: str) -> InvalidRequest:
    return InvalidRequest(
        f"Exporting to {what} needs the package {package!r}, which is not installed.",
        remedy=f"pip install {package}",
    )
