"""`tank.pruning`: deleting checkpoints of named threads by a strategy, as LangGraph's `prune` has
it. By limits it is `tank.retain`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgetank.streams.checkpoints.maintenance import STRATEGIES
from surgetank.streams.checkpoints.steps import run

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from surgetank.streams.checkpoints.saver import SurgetankSaver

__all__ = ["STRATEGIES", "Pruning"]


class Pruning:
    """`keep_latest` keeps the newest checkpoint of each namespace and what its DeltaChannels are
    rebuilt from; `delete` deletes the threads. Methods raise `ValueError` for another strategy."""

    def __init__(self, saver: SurgetankSaver) -> None:
        self._saver = saver

    def __call__(self, threads: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete; a flush carries it out in the database. Raises `ColdStateUnavailable`."""
        self._saver.prune(threads, strategy=strategy)

    def plan(
        self, threads: Sequence[str], *, strategy: str = "keep_latest"
    ) -> dict[str, dict[str, int]]:
        """How many checkpoints would go, by thread and namespace. Raises `ColdStateUnavailable`."""
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {strategy!r}; use one of {', '.join(STRATEGIES)}")
        return {thread: self._doomed(thread, strategy) for thread in threads}

    def _doomed(self, thread_id: str, strategy: str) -> dict[str, int]:
        if strategy == "keep_latest":
            plan = run(self._saver.maintenance.plan_prune(thread_id, self._saver.metadata_of))
            return {ns: len(ids) for ns, ids in plan.items()}
        config: RunnableConfig = {"configurable": {"thread_id": thread_id}}
        found = (each.config.get("configurable", {}) for each in self._saver.list(config))
        return dict(Counter(str(where["checkpoint_ns"]) for where in found))
