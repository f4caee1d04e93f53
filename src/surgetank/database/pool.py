"""Connections to PostgreSQL, opened when they are first needed, replaced when they died, never
waited for long.

Nothing relies on the state of a session (no prepared statements, no SET outside a transaction, no
session locks), so that PgBouncer in transaction mode may stand in between. That holds for deadlines
too: the server's are set with the BEGIN of each transaction, and for a server that says nothing at
all the client has its own (`deadline.py`).

Why not psycopg_pool: its connections are made by background workers, so that a caller learns of a
refused connection only when its waiting time is over (measured: 3.0 s against 1 ms), and never
learns the reason.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import Connection, conninfo
from psycopg.pq import TransactionStatus
from psycopg.types.json import set_json_loads

from surgetank.database.address import parse_url, redact_url
from surgetank.database.deadline import BoundedConnection, ServerSilent
from surgetank.database.password import PasswordSource
from surgetank.database.reach import Reach
from surgetank.database.refusals import broken_connection, failed_statement, refused_connection
from surgetank.encode import jsontext
from surgetank.exceptions import DatabaseRefused, DatabaseUnavailable

__all__ = ["OLDEST_SERVER", "Database", "redact_url"]

OLDEST_SERVER = 14
# Without these a connection whose other end vanished (a cut cable, a firewall that forgot it) is
# waited for up to two hours. They are the client's own and need nothing from server or PgBouncer.
_NOTICE_DEAD_PEERS = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
_SLOWEST = 1_000_000  # bytes a second; what is faster is not given up, or large values would be tried for ever
# the server's own deadline comes first: it says more, and leaves the connection whole
_SERVER_FIRST_S = 0.5
# a failure that took longer is one that callers shall not wait for one after the other
_SLOW_S = 1.0
_LOCKS_S = 10.0
_LONG_S = 600.0  # for the statements of a migration
_STALE = (
    "25006",
    "57P",
)  # the server is a standby now, or on its way down: the others of the pool are of no use


class Database:
    """A pool of connections to one PostgreSQL database. Making one never touches the network.

    Times are seconds. `statement_timeout_s` bounds a statement of a flush, `read_timeout_s` one
    that a caller waits for, `connect_timeout_s` the wait for a connection (for each host of the
    URL). Raises `ConfigurationError` for an unusable URL.
    """

    def __init__(
        self,
        url: str,
        *,
        max_size: int = 8,
        connect_timeout_s: float = 3.0,
        statement_timeout_s: float = 30.0,
        read_timeout_s: float = 5.0,
        password: PasswordSource | None = None,
        application_name: str = "surgetank",
    ) -> None:
        parts = parse_url(url)
        self.address = redact_url(url)
        self._conninfo = conninfo.make_conninfo(
            url,
            **{name: value for name, value in _NOTICE_DEAD_PEERS.items() if name not in parts},
            client_encoding="UTF8",  # whatever PGCLIENTENCODING says
            connect_timeout=str(max(2, round(connect_timeout_s))),
            application_name=parts.get("application_name") or application_name,
        )
        self._password = password
        self._max_size = max_size
        self._timeout_s = connect_timeout_s
        self._statement_s = statement_timeout_s
        self._read_s = read_timeout_s
        self._free = threading.BoundedSemaphore(max_size)
        self._lock = threading.Lock()
        self._idle: list[BoundedConnection] = []
        self._busy: set[BoundedConnection] = set()
        self._closed = False
        self.connects = 0  # how many connections were made
        self._reach = Reach(self._ask)

    # -- using it

    @contextmanager
    def connection(self, *, size: int = 0) -> Iterator[Connection[Any]]:
        """A connection in a transaction that is committed at the end, rolled back on an error. For
        flushing.

        `size`: bytes that are to be written; the deadline grows with them. Statements raise the
        driver's own errors, which flushing classifies. Raises `DatabaseUnavailable` for a
        connection that can't be had or broke, `DatabaseRefused` (wrong password, missing database).
        """
        with self._use(self._statement_s + size / _SLOWEST) as connection:
            yield connection

    @contextmanager
    def long_transaction(self) -> Iterator[Connection[Any]]:
        """`connection` for statements that may take minutes, as a migration's may."""
        with self._use(_LONG_S) as connection:
            yield connection

    @contextmanager
    def asking(self, *, patient: bool = False) -> Iterator[Connection[Any]]:
        """A transaction for somebody who waits for the answer. A database that is known to be away
        isn't asked.

        No error of the driver comes out of it: raises `DatabaseUnavailable`, `DatabaseRefused`.
        `patient`: work in the background, with the deadline of a flush.
        """
        if not patient:
            self._reach.check()
        try:
            with self._use(self._statement_s if patient else self._read_s) as connection:
                yield connection
        except psycopg.Error as error:
            raise failed_statement(error, self.address) from error

    @contextmanager
    def reading(self) -> Iterator[Connection[Any]]:
        """`asking` on a connection whose statements are transactions of their own: one round trip
        each, not three."""
        self._reach.check()
        try:
            with self._use(self._read_s, transaction=False) as connection:
                yield connection
        except psycopg.Error as error:
            raise failed_statement(error, self.address) from error

    @contextmanager
    def long_statements(self) -> Iterator[Connection[Any]]:
        """A connection without a transaction, for statements that may take minutes (VACUUM). Raises
        as `asking`."""
        try:
            with self._use(_LONG_S, transaction=False) as connection:
                yield connection
        except psycopg.Error as error:
            raise failed_statement(error, self.address) from error

    @contextmanager
    def own_connection(self) -> Iterator[BoundedConnection]:
        """A connection beside the pool, without transactions, for somebody who keeps it long
        (LISTEN). Closed at the end, and by `interrupt`. Raises as `asking`."""
        self._before_use()
        connection = self._connect()
        try:
            yield connection
        finally:
            self._drop(connection)

    @contextmanager
    def _use(self, deadline_s: float, *, transaction: bool = True) -> Iterator[Connection[Any]]:
        self._before_use()
        self._await_turn()
        try:
            connection = self._begin(deadline_s) if transaction else self._take(deadline_s)
            try:
                yield connection
                connection.commit()
            except BaseException as error:
                self._give_up(connection, error)
                raise
            self._give(connection)
        finally:
            self._free.release()
        self._reach.found()

    def _before_use(self) -> None:
        """What must be done once before anybody uses the database."""

    def _admit(self, connection: Connection[Any]) -> None:
        """Look at a new connection before anybody uses it. Raises what keeps it from being used."""

    def claim(self, connection: Connection[Any]) -> str | None:  # noqa: ARG002
        """The id of the database that may be written into; None: any. Raises `WrongDatabase`."""
        return None

    def _await_turn(self) -> None:
        limit = time.monotonic() + self._timeout_s
        while not self._free.acquire(timeout=max(0.0, min(0.2, limit - time.monotonic()))):
            self._reach.check()  # those before us found out meanwhile that it is away
            if time.monotonic() >= limit:
                raise DatabaseUnavailable(
                    f"All {self._max_size} connections to {self.address} were busy for "
                    f"{self._timeout_s:.0f} s.",
                    remedy="raise SURGETANK_DATABASE_CONNECTIONS, or look for transactions that "
                    "take too long.",
                )

    # -- one connection

    def _begin(self, deadline_s: float) -> BoundedConnection:
        """A connection whose transaction has begun. One that died while it was idle is replaced
        unseen."""
        limits = f"SET LOCAL statement_timeout = {deadline_s * 1000:.0f}; SET LOCAL lock_timeout = "
        begin = f"BEGIN; {limits}{min(deadline_s, _LOCKS_S) * 1000:.0f}".encode()
        while True:
            connection = self._take(deadline_s + _SERVER_FIRST_S)
            used_before = connection.used
            try:
                connection.execute(begin)
            except BaseException as error:
                stale = used_before and isinstance(error, psycopg.OperationalError)
                if stale and not isinstance(error, ServerSilent):
                    self._drop(connection)
                    continue
                self._give_up(connection, error)
                raise
            return connection

    def _take(self, silence_s: float) -> BoundedConnection:
        while True:
            with self._lock:
                if self._closed:
                    raise _closed()
                connection = self._idle.pop() if self._idle else None
                if connection is not None:
                    self._busy.add(connection)
            if connection is None:
                connection = self._connect()
            elif not _alive(connection):
                self._drop(connection)
                continue
            connection.silence_s = silence_s
            return connection

    def _connect(self) -> BoundedConnection:
        connection = self._open()
        with self._lock:
            if not self._closed:
                self._busy.add(connection)
                return connection
        connection.close()
        raise _closed()

    def _open(self) -> BoundedConnection:
        started = time.monotonic()
        try:
            connection = self._log_in()
        except psycopg.Error as error:
            refusal = refused_connection(error, self.address)
            if time.monotonic() - started > _SLOW_S and not isinstance(refusal, DatabaseRefused):
                self._reach.lost(refusal)
            raise refusal from error
        self.connects += 1
        set_json_loads(jsontext.loads, connection)  # what we wrote, we can read
        encoding = connection.info.parameter_status("server_encoding")
        if encoding not in (None, "UTF8"):
            connection.close()
            raise DatabaseRefused(
                f"The database at {self.address} has the encoding {encoding}, which can't hold "
                f"every text.",
                remedy="use a database made with `createdb --encoding=UTF8 --template=template0`.",
            )
        try:
            self._admit(connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, psycopg.Error):
                raise refused_connection(error, self.address) from error
            raise
        return connection

    def _log_in(self) -> BoundedConnection:
        source = self._password
        while True:
            secret: dict[str, Any] = {} if source is None else {"password": source.get()}
            try:
                # Autocommit for the driver: transactions are begun by `_begin`, together with their
                # deadlines.
                return BoundedConnection.connect(
                    self._conninfo, autocommit=True, prepare_threshold=None, **secret
                )
            except psycopg.OperationalError as error:
                refused = isinstance(refused_connection(error, self.address), DatabaseRefused)
                if source is None or not refused or not source.refused():
                    raise

    def _give(self, connection: BoundedConnection) -> None:
        idle = connection.info.transaction_status is TransactionStatus.IDLE
        connection.used = True
        with self._lock:
            self._busy.discard(connection)
            if not self._closed and idle:
                self._idle.append(connection)
                return
        connection.close()

    def _drop(self, connection: BoundedConnection) -> None:
        with self._lock:
            self._busy.discard(connection)
        connection.close()

    def _give_up(self, connection: BoundedConnection, error: BaseException) -> None:
        """Roll back and keep the connection, or close it if it is of no use any more."""
        with suppress(psycopg.Error):  # the error on its way out says why
            connection.rollback()
        state = getattr(error, "sqlstate", None) or ""
        if connection.closed or connection.broken or state.startswith(_STALE):
            self._drop(connection)
            if state.startswith(_STALE):
                self.reset()  # so that the next one finds the server that is the primary now
            if isinstance(error, ServerSilent):
                self._silent(error)
            if isinstance(error, psycopg.OperationalError):
                raise broken_connection(error, self.address) from error
        else:
            self._give(connection)

    def _silent(self, error: ServerSilent) -> None:
        if error.alive:
            return  # it was this statement that took too long
        self.reset()  # they are as silent
        self._reach.lost(broken_connection(error, self.address))

    # -- the pool

    @property
    def is_known_away(self) -> bool:
        """Whether somebody waited in vain for the database, and it has not answered since."""
        return self._reach.is_away

    def _ask(self) -> None:
        """Connect and ask, beside the pool."""
        connection = self._open()
        try:
            connection.silence_s = self._timeout_s
            connection.execute("SELECT 1")
        except psycopg.Error as error:
            raise broken_connection(error, self.address) from error
        finally:
            connection.close()

    def ping(self, *, within_s: float = 2.0) -> str:
        """Product and version of the server. Raises like `asking`, and for a server that is too
        old."""
        try:
            with self._use(within_s) as connection:
                version = connection.info.server_version
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            raise failed_statement(error, self.address) from error
        if version < OLDEST_SERVER * 10000:
            raise DatabaseRefused(
                f"PostgreSQL {version // 10000} at {self.address} is too old.",
                remedy=f"use PostgreSQL {OLDEST_SERVER} or newer.",
            )
        return f"PostgreSQL {version // 10000}.{version % 10000}"

    def drop_lost(self) -> bool:
        """Close idle connections that were ended by the other side; whether there were any. Asks no
        server."""
        with self._lock:
            lost = [connection for connection in self._idle if not _alive(connection)]
            self._idle = [connection for connection in self._idle if connection not in lost]
        for connection in lost:
            connection.close()
        return bool(lost)

    def reset(self) -> None:
        """Close the idle connections; the next use opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close all connections; those in use close when they come back. Idempotent."""
        with self._lock:
            self._closed = True
        self._reach.close()
        self.reset()

    def interrupt(self) -> None:
        """Close, and end at once whatever is being waited for: the time for closing is over."""
        self.close()
        with self._lock:
            for connection in self._busy:
                connection.interrupt()


def _closed() -> DatabaseUnavailable:
    return DatabaseUnavailable(
        "The database connections are closed.", remedy="open Surgetank again before you use it."
    )


def _alive(connection: Connection[Any]) -> bool:
    """Whether an idle connection is still good, without asking the server.

    On an idle connection the server says nothing: if there is something to read, it is its
    farewell.
    """
    if connection.closed:
        return False
    events = select.poll()  # not select(), which can't look at file numbers above 1023
    try:
        events.register(connection.pgconn.socket, select.POLLIN)
    except psycopg.OperationalError:
        return False
    return not events.poll(0)
