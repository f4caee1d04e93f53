"""The checkpointer with a span for each put. A class of its own, so that the other one pays nothing for
it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata

from surgetank import tracing
from surgetank.streams.checkpoints.saver import SurgetankSaver


class TracedSaver(SurgetankSaver):
    """What `tank.checkpointer()` gives while tracing is on."""

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As that of `SurgetankSaver`, in a span."""
        with _span("put", config, metadata):
            return super().put(config, checkpoint, metadata, new_versions)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """As that of `SurgetankSaver`, in a span."""
        with _span("put", config, metadata):
            # What is large is put by `put` on a thread, in a span inside of this one.
            return await super().aput(config, checkpoint, metadata, new_versions)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """As that of `SurgetankSaver`, in a span."""
        with _span("put_writes", config):
            super().put_writes(config, writes, task_id, task_path)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """As that of `SurgetankSaver`, in a span."""
        with _span("put_writes", config):
            await super().aput_writes(config, writes, task_id, task_path)


def _span(
    name: str, config: RunnableConfig, metadata: CheckpointMetadata | None = None
) -> tracing.TraceSpan:
    configurable = config.get("configurable", {})
    step = metadata.get("step") if metadata is not None else None
    return tracing.span(
        name,
        thread_id=_text(configurable.get("thread_id")),
        run_id=_text(configurable.get("run_id")),
        checkpoint_ns=_text(configurable.get("checkpoint_ns") or None),
        step=step if isinstance(step, int) else None,
    )


def _text(value: object) -> str | None:
    return str(value)[:2048] if value is not None else None
