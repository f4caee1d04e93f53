"""Does what the sink remembers of a partition fit to what the buffer remembers? Pure.

Three things are compared: how far the sink says each epoch is written (the **standing**), the last
entry that the buffer got acknowledged (the **mark**), and what waits. From them it is told whether
an interrupted flush had written what waits, whether buffer or database went back in time, or
whether all is as it should be: nearly always it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from surgetank.exceptions import SinkError
from surgetank.model import Mark

Standing = Mapping[int, Mark]  # by epoch: the last entry that the sink has


class Finding(StrEnum):
    """What a comparison says."""

    PLAIN = "plain"  # nothing that waits was written
    INTERRUPTED = "interrupted"  # a flush was interrupted between commit and acknowledgement
    DIVERGED = "diverged"  # the buffer went back: numbers of what waits stand for other entries in the sink
    OVERTAKEN = "overtaken"  # the buffer went back: what waits is new, but has numbers below some that the sink has
    WENT_BACK = "went_back"  # the sink went back: it lost entries that it had acknowledged


@dataclass(frozen=True, slots=True)
class Verdict:
    """The finding, and what it rests on. `written`: up to which number entries of an epoch are in
    the sink (when interrupted). `trusted`: what of the standing can be believed (when the sink went
    back).
    """

    finding: Finding
    written: Mapping[int, int] = field(default_factory=dict)
    trusted: Standing = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Doubt:
    """A partition whose standing needs a judgement."""

    partition: str
    standing: Standing


class ProgressDoubtful(SinkError):
    """The progress of partitions does not fit to what was to be written. Nothing was written."""

    def __init__(self, doubts: Sequence[Doubt]) -> None:
        super().__init__(
            f"The progress of {doubts[0].partition!r} does not fit to what the buffer knows."
        )
        self.doubts = tuple(doubts)


def top(standing: Standing) -> int:
    """The largest number that the sink has of the partition, whatever its epoch."""
    return max((mark.seq for mark in standing.values()), default=0)


def covers(standing: Standing, epoch: int, seq: int) -> bool:
    """Whether the sink says that it has this entry."""
    mark = standing.get(epoch)
    return mark is not None and seq <= mark.seq


def has_gone_back(standing: Standing, mark: Mark | None) -> bool:
    """Whether the sink lost the entry that it acknowledged last."""
    if mark is None:
        return False
    there = standing.get(mark.epoch)
    return (
        there is None or there.seq < mark.seq or (there.seq == mark.seq and not _alike(there, mark))
    )


def is_plain(standing: Standing, mark: Mark | None, lowest: int | None) -> bool:
    """The quick form of `judge`: `lowest` is the smallest number among what waits and is not known
    to be written."""
    return (lowest is None or lowest > top(standing)) and not has_gone_back(standing, mark)


def judge(standing: Standing, mark: Mark | None, waiting: Iterable[Mark]) -> Verdict:
    """What the three say together. `waiting` must have, beside the entries that are to be written,
    each entry that waits and has the number at which an epoch stands in the sink: it is the
    witness.
    """
    if has_gone_back(standing, mark):
        assert mark is not None
        there = standing.get(mark.epoch)
        if there is not None and there.seq == mark.seq:  # what stands there is somebody else's
            return Verdict(
                Finding.WENT_BACK, trusted={e: m for e, m in standing.items() if e != mark.epoch}
            )
        return Verdict(Finding.WENT_BACK, trusted=dict(standing))
    entries = list(waiting)
    covered = [entry for entry in entries if covers(standing, entry.epoch, entry.seq)]
    witnessed = {
        e.epoch for e in covered if e.seq == standing[e.epoch].seq and _alike(e, standing[e.epoch])
    }
    # What the first format wrote has no digest: it is believed, as it always was.
    witnessed |= {epoch for epoch, there in standing.items() if there.digest == 0}
    if any(entry.epoch not in witnessed for entry in covered):
        return Verdict(Finding.DIVERGED)
    highest = top(standing)
    if any(e.seq <= highest for e in entries if not covers(standing, e.epoch, e.seq)):
        # What was written can't be acknowledged apart from what was not: all of it counts as
        # doubtful.
        return Verdict(Finding.DIVERGED if covered else Finding.OVERTAKEN)
    if covered:
        return Verdict(
            Finding.INTERRUPTED,
            written={entry.epoch: standing[entry.epoch].seq for entry in covered},
        )
    return Verdict(Finding.PLAIN)


def _alike(one: Mark, other: Mark) -> bool:
    return one.digest == other.digest or 0 in (one.digest, other.digest)
