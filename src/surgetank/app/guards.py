"""What guards an engine's buffer and database against each other: their bond, their progress, and
telling of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import psycopg

from surgetank.app.homes import FoundHome, default_home, homes_beside
from surgetank.buffer.binding import Bindable, Binding, Fence
from surgetank.buffer.coordination import Backlog
from surgetank.buffer.copies import CopyStore
from surgetank.buffer.log import Log
from surgetank.buffer.upkeep import Upkeep
from surgetank.database.identity import EMBEDDED, destination_of, read_identity
from surgetank.database.migrate import MigratedDatabase
from surgetank.events.types import Severity
from surgetank.exceptions import SurgetankError
from surgetank.flush.belonging import Belonging
from surgetank.flush.doubts import Found
from surgetank.flush.verify import ProgressCheck
from surgetank.notify.news import News
from surgetank.notify.report import Notice
from surgetank.notify.reporting import Reporting
from surgetank.notify.travels import TimeTravels
from surgetank.settings import Settings, default_root, load_settings
from surgetank.streams.stream import Streams
from surgetank.telemetry import log

_BESIDE_S = 60.0


def destination(settings: Settings) -> str:
    """What the buffer is bound to until it has met its database."""
    url = settings.database_url
    return EMBEDDED if url is None else destination_of(url.get_secret_value())


def engine_settings(**given: Any) -> Settings:
    """Settings whose home, if none was given, is the one of their database. Raises
    `ConfigurationError`."""
    settings = load_settings(**given)
    if (
        "home" in settings.model_fields_set
        or settings.database_url is None
        or (settings.buffer_url is not None and not settings.buffer_is_shared)
    ):
        return settings
    return settings.model_copy(update={"home": default_home(settings.home, destination(settings))})


class Guarded(Log, CopyStore, Bindable, Fence, Backlog, Upkeep, Protocol):
    """What is compared with the database."""


class Guards:
    """`restores`: threads are written into the database."""

    def __init__(
        self,
        buffer: Guarded,
        database: MigratedDatabase,
        reporting: Reporting,
        belonging: Belonging,
        settings: Settings,
        *,
        streams: Streams,
        clock: Callable[[], float],
        restores: bool,
    ) -> None:
        self._buffer = buffer
        self._database = database
        self._reporting = reporting
        self._restores = restores
        self._home = settings.home
        self._clock = clock
        self._looked_beside_at = float("-inf")
        self.travels = TimeTravels(reporting.notifier, reporting.events, streams, clock=clock)
        in_database = [name for name, stream in streams.items() if stream.in_database]
        self.check = ProgressCheck(
            buffer, database, in_database, clock=clock, on_findings=self.tell
        )
        self.belonging = belonging

    def tell(self, findings: Sequence[Found]) -> None:
        """Buffer or database went back in time: put back what copies of recent threads have, and
        tell."""
        if self._restores:
            from surgetank.streams.checkpoints.copies.reader import restore_lost  # noqa: PLC0415 - needs the extra

            findings = restore_lost(self._buffer, findings)
        self.travels.tell(findings)

    def check_progress(self, *, force: bool = False) -> None:
        """Look whether the database still has what it acknowledged, if that is due. What fails is
        tried again."""
        if force or self.check.is_due():
            try:
                self.check.run()
            except (
                SurgetankError,
                psycopg.Error,
            ) as error:  # an outage is told by what waits for the database
                log.info("progress_check_postponed", error=str(error))

    def notices(self) -> list[Notice]:
        """Banners: what happened lately, and a database that the buffer does not belong to."""
        notices = self.travels.notices()
        problem = self.belonging.problem
        if problem is not None:
            notices.append(Notice("critical", None, problem.what, None, problem.remedy))
        notices += [
            Notice(
                "warning",
                None,
                f"What is accepted may be lost, or refused early: of the buffer, {advice.what}.",
                None,
                advice.remedy,
            )
            for advice in self._buffer.advices()
        ]
        notices += [
            Notice(
                "warning", None,
                f"{found.entries} entries wait for this database in another home, {found.path}. "
                f"They are flushed from"
                " here too, by whoever flushes in the background.",
            )
            for found in self.waiting_beside()
        ]  # fmt: skip
        return notices

    def waiting_beside(self) -> list[FoundHome]:
        """Default homes beside ours with entries for the same database."""
        root = next(
            (path for path in (self._home, *self._home.parents[:2]) if path == default_root()), None
        )
        mine = self._buffer.binding()
        if root is None or mine is None or mine.database_id is None:
            return []
        return [
            found
            for found in homes_beside(root, self._home)
            if found.entries and found.database_id == mine.database_id
        ]

    def due_beside(self) -> list[FoundHome]:
        """`waiting_beside`, once a minute."""
        now = self._clock()
        if 0 <= now - self._looked_beside_at < _BESIDE_S:
            return []
        self._looked_beside_at = now
        return self.waiting_beside()

    def adopt(self) -> Binding:
        """Let the buffer belong to the database that is configured, whatever it belonged to
        before."""
        self.belonging.adopting = True
        try:
            with self._database.connection() as connection:
                now = self.belonging.adopt(read_identity(connection))
        finally:
            self.belonging.adopting = False
        self._database.forget_claims()
        log.warning("buffer_adopted", destination=now.address, database_id=now.database_id)
        return now

    def moved(self, before: Binding, now: Binding) -> None:
        """The same id with other evidence: moved, restored elsewhere, or a copy."""
        message = (
            f"The database was moved or is a copy: {before.address} is now {now.address}, on "
            f"another server or under"
            " another number. The buffer goes on with it; whether it lacks anything is looked at "
            "now."
        )
        context = {"before": list(before), "now": list(now)}
        self._reporting.notifier.tell(
            News(
                message,
                Severity.WARNING,
                error_type="database_moved",
                context=context,
                group=(str(now.database_id),),
            )
        )
