"""What is done when a partition's progress in the sink does not fit to the buffer: look for the
witness, judge, act.

The judgement is `sinks.standing.judge`; here are only the reading before it and the buffer's step
after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from surgetank.buffer.binding import Fence
from surgetank.buffer.coordination import Leases
from surgetank.encode.digest import mark_of
from surgetank.exceptions import EntryUnreadable
from surgetank.model import Mark
from surgetank.sinks.protocol import Slice
from surgetank.sinks.standing import Doubt, Finding, covers, judge, top


@dataclass(frozen=True, slots=True)
class Found:
    """What was found out about a partition.

    `entries`: how many got new numbers, or wait again. `again`: how many wait that did not before.
    `gone`: first and last number of what is lost; `restored`: the newest state of it could be put
    back. `interval`: the first and the last number of what the sink may have twice now.
    """

    stream: str
    partition: str
    finding: Finding
    entries: int = 0
    again: int = 0
    gone: tuple[int, int] | None = None
    interval: tuple[int, int] | None = None
    written: Mapping[int, int] = field(default_factory=dict)
    restored: bool = False


class FencedLeases(Leases, Fence, Protocol):
    """Leases of partitions that may have gone back in time."""


class Doubts:
    """Clears up what a partition's progress means, and brings the buffer in line with it."""

    def __init__(self, buffer: FencedLeases) -> None:
        self._buffer = buffer

    def judge(self, part: Slice, mark: Mark | None, doubt: Doubt) -> Found:
        """Raises `LeaseLost`, and `EntryUnreadable` when a witness can't be read just now."""
        stream, partition, standing = part.lease.stream, part.lease.partition, doubt.standing
        waiting = [mark_of(entry) for entry in part.entries]
        waiting += [
            witness
            for epoch, there in standing.items()
            if any(w.epoch == epoch and w.seq <= there.seq for w in waiting)
            and not any(w.epoch == epoch and w.seq == there.seq for w in waiting)
            and (witness := self._witness(part, there)) is not None
        ]
        verdict = judge(standing, mark, waiting)
        finding = verdict.finding
        if finding is Finding.WENT_BACK:
            rewound = self._buffer.rewind(stream, partition, verdict.trusted, lease=part.lease)
            assert rewound is not None, "a partition under lease"
            return Found(
                stream=stream,
                partition=partition,
                finding=finding,
                entries=rewound.entries,
                again=rewound.entries,
                gone=rewound.gone,
            )
        if finding in (Finding.DIVERGED, Finding.OVERTAKEN):
            seqs = [w.seq for w in waiting if covers(standing, w.epoch, w.seq)]
            diverged = finding is Finding.DIVERGED
            count = self._buffer.renew_epoch(part.lease, beyond=top(standing), replayed=diverged)
            return Found(
                stream,
                partition,
                finding,
                count,
                interval=(min(seqs), max(seqs)) if diverged else None,
            )
        return Found(stream, partition, Finding.INTERRUPTED, written=verdict.written)

    def _witness(self, part: Slice, there: Mark) -> Mark | None:
        """The waiting entry with the number at which an epoch stands in the sink."""
        try:
            found = self._buffer.read(
                part.lease, after_seq=there.seq - 1, max_entries=1, max_bytes=1
            )
        except EntryUnreadable as error:
            if error.damaged:
                return None
            raise
        return next(
            (mark_of(e) for e in found if (e.epoch, e.seq) == (there.epoch, there.seq)), None
        )
