"""Who may do what with tables. Pure.

Whose rows are meant comes from the caller, never from the text: everybody has their own rows of USER and STREAM
tables, administrators those of all. A SHARED table is for operators, and for others as its ACCESS_LEVEL says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from surgetank.exceptions import InvalidRequest, NamespaceForbidden, NotFound
from surgetank.streams.tables.definition import NOBODY, Access, Table
from surgetank.streams.tables.query.calls import SqlCaller
from surgetank.streams.tables.query.sources import Readable

_LIBRARY = "library"  # who acts where nobody is named


class NotAllowed(NamespaceForbidden):
    """A statement that the caller's role has no right to."""

    problem = "role-needed"


def readable(caller: SqlCaller, table: Table) -> Readable | None:
    """The table, and whose rows of it the caller may read; None: it is as if it were not there."""
    if table.by_user:
        return Readable(table, None if caller.administers else caller.user)
    if caller.administers or caller.defines or table.access is not Access.PRIVATE:
        return Readable(table)
    return None


def changeable(caller: SqlCaller, table: Table) -> Readable:
    """The table, and whose rows of it the caller may change. Raises `NotFound`,
    `NotAllowed`."""
    found = readable(caller, table)
    if found is None:
        raise not_there(table.full_name)
    if caller.reads_only:
        raise NotAllowed(
            f"{caller.user!r:.80} only reads tables.", remedy="use a token with the role user."
        )
    if table.by_user or caller.administers or caller.defines or table.access is Access.WRITE:
        return found
    raise NotAllowed(
        f"{table.full_name} can be read, and not changed, by {caller.user!r:.80}.",
        remedy="ask an operator, or for ACCESS_LEVEL='write'.",
    )


def inserting(caller: SqlCaller, table: Table) -> str:
    """Whose the rows are that the caller inserts. Raises `InvalidRequest` where that is nobody."""
    if not table.by_user:
        return NOBODY
    if not caller.user:
        raise InvalidRequest(
            f"Rows of {table.full_name} belong to users, and nobody is named.",
            remedy="give the user (tank.sql(..., user='ann')), or write EXECUTE AS USER 'ann' INSERT ...",
        )
    return caller.user


def acting(caller: SqlCaller, user: str, note: Callable[[str, str], None]) -> SqlCaller:
    """The caller as somebody else, with that user's rights; `note` puts who and as whom into the
    audit. Raises `NotAllowed`, `InvalidRequest`."""
    need_admin(caller, "Acting as a user")
    if not user:
        raise InvalidRequest("The user to act as has no name.", remedy="name one.")
    note(actor_of(caller), user)
    return replace(caller, user=user, defines=False, administers=False)


def actor_of(caller: SqlCaller) -> str:
    """Who acts, for the audit."""
    return caller.user or _LIBRARY


def need_operator(caller: SqlCaller, what: str) -> None:
    """Raises `NotAllowed` for who may not make tables, flush or end jobs."""
    if not caller.defines and not caller.administers:
        raise NotAllowed(f"{what} is for operators.", remedy="ask one of them.")


def need_admin(caller: SqlCaller, what: str) -> None:
    """Raises `NotAllowed` for who is no administrator."""
    if not caller.administers:
        raise NotAllowed(f"{what} is for administrators.", remedy="ask one of them.")


def not_there(name: str) -> NotFound:
    """There is no such table for this caller."""
    return NotFound(
        f"There is no table {name[:200]!r}, or it is not for you.", remedy="SHOW TABLES lists them."
    )
