"""Checkpoints before deserialization: what hot and cold readers give, merged and judged here.
Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from surgetank.exceptions import StateCorrupt
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.envelope import CheckpointRecord, WriteRecord


@dataclass(frozen=True, slots=True)
class RawWrite:
    """One pending write with its place."""

    task_id: str
    idx: int
    record: WriteRecord

    @property
    def order(self) -> tuple[str, str, int]:
        """LangGraph's `writes_sort_key`."""
        return (self.record.task_path, self.task_id, self.idx)


@dataclass(slots=True)
class RawCheckpoint:
    """A checkpoint with the serialized values of its channels and its pending writes, in order."""

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str
    record: CheckpointRecord
    parent_id: str | None
    blobs: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    writes: list[RawWrite] = field(default_factory=list)
    # which state of the thread in the database it shows (encode.copies.Mark)
    mark: bytes | None = None
    copied: bool = False  # it comes from the copy in the buffer
    _structure: dict[str, Any] | None = None

    @property
    def size(self) -> int:
        """Bytes of values, writes and metadata."""
        values = sum(len(data) for _, data in self.blobs.values())
        return values + sum(len(w.record.data) for w in self.writes) + len(self.record.metadata)

    @property
    def structure(self) -> dict[str, Any]:
        """LangGraph's own fields: versions, versions seen, ts, id, v ... Raises `StateCorrupt`."""
        if self._structure is None:
            try:
                found = envelope.read_structure(self.record.structure)
                found["channel_versions"].items()
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise StateCorrupt(
                    f"The checkpoint {self.checkpoint_id} can't be read ({type(error).__name__}: "
                    f"{error}).",
                    remedy="restore the database from a backup.",
                ).of(self.thread_id) from error
            self._structure = found
        return self._structure

    def versions(self) -> dict[str, str]:
        """The channels that have a value, with the text of their versions."""
        versions: Mapping[str, str | int | float] = self.structure["channel_versions"]
        return {
            channel: envelope.version_text(versions[channel])
            if channel in versions
            else envelope.unversioned(self.checkpoint_id)
            for channel in self.record.present
        }


def merge_writes(cold: list[RawWrite], hot: list[RawWrite]) -> list[RawWrite]:
    """Pending writes in LangGraph's order. Both lists are in the order of acceptance, cold before
    hot.

    Of ordinary writes with the same task and index the first counts, of special ones (index below
    zero) the last.
    """
    kept: dict[tuple[str, int], RawWrite] = {}
    for write in (*cold, *hot):
        key = (write.task_id, write.idx)
        if write.idx < 0 or key not in kept:
            kept[key] = write
    return sorted(kept.values(), key=lambda write: write.order)
