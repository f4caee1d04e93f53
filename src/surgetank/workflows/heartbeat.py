"""What a worker of runs does beside its loop: it keeps the leases of its runs, takes runs from workers
that went silent, and calls what is due each second.

On threads of its own, so that a node that blocks the loop loses no run.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence

from surgetank.exceptions import DatabaseUnavailable, SurgetankError
from surgetank.service import Background
from surgetank.workflows.handout import UnderWay
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.reaping import Reaper
from surgetank.workflows.runs import CancelAction


class Heartbeat:
    """Renews what is under way about each `every_s` seconds, and soon after `hurry`.

    `cut` is given a run that is to end, and whether somebody else has it; `taken_over` how many runs
    were taken from others; `tell` what goes wrong beside runs. All are called on its threads.
    """

    def __init__(
        self,
        queue: RunQueue,
        *,
        actor: str,
        every_s: float,
        under_way: Callable[[], Sequence[UnderWay]],
        cut: Callable[[UnderWay, bool], None],
        taken_over: Callable[[int], None],
        tell: Callable[[BaseException, str], None],
        each_second: Sequence[Callable[[], object]] = (),
    ) -> None:
        self.every_s = every_s
        self._queue = queue
        self._under_way = under_way
        self._cut = cut
        self._taken_over = taken_over
        self._tell = tell
        self._each_second = tuple(each_second)
        self._reaper = Reaper(queue, actor=actor)
        self._now = threading.Event()
        self._services = [
            Background("surgetank-run-heartbeat", self._beats),
            Background("surgetank-run-upkeep", self._keep),
        ]

    def start(self) -> None:
        """Begin."""
        for service in self._services:
            service.start()

    def hurry(self) -> None:
        """See now which runs were asked to end. May be called on any thread."""
        self._now.set()

    def stop(self, within_s: float) -> None:
        """End, and wait so long for each of its threads."""
        self.hurry()
        for service in self._services:
            service.stop(within_s)

    def beat(self) -> None:
        """Keep what is under way; end what somebody else has, or what was asked to end."""
        mine = self._under_way()
        try:
            held = self._queue.renew([each.run for each in mine]) if mine else {}
            if reaped := self._reaper.step():
                self._taken_over(len(reaped))
        except SurgetankError as error:
            self._failed(error)
            return  # nobody else could claim ours meanwhile
        for each in mine:
            action = held.get(each.run.run_id, CancelAction.INTERRUPT)
            if action is not None:
                self._cut(each, each.run.run_id not in held)

    def _beats(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._now.wait(self.every_s)
            self._now.clear()
            if not stop.is_set():
                self.beat()

    def _keep(self, stop: threading.Event) -> None:
        while not stop.wait(1.0):
            for step in self._each_second:
                try:
                    step()
                except SurgetankError as error:
                    self._failed(error)

    def _failed(self, error: SurgetankError) -> None:
        """That the database is away is seen elsewhere."""
        if not isinstance(error, DatabaseUnavailable):
            self._tell(error, traceback.format_exc())
