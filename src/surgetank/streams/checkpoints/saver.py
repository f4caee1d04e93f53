"""`SurgetankSaver`: LangGraph's checkpointer. `put` is one append to the buffer, and nothing else.

Reads merge the buffer and PostgreSQL, so what was put is visible at once from every process on the
same buffer. The class is both synchronous and asynchronous: what touches only the buffer is called
straight, what waits for PostgreSQL runs on a thread when it is called from an event loop.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    PendingWrite,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from surgetank.encode import limits
from surgetank.exceptions import BufferFull, SinkError, StateCorrupt, SurgetankError
from surgetank.offloop import LARGE, is_large, off_loop
from surgetank.setting_names import SettingNames
from surgetank.streams.checkpoints.cold.reader import Cold
from surgetank.streams.checkpoints.entries import EntryMaker, NewEntry, Target
from surgetank.streams.checkpoints.envelope import STREAM
from surgetank.streams.checkpoints.later import come_after
from surgetank.streams.checkpoints.maintenance import Maintenance, no_events
from surgetank.streams.checkpoints.query import Query
from surgetank.streams.checkpoints.raw import RawCheckpoint, RawWrite
from surgetank.streams.checkpoints.reader import HotCheckpoints, Reader
from surgetank.streams.checkpoints.serde import faithful
from surgetank.streams.checkpoints.serde.changes import OncePerClass, Tell, noticing
from surgetank.streams.checkpoints.steps import Steps, arun, run
from surgetank.telemetry import log

T = TypeVar("T")


class SurgetankSaver(BaseCheckpointSaver[str]):
    """A LangGraph checkpointer that writes to the buffer and reads buffer and PostgreSQL as one.

    Made by `Surgetank.checkpointer()` or `SurgetankSaver.from_conn_string()`. Any number of
    threads, event loops and processes may use savers on one buffer. There is no lock over the
    saver, and a shallow copy (LangGraph's `with_allowlist` makes one) shares everything but the
    serializer.

    `put` and `put_writes` raise `EntryRejected` for a value that would not come back as it is,
    naming its place; `BufferFull` at the buffer's limit; `BufferUnavailable` when the disk refuses;
    `LeaseLost` in a run whose thread a newer run or worker has.
    Reads raise `ColdStateUnavailable` when what they need is only in a database that can't be
    reached, and `StateCorrupt`, with thread and channel, for what can't be read. `tell` is given a
    thread, a log level and a sentence, once for each class of its state that is not what it was
    when it was stored.
    """

    _prepare: Callable[[], object] | None = None

    def __init__(
        self,
        buffer: HotCheckpoints,
        cold: Cold,
        *,
        serde: SerializerProtocol | None = None,
        max_value_bytes: int = 256 * 1024**2,
        unknown_threads: Literal["accept", "refuse"] = "accept",
        tell: Tell | None = None,
        forget_events: Callable[[str], None] = no_events,
        prepare: Callable[[], object] | None = None,
        tenant_key: str | None = None,
    ) -> None:
        super().__init__(serde=faithful(serde))
        self._changes = OncePerClass(tell)
        self._buffer = buffer
        self.reader = Reader(buffer, cold, unknown_threads=unknown_threads)
        self.maintenance = Maintenance(buffer, cold, self.reader, forget_events=forget_events)
        self._max_value_bytes = max_value_bytes
        self._tenant_key = tenant_key
        self._prepare = prepare

    def __repr__(self) -> str:
        return f"<SurgetankSaver on {self._buffer.name}>"

    def setup(self) -> None:
        """Bring the schema up to date now: for code that moves here from LangGraph's own savers.
        Idempotent, and not needed: the first flush does it.

        It raises nothing for a database that is away or refuses (no privilege, a newer schema):
        that is logged as `setup_postponed` with the reason, whatever is put is kept in the buffer,
        and the flush tries again. `surgetank migrate` is the one that fails. A saver given as
        `sink` is set up by whoever made it.
        """
        if self._prepare is None:
            return
        try:
            self._prepare()
        except SinkError as error:
            log.warning("setup_postponed", error=error.what, remedy=error.remedy)

    async def asetup(self) -> None:
        """`setup` off the event loop."""
        await off_loop(self.setup)

    @classmethod
    def from_conn_string(
        cls,
        database_url: str,
        *,
        buffer_url: str | None = None,
        home: str | Path | None = None,
        serde: SerializerProtocol | None = None,
        **settings: Unpack[SettingNames],
    ) -> AbstractContextManager[SurgetankSaver]:
        """A saver on a PostgreSQL database, with a flush thread of its own, as a context manager.

        Use it with `with` or `async with`; at the end the buffer is drained (or kept, when the
        database is down). `settings` are those of `Surgetank`.

            with SurgetankSaver.from_conn_string("postgresql://...") as saver:
                graph = builder.compile(checkpointer=saver)
        """
        # The one import upwards (declared in pyproject.toml): what opens an engine stands above
        # this module.
        from surgetank.app.open_saver import OpenSaver  # noqa: PLC0415

        return OpenSaver(serde, database_url, buffer_url, home, **settings)

    @property
    def _entries(self) -> EntryMaker:
        # Made anew each time: `with_allowlist` replaces the serializer of a copy.
        return EntryMaker(
            self.serde, max_value_bytes=self._max_value_bytes, tenant_key=self._tenant_key
        )

    # -- writing

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        self._append(self._checkpoint_entry(config, checkpoint, metadata, new_versions))
        return _next_config(config, checkpoint["id"])

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        values = checkpoint["channel_values"]
        if is_large([values[channel] for channel in new_versions if channel in values]):
            return await off_loop(self.put, config, checkpoint, metadata, new_versions)
        await self._aappend(self._checkpoint_entry(config, checkpoint, metadata, new_versions))
        return _next_config(config, checkpoint["id"])

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        if writes:
            self._append(self._writes_entry(config, writes, task_id, task_path))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        if not writes:
            return
        if is_large([value for _, value in writes]):
            await off_loop(self.put_writes, config, writes, task_id, task_path)
        else:
            await self._aappend(self._writes_entry(config, writes, task_id, task_path))

    def _checkpoint_entry(self, config: RunnableConfig, *given: Any) -> NewEntry:
        configurable = config.get("configurable", {})
        of_root = configurable.get("thread_id") is not None and not configurable.get(
            "checkpoint_ns"
        )
        head = self.reader.heads.take(str(configurable["thread_id"])) if of_root else None
        with noticing() as noticed:
            entry = self._entries.checkpoint(config, *given, known_head=head)
        self._changes.pass_on(entry.thread_id, noticed.changes)
        return entry

    def _writes_entry(self, *given: Any) -> NewEntry:
        with noticing() as noticed:
            entry = self._entries.writes(*given)
        self._changes.pass_on(entry.thread_id, noticed.changes)
        return entry

    def _append(self, entry: NewEntry) -> None:
        self._buffer.append(STREAM, entry.thread_id, entry.records, **entry.options)

    async def _aappend(self, entry: NewEntry) -> None:
        # Whatever waits (for another process, for space) or takes long must not hold up the event
        # loop.
        if sum(len(record.value) for record in entry.records) <= LARGE:
            with suppress(BufferFull):
                try_append = self._buffer.try_append
                if try_append(STREAM, entry.thread_id, entry.records, **entry.options) is not None:
                    return
        await off_loop(self._append, entry)

    def raise_fence(self, thread_id: str, fence: int) -> None:
        """Refuse what older runs and workers put into a thread from now on. For a worker, before it
        reads the state. Raises `LeaseLost` when a newer one has it, `BufferUnavailable`."""
        self._buffer.raise_fence(STREAM, limits.thread_name(thread_id), fence)

    async def araise_fence(self, thread_id: str, fence: int) -> None:
        """`raise_fence` for event loops."""
        if not self._buffer.try_raise_fence(STREAM, limits.thread_name(thread_id), fence):
            await off_loop(self.raise_fence, thread_id, fence)

    # -- reading

    async def _arun(self, steps: Steps[T]) -> T:
        return await arun(steps, over_network=self._buffer.over_network)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        at = Target.of(config)
        raw = run(self.reader.read(at.thread_id, at.ns, at.checkpoint_id))
        return self.tuple_of(raw, config) if raw is not None else None

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        at = Target.of(config)
        raw = await self._arun(self.reader.read(at.thread_id, at.ns, at.checkpoint_id))
        if raw is None:
            return None
        if sum(len(data) for _, data in raw.blobs.values()) > LARGE:
            return await off_loop(self.tuple_of, raw, config)
        return self.tuple_of(raw, config)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        query = Query(self, config, filter, before, limit)
        while not query.done:
            if query.listing.needs_page:
                run(query.page())
            elif (steps := query.next_raw()) is not None and (
                found := query.accept(run(steps))
            ) is not None:
                yield found

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        if self._buffer.over_network:
            found_all = self.list(config, filter=filter, before=before, limit=limit)
            while (each := await asyncio.to_thread(next, found_all, None)) is not None:
                yield each
            return
        query = Query(self, config, filter, before, limit)
        while not query.done:
            if query.listing.needs_page:
                await self._arun(query.page())
            elif (steps := query.next_raw()) is not None and (
                found := query.accept(await self._arun(steps))
            ) is not None:
                yield found

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return run(self._delta_history(config, channels))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        return await self._arun(self._delta_history(config, channels))

    def _delta_history(
        self, config: RunnableConfig, channels: Sequence[str]
    ) -> Steps[dict[str, DeltaChannelHistory]]:
        """Walk the ancestors once for all channels, loading only those channels' values and
        writes."""
        at = Target.of(config)
        found: dict[str, list[PendingWrite]] = {channel: [] for channel in channels}
        seeds: dict[str, Any] = {}
        open_channels = list(found)
        ancestors: list[RawCheckpoint] = []
        glance = self.reader.glance(at.thread_id)
        raw = (
            (yield from self.reader.read(at.thread_id, at.ns, at.checkpoint_id, ()))
            if channels
            else None
        )
        seen: set[str] = set()
        while raw is not None and raw.parent_id is not None and open_channels:
            if raw.parent_id in seen:
                raise StateCorrupt(
                    f"The ancestors of checkpoint {raw.checkpoint_id} lead back to it.",
                    remedy="restore the database from a backup.",
                ).of(at.thread_id)
            seen.add(raw.parent_id)
            raw = yield from self.reader.read(at.thread_id, at.ns, raw.parent_id, open_channels)
            if raw is None:
                break
            ancestors.append(raw)
            for write in reversed(raw.writes):
                if write.record.channel in open_channels:
                    found[write.record.channel].append(self._write(raw.thread_id, write))
            for channel in [c for c in open_channels if c in raw.blobs]:
                seeds[channel] = self._load(raw.thread_id, channel, raw.blobs[channel])
                open_channels.remove(channel)
        yield from self.reader.keep_ancestors(ancestors, glance)
        return {
            channel: cast(
                "DeltaChannelHistory",
                {"writes": writes[::-1], **({"seed": seeds[channel]} if channel in seeds else {})},
            )
            for channel, writes in found.items()
        }

    def tuple_of(self, raw: RawCheckpoint, config: RunnableConfig | None) -> CheckpointTuple:
        """The deserialized checkpoint. Raises `StateCorrupt`."""
        come_after(raw.checkpoint_id)
        thread, parent = raw.thread_id, raw.parent_id
        with noticing() as noticed:
            values = {
                c: self._load(thread, c, raw.blobs[c]) for c in raw.record.present if c in raw.blobs
            }
            checkpoint = {**raw.structure, "channel_values": values}
            if raw.record.extra is not None:
                type_, data = raw.record.extra
                sends = self._load(thread, "pending_sends", (type_, data)) if type_ else []
                checkpoint["pending_sends"] = sends
            writes = [self._write(thread, write) for write in raw.writes]
            metadata = self.metadata_of(raw)
        self._changes.pass_on(thread, noticed.changes)
        thread_id = config.get("configurable", {})["thread_id"] if config is not None else thread
        return CheckpointTuple(
            config=_config(thread_id, raw.checkpoint_ns, raw.checkpoint_id),
            checkpoint=cast("Checkpoint", checkpoint),
            metadata=metadata,
            parent_config=_config(thread_id, raw.checkpoint_ns, parent) if parent else None,
            pending_writes=writes,
        )

    def metadata_of(self, raw: RawCheckpoint) -> CheckpointMetadata:
        """The deserialized metadata. Raises `StateCorrupt`."""
        stored = (raw.record.metadata_type, raw.record.metadata)
        return cast("CheckpointMetadata", self._load(raw.thread_id, "metadata", stored))

    def _write(self, thread_id: str, write: RawWrite) -> PendingWrite:
        record = write.record
        value = self._load(thread_id, record.channel, (record.type, record.data))
        return (write.task_id, record.channel, value)

    def _load(self, thread_id: str, channel: str, stored: tuple[str, bytes]) -> Any:
        try:
            return self.serde.loads_typed(stored)
        except StateCorrupt as error:
            raise error.of(thread_id, channel) from error
        except (SurgetankError, MemoryError):
            raise
        except Exception as error:
            raise StateCorrupt(
                f"The serializer {type(self.serde).__name__} can't read the value "
                f"({type(error).__name__}: {error}).",
                remedy="look at what it says; with encryption, at the key.",
            ).of(thread_id, channel) from error

    # -- deleting, copying, pruning

    def delete_thread(self, thread_id: str) -> None:
        self.maintenance.delete_thread(limits.thread_name(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        await off_loop(self.maintenance.delete_thread, limits.thread_name(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        run(self.maintenance.delete_for_runs(run_ids, self.metadata_of))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await self._arun(self.maintenance.delete_for_runs(run_ids, self.metadata_of))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        run(
            self.maintenance.copy_thread(
                limits.thread_name(source_thread_id), limits.thread_name(target_thread_id)
            )
        )

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        await self._arun(
            self.maintenance.copy_thread(
                limits.thread_name(source_thread_id), limits.thread_name(target_thread_id)
            )
        )

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        run(self.maintenance.prune(thread_ids, strategy, self.metadata_of))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        await self._arun(self.maintenance.prune(thread_ids, strategy, self.metadata_of))

    # -- versions

    def get_next_version(self, current: str | int | None, channel: None = None) -> str:  # noqa: ARG002
        """The next version of a channel: a growing number, and a random part that tells forks
        apart.

        The format is that of LangGraph's own savers, so that threads can be moved between them.
        """
        number = 0 if current is None else int(str(current).split(".", 1)[0])
        return f"{number + 1:032}.{random.random():016}"  # noqa: S311 - tells versions apart, keeps no secret


def _config(thread_id: str, ns: str, checkpoint_id: str) -> RunnableConfig:
    at = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
    return {"configurable": at}


def _next_config(config: RunnableConfig, checkpoint_id: str) -> RunnableConfig:
    configurable = config.get("configurable", {})
    return _config(
        configurable["thread_id"], configurable.get("checkpoint_ns") or "", checkpoint_id
    )
