"""Whether a saver gives back what it was given; what comes back with another meaning is refused
with its place.

The meaning counts, as `encode.equality` says it: PostgresSaver makes a plain text of a StrEnum and
of a message's `text`.
"""

from __future__ import annotations

from typing import Any, NoReturn

from langgraph.checkpoint.serde.types import _DeltaSnapshot

from surgetank.encode.equality import difference
from surgetank.exceptions import EntryRejected
from surgetank.model import Entry
from surgetank.streams.checkpoints.any_saver.calls import SaverCalls
from surgetank.streams.checkpoints.refs import CheckpointRef

_FAITHFUL = (
    "make the saver with serde=surgetank.streams.checkpoints.serde.FaithfulSerializer(), "
    "then retry the parked entry."
)


class Fidelity:
    """Checks one saver. All methods raise `EntryRejected`."""

    def __init__(self, calls: SaverCalls) -> None:
        self._calls = calls

    def compare(
        self,
        thread_id: str,
        at: tuple[str, str],
        checkpoint: dict[str, Any],
        metadata: Any,
        parent: str | None,
        entry: Entry,
    ) -> None:
        """Read back what was put. Raises `EntryRejected` naming the place that came back
        different."""
        found = self._calls.get(thread_id, *at)
        if found is None:
            self._altered("$: nothing", thread_id, entry)
        # PostgresSaver shows a DeltaChannel's snapshot with each later checkpoint that names the
        # same version.
        values = {
            channel: value
            for channel, value in found.checkpoint["channel_values"].items()
            if channel in checkpoint["channel_values"] or not isinstance(value, _DeltaSnapshot)
        }
        read = {k: v for k, v in found.checkpoint.items() if k in checkpoint} | {
            "channel_values": values
        }
        deviation = difference(checkpoint, read, by_meaning=True) or difference(
            metadata, found.metadata, "$.metadata", json_like=True, by_meaning=True
        )
        if deviation is None and parent != (
            CheckpointRef.of(found.parent_config)[2] if found.parent_config else None
        ):
            deviation = "$.parent: another one"
        if deviation is not None:
            self._altered(deviation, thread_id, entry)

    def check(self, path: str, value: Any, thread_id: str, entry: Entry) -> None:
        """Refuse a value that the saver's serializer would alter, before anything is written."""
        serde = self._calls.saver.serde
        deviation = difference(
            value, serde.loads_typed(serde.dumps_typed(value)), path, by_meaning=True
        )
        if deviation is not None:
            self._altered(deviation, thread_id, entry)

    def _altered(self, deviation: str, thread_id: str, entry: Entry) -> NoReturn:
        path, _, reason = deviation.partition(": ")
        raise EntryRejected(
            partition=thread_id, path=path, seq=entry.seq, remedy=_FAITHFUL,
            reason=f"{type(self._calls.saver).__name__} does not keep it as it is: it gives back "
            f"{reason}",
        )  # fmt: skip
