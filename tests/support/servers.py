"""A folder and a user for test servers, watched over by `guard.py` so that no server outlives the
run."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

_ROOT_RUNS_AS = "pgserver"  # neither PostgreSQL nor PgBouncer runs as root


class ServerFolder:
    """A short temporary folder (Unix sockets allow 107 bytes) whose servers end with it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="stk-")).resolve()
        give_to_server_user(self.path)
        self._guard = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("guard.py")), str(self.path)],
            stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def close(self) -> None:
        """End the servers and remove the folder. Idempotent."""
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            self._guard.stdin.close()
        self._guard.wait(timeout=30)


def server_user() -> str | None:
    """The user to start servers as; None when the tests don't run as root."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(_ROOT_RUNS_AS)
    except KeyError:
        subprocess.run(["useradd", "--system", _ROOT_RUNS_AS], check=True)
    return _ROOT_RUNS_AS


def give_to_server_user(path: Path) -> None:
    """Make the server's user the owner."""
    if user := server_user():
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def run(*command: str | Path) -> str:
    """Run a program as the server's user; its output. Fails with the output when the program
    fails."""
    # not a pipe: a server that is left running would keep it open
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            user=server_user(), cwd="/", start_new_session=True, check=False, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        output.seek(0)
        text = output.read()
    assert done.returncode == 0, f"{command[0]} failed: {text}"
    return text


def free_port() -> int:
    """A port on which nobody listens just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
