"""Which folder the files of a database's tables are in. The database and a file in the folder name the same identity.

Another home on the same database has none of these files: it would miss rows when it reads, take files for gone when it
sweeps, and tell other readers of the wrong folder. So it is refused.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from psycopg import Connection

from surgetank.database.queries import queries
from surgetank.exceptions import Conflict
from surgetank.private import make_folder

SQL = queries("streams/tables/cold/manifest.sql")
NAME = "local"
FILE = "storage.id"


class Storage:
    """The folder of one home."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._checked = self._named = False

    def check(self, connection: Connection[Any]) -> None:
        """Raises `Conflict` where the files are elsewhere. Looks once."""
        if not self._checked:
            row = connection.execute(SQL["storage"], {"storage": NAME}).fetchone()
            if row is not None:
                self._refuse_another(*row)
            self._checked = True

    def name(self, connection: Connection[Any]) -> None:
        """Tell the database where the files are, once, for who holds the manifest's lock. Raises as
        `check`."""
        if self._named:
            return
        row = connection.execute(SQL["storage"], {"storage": NAME}).fetchone()
        if row is not None:
            self._refuse_another(*row)
        root, mine = str(self._root.absolute()), self._identity() or self._made()
        if row is None or row[:2] != (root, mine):
            named = {"storage": NAME, "root": root, "identity": mine}
            connection.execute(SQL["name_storage"], named)

    def committed(self) -> None:
        """What `name` said is in the database."""
        self._named = self._checked = True

    def _refuse_another(self, root: str, identity: str | None, has_files: bool) -> None:
        if has_files and identity is not None and identity != self._identity():
            raise Conflict(
                f"The files of this database's tables are in {root}, and not in "
                f"{self._root.absolute()}: it belongs to another home.",
                remedy="use tables through that home (or put its folder back), or use another database.",
            )

    def _identity(self) -> str | None:
        try:
            return (self._root / FILE).read_text(encoding="ascii").strip() or None
        except FileNotFoundError:
            return None

    def _made(self) -> str:
        """A new identity, in its file for good."""
        if not self._root.is_dir():
            make_folder(self._root)
        identity, temporary = uuid.uuid4().hex, self._root / f"{FILE}.tmp"
        with temporary.open("w", encoding="ascii") as file:
            file.write(identity)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._root / FILE)
        return identity
