"""What guards an engine's buffer and database against each other: their bond, their progress, and telling of both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import psycopg

from surgetank.buffer.protocol import Binding, Buffer
from surgetank.database.identity import EMBEDDED, destination_of, read_identity
from surgetank.database.migrate import MigratedDatabase
from surgetank.events import Severity
from surgetank.exceptions import SurgetankError
from surgetank.flush.belonging import Belonging
from surgetank.flush.doubts import Found
from surgetank.flush.verify import ProgressCheck
from surgetank.notify.desk import Desk
from surgetank.notify.notifier import News
from surgetank.notify.travels import TimeTravels
from surgetank.report import Notice
from surgetank.settings import Settings
from surgetank.telemetry import log


def destination(settings: Settings) -> str:
    """What the buffer is bound to until it has met its database."""
    url = settings.database_url
    return EMBEDDED if url is None else destination_of(url.get_secret_value())


class Guards:
    """`streams` are those that are written into the database; `restores`: threads are among them."""

    def __init__(
        self,
        buffer: Buffer,
        database: MigratedDatabase,
        desk: Desk,
        settings: Settings,
        streams: Collection[str],
        *,
        clock: Callable[[], float],
        restores: bool,
    ) -> None:
        self._buffer = buffer
        self._database = database
        self._desk = desk
        self._restores = restores
        self.travels = TimeTravels(desk.notifier, desk.events, clock=clock)
        self.check = ProgressCheck(buffer, database, streams, clock=clock, on_findings=self.tell)
        self.belonging = Belonging(buffer, destination(settings), on_moved=self._moved)
        database.gate = self.belonging

    def tell(self, findings: Sequence[Found]) -> None:
        """Buffer or database went back in time: put back what copies of recent threads have, and tell."""
        if self._restores:
            from surgetank.checkpoints.recent import restore_lost  # noqa: PLC0415 - needs the extra

            findings = restore_lost(self._buffer, findings)
        self.travels.tell(findings)

    def check_progress(self, *, force: bool = False) -> None:
        """Look whether the database still has what it acknowledged, if that is due. What fails is tried again."""
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
        told = self.travels.notices()
        problem = self.belonging.problem
        if problem is not None:
            told.append(Notice("critical", None, problem.what, None, problem.remedy))
        return told

    def adopt(self) -> Binding:
        """Let the buffer belong to the database that is configured, whatever it belonged to before."""
        self.belonging.adopting = True
        try:
            with self._database.connection() as connection:
                now = self.belonging.adopt(read_identity(connection))
        finally:
            self.belonging.adopting = False
        self._database.forget_claims()
        log.warning("buffer_adopted", destination=now.address, database_id=now.database_id)
        return now

    def _moved(self, before: Binding, now: Binding) -> None:
        """The same id with other evidence: moved, restored elsewhere, or a copy."""
        message = (
            f"The database was moved or is a copy: {before.address} is now {now.address}, on another server or under"
            " another number. The buffer goes on with it; whether it lacks anything is looked at now."
        )
        context = {"before": list(before), "now": list(now)}
        self._desk.notifier.tell(
            News(
                message, Severity.WARNING, error_type="database_moved", context=context, group=(str(now.database_id),)
            )
        )  # fmt: skip
