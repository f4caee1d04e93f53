"""Is my data safe? One sentence for people, out of the state of saving. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from surgetank.console.showing import count, span
from surgetank.model import FailureKind
from surgetank.notify.report import Status

_KEPT = "Nothing is lost: everything is kept in the buffer"


@dataclass(frozen=True, slots=True)
class Sentence:
    """The answer: how bad it is (`ok`, `warning`, `critical`), the sentence, and one more."""

    level: str
    text: str
    more: str


def is_my_data_safe(status: Status) -> Sentence:
    """The answer for this moment."""
    waiting, late = status.buffer.entries, span(status.lag_s)
    level = status.health.level.value
    text, more = _trouble(status, waiting, late)
    if text:
        return Sentence("critical" if level == "critical" else "warning", text, more)
    if waiting:
        return Sentence(
            "ok", "Saving as usual.",
            f"{count(waiting, 'entry is', 'entries are')} on the way to the database, the oldest for {late}.",
        )  # fmt: skip
    return Sentence("ok", "All saved.", "Everything that was accepted is in the database.")


def _trouble(status: Status, waiting: int, late: str) -> tuple[str, str]:
    kept = f"{_KEPT} ({count(waiting, 'entry', 'entries')})"
    depth = status.buffer
    if depth.disk_full:
        return "Nothing new is accepted: the disk that holds the buffer is full.", (
            f"{_KEPT}. Free some space on that disk."
        )
    failing = [state.failure for state in status.failing if state.failure is not None]
    if any(sink.refused for sink in status.sinks) or any(
        failure.kind is FailureKind.FATAL for failure in failing
    ):
        return "Saving is stopped: the database refuses to be used like this.", (
            f"{kept} until somebody acts. The details are below."
        )
    if any(sink.breaker != "closed" or sink.reachable is False for sink in status.sinks):
        return f"Saving is delayed by {late}: the database can't be reached.", (
            f"{kept} and is saved by itself when the database is back."
        )
    if status.health.of("flush").down:
        return "Nothing is saved just now: the flush thread of the server has ended.", (
            f"{kept}. Start the server again."
        )
    if failing:
        return (
            f"Saving is delayed by {late}: {count(len(failing), 'part')} could not be saved just now.",
            (f"{kept} and is tried again by itself."),
        )
    if status.parked:
        were = "entry was" if status.parked == 1 else "entries were"
        return (
            f"All is saved but {status.parked:,} {were} refused by the database and set aside.",
            ("What was set aside is kept. See the parked entries for the reason."),
        )
    if status.health.level.value != "ok":
        worst = max(status.health.findings, key=lambda found: found.level != "ok")
        bad = [f for f in status.health.findings if f.level.value == status.health.level.value]
        found = bad[0] if bad else worst
        return f"Something needs attention: the {found.part} {found.detail}.", f"{kept}."
    return "", ""
