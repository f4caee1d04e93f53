"""`tank.logs`: the lines of a thread's log."""

from __future__ import annotations

from collections.abc import Sequence

from surgetank.streams.logs.store import LogPage, ThreadLogs


class Logs:
    """The logs of all threads: `tank.logs(thread_id)`. Lines are written by `tank.emit_log`."""

    def __init__(self, logs: ThreadLogs) -> None:
        self._logs = logs

    def __call__(
        self,
        thread_id: str,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = 500,
        levels: Sequence[str] | None = None,
    ) -> LogPage:
        """Lines of a thread in order, hot and cold: the first `limit` after a number, or with
        `before` the last ones before it; of these `levels`, or of all.

        While the database is down, the page has what the buffer and the event log have, and says
        so (`problem`).
        """
        return self._logs.read(thread_id, after=after, before=before, limit=limit, levels=levels)
