"""The fence of a run in a config: what it puts is refused once a newer run or worker has its thread.

It is the thread and a number: the thread, because nodes that call another graph with a thread of its
own hand their config on.
"""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig

# LangGraph leaves keys that begin with "__" out of metadata, and those of its own out of what the
# stream modes `checkpoints` and `debug` show.
FENCE_KEY = "__pregel_surgetank_fence"

Fence = tuple[str, int]


def fence_in(config: RunnableConfig, thread_id: str) -> int | None:
    """The fence under which a thread is written; None outside of runs, and for other threads."""
    fence: Any = config.get("configurable", {}).get(FENCE_KEY)
    if fence is None or fence[0] != thread_id:
        return None
    number: int = fence[1]
    return number
