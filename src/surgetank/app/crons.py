"""Who looks when crons are due: each worker of runs, without asking the database all the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from surgetank.events.types import Severity
from surgetank.notify.news import News
from surgetank.workflows.crons import Cron, Crons

if TYPE_CHECKING:
    from surgetank.database.pool import Database
    from surgetank.settings import Settings
    from surgetank.workflows.queue import RunQueue

_ASK_S = 5.0  # others make crons too


class CronClock:
    """Fires crons when it is called about once a second."""

    def __init__(
        self,
        crons: Callable[[], Crons],
        fired: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._crons = crons
        self._fired = fired
        self._clock = clock
        self._next_at = float("-inf")

    def step(self) -> None:
        """Have the runs accepted that are due. Raises `DatabaseUnavailable`."""
        if self._clock() < self._next_at:
            return
        crons = self._crons()
        if crons.fire():
            self._fired()
            return  # there may be more
        due_in_s = crons.next_in_s()
        self._next_at = self._clock() + min(_ASK_S, due_in_s if due_in_s is not None else _ASK_S)


def open_crons(
    database: Database, queue: RunQueue, settings: Settings, announce: Callable[[News], None]
) -> Crons:
    """The crons of an engine."""
    return Crons(
        database,
        queue,
        most=settings.crons_per_user,
        node=settings.node,
        refused=lambda cron, why: announce(refusal_of(cron, why)),
    )


def refusal_of(cron: Cron, why: str) -> News:
    """What is told of a run that a cron could not have accepted."""
    return News(
        f"A cron of the assistant {cron.assistant_id} could not start its run: {why}",
        Severity.WARNING,
        cron.thread_id,
        error_type="cron_refused",
        context={"cron_id": str(cron.cron_id), "schedule": cron.schedule},
    )
