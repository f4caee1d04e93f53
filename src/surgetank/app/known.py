"""Whether anything is known of a thread, so that a misspelt name is an error and no empty
answer."""

from __future__ import annotations

from surgetank.app.assembly import Parts
from surgetank.database.queries import queries
from surgetank.encode.limits import check_names
from surgetank.exceptions import SurgetankError, ThreadNotFound

SQL = queries("app/known.sql")


def known_thread(parts: Parts, thread_id: str) -> bool | None:
    """Whether buffer, events or database know the thread; None when only a database that is away
    could tell."""
    check_names(thread_id, [("$.thread_id", thread_id)])
    buffer = parts.buffer
    if any(buffer.state(stream, thread_id) is not None for stream in parts.flushers):
        return True
    if buffer.parked(partition=thread_id) or parts.reporting.events.last_seq(thread_id):
        return True
    if any(
        thread_id in touched.threads for touched in parts.reporting.errors.hot_groups(ask=False)[0]
    ):
        return True
    try:
        with parts.database.connection() as connection:
            row = connection.execute(SQL["thread_is_known"], {"thread_id": thread_id}).fetchone()
    except SurgetankError:
        return None
    return bool(row and row[0])


def require_threads(parts: Parts, *thread_ids: str) -> None:
    """Raise `ThreadNotFound` for one of which nothing is known anywhere."""
    for thread_id in thread_ids:
        if known_thread(parts, thread_id) is False:
            raise ThreadNotFound(
                f"There is no thread {thread_id!r}.",
                remedy="check its name and --home: `surgetank storage` lists the largest threads.",
            )
