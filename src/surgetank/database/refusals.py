"""What the driver's errors mean for whoever asked: an outage, or an outage that an operator must
end.

One place, so that no error of psycopg reaches a caller. Flushing classifies the driver's errors
itself.
"""

from __future__ import annotations

import re

import psycopg

from surgetank.exceptions import DatabaseRefused, DatabaseUnavailable

# libpq gives no SQLSTATE for a refused connection: told by the words of PostgreSQL and PgBouncer.
_WORDS = (
    (r"(password|SASL) authentication failed|no password supplied|no such user", "28P01"),
    (
        (
            r"no pg_hba\.conf entry|authentication failed for user|role .* does not exist|not "
            r"permitted to log in"
        ),
        "28000",
    ),
    (r"permission denied for database", "28000"),
    (r"database .* does not exist|no such database", "3D000"),
)
_ASK_OPERATOR = ("0A", "0L", "0P", "28", "2B", "3D", "3F", "42", "F0", "XX001", "XX002")
_SAFE = "what was accepted is safe in the buffer and is flushed when it is back."


def refused_connection(error: psycopg.Error, address: str) -> DatabaseUnavailable:
    """Why no connection could be made."""
    text = in_short(error)
    state = error.sqlstate or next(
        (state for words, state in _WORDS if re.search(words, text)), None
    )
    if state in ("28P01", "28000"):
        return DatabaseRefused(
            f"PostgreSQL at {address} refused the user: {text}.",
            remedy="check user and password in the database URL, and pg_hba.conf on the server.",
        )
    if state == "3D000":
        return DatabaseRefused(
            f"The database of {address} does not exist.",
            remedy="create it (createdb) or correct the name in the database URL.",
        )
    # to what every new connection is asked first
    if state is not None and state.startswith(_ASK_OPERATOR):
        return failed_statement(error, address)
    return DatabaseUnavailable(
        f"PostgreSQL at {address} can't be reached: {text}.",
        remedy=f"check that it runs and that host and port are right; {_SAFE}",
    )


def broken_connection(error: psycopg.Error, address: str) -> DatabaseUnavailable:
    """A connection that ended in the middle of something."""
    return DatabaseUnavailable(
        f"The connection to {address} broke: {in_short(error)}.",
        remedy="it is tried again by itself.",
    )


def failed_statement(error: psycopg.Error, address: str) -> DatabaseUnavailable:
    """A statement that the database did not carry out."""
    state, text = error.sqlstate or "", in_short(error)
    if state == "25006":
        return DatabaseUnavailable(
            f"PostgreSQL at {address} is read-only just now: {text}.",
            remedy="a failover may be under way; with several hosts in the URL and "
            "target_session_attrs=read-write the "
            "primary is found.",
        )
    if state == "57014":
        return DatabaseUnavailable(
            f"PostgreSQL at {address} took too long: {text}.",
            remedy="look for locks and load (pg_stat_activity), or raise SURGETANK_READ_TIMEOUT.",
        )
    if state.startswith(_ASK_OPERATOR):
        return DatabaseRefused(
            f"PostgreSQL at {address} refused it: {text}.",
            remedy="grant what the message names, or run `surgetank migrate`; `surgetank doctor` "
            "shows it.",
        )
    return DatabaseUnavailable(
        f"PostgreSQL at {address} could not do it: {text}.",
        remedy="try again; see PostgreSQL's log.",
    )


def in_short(error: BaseException) -> str:
    """One bounded line, without libpq's questions ("Is the server running ...?")."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.endswith("?")] or lines
    return " ".join(" ".join(said).split())[:300].rstrip(".?")
