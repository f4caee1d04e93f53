"""Connections to PostgreSQL, opened when they are first needed, replaced when they died, never waited for long.

Nothing relies on the state of a session (no prepared statements, no SET outside a transaction, no session
locks), so that PgBouncer in transaction mode may stand in between.

Why not psycopg_pool: its connections are made by background workers, so that a caller learns of a refused
connection only when its waiting time is over (measured: 3.0 s against 1 ms), and never learns the reason.
"""

from __future__ import annotations

import re
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import Connection, conninfo
from psycopg.types.json import set_json_loads

from surgetank.encode import jsontext
from surgetank.exceptions import ConfigurationError, DatabaseUnavailable

OLDEST_SERVER = 14
# Without these a connection whose other end vanished (a cut cable, a firewall that forgot it) is waited for up to
# two hours. They are the client's own and need nothing from server or PgBouncer.
_NOTICE_DEAD_PEERS = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


def redact_url(url: str) -> str:
    """The URL without its password. Raises `ConfigurationError` for something that is no URL."""
    parts = _parse(url)
    host, port, name = (parts.get(k, "") for k in ("host", "port", "dbname"))
    user = f"{parts['user']}@" if parts.get("user") else ""
    if str(host).startswith("/"):  # the folder of a Unix socket
        return f"postgresql://{user}/{name}?host={host}{f'&port={port}' if port else ''}"
    return f"postgresql://{user}{host}{f':{port}' if port else ''}/{name}"


def _parse(url: str) -> dict[str, Any]:
    try:
        parts = conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # Not chained: libpq's message may repeat the URL, and with it the password.
        raise ConfigurationError(
            "The database URL can't be read.",
            remedy="use postgresql://user:password@host:5432/database (special characters percent-encoded).",
        ) from None
    if not url.strip() or not parts:
        raise ConfigurationError(
            "The database URL is empty.",
            remedy="use postgresql://user:password@host:5432/database, or leave it out.",
        )
    ports, hosts = (str(parts.get(name) or "").split(",") for name in ("port", "host"))
    if any(port and not port.isdecimal() for port in ports) or any("@" in host[1:] for host in hosts):
        # What stands there may be a piece of the password, so it isn't shown.
        raise ConfigurationError(
            "Host or port in the database URL can't be read.",
            remedy="percent-encode special characters in the password (@ is %40, / is %2F, : is %3A).",
        )
    return dict(parts)


_REFUSALS = (
    (r"(password|SASL) authentication failed|no password supplied|no such user", "28P01"),
    (r"no pg_hba\.conf entry|authentication failed for user|role .* does not exist", "28000"),
    (r"database .* does not exist|no such database", "3D000"),
)


