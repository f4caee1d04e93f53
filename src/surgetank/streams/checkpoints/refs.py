"""How a checkpoint is addressed: by `CheckpointRef` anywhere, by `LocalRef` within its thread. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

LocalRef = tuple[str, str]  # namespace, checkpoint id
ParentedRef = tuple[str, str, str | None]  # namespace, checkpoint id, parent's id


class CheckpointRef(NamedTuple):
    """One checkpoint of one thread."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> CheckpointRef:
        """Read it from a checkpoint's own config, which names all three."""
        at = config["configurable"]
        return cls(str(at["thread_id"]), at["checkpoint_ns"], at["checkpoint_id"])

    @property
    def local(self) -> LocalRef:
        """Namespace and id."""
        return self[1:]


def config_of(thread_id: str, ns: str, checkpoint_id: str | None) -> dict[str, Any]:
    """The LangGraph config of a checkpoint; without an id, that of a namespace's newest."""
    at = {"thread_id": thread_id, "checkpoint_ns": ns}
    return {"configurable": at | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}
