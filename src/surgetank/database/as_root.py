"""How root runs PostgreSQL, which refuses to be run by root, without opening a folder to anybody.

The server runs as a system user that can't pass through the home (0700) or the folders above it. It
doesn't have to: a process may use its working directory whatever lies above it, and
`/proc/self/cwd` names that directory without the path being walked. So each of PostgreSQL's
programs starts in the data folder and finds its data there.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from surgetank.exceptions import ConfigurationError

HERE = "/proc/self/cwd"
_USER = "pgserver"
_STATE = Path("/var/lib/surgetank")
_NOT_NEEDED = shutil.ignore_patterns("include", "pkgconfig", "*.a", "doc", "man")


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that the server runs as."""

    name: str
    uid: int
    gid: int


def account() -> Account:
    """The server's user, made if it is missing. Raises `ConfigurationError`."""
    import pwd  # noqa: PLC0415 - not on Windows

    if not Path(HERE).is_dir():
        raise ConfigurationError(
            "PostgreSQL doesn't run as root, and on this system it can't be given a folder that "
            "only root may enter.",
            remedy="run as another user than root, or give a database URL.",
        )
    try:
        entry = pwd.getpwnam(_USER)
    except KeyError:
        try:
            subprocess.run(["useradd", "--system", _USER], check=True, capture_output=True)  # noqa: S603, S607
        except (OSError, subprocess.CalledProcessError) as error:
            raise ConfigurationError(
                f"PostgreSQL doesn't run as root, and the system user {_USER!r} can't be made "
                f"({error}).",
                remedy=f"make the user {_USER!r}, run as another user than root, or give a "
                f"database URL.",
            ) from error
        entry = pwd.getpwnam(_USER)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def reachable(programs: Path, user: Account, state: Path = _STATE) -> Path:
    """PostgreSQL's programs where the user can run them: where they are, or copied beside the
    system's state.

    Root's own environments often are in its home, which nobody else may enter. Raises
    `ConfigurationError`.
    """
    if _runs(programs, user):
        return programs
    install = programs.parent
    changed = (programs / "postgres").stat().st_mtime_ns
    copy = state / f"{install.name}-{changed:x}"
    try:
        if not copy.is_dir():
            _copy(install, copy)
        if _is_roots(copy) and _runs(copy / programs.name, user):
            return copy / programs.name
        reason = f"{copy} can't be used by that user"
    except OSError as error:
        reason = f"{copy} can't be made: {error.strerror}"
    raise ConfigurationError(
        f"PostgreSQL doesn't run as root, and its user {user.name!r} may not enter {programs} "
        f"({reason}).",
        remedy="install Surgetank where other users may read it (under /opt, for instance), run as "
        "another user than"
        " root, or give a database URL.",
    )


def _copy(install: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.parent.chmod(0o755)
    # moved into place whole, whoever else makes one
    aside = copy.with_name(f".{copy.name}.{uuid4().hex}")
    try:
        shutil.copytree(install, aside, symlinks=True, ignore=_NOT_NEEDED)
        for path in (aside, *aside.rglob("*")):
            if not path.is_symlink():
                executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
                path.chmod(0o755 if executable else 0o644)
        if not copy.is_dir():
            aside.rename(copy)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _is_roots(copy: Path) -> bool:
    found = (copy.lstat(), copy.parent.lstat())
    return all(stat.S_ISDIR(f.st_mode) and f.st_uid == 0 and not f.st_mode & 0o022 for f in found)


def _runs(programs: Path, user: Account) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - PostgreSQL's own program
            [str(programs / "postgres"), "--version"],
            user=user.uid,
            group=user.gid,
            extra_groups=[],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )
    except OSError:
        return False
    return done.returncode == 0
