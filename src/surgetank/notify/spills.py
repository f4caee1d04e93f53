"""Spilling as people see it: one incident while anything lies in the fallback location, and its
place in the status."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from surgetank.buffer.spilling import SpillFile, Spilling
from surgetank.events.protocol import EventLog
from surgetank.events.types import Incident, Severity
from surgetank.exceptions import SurgetankError
from surgetank.notify.incidents import FALLBACK
from surgetank.notify.news import News
from surgetank.notify.notifier import Notifier
from surgetank.notify.report import FallbackStatus
from surgetank.spilling.spiller import Spilled, Spiller

INCIDENT = f"{FALLBACK}spilled"
_WHY = {"failing": "saving has failed for long", "full": "the buffer was filling up"}


class SpillWatch:
    """Lets the spiller work, and tells of it."""

    def __init__(
        self,
        spiller: Spiller,
        buffer: Spilling,
        notifier: Notifier,
        events: EventLog,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._spiller = spiller
        self._buffer = buffer
        self._notifier = notifier
        self._events = events
        self._clock = clock

    def step(self, down: Collection[str]) -> None:
        """Spill what is due, and tell of it; about once a second. `down`: streams whose sink is
        away."""
        spilled = self._spiller.step(down)
        if spilled.entries:
            self._tell(spilled)
        elif not _needed(self._buffer.spill_files()):
            self.report()

    def clean(self) -> int:
        """Delete the files that were drained, at once; returns how many. Raises
        `FallbackUnavailable`."""
        cleaned = self._spiller.clean()
        if not _needed(self._buffer.spill_files()):
            self.report()
        return cleaned

    def report(self) -> None:
        """Say that nothing lies outside the buffer any more, if that had been told."""
        if not any(incident.key == INCIDENT for incident in self._events.incidents()):
            return
        incident = self._events.clear_incident(INCIDENT)
        if incident is not None:
            lasted = max(0.0, self._clock() - incident.since)
            message = "Everything that was moved to the fallback location is saved; its files are deleted."
            self._notifier.tell(
                News(message, Severity.INFO, context={"lasted_s": round(lasted, 3)})
            )

    def _tell(self, spilled: Spilled) -> None:
        why = " and ".join(_WHY[reason] for reason in sorted(spilled.reasons))
        address = self._buffer.files.address
        message = (
            f"Entries are moved to the fallback location {address}, because {why}. Nothing is "
            f"lost: they are read from"
            " there, and saved by themselves when the database takes them."
        )
        incident = Incident(
            key=INCIDENT,
            stream="",
            thread_id=None,
            severity=Severity.CRITICAL,
            since=self._clock(),
            message=message,
        )
        if self._events.raise_incident(incident):
            context = {
                "location": address,
                "entries": spilled.entries,
                "bytes": spilled.bytes,
                "files": spilled.files,
                "reasons": sorted(spilled.reasons),
                "remedy": "mend what keeps the database from taking them (see `surgetank status`); "
                "keep the location.",
            }
            self._notifier.tell(
                News(
                    message, Severity.CRITICAL, error_type="fallback_spilled", context=context,
                    group=("fallback_spilled", str(address)),
                )
            )  # fmt: skip

    def status(self, *, ping: bool) -> FallbackStatus | None:
        """What lies in the fallback location; None when there is none and nothing was spilled."""
        files = self._buffer.spill_files()
        address = self._buffer.files.address
        if address is None and not files:
            return None
        needed = _needed(files)
        addresses = [address] if address is not None else []
        addresses += sorted({file.address for file in needed} - set(addresses))
        reachable, error = self._reachable(addresses) if ping else (None, None)
        if not reachable and not files:
            reachable = None  # nothing was spilled yet: whoever flushes makes the location, or tells that it can't
        return FallbackStatus(
            addresses=tuple(addresses),
            files=len(needed),
            entries=self._buffer.spilled_entries() if needed else 0,
            bytes=sum(file.bytes for file in needed),
            since=min((f.created_at for f in needed), default=None),
            reachable=reachable,
            error=error,
        )

    def _reachable(self, addresses: Sequence[str]) -> tuple[bool, str | None]:
        try:
            for address in addresses:
                self._buffer.files.store(address).check()
        except SurgetankError as problem:
            return False, problem.what
        return True, None


def _needed(files: Sequence[SpillFile]) -> list[SpillFile]:
    return [file for file in files if file.records]
