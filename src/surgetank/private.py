"""Files and folders that only their owner reads, whatever the umask says.

Accepted state is somebody's conversation: the home is 0700 and all that is in it 0600, also where
an older version or a copy left it open. Folders above the home are never touched.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

_FOLDER, _FILE = 0o700, 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OURS = (
    "*.db",
    "*.db-*",
    "postgres",
    "postgres.*",
    "transfers",
    "tables",
    "surgetank*",
)  # what a home consists of


def make_folder(folder: Path) -> None:
    """Make a folder of the owner's alone. One that exists stays as it is. Raises `OSError`."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # another process was quicker; or it is no folder, which mkdir below tells
        with suppress(FileExistsError):
            folder.mkdir(mode=_FOLDER)
        folder.mkdir(exist_ok=True)


def make_home(home: Path) -> bool:
    """Make the home folder, or close it to others. False if it holds other things than ours and was
    left open: a project's folder may have to stay readable. Raises `OSError`.
    """
    make_folder(home)
    found = home.stat()
    if not found.st_mode & _OTHERS or found.st_uid != os.geteuid():
        return True
    foreign = any(not any(fnmatch(path.name, ours) for ours in _OURS) for path in home.iterdir())
    if foreign or found.st_mode & stat.S_ISVTX:  # /tmp, for instance
        return False
    home.chmod(_FOLDER)
    return True


def make_file(path: Path) -> None:
    """Make an empty file of the owner's alone, unless there is one. Raises `OSError`.

    An existing file is never opened: closing it would give up the locks that SQLite has on it in
    this process.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _FILE))


def close_file(path: Path) -> None:
    """Take an existing file from everybody but its owner. What isn't there, or isn't ours,
    stays."""
    with suppress(FileNotFoundError, PermissionError):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & _OTHERS:
            path.chmod(mode & ~_OTHERS)


def open_file(path: Path, mode: str) -> BinaryIO:
    """Open a file for writing (`wb`, `ab`, `xb`); a new one is its owner's alone. Raises
    `OSError`."""
    return open(path, mode, opener=_opener)  # type: ignore[return-value]


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, _FILE)
