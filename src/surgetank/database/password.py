"""Where the database's password comes from when it isn't in the URL: managed servers rotate it.

A callable is asked for every connection; a file is read for every connection; a command is run
once, and again when the server refuses what it gave.
"""

from __future__ import annotations

import shlex
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from surgetank.exceptions import ConfigurationError, DatabaseRefused

_COMMAND_S = 20.0


class PasswordSource(Protocol):
    """Gives the password for the next connection. Raises `DatabaseRefused`, which never repeats
    it."""

    def get(self) -> str:
        """The password."""
        ...

    def refused(self) -> bool:
        """The server refused what `get` gave. Returns whether asking again may give another one."""
        ...


def password_source(
    call: Callable[[], str] | None, file: Path | None, command: str | None
) -> PasswordSource | None:
    """The source that was given, or None. Raises `ConfigurationError` for more than one."""
    given: list[PasswordSource] = [
        *([Called(call)] if call is not None else []),
        *([InFile(file)] if file is not None else []),
        *([OfCommand(command)] if command is not None else []),
    ]
    if len(given) > 1:
        raise ConfigurationError(
            "The database's password is given in more than one way.",
            remedy="keep one of database_password, database_password_file and "
            "database_password_command.",
        )
    return given[0] if given else None


class Called:
    """A callable of the application, for example one that makes a token of a cloud's identity
    service."""

    def __init__(self, call: Callable[[], str]) -> None:
        self._call = call

    def get(self) -> str:
        """Ask it."""
        try:
            return self._call()
        except Exception as error:  # noqa: BLE001 - whatever the application raises
            # Not chained: what it says may hold a secret.
            raise DatabaseRefused(
                f"The callable that gives the database's password failed ({type(error).__name__}).",
                remedy="see to it that it returns the password as text; it is asked again for the "
                "next connection.",
            ) from None

    def refused(self) -> bool:
        """It was asked just now."""
        return False


class InFile:
    """A file that somebody else keeps up to date (a mounted secret)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self) -> str:
        """Its content without the line's end."""
        try:
            return self._path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DatabaseRefused(
                f"The password file {self._path} can't be read ({type(error).__name__}).",
                remedy="let SURGETANK_DATABASE_PASSWORD_FILE name a text file that this user may "
                "read.",
            ) from error

    def refused(self) -> bool:
        """It was read just now."""
        return False


class OfCommand:
    """What a program prints. It is run without a shell."""

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)
        self._lock = threading.Lock()
        self._kept: str | None = None
        self._fresh = False

    def get(self) -> str:
        """Its output without the line's end, kept until the server refuses it."""
        with self._lock:
            self._fresh = self._kept is None
            if self._kept is None:
                self._kept = self._run()
            return self._kept

    def refused(self) -> bool:
        """Forget it, and ask again if it was an old one."""
        with self._lock:
            self._kept = None
            return not self._fresh

    def _run(self) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - the operator's own setting, without a shell
                self._command,
                capture_output=True,
                text=True,
                timeout=_COMMAND_S,
                check=True,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            # Not chained: the error holds the arguments and what was printed.
            how = (
                f"exit code {error.returncode}"
                if isinstance(error, subprocess.CalledProcessError)
                else type(error).__name__
            )
            raise DatabaseRefused(
                f"The command that gives the database's password failed ({how}).",
                remedy="run SURGETANK_DATABASE_PASSWORD_COMMAND by hand; it must print the "
                "password alone.",
            ) from None
        return done.stdout.rstrip("\r\n")
