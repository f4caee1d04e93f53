"""Default homes: one for each database, so that entries for one never wait in the buffer of
another.

The embedded database keeps the default home. What an older version left there for a configured
database is used on, if it belongs to that database or to none yet.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from surgetank.exceptions import BufferUnavailable
from surgetank.private import make_home
from surgetank.telemetry import log

_FOLDER = "databases"


@dataclass(frozen=True, slots=True)
class FoundHome:
    """A home beside ours: to which address and database its buffer belongs, and how many entries
    wait in it."""

    path: Path
    address: str | None
    database_id: str | None
    entries: int


def default_home(root: Path, destination: str | None) -> Path:
    """The home for a database when none is given; `destination` is None for the embedded one."""
    if destination is None:
        return root
    own = root / _FOLDER / _name(destination)
    old = None if (own / "buffer.db").exists() else inspect_home(root)
    if old is None:
        return own
    unbound = old.address is None and not (root / "postgres").exists()
    return root if unbound or old.address == destination else own


def homes_beside(root: Path, home: Path) -> Iterator[FoundHome]:
    """The other default homes that there are."""
    for path in (root, *sorted((root / _FOLDER).glob("*"))):
        if path != home and (found := inspect_home(path)) is not None:
            yield found


def inspect_home(home: Path) -> FoundHome | None:
    """What a home's buffer says of itself, without opening it for writing; None when there is none
    to be read."""
    file = home / "buffer.db"
    try:
        if not file.exists():
            return None
        with closing(
            sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=1.0)
        ) as reader:
            (entries,) = reader.execute("SELECT entries FROM totals").fetchone()
            known = reader.execute("SELECT 1 FROM sqlite_schema WHERE name = 'binding'").fetchone()
            bound = (
                reader.execute("SELECT address, database_id FROM binding").fetchone()
                if known
                else None
            )
    except (OSError, sqlite3.Error):  # somebody else's file, or a damaged one: `doctor` is for that
        return None
    address, database_id = bound or (None, None)
    return FoundHome(home, address, database_id, int(entries))


def _name(destination: str) -> str:
    """A folder's name that people recognize and no two databases share."""
    plain = re.sub(r"[^\w.-]+", "-", destination.rpartition("/")[2])[:40] or "database"
    return f"{plain}-{hashlib.sha256(destination.encode()).hexdigest()[:12]}"


def ensure_home(home: Path) -> None:
    """Make the folder, for its owner alone. Raises `BufferUnavailable`."""
    try:
        closed = make_home(home)
    except OSError as error:
        raise BufferUnavailable(
            f"The folder {home} can't be made ({error.strerror}).",
            remedy="set SURGETANK_HOME to a folder that this user may write.",
        ) from error
    if not closed:
        log.warning(
            "home_open_to_others",
            home=str(home),
            remedy="give Surgetank a folder of its own, mode 0700",
        )
