"""Telling that a buffer or its database went back in time: what happened, to which threads, and
what became of it.

One incident each, however many partitions it is about; each thread that lost something has a line
of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from surgetank.events.protocol import EventLog
from surgetank.events.types import Incident, Severity
from surgetank.flush.doubts import Found
from surgetank.notify.incidents import TIME
from surgetank.notify.news import News
from surgetank.notify.notifier import Notifier
from surgetank.notify.report import Notice
from surgetank.sinks.standing import Finding
from surgetank.streams.stream import Streams

_NAMED = 20  # in a message; the context has more
_LISTED = 500
_SHOWN_S = 86_400.0
_BUT = "; its newest state is put back"
_SAVED = "They are saved with new numbers"
_ACTS = {
    "run_accepted": "that a run was accepted", "run_claimed": "that a worker took a run",
    "run_completed": "that a run was completed", "run_failed": "that a run failed",
    "run_cancelled": "that a run was cancelled", "checkpoint_created": "a question",
    "checkpoint_resolved": "an answer",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LostAct:
    """Something that was done and written down, and is not there any more."""

    audit_id: int
    action: str
    thread_id: str | None
    run_id: str | None
    subject: str | None  # of a question, its id


class TimeTravels:
    """Tells what was found out about partitions whose progress did not fit."""

    def __init__(
        self, notifier: Notifier, events: EventLog, streams: Streams, *, clock: Callable[[], float]
    ) -> None:
        self._notifier = notifier
        self._events = events
        self._streams = streams
        self._clock = clock

    def tell(self, findings: Sequence[Found]) -> None:
        """Tell of the partitions of one group, by what happened to them."""
        for finding in (Finding.DIVERGED, Finding.OVERTAKEN, Finding.WENT_BACK):
            found = [one for one in findings if one.finding is finding]
            if found:
                {
                    Finding.DIVERGED: self._diverged,
                    Finding.OVERTAKEN: self._overtaken,
                    Finding.WENT_BACK: self._went_back,
                }[finding](found)

    def notices(self) -> list[Notice]:
        """The banners of what happened lately."""
        return [
            Notice(incident.severity.value, None, incident.message, incident.since)
            for incident in self._events.incidents()
            if incident.key.startswith(TIME)
        ]

    def end_old(self) -> None:
        """The banner of what is over goes after a day; its system error stays until somebody
        resolves it."""
        for incident in self._events.incidents():
            if incident.key.startswith(TIME) and not 0 <= self._clock() - incident.since < _SHOWN_S:
                self._events.clear_incident(incident.key)

    def _diverged(self, found: Sequence[Found]) -> None:
        entries = sum(one.entries for one in found)
        message = (
            "This buffer went back in time (a restored backup or machine, a power cut): numbers of "
            "what waits in"
            f" {_names(found)} stand for other entries in the database. {_SAVED} ({entries} "
            f"entries), nothing is lost;"
            " lines and counts of that interval may be doubled."
        )
        self._tell("buffer", message, Severity.CRITICAL, "buffer_went_back", found)

    def _overtaken(self, found: Sequence[Found]) -> None:
        entries = sum(one.entries for one in found)
        message = (
            "This buffer went back in time (a restored backup or machine, a power cut), or a copy "
            "of it is in use: the"
            f" database has later numbers of {_names(found)} than what waits. {_SAVED} ({entries} "
            f"entries); nothing"
            " is lost or doubled."
        )
        self._tell("buffer", message, Severity.WARNING, "buffer_went_back", found)

    def _went_back(self, found: Sequence[Found]) -> None:
        again, lost = (
            sum(one.again for one in found),
            [one for one in found if one.gone is not None],
        )
        message = (
            f"The database went back in time (restored, or failed over to a replica that was "
            f"behind): {_names(found)}"
            f" lost what had been saved. {again} entries were kept here and are saved again"
        )
        message += (
            f"; what was saved before these is lost in {_names(lost)}: see the ranges in "
            f"`surgetank errors`."
            if lost
            else "; nothing is lost."
        )
        severity = Severity.CRITICAL if lost else Severity.WARNING
        self._tell("database", message, severity, "database_went_back", found)
        for one in [one for one in lost if one.stream in self._streams.of_threads][:_LISTED]:
            assert one.gone is not None
            what = self._streams[one.stream].entries
            self._notifier.tell(
                News(
                    f"The database was set back and lost {what} of this conversation (entries "
                    f"{one.gone[0]} to"
                    f" {one.gone[1]}){_BUT if one.restored else ''}. Tell your operator.",
                    Severity.CRITICAL, one.partition, context=_context([one]),
                )
            )  # fmt: skip

    def tell_acts(self, lost: Sequence[LostAct]) -> None:
        """Tell what the database lost of runs and questions. Nothing else has it: it can't be put back."""
        kinds = list(dict.fromkeys(_ACTS.get(act.action, act.action) for act in lost))
        threads = list(dict.fromkeys(act.thread_id for act in lost if act.thread_id is not None))
        message = (
            "The database went back in time (restored, or failed over to a replica that was behind): of "
            f"{_some(threads)} it lost {', '.join(kinds)}. Start such runs again and answer again; with "
            "synchronous replication this can't happen."
        )
        self._raise("acts", message, Severity.CRITICAL)
        context = {
            "acts": [asdict(act) for act in lost[:_LISTED]], "acts_in_all": len(lost),
            "remedy": "see docs/how-to/back-in-time.md for what to look at.",
        }  # fmt: skip
        self._notifier.tell(
            News(
                message, Severity.CRITICAL, error_type="database_went_back", context=context,
                group=("database_went_back", "acts"),
            )
        )  # fmt: skip
        for thread_id in threads[:_LISTED]:
            mine = [_ACTS.get(a.action, a.action) for a in lost if a.thread_id == thread_id]
            self._notifier.tell(
                News(
                    f"The database was set back and lost what was done in this conversation: "
                    f"{', '.join(dict.fromkeys(mine))}. Tell your operator.",
                    Severity.CRITICAL,
                    thread_id,
                )
            )

    def _raise(self, key: str, message: str, severity: Severity) -> None:
        self._events.raise_incident(
            Incident(
                key=TIME + key,
                stream="",
                thread_id=None,
                severity=severity,
                since=self._clock(),
                message=message,
            )
        )

    def _tell(
        self, key: str, message: str, severity: Severity, error_type: str, found: Sequence[Found]
    ) -> None:
        self._raise(key, message, severity)
        self._notifier.tell(
            News(
                message, severity, error_type=error_type, context=_context(found),
                group=(error_type, severity.value, *sorted({one.stream for one in found})),
            )
        )  # fmt: skip


def _names(found: Sequence[Found]) -> str:
    return _some(list(dict.fromkeys(f"{one.stream}/{one.partition}" for one in found)))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _context(found: Sequence[Found]) -> dict[str, Any]:
    listed = [
        {
            "stream": one.stream, "partition": one.partition, "entries": one.entries,
            **(
                {"lost": list(one.gone), "newest_state_restored": one.restored}
                if one.gone is not None
                else {}
            ),
            **({"perhaps_doubled": list(one.interval)} if one.interval is not None else {}),
        }
        for one in sorted(found, key=lambda one: one.gone is None)[:_LISTED]
    ]  # fmt: skip
    return {
        "partitions": listed, "partitions_in_all": len(found),
        "remedy": "see docs/how-to/back-in-time.md for what to look at.",
    }  # fmt: skip
