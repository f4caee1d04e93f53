"""The audit: who did what, when and from where. Rows are only added, by the database's functions.

Each thread's rows are a chain of hashes; seals over all chains are a chain of their own
(`0027_audit.sql`). So a row that was changed, taken out or put in is found, and so is a chain that
is gone. Whoever may write everything could write all of it again: keep a seal's hash elsewhere.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from surgetank.acting import acting_from
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode import jsontext
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.exceptions import InvalidRequest

SQL = queries("workflows/audit.sql")
Rows = list[dict[str, Any]]
_PAGE = 1000
_CHAINS = 5000  # chains that are looked at in one statement


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which rows: of a workflow, a thread, an actor, an action; since a time and before one (seconds since the
    epoch)."""

    workflow: uuid.UUID | None = None
    thread: str | None = None
    actor: str | None = None
    since: float | None = None
    action: str | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The first place where the audit is not what it was.

    `thread` is the number of the chain (0: what concerns no thread), `nth` the place in it, `id`
    the row's number where there is a row.
    """

    what: str
    thread: int | None = None
    thread_id: str | None = None
    nth: int | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What verifying found. `since`: the oldest row that is there. `seal` with `seal_hash` is the
    newest one."""

    rows: int
    threads: int
    since: float | None
    seal: int | None
    seal_hash: str | None
    sealed_at: float | None
    broken: Broken | None

    @property
    def sound(self) -> bool:
        """Whether everything is what it was."""
        return self.broken is None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"sound": self.sound, **asdict(self)}


class Audit:
    """The audit of a database. Safe to use from several threads; everything raises
    `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(
        self, wanted: AuditFilter | None = None, *, before: int | None = None, limit: int = 100
    ) -> Rows:
        """Rows, newest first, before the row with the number `before`."""
        wanted = wanted or AuditFilter()
        return self._rows("list", {**asdict(wanted), "before": before, "limit": limit})

    def actions(self) -> tuple[str, ...]:
        """The names of all that was done, of the last rows."""
        return tuple(row["action"] for row in self._rows("actions", {}))

    def export(self, *, since: float | None = None, after: int = 0) -> Iterator[str]:
        """All rows as lines of JSON, oldest first, with the numbers and hashes of the chain."""
        first = self._exported(since, after)  # an answer has not begun when this fails
        return self._lines(first, since)

    def _lines(self, rows: Rows, since: float | None) -> Iterator[str]:
        while True:
            yield from map(_line, rows)
            if len(rows) < _PAGE:
                return
            rows = self._exported(since, rows[-1]["id"])

    def _exported(self, since: float | None, after: int) -> Rows:
        return self._rows("export", {"after": after, "since": since, "limit": _PAGE})

    def note(
        self,
        action: str,
        actor: str,
        *,
        thread_id: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what somebody did that is no step of a run."""
        self._rows(
            "note",
            {
                "action": action, "actor": actor, "origin": acting_from.get(), "thread": thread_id,
                "detail": Jsonb(dict(detail or {}), dumps=lambda value: dumps_jsonb(value)[0]),
            },
        )  # fmt: skip

    def seal(self, *, at_most_every_s: float = 0.0) -> int | None:
        """Seal what has happened since the last seal: the seal's number, None without news, or when
        the last one is younger than that."""
        if at_most_every_s and self._rows("sealed_lately", {"seconds": at_most_every_s}):
            return None
        (row,) = self._rows("seal", {})
        number: int | None = row["seal_audit"]
        return number

    def prune(self, before: float, *, most: int = 500, actor: str) -> int:
        """Remove rows older than that, of up to `most` threads: how many. A seal tells of it.

        Nothing of the last 24 hours goes.
        """
        arguments = {
            "before": before, "most": most, "actor": actor, "origin": acting_from.get(),
        }  # fmt: skip
        (row,) = self._rows("prune", arguments)
        return int(row["prune_audit"])

    def verify(self, *, seal: str | None = None) -> Verification:
        """Look at every row and every seal, in one snapshot.

        `seal` is `NUMBER:HASH` of an earlier verification: that seal has to be there still. Raises
        `InvalidRequest` when it is written otherwise.
        """
        expected = _seal_of(seal)
        with self._database.long_transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            extent = _one(connection, "extent")
            newest = _one(connection, "newest_seal") or {}
            broken = _broken_seal(connection, expected) or _broken_chain(connection)
        return Verification(
            rows=extent["rows"],
            threads=extent["threads"],
            since=extent["since"],
            seal=newest.get("number"),
            seal_hash=newest.get("hash"),
            sealed_at=newest.get("at"),
            broken=broken,
        )

    def _rows(self, name: str, arguments: Mapping[str, Any]) -> Rows:
        with (
            self._database.reading() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return cursor.execute(SQL[name], arguments).fetchall()


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON has it: times as RFC 3339, ids as text."""
    return {
        **row,
        "at": row["at"].isoformat(timespec="microseconds"),
        "workflow_id": str(row["workflow_id"]) if row["workflow_id"] else None,
        "run_id": str(row["run_id"]) if row["run_id"] else None,
    }


def _line(row: Mapping[str, Any]) -> str:
    return jsontext.dumps(plain(row)).decode()


def _one(connection: Connection[Any], name: str, **arguments: Any) -> DictRow:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(SQL[name], arguments).fetchone() or {}


def _seal_of(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    number, _, digest = text.partition(":")
    if not number.isdecimal() or len(number) > 18 or len(digest) != 64:
        raise InvalidRequest(
            f"{text[:80]!r} is no seal.", remedy="write NUMBER:HASH, as `audit verify` shows it."
        )
    return int(number), digest.lower()


def _broken_seal(connection: Connection[Any], expected: tuple[int, str] | None) -> Broken | None:
    if expected is not None:
        number, digest = expected
        found = _one(connection, "seal_at", number=number)
        if found.get("hash") != digest:
            missing = "is gone" if not found else "has another hash"
            return Broken(what=f"the seal {number} {missing}")
    if row := _one(connection, "broken_seals"):
        said = "was changed" if not row["sound"] else "doesn't follow the one before it"
        return Broken(what=f"the seal {row['number']} {said}")
    return None


def _broken_chain(connection: Connection[Any]) -> Broken | None:
    after: int | None = -1
    while after is not None:
        to = _one(connection, "next_threads", after=after, limit=_CHAINS)["thread"]
        if row := _one(connection, "broken_rows", after=after, to=to):
            return _broken(_what(row), row)
        after = to
    for name, what in (
        ("broken_heads", "the last rows of the chain are gone"),
        ("broken_starts", "the first rows of the chain are gone, and no seal says so"),
        ("broken_points", "rows are gone that the seal {seal} has seen"),
    ):
        if row := _one(connection, name):
            return _broken(what.format(**row), row)
    return None


def _what(row: Mapping[str, Any]) -> str:
    if not row["sound"]:
        return "the row was changed"
    if row["nth"] <= row["before"]:
        return "the row was put in"
    if row["nth"] != row["before"] + 1:
        return f"the rows {row['before'] + 1} to {row['nth'] - 1} before it are gone"
    if not row["linked"]:
        return "the row before it was changed, or it was put in"
    if row["head_nth"] is None or row["head_nth"] < row["nth"]:
        return "the row was put in at the end"
    return "the rows after it are gone"


def _broken(what: str, row: Mapping[str, Any]) -> Broken:
    return Broken(
        what=what,
        thread=row["thread"],
        thread_id=row["thread_id"],
        nth=row["nth"],
        id=row.get("id"),
    )
