"""What is asked of the errors, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgetank.encode import limits
from surgetank.streams.errors.groups import (
    ErrorGroup,
)


@dataclass(frozen=True, slots=True)
class ErrorFilter:
    """Which groups are wanted. Times are seconds since the epoch and mean the newest occurrence."""

    error_type: str | None = None
    severity: str | None = None
    thread_id: str | None = None
    resolved: bool | None = None
    since: float | None = None
    until: float | None = None
    text: str | None = None

    def check(self) -> None:
        """Raise `EntryRejected` for what PostgreSQL can't be asked: NUL in a text, a time beyond
        the year 9999."""
        for name in ("error_type", "severity", "thread_id", "text"):
            if (text := getattr(self, name)) is not None:
                limits.check_names("system_errors", [(f"$.{name}", text)])
        for name in ("since", "until"):
            if (at := getattr(self, name)) is not None:
                limits.check_time("system_errors", f"$.{name}", at)

    def takes(self, group: ErrorGroup, threads: set[str]) -> bool:
        """Whether a group, touched by these threads, is wanted."""
        words = f"{group.error_message} {group.error_type}".lower()
        return (
            self.error_type in (None, group.error_type)
            and self.severity in (None, group.severity.value)
            and (self.thread_id is None or self.thread_id in threads)
            and self.resolved in (None, group.resolved)
            and (self.since is None or group.last_seen >= self.since)
            and (self.until is None or group.last_seen < self.until)
            and (self.text is None or self.text.lower() in words)
        )


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """Groups, newest first; `cursor` leads to the next page. `problem`: the database can't be asked
    just now."""

    errors: tuple[ErrorGroup, ...]
    cursor: tuple[float, str] | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """One group with the threads it touched and everything that was done about it."""

    group: ErrorGroup
    threads: tuple[Mapping[str, Any], ...] = ()
    audit: tuple[Mapping[str, Any], ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class HotGroup:
    """A group that has something in the buffer, as it is now (None: deleted), and when its hot
    occurrences touched which threads.
    """

    id: str
    group: ErrorGroup | None
    threads: Mapping[str, float]
