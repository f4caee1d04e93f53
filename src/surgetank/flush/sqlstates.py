"""What PostgreSQL's error codes mean for a flush: one table, every class of the manual's appendix A
once. Pure.

A code is a first guess, not a verdict. A trigger may raise any of them for one row, and a server
that is in trouble may raise any of them for every row. So the table also says whom a code is
usually about (`Scope`), and `partition.py` asks the sink itself before data is set aside. The words
of a message decide nothing: they come in many languages.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from surgetank.model import FailureKind


class Scope(StrEnum):
    """Whom a failure is about, which decides who has to wait for it.

    `sink`: the server or the way to it, so that trying others is of no use. `partition`: what one
    transaction touched (locks, time, memory): smaller groups may go through, and nothing is set
    aside. `entry`: the data. `unclear`: one entry or everything: it is looked for like an entry's,
    and an entry is set aside for it only when that lasts.
    """

    SINK = "sink"
    PARTITION = "partition"
    ENTRY = "entry"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Meaning:
    """One line of the table: a code or the beginning of one, what it means, and why."""

    code: str
    kind: FailureKind
    scope: Scope
    reason: str


_T, _R, _F = FailureKind.TRANSIENT, FailureKind.REJECTED, FailureKind.FATAL
_SINK, _PARTITION, _ENTRY, _UNCLEAR = Scope.SINK, Scope.PARTITION, Scope.ENTRY, Scope.UNCLEAR

TABLE: tuple[Meaning, ...] = (
    Meaning(
        "00", _T, _UNCLEAR, "success is no error: whoever raises it says nothing about the data"
    ),
    Meaning("01", _T, _UNCLEAR, "a warning raised as an error"),
    Meaning("02", _R, _ENTRY, "no data, raised by a function or trigger for what it was given"),
    Meaning("03", _T, _SINK, "a statement of this connection is not complete"),
    Meaning("08", _T, _SINK, "the connection, or the protocol spoken on it"),
    Meaning("09", _R, _ENTRY, "a trigger's action failed for a row"),
    Meaning("0A", _F, _UNCLEAR, "not supported: by this server, or for one value"),
    Meaning("0B", _T, _SINK, "a transaction could not be started on this connection"),
    Meaning("0F", _R, _ENTRY, "a locator (large object) that a row names"),
    Meaning("0L", _F, _UNCLEAR, "a grant is missing"),
    Meaning("0P", _F, _UNCLEAR, "a role that isn't there"),
    Meaning("0Z", _R, _ENTRY, "a function's or trigger's own diagnostics"),
    Meaning("10", _R, _ENTRY, "an XQuery argument"),
    Meaning("20", _R, _ENTRY, "CASE without a branch for a value"),
    Meaning("21", _R, _ENTRY, "more rows than one, because of what a row holds"),
    Meaning("22", _R, _ENTRY, "a value that its type can't take"),
    Meaning("23", _R, _ENTRY, "a constraint that a row violates"),
    Meaning("24", _T, _SINK, "a cursor's state: the connection's, not the data's"),
    Meaning("25", _T, _SINK, "the transaction's state"),
    Meaning(
        "25006",
        _T,
        _SINK,
        "read-only: a standby, a failover on its way, a managed server whose disk is full",
    ),
    Meaning("25P02", _T, _SINK, "a statement after the one that failed"),
    Meaning("25P03", _T, _SINK, "the server ended an idle transaction"),
    Meaning("25P04", _T, _PARTITION, "transaction_timeout: a smaller group takes less time"),
    Meaning("26", _T, _SINK, "a prepared statement of another connection (PgBouncer)"),
    Meaning("27", _R, _ENTRY, "a trigger changed the row under its own statement"),
    Meaning("28", _F, _SINK, "user or password refused"),
    Meaning("2B", _F, _UNCLEAR, "privileges depend on what is to go"),
    Meaning("2D", _T, _UNCLEAR, "a function ended the transaction"),
    Meaning("2F", _R, _ENTRY, "a function called for a row failed"),
    Meaning("34", _T, _SINK, "a cursor that this connection doesn't have"),
    Meaning("38", _R, _ENTRY, "an external function called for a row failed"),
    Meaning(
        "39", _R, _ENTRY, "an external function or trigger called for a row broke its protocol"
    ),
    Meaning("3B", _T, _SINK, "a savepoint's state"),
    Meaning("3D", _F, _SINK, "the database doesn't exist"),
    Meaning("3F", _F, _UNCLEAR, "the schema doesn't exist"),
    Meaning("40", _T, _PARTITION, "rolled back because of others: deadlock, serialization"),
    Meaning(
        "42",
        _F,
        _UNCLEAR,
        "a table, column, function or right is missing: for all, or in a row's trigger",
    ),
    Meaning("44", _R, _ENTRY, "a view's WITH CHECK OPTION refuses a row"),
    Meaning("53", _T, _SINK, "the server lacks connections or disk"),
    Meaning("53200", _T, _PARTITION, "out of memory: a smaller group needs less"),
    Meaning(
        "53400",
        _T,
        _PARTITION,
        "a configured limit (temp_file_limit): a smaller group stays below it",
    ),
    Meaning(
        "54",
        _R,
        _ENTRY,
        "a value beyond a limit of the program; also said by a server that takes no commands",
    ),
    Meaning("55", _T, _UNCLEAR, "something is not in the state that is needed"),
    Meaning("55006", _T, _PARTITION, "an object in use by others"),
    Meaning("55P03", _T, _PARTITION, "a lock that others held for too long"),
    Meaning("57", _T, _SINK, "the server or its operator intervened: shutdown, crash, start"),
    Meaning(
        "57014", _T, _PARTITION, "statement_timeout or a cancel: a smaller group takes less time"
    ),
    Meaning(
        "58",
        _T,
        _UNCLEAR,
        "a file of the server: all of its disk, or the one page that a row is on",
    ),
    Meaning("72", _T, _SINK, "the snapshot is too old"),
    Meaning("F0", _F, _SINK, "the server's configuration"),
    Meaning("HV", _T, _UNCLEAR, "a foreign data wrapper: its server, or one row's trigger"),
    Meaning("P0", _R, _ENTRY, "raised by a trigger or function of the database's owner"),
    Meaning(
        "XX", _T, _UNCLEAR, "an internal error: the server's state, or a bug that one value meets"
    ),
    Meaning(
        "XX001", _F, _UNCLEAR, "damaged data: of the server, or just the page that a row is on"
    ),
    Meaning("XX002", _F, _UNCLEAR, "a damaged index: REINDEX mends it"),
)

_BY_CODE = {meaning.code: meaning for meaning in TABLE}
_UNKNOWN = Meaning("", FailureKind.REJECTED, Scope.ENTRY, "raised by code of the database's owner")


def meaning_of(sqlstate: str) -> Meaning:
    """The line for a code: its own, else that of its class. A code of nobody's is one that a
    trigger made up."""
    return _BY_CODE.get(sqlstate) or _BY_CODE.get(sqlstate[:2]) or _UNKNOWN
