"""The forwarder: rows of the audit become events for who follows a thread, after their commit.

The audit is the outbox. Each home has a forwarder, so that the followers of each home hear of all
runs. A row is forwarded once, a chain's rows in their order, and none is left out though
transactions end in another order than they began: what is read is what was committed since the
snapshot of the time before.

"completed" is told with `saved`: whether the run's data has left the buffer that it went to. That
buffer's home finds out, and writes it into the audit, so that it takes the same way.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from psycopg.rows import dict_row

from surgetank.bounded import BoundedMap
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.events.protocol import EventLog
from surgetank.events.types import EventType, Forwarded, NewEvent
from surgetank.notify.travels import LostAct

A = TypeVar("A")

SQL = queries("workflows/forwarder.sql")
_PAGE = 500
_PAGES = 20  # of one step
_FIRST_S = 60.0  # a home that begins hears of the last minute
_ASKED = 500  # runs that are asked after at once
_WAITING = 100_000
_HEARD = 10_000  # rows that are looked for again in a database that may have gone back
_HEARD_S = 600.0
_EVERYTHING = "1:1:"  # a snapshot before which nothing was

_STATUS = {
    "run_accepted": "pending", "run_claimed": "running", "run_pending": "pending",
    "run_awaiting_checkpoint": "awaiting_checkpoint", "run_completed": "completed",
    "run_saved": "completed", "run_failed": "failed", "run_cancelled": "cancelled",
    "workflow_cancelled": "cancelled",
}  # fmt: skip
_RESOLVED = EventType.CHECKPOINT_RESOLVED
_CHECKPOINTS = {
    "checkpoint_created": (EventType.CHECKPOINT_READY, "pending"),
    "checkpoint_resolved": (_RESOLVED, "approved"), "checkpoint_expired": (_RESOLVED, "expired"),
    "checkpoint_superseded": (_RESOLVED, "superseded"), "checkpoint_ignored": (_RESOLVED, "ignored"),
}  # fmt: skip
_SHOWN = {"checkpoint_id": "checkpoint_id", "step_name": "step", "kind": "kind"}


class Arrivals(Protocol[A]):
    """Tells of threads whether what was accepted of them is in the database."""

    def accepted(self, thread_id: str) -> A:
        """What was accepted of a thread until now."""
        ...

    def arrived(self, accepted: Sequence[A]) -> list[bool]:
        """Of each, whether it is in the database."""
        ...


class Forwarder:
    """Forwards to one event log. `step` is for one thread at a time; several processes may share
    the log.

    `arrivals` tells whether the data of runs that have ended here is in the database.
    """

    def __init__(
        self,
        database: Database,
        events: EventLog,
        *,
        buffer_id: str,
        actor: str,
        arrivals: Arrivals[Any],
        on_lost: Callable[[Sequence[LostAct]], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._events = events
        self._buffer_id = buffer_id
        self._actor = actor
        self._arrivals = arrivals
        self._lock = threading.Lock()
        self._unsaved: BoundedMap[uuid.UUID, Any] = BoundedMap(_WAITING)
        self._knows_unsaved = False
        self._on_lost = on_lost
        self._heard: BoundedMap[int, _Heard] = BoundedMap(_HEARD)
        self._connects = database.connects

    @property
    def waits(self) -> bool:
        """Whether there are runs that have ended here and are not saved."""
        return len(self._unsaved) > 0

    def step(self) -> int:
        """Forward what is new: how many events. Raises `DatabaseUnavailable`,
        `BufferUnavailable`."""
        with self._lock:
            if not self._knows_unsaved:
                for row in self._rows("unsaved", {"buffer": self._buffer_id}):
                    self._unsaved[row["run_id"]] = self._arrivals.accepted(row["thread_id"])
                self._knows_unsaved = True
            self._see_whether_it_went_back()
            self._note_saved()
            sent = self._forward()
            if self._note_saved():  # what just ended was saved already
                sent += self._forward()
            return sent

    # -- reading

    def _forward(self) -> int:
        known = self._events.forward_position()
        at = _Position(**json.loads(known)) if known else _Position(_EVERYTHING)
        sent = 0
        for _ in range(_PAGES):
            found = self._rows(
                "news",
                {
                    "seen": at.seen, "xid": at.xid, "id": at.id, "since": at.since, "limit": _PAGE,
                },
            )  # fmt: skip
            now_seen, now_at = found[0]["now_seen"], found[0]["now_at"]
            if found[0]["another_server"]:  # restored from elsewhere: its numbers mean nothing here
                self._events.forward([], _Position(now_seen, now_at).text, anew=True)
                return sent
            rows = [row for row in found if row["id"] is not None]
            since = at.since if at.since is not None else now_at - _FIRST_S
            to = at.to or now_seen
            over = len(rows) < _PAGE
            after = (
                _Position(to, since)
                if over
                else _Position(at.seen, since, to, rows[-1]["xid"], rows[-1]["id"])
            )
            if rows or after.seen != at.seen:
                sent += self._send(rows, after)
            if over:
                break
            at = after
        return sent

    def _see_whether_it_went_back(self) -> None:
        """A database with new connections may be another one: a replica that was behind. What was heard last is
        looked for there. If it is missing, so is what else was done then, and numbers are given again."""
        connects = self._database.connects
        if connects == self._connects:
            return
        since = time.monotonic() - _HEARD_S
        recent = {id_: each for id_, each in self._heard.items() if each.at >= since}
        if recent:
            found = {r["id"]: r["xid"] for r in self._rows("still_there", {"ids": list(recent)})}
            lost = [each.act for id_, each in recent.items() if found.get(id_) != each.xid]
            if lost:
                (now, *_) = self._rows(
                    "news", {"seen": _EVERYTHING, "xid": "0", "id": 0, "since": None, "limit": 0}
                )
                self._heard.clear()
                self._events.forward([], _Position(now["now_seen"], now["now_at"]).text, anew=True)
                self._on_lost(lost)
        self._connects = connects

    def _send(self, rows: Sequence[Mapping[str, Any]], after: _Position) -> int:
        chains: dict[int, dict[int, Mapping[str, Any]]] = {}
        for row in rows:
            chains.setdefault(row["chain"], {})[row["nth"]] = row
            self._heard[row["id"]] = _Heard(row["xid"], time.monotonic(), _act_of(row))
        known = self._events.forwarded(list(chains))
        holes: list[tuple[int, int, int]] = []
        for chain, rows_by_nth in chains.items():
            last, newest = known.get(chain, 0), max(rows_by_nth)
            for nth in [nth for nth in rows_by_nth if nth <= last]:
                del rows_by_nth[nth]
            if rows_by_nth and len(rows_by_nth) < newest - last:
                holes.append((chain, last, newest))
        if holes:
            numbers, lasts, tops = zip(*holes, strict=True)
            arguments = {
                "chains": list(numbers), "after": list(lasts), "before": list(tops),
                "since": after.since,
            }  # fmt: skip
            for row in self._rows("between", arguments):
                chains[row["chain"]].setdefault(row["nth"], row)
        items: list[Forwarded] = []
        for chain, rows_by_nth in chains.items():
            items += self._items_of(chain, [rows_by_nth[nth] for nth in sorted(rows_by_nth)])
        return self._events.forward(items, after.text)

    def _items_of(self, chain: int, rows: Sequence[Mapping[str, Any]]) -> Iterable[Forwarded]:
        deleted = max((r["nth"] for r in rows if r["action"] == "thread_deleted"), default=0)
        for row in rows:
            event = event_of(row) if row["nth"] > deleted else None
            yield Forwarded(chain, row["nth"], event)
            ended_here = (row["action"], row["detail"].get("buffer")) == (
                "run_completed", self._buffer_id,
            )  # fmt: skip
            thread_id = row["thread_id"]
            if ended_here and thread_id is not None and row["run_id"] not in self._unsaved:
                self._unsaved[row["run_id"]] = self._arrivals.accepted(str(thread_id))

    # -- saved

    def _note_saved(self) -> bool:
        """Write into the audit which runs are saved now; whether there were any."""
        asked = dict(islice(self._unsaved.items(), _ASKED))
        if not asked:
            return False
        arrived = self._arrivals.arrived(list(asked.values()))
        saved = [run for run, has in zip(asked, arrived, strict=True) if has]
        for run in [run for run, has in zip(asked, arrived, strict=True) if not has]:
            self._unsaved[run] = self._unsaved.pop(run)  # those that wait go to the end
        if not saved:
            return False
        for row in self._rows("note_saved", {"runs": saved, "actor": self._actor}):
            self._unsaved.pop(row["run_id"], None)
        return True

    def _rows(self, name: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        with (
            self._database.reading() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return cursor.execute(SQL[name], arguments).fetchall()


@dataclass(frozen=True, slots=True)
class _Heard:
    """A row of the audit, and when it was heard of."""

    xid: str
    at: float
    act: LostAct


def _act_of(row: Mapping[str, Any]) -> LostAct:
    run_id, subject = row["run_id"], row["detail"].get("checkpoint_id")
    return LostAct(
        row["id"], row["action"], row["thread_id"], str(run_id) if run_id else None, subject
    )


@dataclass(frozen=True, slots=True)
class _Position:
    """All that a snapshot saw was forwarded, and of what came since until `to` what stands before
    `xid` and `id`. Nothing from before `since`."""

    seen: str
    since: float | None = None
    to: str | None = None
    xid: str = "0"
    id: int = 0

    @property
    def text(self) -> str:
        return json.dumps(asdict(self))


def event_of(row: Mapping[str, Any]) -> NewEvent | None:
    """The event that tells of a row of the audit, if it is one that followers hear of."""
    if row["thread_id"] is None:  # erased
        return None
    action, detail = row["action"], row["detail"]
    about = {
        "audit_id": row["id"],
        "workflow_id": str(row["workflow_id"]) if row["workflow_id"] else None,
        "run_id": str(row["run_id"]) if row["run_id"] else None,
    }
    if (status := _STATUS.get(action)) is not None:
        data = about | {"status": status}
        if status == "completed":
            data["saved"] = action == "run_saved"
        if "attempt" in detail:
            data["attempt"] = detail["attempt"]
        return NewEvent(EventType.STATUS_UPDATED, row["thread_id"], data)
    if action in _CHECKPOINTS:
        kind, status = _CHECKPOINTS[action]
        shown = {name: detail[of] for name, of in _SHOWN.items() if of in detail}
        data = about | shown | {"status": detail.get("outcome") or status}
        return NewEvent(kind, row["thread_id"], data)
    return None
