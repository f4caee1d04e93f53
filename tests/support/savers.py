"""Savers whose data is kept hot, cold, half flushed, or in flight while a test runs; and builders
of checkpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointTuple
from langgraph.checkpoint.base.id import uuid6

from surgetank import Surgetank, SurgetankSaver

TEMPERATURES = ("hot", "cold", "half", "flushing")
_WRITING = ("put", "put_writes", "delete_thread", "delete_for_runs", "copy_thread", "prune")


def settings_for(temperature: str) -> dict[str, Any]:
    """Engine settings: "flushing" keeps a flush thread busy all the time; "cold" reads the
    database, not copies."""
    if temperature == "cold":
        return {"recent_max_bytes": 0}
    if temperature == "flushing":
        return {
            "flush_in_process": True,
            "flush_age": 0.0,
            "flush_tick": 0.001,
            "flush_batch_entries": 2,
        }
    return {}


def tempered(tank: Surgetank, temperature: str, **options: Any) -> SurgetankSaver:
    """A saver whose every write is followed by a flush (cold), every second one (half), or none."""
    saver = tank.checkpointer(**options)
    writes = 0

    def settle() -> None:
        nonlocal writes
        writes += 1
        if temperature == "cold" or (temperature == "half" and writes % 2):
            job = tank.flush()
            assert job.ok, job.result

    def with_flush(name: str) -> dict[str, Any]:
        plain, on_loop = getattr(SurgetankSaver, name), getattr(SurgetankSaver, f"a{name}")

        def sync(self: SurgetankSaver, *args: Any, **kwargs: Any) -> Any:
            result = plain(self, *args, **kwargs)
            settle()
            return result

        async def asynchronous(self: SurgetankSaver, *args: Any, **kwargs: Any) -> Any:
            result = await on_loop(self, *args, **kwargs)
            settle()
            return result

        return {name: sync, f"a{name}": asynchronous}

    methods: dict[str, Any] = {}
    for name in _WRITING:
        methods |= with_flush(name)
    saver.__class__ = type("TemperedSaver", (SurgetankSaver,), methods)
    return saver


def through_sync(saver: SurgetankSaver) -> SurgetankSaver:
    """A saver whose async methods call the sync ones, for suites that know only the async ones."""

    def forward(name: str) -> Any:
        async def call(self: SurgetankSaver, *args: Any, **kwargs: Any) -> Any:
            return getattr(self, name)(*args, **kwargs)

        return call

    async def alist(
        self: SurgetankSaver, *args: Any, **kwargs: Any
    ) -> AsyncIterator[CheckpointTuple]:
        for found in self.list(*args, **kwargs):
            yield found

    methods = {f"a{name}": forward(name) for name in (*_WRITING, "get_tuple")}
    saver.__class__ = type("SyncSaver", (type(saver),), {**methods, "alist": alist})
    return saver


def config(thread: str, ns: str = "", checkpoint_id: str | None = None) -> Any:
    """A LangGraph config."""
    configurable = {"thread_id": thread, "checkpoint_ns": ns}
    return {
        "configurable": configurable | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})
    }


def checkpoint(values: dict[str, Any], versions: dict[str, Any] | None = None) -> Checkpoint:
    """A checkpoint with these values."""
    return Checkpoint(
        v=4,
        id=str(uuid6(clock_seq=-1)),
        ts=datetime.now(UTC).isoformat(),
        channel_values=values,
        channel_versions=versions if versions is not None else dict.fromkeys(values, 1),
        versions_seen={},
        updated_channels=None,
    )


def put(
    saver: BaseCheckpointSaver[Any],
    thread: str,
    values: dict[str, Any],
    *,
    parent: Any = None,
    ns: str = "",
    **metadata: Any,
) -> Any:
    """Put one checkpoint whose channels are all new; returns its config."""
    number = int(metadata.get("step", 0)) + 1
    made = checkpoint(values, {name: f"{number:032}.{uuid6().hex}" for name in values})
    parent_id = parent["configurable"]["checkpoint_id"] if parent else None
    full = {"source": "loop", "step": 0, "parents": {}, **metadata}
    return saver.put(config(thread, ns, parent_id), made, full, made["channel_versions"])  # type: ignore[arg-type]


def put_chain(
    saver: SurgetankSaver, thread: str, count: int, *, ns: str = "", **metadata: Any
) -> list[Any]:
    """A chain of checkpoints with a growing list; returns their configs."""
    configs: list[Any] = []
    for step in range(count):
        values = {"items": [f"item {i} of {thread}" * 5 for i in range(step + 1)], "step": step}
        parent = configs[-1] if configs else None
        configs.append(
            put(saver, thread, values, parent=parent, ns=ns, **{"step": step, **metadata})
        )
    return configs


def ids(configs: Sequence[Any]) -> list[str]:
    """Checkpoint ids of configs."""
    return [c["configurable"]["checkpoint_id"] for c in configs]


def stored(saver: BaseCheckpointSaver[Any], config: Any) -> CheckpointTuple:
    """The checkpoint at a config, which is there."""
    found = saver.get_tuple(config)
    assert found is not None, f"nothing at {config}"
    return found


def listed(saver: BaseCheckpointSaver[Any], thread: str, **options: Any) -> list[CheckpointTuple]:
    """All checkpoints of a thread, newest first."""
    return list(saver.list({"configurable": {"thread_id": thread}}, **options))
