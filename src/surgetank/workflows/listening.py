"""Hearing of new runs and of cancellations at once: LISTEN on a connection of its own.

Behind a PgBouncer in transaction mode a LISTEN is heard by nobody. So it is tested by a
notification to oneself; where that does not arrive, workers look regularly.
"""

from __future__ import annotations

import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import psycopg
from psycopg import sql

from surgetank.database.deadline import BoundedConnection
from surgetank.database.pool import Database
from surgetank.exceptions import SurgetankError
from surgetank.service import Background
from surgetank.telemetry import log

RUNS, CANCELS = "surgetank_runs", "surgetank_cancels"
_PROBE = "surgetank_probe"
_TEST_S = 2.0
_TRY_AGAIN_S = 30.0
_ALIVE_S = 60.0  # a connection that is silent so long is tested again
_STEP_S = 0.5
_MANY = 1_000_000  # more than were accepted here


class Listening:
    """Calls the function of each channel (named as above) with how often something was notified on
    it, on its own thread.

    `listening` tells whether that works. Uses one connection of its own.
    """

    def __init__(self, database: Database, heard: Mapping[str, Callable[[int], None]]) -> None:
        self._database = database
        self._heard = dict(heard)
        self.listening = False
        self.service = Background("surgetank-listen", self._work)

    def _work(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                with self._database.own_connection() as connection:
                    self._listen(connection, stop)
            except (SurgetankError, psycopg.Error) as error:
                log.info("listening_ended", error=str(error))
            self.listening = False
            stop.wait(_TRY_AGAIN_S if not self._database.is_known_away else 2.0)

    def _listen(self, connection: BoundedConnection, stop: threading.Event) -> None:
        for channel in (*self._heard, _PROBE):
            connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        tested_at = float("-inf")
        while not stop.is_set():
            if time.monotonic() - tested_at > _ALIVE_S:
                if not self._hears_itself(connection, stop):
                    log.info("listening_impossible", remedy="set SURGETANK_DATABASE_LISTEN_URL")
                    return
                tested_at = time.monotonic()
                if not self.listening:
                    self.listening = True
                    for heard in self._heard.values():  # for what came before
                        heard(_MANY)
            self._hear(connection, _STEP_S)

    def _hears_itself(self, connection: BoundedConnection, stop: threading.Event) -> bool:
        with self._database.reading() as other:  # as others notify: maybe through a pooler
            other.execute(sql.SQL("NOTIFY {}").format(sql.Identifier(_PROBE)))
        limit = time.monotonic() + _TEST_S
        while time.monotonic() < limit and not stop.is_set():
            if _PROBE in self._hear(connection, 0.1):
                return True
        return False

    def _hear(self, connection: BoundedConnection, seconds: float) -> set[str]:
        """Wait for notifications, and pass them on. Not `connection.notifies()`, whose silence our
        connections take for a dead server."""
        poller = select.poll()
        poller.register(connection.pgconn.socket, select.POLLIN)
        if not poller.poll(seconds * 1000):
            return set()
        connection.pgconn.consume_input()
        channels = Counter[str]()
        while (notified := connection.pgconn.notifies()) is not None:
            channels[notified.relname.decode()] += 1
        for channel, times in channels.items():
            if channel in self._heard:
                self._heard[channel](times)
        return set(channels)
