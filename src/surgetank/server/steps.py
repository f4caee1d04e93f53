"""The steps of a thread, from its checkpoints as they are stored: which nodes ran, how long that took, what
came of it. Neither the graph nor any class is needed. Pure.

A checkpoint is the end of a step. Which nodes ran in it is told by the versions that they have seen since
the checkpoint before, and by what they wrote on top of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from surgetank.server.shown import Shown, moment_of
from surgetank.streams.checkpoints.raw import RawCheckpoint, RawWrite

_METADATA_BYTES = 16 * 1024
_PULLED = "~__pregel_pull, "  # how LangGraph says in a task's path that a node was triggered


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `began` and `at` are seconds since the epoch; `began` is None for what had no step before
    it. `asks`: the nodes that came next and ask a person. `failed`: those that raised, with what."""

    checkpoint_id: str
    ns: str
    parent_id: str | None
    number: int | None
    source: str
    nodes: tuple[str, ...]
    run_id: str | None
    began: float | None
    at: float | None
    asks: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    within: str | None

    @property
    def took(self) -> float | None:
        """Seconds from the step before."""
        if self.began is None or self.at is None:
            return None
        return max(0.0, self.at - self.began)

    @property
    def path(self) -> tuple[str, ...]:
        """The nodes whose subgraphs it is in, from the root."""
        return tuple(part.split(":")[0] for part in self.ns.split("|")) if self.ns else ()


def steps_of(
    found: Sequence[RawCheckpoint], before: Mapping[tuple[str, str], RawCheckpoint]
) -> list[Step]:
    """The steps of these checkpoints, in their order. `before` has those that come before them, by namespace
    and id, where they are not among them."""
    known = {**before, **{(raw.checkpoint_ns, raw.checkpoint_id): raw for raw in found}}
    return [
        _step(raw, known.get((raw.checkpoint_ns, raw.parent_id)) if raw.parent_id else None)
        for raw in found
    ]


def missing_parents(found: Sequence[RawCheckpoint]) -> list[tuple[str, str]]:
    """Namespace and id of checkpoints that come before these and are not among them."""
    there = {(raw.checkpoint_ns, raw.checkpoint_id) for raw in found}
    wanted = [(raw.checkpoint_ns, raw.parent_id) for raw in found if raw.parent_id]
    return [each for each in dict.fromkeys(wanted) if each not in there]


def _step(raw: RawCheckpoint, parent: RawCheckpoint | None) -> Step:
    metadata = Shown(_METADATA_BYTES).value("$", raw.record.metadata_type, raw.record.metadata)
    said: Mapping[str, Any] = metadata if isinstance(metadata, Mapping) else {}
    number, parents = said.get("step"), said.get("parents")
    within = parents.get(_outer(raw.checkpoint_ns)) if isinstance(parents, Mapping) else None
    return Step(
        checkpoint_id=raw.checkpoint_id,
        ns=raw.checkpoint_ns,
        parent_id=raw.parent_id,
        number=number if isinstance(number, int) else None,
        source=str(said.get("source") or ""),
        nodes=_nodes(raw, parent),
        run_id=str(said["run_id"]) if said.get("run_id") else None,
        began=_at(parent) if parent is not None else None,
        at=_at(raw),
        asks=tuple(
            _node_of(write) for write in raw.writes if write.record.channel == "__interrupt__"
        ),
        failed=_failed(raw),
        within=str(within) if within is not None and raw.checkpoint_ns else None,
    )


def _outer(ns: str) -> str:
    return ns.rpartition("|")[0]


def _at(raw: RawCheckpoint) -> float | None:
    try:
        return datetime.fromisoformat(str(raw.structure.get("ts"))).timestamp()
    except ValueError:
        return moment_of(raw.checkpoint_id)


def _nodes(raw: RawCheckpoint, parent: RawCheckpoint | None) -> tuple[str, ...]:
    seen = raw.structure.get("versions_seen") or {}
    before = (parent.structure.get("versions_seen") or {}) if parent is not None else {}
    ran = [name for name, versions in seen.items() if before.get(name) != versions]
    if parent is not None:
        paths = (write.record.task_path for write in parent.writes if write.idx >= 0)
        ran += [path.removeprefix(_PULLED) for path in paths if path.startswith(_PULLED)]
    return tuple(dict.fromkeys(str(name) for name in _without_own(ran)))


def _without_own(names: Iterable[Any]) -> Iterable[Any]:
    return (name for name in names if not str(name).startswith("__"))


def _node_of(write: RawWrite) -> str:
    path = write.record.task_path
    return path.removeprefix(_PULLED) if path.startswith(_PULLED) else "a task"


def _failed(raw: RawCheckpoint) -> tuple[tuple[str, str], ...]:
    shown = Shown(_METADATA_BYTES)
    errors = [write for write in raw.writes if write.record.channel == "__error__"]
    return tuple(
        (_node_of(write), _of_exception(shown.value("$", write.record.type, write.record.data)))
        for write in errors
    )


def _of_exception(said: Any) -> str:
    if isinstance(said, Mapping):
        return ": ".join(str(part) for part in said.values() if part)[:500] or "an error"
    return str(said)[:500]