class Database:
    """A pool of connections to one PostgreSQL database. Making one never touches the network.

    Raises `ConfigurationError` for an unusable URL.
    """

    def __init__(
        self,
        url: str,
        *,
        max_size: int = 8,
        connect_timeout_s: float = 3.0,
        application_name: str = "surgetank",
    ) -> None:
        parts = _parse(url)
        self.address = redact_url(url)
        self._conninfo = conninfo.make_conninfo(
            url,
            **{name: value for name, value in _NOTICE_DEAD_PEERS.items() if name not in parts},
            client_encoding="UTF8",  # whatever PGCLIENTENCODING says
            connect_timeout=str(max(2, round(connect_timeout_s))),
            application_name=parts.get("application_name") or application_name,
        )
        self._max_size = max_size
        self._timeout_s = connect_timeout_s
        self._places = threading.BoundedSemaphore(max_size)
        self._lock = threading.Lock()
        self._idle: list[Connection[Any]] = []
        self._closed = False
        self.bound_to: str | None = None  # the id of the database that may be written to (identity.py)

    @contextmanager
    def connection(self) -> Iterator[Connection[Any]]:
        """A connection in a transaction that is committed at the end, rolled back on an error.

        Raises `DatabaseUnavailable`, `ConfigurationError` (wrong password, missing database).
        """
        if not self._places.acquire(timeout=self._timeout_s):
            raise DatabaseUnavailable(
                f"All {self._max_size} connections to {self.address} were busy for {self._timeout_s:.0f} s.",
                remedy="raise SURGETANK_DATABASE_CONNECTIONS, or look for transactions that take too long.",
            )
        try:
            connection = self._take()
            try:
                yield connection
                connection.commit()
            except BaseException as error:
                self._give_up(connection, error)
                raise
            self._give(connection)
        finally:
            self._places.release()

    @contextmanager
    def reading(self) -> Iterator[Connection[Any]]:
        """A connection whose statements are transactions of their own: one round trip each, not three.

        Raises like `connection`.
        """
        with self.connection() as connection:
            connection.autocommit = True
            try:
                yield connection
            finally:
                if not connection.closed:
                    connection.autocommit = False

    def _take(self) -> Connection[Any]:
        while True:
            with self._lock:
                if self._closed:
                    raise DatabaseUnavailable(
                        "The database connections are closed.",
                        remedy="open Surgetank again before you use it.",
                    )
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect()
            if _alive(connection):
                return connection
            connection.close()

    def _connect(self) -> Connection[Any]:
        try:
            connection = psycopg.connect(self._conninfo, prepare_threshold=None)
        except psycopg.OperationalError as error:
            raise self._translate(error) from error
        set_json_loads(jsontext.loads, connection)  # what we wrote, we can read
        encoding = connection.info.parameter_status("server_encoding")
        if encoding not in (None, "UTF8"):
            connection.close()
            raise ConfigurationError(
                f"The database at {self.address} has the encoding {encoding}, which can't hold every text.",
                remedy="use a database made with `createdb --encoding=UTF8 --template=template0`.",
            )
        return connection

    def _give(self, connection: Connection[Any]) -> None:
        idle = connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
        with self._lock:
            if not self._closed and idle:
                self._idle.append(connection)
                return
        connection.close()

    def _give_up(self, connection: Connection[Any], error: BaseException) -> None:
        """Roll back and keep the connection, or close it if it is of no use any more."""
        with suppress(psycopg.Error):  # the error on its way out says why
            connection.rollback()
        if connection.closed or connection.broken:
            connection.close()
            if isinstance(error, psycopg.OperationalError):
                raise DatabaseUnavailable(
                    f"The connection to {self.address} broke: {_short(error)}.",
                    remedy="it is tried again by itself.",
                ) from error
        else:
            self._give(connection)

    def _translate(self, error: psycopg.OperationalError) -> DatabaseUnavailable | ConfigurationError:
        text = _short(error)
        state = error.sqlstate or _state_in(text)
        if state in ("28P01", "28000"):
            return ConfigurationError(
                f"PostgreSQL at {self.address} refused the user: {text}.",
                remedy="check user and password in the database URL, and pg_hba.conf on the server.",
            )
        if state == "3D000":
            return ConfigurationError(
                f"The database of {self.address} does not exist.",
                remedy="create it (createdb) or correct the name in the database URL.",
            )
        return DatabaseUnavailable(
            f"PostgreSQL at {self.address} can't be reached: {text}.",
            remedy="check that it runs and that host and port are right; what was accepted is safe in the buffer "
            "and is flushed when it is back.",
        )

    def ping(self) -> str:
        """Product and version of the server. Raises like `connection`, and for a server that is too old."""
        with self.connection() as connection:
            version = connection.info.server_version
            connection.execute("SELECT 1")
        if version < OLDEST_SERVER * 10000:
            raise ConfigurationError(
                f"PostgreSQL {version // 10000} at {self.address} is too old.",
                remedy=f"use PostgreSQL {OLDEST_SERVER} or newer.",
            )
        return f"PostgreSQL {version // 10000}.{version % 10000}"

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
        self.reset()


def _alive(connection: Connection[Any]) -> bool:
    """Whether an idle connection is still good, without asking the server.

    On an idle connection the server says nothing: if there is something to read, it is its farewell.
    """
    if connection.closed:
        return False
    events = select.poll()  # not select(), which can't look at file numbers above 1023
    try:
        events.register(connection.pgconn.socket, select.POLLIN)
    except psycopg.OperationalError:
        return False
    return not events.poll(0)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


def _state_in(text: str) -> str | None:
    """libpq gives no SQLSTATE for a refused connection: tell by the words of PostgreSQL and PgBouncer."""
    return next((state for words, state in _REFUSALS if re.search(words, text)), None)
