"""What is told to people, and a channel that tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from surgetank.events.types import EventType, PublicCause, Severity
from surgetank.streams.errors.groups import fingerprint, group_id


@dataclass(frozen=True, slots=True)
class News:
    """One thing to tell. `message` and `public` are for everybody, `detail`, `stack_trace` and
    `context` for operators.

    `event` is the run event's type (None: no event), `error_type` that of the system error (None:
    none).
    """

    message: str
    severity: Severity
    thread_id: str | None = None
    event: EventType | None = None
    error_type: str | None = None
    detail: str = ""
    stack_trace: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    group: tuple[str, ...] | None = None
    public: PublicCause = field(default_factory=PublicCause)

    @property
    def for_everybody(self) -> PublicCause:
        """What everybody may read; of an error that says nothing of its own, that it is one, and
        its reference."""
        if self.public.reference or self.error_type is None or self.group is None:
            return self.public
        reference = group_id(fingerprint("", "", key=self.group))
        return PublicCause(
            self.public.error or "Something is wrong with what was saved.", reference
        )


class Channel(Protocol):
    """One way of telling. It may raise: the notifier isolates it."""

    name: str

    def tell(self, news: News) -> None:
        """Tell it, or leave out what this channel is not for."""
        ...
