"""That this process works: a row in the database, written again and again, which others see (`workers.py`).

The row says what the process holds and how fast it is. When nothing is written for a while, it is taken
for dead by everybody who asks; what it held is taken over by others when its leases run out, which does
not depend on this.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from psycopg.types.json import Jsonb

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.exceptions import SurgetankError
from surgetank.flush.events import FlushEvent, JobFinished
from surgetank.service import Background

SQL = queries("app/workers.sql")
EVERY_S = 5.0
_FIRST_S = 1.0  # a script that ends sooner is nobody's worker
_WINDOW_S = 60.0  # over which speed is measured
_FORGETS_EVERY = 720

# What a role holds now ("partitions", "runs", "followers"), and what it has done ("entries", "ended").
Report = Callable[[], Mapping[str, int]]


class Presence:
    """Writes the row while this process has a role. Safe to use from several threads."""

    def __init__(
        self,
        database: Database,
        *,
        node: str,
        buffer_id: str,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._id = uuid.uuid4()
        self._node, self._buffer_id = node, buffer_id
        self._every_s = every_s
        self._clock = clock
        self._since = clock()
        self._lock = threading.Lock()
        self._roles: dict[Role, Report] = {}
        self._entries = 0
        self._speeds = deque[tuple[float, int, int]]()
        self._beats = 0
        self._stopping = False
        self._wake = threading.Event()
        self._thread = Background("surgetank-presence", self._run)

    def role(self, name: str, report: Report, *, claims_as: str | None = None) -> Role:
        """A service: between its start and its stop this process has the role. `claims_as` is the
        name under which it claims runs."""
        return Role(self, name, report, claims_as)

    def on_flush(self, event: FlushEvent) -> None:
        """Count what is flushed."""
        if isinstance(event, JobFinished):
            with self._lock:
                self._entries += event.job.result.entries_flushed or 0

    def enter(self, role: Role, report: Report) -> None:
        """From now on this process has the role."""
        with self._lock:
            self._roles[role] = report
            self._stopping = False
        self._thread.start()

    def leaving(self, role: Role) -> None:
        """The role ends soon; what it holds it gives back or finishes."""
        with self._lock:
            if role not in self._roles or self._stopping:
                return
            self._stopping = len(self._roles) == 1
            del self._roles[role]
            if self._stopping:
                self._roles[role] = dict
        self._wake.set()

    def close(self, within_s: float) -> None:
        """Remove the row, unless the database is away: this process ends in order."""
        self._thread.stop(0.0)
        self._wake.set()
        self._thread.stop(within_s)
        if self._beats:
            with suppress(SurgetankError), self._database.reading() as connection:
                connection.execute(SQL["leave"], {"id": self._id})

    def beat(self) -> None:
        """Write the row. Raises `DatabaseUnavailable`, `DatabaseRefused`."""
        row = self._row()
        with self._database.reading() as connection:
            connection.execute(SQL["beat"], row)
            if self._beats % _FORGETS_EVERY == 0:
                connection.execute(SQL["forget"])
        self._beats += 1

    def _run(self, stop: threading.Event) -> None:
        self._wake.wait(_FIRST_S)
        while not stop.is_set():
            self._wake.clear()
            with suppress(SurgetankError):  # that the database is away is seen elsewhere
                self.beat()
            if not stop.is_set():
                self._wake.wait(self._every_s)

    def _row(self) -> dict[str, Any]:
        now = self._clock()
        with self._lock:
            roles, entries, stopping = dict(self._roles), self._entries, self._stopping
        held = {"partitions": 0, "followers": 0, "ended": 0}
        for report in roles.values():
            for name, number in report().items():
                held[name] = held.get(name, 0) + number
        ended = held.pop("ended")
        self._speeds.append((now, entries, ended))
        while now - self._speeds[0][0] > _WINDOW_S and len(self._speeds) > 2:
            self._speeds.popleft()
        began, entries_then, ended_then = self._speeds[0]
        seconds = now - began
        speeds = {
            "entries_per_s": (entries - entries_then) / seconds if seconds else 0.0,
            "runs_per_s": (ended - ended_then) / seconds if seconds else 0.0,
        }
        return {
            "id": self._id,
            "node": self._node,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "roles": sorted({role.name for role in roles}),
            "claims_as": [role.claims_as for role in roles if role.claims_as is not None],
            "buffer": self._buffer_id,
            "version": version("surgetank"),
            "age_s": now - self._since,
            "every_s": self._every_s,
            "stopping": stopping,
            "report": Jsonb({**held, **speeds, "entries": entries, "runs_ended": ended}),
        }


class Role:
    """What a process is there for, as a service."""

    def __init__(
        self, presence: Presence, name: str, report: Report, claims_as: str | None
    ) -> None:
        self.name = name
        self.claims_as = claims_as
        self._presence = presence
        self._report = report
        self._running = False

    @property
    def running(self) -> bool:
        """True between start and stop."""
        return self._running

    def start(self) -> None:
        """Begin."""
        self._running = True
        self._presence.enter(self, self._report)

    def stop(self, within_s: float | None = None) -> bool:  # noqa: ARG002 - of the protocol
        """End."""
        self._running = False
        self._presence.leaving(self)
        return True
