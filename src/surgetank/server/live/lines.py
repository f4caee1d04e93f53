"""Events as they are sent to followers: encoded once for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from surgetank.encode.jsontext import dumps_clean
from surgetank.events.types import EventType, Gap, RunEvent


@dataclass(frozen=True, slots=True)
class Line:
    """An event as it is sent: encoded once for all followers."""

    id: int
    seq: int
    type: str
    thread_id: str | None
    data: bytes


def line_of(event: RunEvent) -> Line:
    """The event encoded."""
    return Line(event.id, event.seq, event.type, event.thread_id, dumps_clean(event.to_dict()))


def line_of_gap(gap: Gap) -> Line:
    """The gap encoded; who goes on after it does so where history begins again."""
    return Line(
        gap.missed_to, gap.missed_to, EventType.GAP.value, gap.thread_id, dumps_clean(gap.to_dict())
    )
