"""The owner of an embedded PostgreSQL: a small process that stops it when its last user is gone
without a word.

A user that ends in order stops the server itself. One that is ended by SIGTERM or kill -9 can't, so
this process waits for the lock that all users share, gives a successor some seconds, and stops the
server if none came. It needs 8 MB and no time.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from surgetank.private import open_file

# Until it has something to do it uses nothing but the standard library.
_CODE = """
import fcntl, os, sys, time
home, grace, path = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
if os.fork():
    os._exit(0)
os.setsid()
alone = open(os.path.join(home, "postgres.owner"), "ab")
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    os._exit(0)
users = open(os.path.join(home, "postgres.users"), "ab")
while True:
    fcntl.flock(users, fcntl.LOCK_EX)
    fcntl.flock(users, fcntl.LOCK_UN)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline:
        if not os.path.exists(os.path.join(home, "postgres", "postmaster.pid")):
            os._exit(0)  # stopped in order
        time.sleep(0.05)
    sys.path[:] = path
    from surgetank.database.embedded import stop_unused
    if stop_unused(home):
        os._exit(0)
"""


def appoint(home: Path, grace_s: float) -> None:
    """Start the owner of the server in `home`, unless it has one. It outlives this process."""
    with open_file(home / "postgres.owner", "ab") as alone:
        try:
            fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        _CODE,
        str(home),
        str(grace_s),
        *filter(None, sys.path),
    ]
    subprocess.run(  # noqa: S603 - our own code; it puts itself into the background
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        check=False,
        start_new_session=True,
    )
