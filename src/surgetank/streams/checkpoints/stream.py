"""The stream of checkpoints, into Surgetank's database or into any LangGraph saver."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from surgetank.sinks.protocol import Sink
from surgetank.streams.checkpoints.cold.sink import PostgresCheckpointSink
from surgetank.streams.checkpoints.envelope import OPERATION_KEY, STREAM
from surgetank.streams.checkpoints.hot import HotLookup
from surgetank.streams.checkpoints.maintenance import delete_again
from surgetank.streams.stream import THREAD, Backends, Stream

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.serde.base import SerializerProtocol


def _database_sink(at: Backends) -> Sink:
    hot = HotLookup(at.buffer)
    return PostgresCheckpointSink(at.database, cache_bytes=at.settings.flush_cache_bytes, hot=hot)


CHECKPOINTS = Stream(
    name=STREAM,
    subject=THREAD,
    entries="steps",
    make_sink=_database_sink,
    inline_keys=frozenset((OPERATION_KEY,)),
    on_unpark=delete_again,
    relations=(
        "threads", "checkpoint_namespaces", "checkpoints", "checkpoint_blobs", "checkpoint_writes",
        "checkpoint_history", "thread_deletions",
    ),
)  # fmt: skip


def into_saver(saver: BaseCheckpointSaver[Any], serde: SerializerProtocol | None) -> Stream:
    """The same stream, flushed into a saver."""

    def make_sink(at: Backends) -> Sink:
        from surgetank.streams.checkpoints.any_saver.sink import SaverSink  # noqa: PLC0415 - needs the extra
        from surgetank.streams.checkpoints.serde import faithful  # noqa: PLC0415 - needs the extra

        hot, cache_bytes = HotLookup(at.buffer), at.settings.flush_cache_bytes
        return SaverSink(saver, faithful(serde), hot, cache_bytes=cache_bytes, clock=at.clock)

    return replace(CHECKPOINTS, make_sink=make_sink, in_database=False, relations=())
