"""Which location the files of a database's tables are in. The database and a file there name the same identity.

Another home on the same database has none of the files of a folder: it would miss rows when it reads, take files for
gone when it sweeps, and tell other readers of the wrong folder. So it is refused. A bucket is shared by all homes that
name it; it also says which database it belongs to, because another one would take its files for strays.
"""

from __future__ import annotations

import uuid
from typing import Any

from psycopg import Connection

from surgetank.database.queries import queries
from surgetank.exceptions import Conflict
from surgetank.streams.tables.cold.location import Location

SQL = queries("streams/tables/cold/manifest.sql")
NAME = "local"


class Storage:
    """The location of the files of one home."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._checked = self._named = False
        self._text: str | None = None  # what the location says of itself

    def check(self, connection: Connection[Any]) -> None:
        """Raises `Conflict` where the files are elsewhere. Looks once."""
        if not self._checked:
            row = connection.execute(SQL["storage"], {"storage": NAME}).fetchone()
            if row is not None:
                self._refuse_another(*row)
            self._checked = True

    def ask(self) -> None:
        """Ask the location before the manifest is locked: it may be slow."""
        if not self._named and self._text is None:
            self._text = self._location.identity()

    def name(self, connection: Connection[Any]) -> None:
        """Tell the database where the files are, once, for who holds the manifest's lock. Raises as
        `check`."""
        if self._named:
            return
        row = connection.execute(SQL["storage"], {"storage": NAME}).fetchone()
        if row is not None:
            self._refuse_another(*row)
        mine = self._mine(connection)
        if row is None or row[:2] != (self._location.address, mine):
            named = {"storage": NAME, "root": self._location.address, "identity": mine}
            connection.execute(SQL["name_storage"], named)

    def committed(self) -> None:
        """What `name` said is in the database."""
        self._named = self._checked = True

    def _refuse_another(self, root: str, identity: str | None, has_files: bool) -> None:
        if not has_files or identity is None or identity == self._identity():
            return
        if self._location.shared:
            raise Conflict(
                f"The files of this database's tables are in {root}, and not in {self._location.address}.",
                remedy="name that location (SURGETANK_TABLES_URL), or copy its files, with storage.id, first.",
            )
        raise Conflict(
            f"The files of this database's tables are in {root}, and not in "
            f"{self._location.address}: it belongs to another home.",
            remedy="use tables through that home (or put its folder back), or use another database.",
        )

    def _identity(self) -> str | None:
        self.ask()
        return self._text.split()[0] if self._text else None

    def _mine(self, connection: Connection[Any]) -> str:
        """The identity of the location, made if it has none. Raises `Conflict` for the bucket of
        another database."""
        if not self._location.shared:
            self._text = self._text or self._location.identify(uuid.uuid4().hex)
            return self._text.split()[0]
        row = connection.execute(SQL["database"]).fetchone()
        database = str(row[0]) if row is not None else ""
        if not self._text:
            self._text = self._location.identify(f"{uuid.uuid4().hex} {database}")
        identity, _, owner = self._text.partition(" ")
        if owner and owner != database:
            raise Conflict(
                f"The files in {self._location.address} are those of another database's tables.",
                remedy="give each database a prefix of its own (SURGETANK_TABLES_URL=s3://BUCKET/PREFIX).",
            )
        return identity
