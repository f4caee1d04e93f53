"""Crons: runs that are accepted at their times, each once, whoever is killed or comes late.

A run is accepted in the transaction that moves its cron on, under an id that belongs to this time.
What was missed while nobody was there is made up for once, not once for each time.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psycopg
from psycopg import Connection
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.acting import acting_from
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.database.refusals import in_short
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.exceptions import (
    InvalidRequest,
    MissingExtra,
    NotFound,
    QuotaExceeded,
    SurgetankError,
)
from surgetank.workflows.assistants import Assistant
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import NewRun, Strategy

SQL = queries("workflows/crons.sql")
SORTED_BY = (
    "cron_id", "assistant_id", "thread_id", "created_at", "updated_at", "next_run_date", "end_time",
)  # fmt: skip
ACTOR = "cron"
_FIELDS = 5
_AT_ONCE = 20
_TEXT = 200


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron as it is stored. `payload` is what its runs are given; `next_run_date` None: never
    again. `failures` counts refusals, one after the other."""

    cron_id: uuid.UUID
    owner: str | None
    assistant_id: str
    graph_id: str
    thread_id: str | None
    schedule: str
    timezone: str | None
    end_time: datetime | None
    enabled: bool
    on_run_completed: str
    metadata: Mapping[str, Any]
    payload: Mapping[str, Any]
    next_run_date: datetime | None
    failures: int
    last_error: str | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Cron:
        """From a row of the table."""
        return cls(**{name: row[name] for name in cls.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class CronFilter:
    """Which crons are wanted; None stands for all."""

    owner: str | None = None
    assistant_id: str | None = None
    thread_id: str | None = None
    enabled: bool | None = None
    metadata: Mapping[str, Any] | None = None

    def arguments(self) -> dict[str, Any]:
        """As the queries take it."""
        return {
            "owner": self.owner, "assistant_id": self.assistant_id, "thread_id": self.thread_id,
            "enabled": self.enabled, "metadata": _jsonb(self.metadata) if self.metadata else None,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCron:
    """What a cron is made of. `schedule` has five fields, in `timezone` (IANA; UTC without one)."""

    assistant_id: str
    graph_id: str
    schedule: str
    owner: str | None = None
    thread_id: str | None = None
    timezone: str | None = None
    end_time: datetime | None = None
    enabled: bool = True
    on_run_completed: str = "delete"
    metadata: Mapping[str, Any]
    payload: Mapping[str, Any]


class Crons:
    """The crons of a database. Everything raises `DatabaseUnavailable`.

    `most`: how many one owner may have; None: any number. `refused` is told of a run that a cron
    could not have accepted.
    """

    def __init__(
        self,
        database: Database,
        queue: RunQueue,
        *,
        most: int | None = None,
        node: str = "",
        refused: Callable[[Cron, str], None] = lambda *_: None,
    ) -> None:
        self._database = database
        self._queue = queue
        self._most = most
        self._node = node
        self._refused = refused

    def create(self, new: NewCron, *, actor: str) -> Cron:
        """Make one. Raises `InvalidRequest` for a schedule that is none, `QuotaExceeded`."""
        end = _aware(new.end_time)
        rows = self._rows(
            "create",
            cron_id=uuid.uuid4(), owner=new.owner, assistant_id=new.assistant_id,
            graph_id=new.graph_id, thread_id=new.thread_id, schedule=new.schedule,
            timezone=new.timezone, end_time=end, enabled=new.enabled,
            on_run_completed=new.on_run_completed, metadata=_jsonb(new.metadata),
            payload=_jsonb(new.payload), most=self._most,
            next_run_date=next_time(new.schedule, new.timezone, end, self._now()),
            **self._acting(actor),
        )  # fmt: skip
        if not rows:
            raise QuotaExceeded(
                f"You have {self._most} crons already.", remedy="delete some of them."
            )
        return Cron.of(rows[0])

    def get(self, cron_id: uuid.UUID) -> Cron:
        """One cron. Raises `NotFound`."""
        rows = self._rows("get", cron_id=cron_id)
        if not rows:
            raise _missing(cron_id)
        return Cron.of(rows[0])

    def change(self, cron_id: uuid.UUID, changes: Mapping[str, Any], *, actor: str) -> Cron:
        """Change fields of a cron by their names; `payload` is added to. Its next time is counted
        from now on. Raises `NotFound`, `InvalidRequest`."""
        cron = self.get(cron_id)
        values: dict[str, Any] = {
            name: changes.get(name, getattr(cron, name))
            for name in ("schedule", "timezone", "enabled", "on_run_completed", "metadata")
        }
        end = _aware(changes["end_time"]) if "end_time" in changes else cron.end_time
        payload = {**cron.payload, **changes.get("payload", {})}
        rows = self._rows(
            "change",
            **values | {"cron_id": cron_id, "end_time": end, "payload": _jsonb(payload)}
            | {"metadata": _jsonb(values["metadata"])} | self._acting(actor),
            next_run_date=next_time(values["schedule"], values["timezone"], end, self._now()),
        )  # fmt: skip
        if not rows:
            raise _missing(cron_id)
        return Cron.of(rows[0])

    def delete(self, cron_id: uuid.UUID, *, actor: str) -> None:
        """Delete one; its runs stay. Raises `NotFound`."""
        if not self._rows("delete", cron_id=cron_id, **self._acting(actor)):
            raise _missing(cron_id)

    def search(
        self, wanted: CronFilter, *, sort_by: str = "created_at", ascending: bool = False,
        limit: int = 10, offset: int = 0,
    ) -> list[Cron]:  # fmt: skip
        """Crons, by default the newest first."""
        page = {"sort_by": sort_by, "ascending": ascending, "limit": limit, "offset": offset}
        return [Cron.of(row) for row in self._rows("search", **wanted.arguments(), **page)]

    def count(self, wanted: CronFilter) -> int:
        """How many there are."""
        return int(self._rows("count", **wanted.arguments())[0]["crons"])

    # -- at its time

    def fire(self) -> int:
        """Have the runs accepted that are due: how many crons were. Any number of processes may do
        so at once."""
        refusals: list[tuple[Cron, str]] = []
        with self._database.asking(patient=True) as connection:
            with connection.cursor(row_factory=dict_row) as cursor:
                rows = cursor.execute(SQL["due"], {"limit": _AT_ONCE}).fetchall()
            for row in rows:
                cron = Cron.of(row)
                refusal = self._accept(connection, cron, row["assistant"])
                if refusal is not None:
                    refusals.append((cron, refusal))
                failures = cron.failures + 1 if refusal is not None else 0
                following, refusal = _following(cron, row["now"], refusal)
                arguments = {
                    "cron_id": cron.cron_id, "next_run_date": following, "failures": failures,
                    "last_error": refusal,
                }  # fmt: skip
                connection.execute(SQL["fired"], arguments)
        for cron, refusal in refusals:
            if not cron.failures:  # of those that follow its row tells
                self._refused(cron, refusal)
        return len(rows)

    def next_in_s(self) -> float | None:
        """In how many seconds the next one is due; None: there is none."""
        in_s = self._rows("next")[0]["in_s"]
        return None if in_s is None else max(0.0, in_s)

    def _accept(
        self, connection: Connection[Any], cron: Cron, assistant: Mapping[str, Any] | None
    ) -> str | None:
        """Why its run was not accepted; None: it was."""
        try:
            with connection.transaction():  # what fails here leaves the others their turn
                self._queue.accept_on(connection, new_run(cron, assistant), actor=ACTOR)
        except SurgetankError as error:
            return error.what
        except psycopg.Error as error:
            if connection.broken or connection.closed:
                raise
            return in_short(error)
        return None

    def _now(self) -> datetime:
        now: datetime = self._rows("now")[0]["now"]
        return now

    def _acting(self, actor: str) -> dict[str, Any]:
        return {"actor": actor, "origin": acting_from.get() or self._node}

    def _rows(self, query: str, **arguments: Any) -> list[dict[str, Any]]:
        with (
            self._database.reading() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return cursor.execute(SQL[query], arguments).fetchall()


def new_run(cron: Cron, assistant: Mapping[str, Any] | None) -> NewRun:
    """The run of a cron for the time that it is due at; `assistant` is its row as it is now."""
    due = cron.next_run_date
    assert due is not None
    number = uuid.uuid5(cron.cron_id, due.astimezone(UTC).isoformat())
    payload = dict(cron.payload)
    strategy = Strategy(payload.pop("multitask_strategy", None) or Strategy.ENQUEUE)
    graph = cron.graph_id
    if assistant is not None:
        graph = assistant["graph_id"]
        payload = Assistant.of(assistant).given(payload)
    temporary = cron.thread_id is None
    if temporary and cron.on_run_completed == "delete":
        payload["on_completion"] = "delete"
    return NewRun(
        run_id=number,
        thread_id=cron.thread_id if cron.thread_id is not None else str(uuid.uuid5(number, "thread")),
        assistant_id=cron.assistant_id,
        graph_id=graph,
        owner=cron.owner,
        strategy=strategy,
        kwargs=payload,
        metadata={**cron.metadata, "cron_id": str(cron.cron_id)},
        make_thread=temporary,
        temporary=temporary and cron.on_run_completed == "delete",
        thread_metadata={"graph_id": graph, "assistant_id": cron.assistant_id},
    )  # fmt: skip


def _following(
    cron: Cron, now: datetime, refusal: str | None
) -> tuple[datetime | None, str | None]:
    try:
        return next_time(cron.schedule, cron.timezone, cron.end_time, now), refusal
    except InvalidRequest as error:  # a time zone that this machine does not have
        return None, error.what


def next_time(
    schedule: str, timezone: str | None, end_time: datetime | None, after: datetime
) -> datetime | None:
    """The first time of a schedule after another one; None when its end comes before. Raises
    `InvalidRequest`, `MissingExtra`."""
    try:
        from croniter import CroniterError, croniter  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        raise MissingExtra("langgraph", "croniter", "A cron") from error
    if len(schedule) > _TEXT or len(schedule.split()) != _FIELDS:
        raise _unusable(schedule, "it does not have five fields")
    try:
        found: datetime = croniter(schedule, after.astimezone(_zone(timezone))).get_next(datetime)
    except (CroniterError, ValueError, KeyError, OverflowError) as error:
        raise _unusable(schedule, str(error)) from error
    return None if end_time is not None and found > end_time else found.astimezone(UTC)


def _zone(name: str | None) -> tzinfo:
    if name is None:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidRequest(
            f"There is no time zone {name[:_TEXT]!r}.",
            remedy='use an IANA name, such as "Europe/Berlin".',
        ) from error


def _unusable(schedule: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The schedule {schedule[:_TEXT]!r} can't be used: {why[:_TEXT]}.",
        remedy="use five fields: minute, hour, day of the month, month, day of the week.",
    )


def _aware(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _missing(cron_id: uuid.UUID) -> NotFound:
    return NotFound(f"There is no cron {cron_id}.", remedy="list the crons.")


def _jsonb(value: Mapping[str, Any]) -> Jsonb:
    return Jsonb(dict(value), dumps=lambda v: dumps_jsonb(v)[0])
