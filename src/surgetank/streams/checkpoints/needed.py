"""What other checkpoints of a thread need of an entry: values are kept once, with the checkpoint that changed
them, and those after it refer to them by version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from surgetank.model import Entry
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.raw import RawCheckpoint

Newest = Callable[[str], Iterable[RawCheckpoint]]


def is_deletion(entry: Entry) -> bool:
    """Whether it deletes checkpoints, or the thread."""
    return any(record.key == envelope.OPERATION_KEY for record in entry.records)


def who_needs(entries: Sequence[Entry], newest: Newest) -> RawCheckpoint | None:
    """A checkpoint of the thread that refers to a value of these entries and is in none of them.
    `newest` gives the checkpoints of a namespace, newest first."""
    own, values = set[tuple[str, str]](), dict[str, set[tuple[str, str]]]()
    for record in (record for entry in entries for record in entry.records):
        if record.key.startswith(b"c\x00"):
            ns, checkpoint_id = envelope.split_key(record.key)
            own.add((ns, checkpoint_id))
        elif record.key.startswith(b"b\x00"):
            ns, channel, version = envelope.split_blob_key(record.key)
            values.setdefault(ns, set()).add((channel, version))
    for ns, given in values.items():
        first = min((id_ for of, id_ in own if of == ns), default="")
        for raw in newest(ns):
            if raw.checkpoint_id < first:  # older ones can't be made from it
                break
            if (ns, raw.checkpoint_id) not in own and given & set(raw.versions().items()):
                return raw
    return None
