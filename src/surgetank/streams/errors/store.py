"""System errors: reported through the buffer, so that an error about a dead database is seen while
it is dead.

A reader takes the rows of `system_errors` and folds onto them what is still hot, by the same rule
as the sink (`streams.errors.groups.fold`). While the database is down the hot groups alone are
shown, and it is said.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Protocol

from psycopg.rows import dict_row

from surgetank.buffer.log import Found, Log
from surgetank.buffer.tallies import Tallies, Tally
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode import limits
from surgetank.encode.jsonable import show
from surgetank.exceptions import (
    BufferUnavailable,
    ErrorNotFound,
    ErrorStateConflict,
    SurgetankError,
    UnknownName,
)
from surgetank.handover import HandOver
from surgetank.model import Record
from surgetank.offloop import on_loop
from surgetank.streams.errors.answers import ErrorDetail, ErrorFilter, ErrorPage, HotGroup
from surgetank.streams.errors.groups import (
    ACTIONS,
    FORGET_THREAD,
    KEY,
    STREAM,
    ErrorAction,
    ErrorGroup,
    ErrorReport,
    fingerprint,
    fold,
    fold_all,
    group_id,
    unpack_or_show,
    without_forgotten,
)
from surgetank.streams.errors.sink import group_of
from surgetank.streams.errors.storms import SEND_S, Storms

SQL = queries("streams/errors/errors.sql")
MAX_LIMIT = 500

Item = ErrorReport | ErrorAction
_Hot = tuple[Found, Item]
_Base = tuple[ErrorGroup | None, Mapping[int, int]]


class CountingLog(Log, Tallies, Protocol):
    """A log that counts what comes too often."""


class SystemErrors:
    """Reports, finds and resolves system errors. Safe to use from several threads."""

    def __init__(
        self, buffer: CountingLog, database: Database, *, clock: Callable[[], float]
    ) -> None:
        self._buffer = buffer
        self._database = database
        self._clock = clock
        self._storms = Storms()
        self._lock = threading.Lock()
        self.lost: deque[tuple[float, str]] = deque(maxlen=100)
        self.hand_over = HandOver(
            lambda error: self.lost.append(
                (self._clock(), f"a system error was not accepted: {error}")
            )
        )

    # -- writing

    def report(self, report: ErrorReport) -> str:
        """Accept an occurrence and return its group's id. Raises what `Buffer.append` raises.

        In a storm of one error (more than 20 in 10 s) an occurrence is folded into its group's
        count, which the buffer keeps as durably as an entry; the newest one of each thread stands
        for all. So errors can't fill the buffer.
        """
        limits.check_names("system_errors", [("$.error_type", report.error_type)])
        if report.thread_id is not None:
            limits.check_names("system_errors", [("$.thread_id", report.thread_id)])
        if report.fingerprint:
            limits.check_names("system_errors", [("$.fingerprint", report.fingerprint)])
        limits.check_mapping("system_errors", "$.context", report.context)
        report = replace(
            report,
            at=limits.check_time("system_errors", "$.at", report.at or self._clock()),
            fingerprint=report.fingerprint
            or fingerprint(report.error_type, report.message, report.stack_trace),
        )
        with self._lock:
            calm = self._storms.is_calm(report.fingerprint, report.at)
        if calm:
            self._append(report)
        else:
            self._tally(report)
        return group_id(report.fingerprint)

    def _tally(self, report: ErrorReport) -> None:
        counted = (STREAM, report.fingerprint, (report.thread_id or "").encode(), report.pack())
        if not on_loop():
            self._buffer.tally(*counted)
        elif self.hand_over.busy or not self._buffer.try_tally(*counted):
            self.hand_over.submit(partial(self._buffer.tally, *counted))

    def send_counts(self, *, all_: bool = False) -> None:
        """Send what was only counted in a storm, if it is due (or `all_` of it). Raises as
        `Buffer.send_tallies`."""
        self._buffer.send_tallies(STREAM, counted_record, older_s=0.0 if all_ else SEND_S)

    def _append(self, report: ErrorReport) -> None:
        entry = (STREAM, report.fingerprint, (Record(KEY, report.pack()),))
        if not on_loop():
            self._buffer.append(*entry, wait=False)
        elif self.hand_over.busy or self._buffer.try_append(*entry) is None:
            self.hand_over.submit(partial(self._buffer.append, *entry, wait=False))

    def act(
        self, error_id: str, kind: str, actor: str, *, notes: str = "", until: float | None = None
    ) -> ErrorGroup:
        """Resolve, reopen, snooze or delete a group; returned as it is then (deleted: as it was).

        Raises `ErrorNotFound`, `ErrorStateConflict` (already resolved, not resolved),
        `DatabaseUnavailable` when only the database could know the group.
        """
        if kind not in list(ACTIONS):
            raise UnknownName(
                f"There is no action {show(kind)[:80]}.", remedy=f"actions: {', '.join(ACTIONS)}."
            )
        limits.check_names("system_errors", [("$.actor", actor)])
        limits.check_notes("system_errors", "$.notes", notes)
        if until is not None:
            until = limits.check_time("system_errors", "$.until", until)
        group = self.get(error_id)
        conflict = {
            "resolve": group.resolved and f"was resolved by {group.resolved_by} already",
            "reopen": not group.resolved and "is not resolved",
            "delete": not group.resolved and "is not resolved; only resolved errors can be deleted",
            "snooze": group.resolved and "is resolved",
        }[kind]
        if conflict:
            raise ErrorStateConflict(
                f"The error {error_id} {conflict}.", remedy="look at it again."
            )
        action = ErrorAction(kind, actor, self._clock(), notes, until)
        after, _ = fold(group, action)
        self._buffer.append(STREAM, group.fingerprint, (Record(KEY, action.pack()),), wait=False)
        return after or group

    def delete_resolved(self, wanted: ErrorFilter, actor: str, *, most: int = 1000) -> int:
        """Delete resolved groups that match, the newest first: how many. What somebody opened again
        meanwhile stays. Raises as `act`."""
        done, cursor = 0, None
        while True:
            page = self.find(replace(wanted, resolved=True), limit=MAX_LIMIT, cursor=cursor)
            for group in page.errors[: most - done]:
                with suppress(ErrorNotFound, ErrorStateConflict):
                    self.act(group.id, "delete", actor)
                    done += 1
            cursor = page.cursor
            if cursor is None or done >= most:
                return done

    # -- reading

    def get(self, error_id: str) -> ErrorGroup:
        """One group. Raises `ErrorNotFound`, `DatabaseUnavailable` when only the database could
        know it."""
        group, _ = self._folded(error_id)
        if group is None:
            raise ErrorNotFound(
                f"There is no system error {error_id!r}.", remedy="see `surgetank errors`."
            )
        return group

    def _folded(self, error_id: str) -> tuple[ErrorGroup | None, list[Item]]:
        """A group as it is now, and its items that are not in the database yet."""
        try:
            uuid.UUID(error_id)
        except (ValueError, AttributeError, TypeError):  # no text at all
            return None, []
        seen, lost = self._seen()
        hot = {name: items for name, items in seen.items() if group_id(name) == error_id}
        try:
            bases = self._bases(hot or {"": []}, [error_id])
        except SurgetankError:
            if not hot:
                raise
            bases = {}
        if not hot:
            group = next((base for base, _ in bases.values()), None)
            if group is None and lost is not None:
                raise lost
            return group, []
        ((name, found),) = hot.items()
        base, items = _unwritten(bases.get(name), found)
        return fold_all(base, items), items

    def detail(self, error_id: str) -> ErrorDetail:
        """One group with its threads and its audit trail. Raises as `get`."""
        group = self.get(error_id)
        threads, audit, problem = dict[str, dict[str, Any]](), list[Mapping[str, Any]](), None
        try:
            rows = self._query("error_threads", {"id": error_id, "limit": MAX_LIMIT})
            threads = {row["thread_id"]: row for row in rows}
            audit += self._query("error_audit", {"id": error_id})
        except SurgetankError as error:
            problem = error.what
        now, items = self._folded(error_id)
        for item in items:
            if isinstance(item, ErrorReport) and item.thread_id is not None:
                name = item.thread_id
                new = {"thread_id": name, "occurrences": 0, "first": item.at, "last": item.at}
                row = threads.setdefault(item.thread_id, new)
                row["occurrences"] += item.count
                row["last"] = max(row["last"], item.at)
            elif isinstance(item, ErrorAction) and item.kind == FORGET_THREAD:
                threads.pop(item.notes, None)
            elif isinstance(item, ErrorAction):
                done = {"at": item.at, "actor": item.actor, "action": item.kind}
                audit.append({**done, "notes": item.notes, "detail": {}})
        newest = sorted(threads.values(), key=lambda row: -row["last"])
        return ErrorDetail(now or group, tuple(newest[:MAX_LIMIT]), tuple(audit), problem)

    def find(
        self,
        wanted: ErrorFilter | None = None,
        *,
        limit: int = 50,
        cursor: tuple[float, str] | None = None,
    ) -> ErrorPage:
        """A page of groups, newest first."""
        wanted = wanted or ErrorFilter()
        wanted.check()
        limit = max(1, min(limit, MAX_LIMIT))
        hot, lost = self._seen()
        problem = lost.what if lost is not None else None
        ids = [group_id(name) for name in hot]
        try:
            bases = self._bases(hot, ids)
            found = self._page(wanted, limit + 1, cursor, ids)
            touching = self._threads_of(ids, wanted.thread_id)
        except SurgetankError as error:
            bases, found, touching, problem = {}, [], set[str](), error.what
        for name, entries in hot.items():
            base, items = _unwritten(bases.get(name), entries)
            group = fold_all(base, items)
            touched = {
                i.thread_id for i in items if isinstance(i, ErrorReport) and i.thread_id is not None
            }
            if group is not None and group.id in touching and wanted.thread_id is not None:
                touched.add(wanted.thread_id)
            if group is not None and wanted.takes(group, touched):
                found.append(group)
        found = sorted(found, key=lambda g: (g.last_seen, g.id), reverse=True)
        if cursor is not None:
            found = [g for g in found if (g.last_seen, g.id) < cursor]
        page = found[:limit]
        more = (page[-1].last_seen, page[-1].id) if len(found) > limit else None
        return ErrorPage(tuple(page), more, problem)

    def counts(self) -> tuple[list[dict[str, Any]], str | None]:
        """Groups and occurrences by type and severity, and why the picture may be incomplete."""
        hot, lost = self._seen()
        problem = lost.what if lost is not None else None
        ids = [group_id(name) for name in hot]
        try:
            rows = self._query("error_counts", {"except_ids": ids})
            bases = self._bases(hot, ids)
        except SurgetankError as error:
            rows, bases, problem = [], {}, error.what
        counted = {(r["error_type"], r["severity"]): r for r in rows}
        for name, entries in hot.items():
            group = fold_all(*_unwritten(bases.get(name), entries))
            if group is None:
                continue
            new = {
                "error_type": group.error_type, "severity": group.severity.value, "groups": 0,
                "occurrences": 0, "unresolved": 0,
            }  # fmt: skip
            row = counted.setdefault((group.error_type, group.severity.value), new)
            row["groups"] += 1
            row["occurrences"] += group.occurrences
            row["unresolved"] += not group.resolved
        return [counted[key] for key in sorted(counted)], problem

    def trends(
        self, *, since: float, bucket: str = "hour"
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Occurrences per hour or day, by type and severity, of what is in the database and what is
        hot."""
        counted: dict[tuple[float, str, str], int] = {}
        hot, lost = self._seen()
        problem = lost.what if lost is not None else None
        try:
            for row in self._query("error_trends", {"since": since, "bucket": bucket}):
                counted[row["at"], row["error_type"], row["severity"]] = row["occurrences"]
        except SurgetankError as error:
            problem = error.what
        step = 86400.0 if bucket == "day" else 3600.0
        for found in hot.values():
            for _, item in found:
                if isinstance(item, ErrorReport) and item.at >= since:
                    key = (item.at // step * step, item.error_type, item.severity.value)
                    counted[key] = counted.get(key, 0) + item.count
        return [
            {"at": at, "error_type": type_, "severity": severity, "occurrences": count}
            for (at, type_, severity), count in sorted(counted.items())
        ], problem

    def hours(self, error_id: str, *, since: float) -> tuple[list[tuple[float, int]], str | None]:
        """Occurrences of one group by hour (seconds since the epoch, how many), and why the picture
        may be incomplete."""
        counted, items, problem = dict[float, int](), list[Item](), None
        try:
            _, items = self._folded(error_id)
            rows = self._query("hours_of_error", {"id": error_id, "since": since})
            counted = {row["at"]: row["occurrences"] for row in rows}
        except SurgetankError as error:
            problem = error.what
        for item in items:
            if isinstance(item, ErrorReport) and item.at >= since:
                hour = item.at // 3600.0 * 3600.0
                counted[hour] = counted.get(hour, 0) + item.count
        return sorted(counted.items()), problem

    def troubled_threads(self, *, at_least: int = 2, limit: int = 100) -> list[dict[str, Any]]:
        """Threads with several unresolved errors, worst first. Raises `DatabaseUnavailable`."""
        return self._query("troubled_threads", {"at_least": at_least, "limit": limit})

    def hot_groups(self, *, ask: bool = True) -> tuple[list[HotGroup], str | None]:
        """The groups with something in the buffer, and why the picture may be incomplete.

        Without `ask` the database isn't asked what it knows of them.
        """
        hot, problem = self._hot(), None
        try:
            bases = self._bases(hot, [group_id(name) for name in hot]) if ask else {}
        except SurgetankError as error:
            bases, problem = {}, error.what
        found: list[HotGroup] = []
        for name, entries in hot.items():
            base, items = _unwritten(bases.get(name), entries)
            threads: dict[str, float] = {}
            for item in items:
                if isinstance(item, ErrorReport) and item.thread_id is not None:
                    threads[item.thread_id] = max(threads.get(item.thread_id, 0.0), item.at)
            found.append(HotGroup(group_id(name), fold_all(base, items), threads))
        return found, problem

    # -- parts

    def _seen(self) -> tuple[dict[str, list[_Hot]], BufferUnavailable | None]:
        """`_hot`, or why it can't be read: that it can't is among what the database has."""
        try:
            return self._hot(), None
        except BufferUnavailable as error:
            return {}, error

    def _hot(self) -> dict[str, list[_Hot]]:
        """What is in the buffer, by fingerprint: number, whether it is parked, and the item."""
        with self._buffer.snapshot() as snapshot:
            hot: dict[str, list[_Hot]] = {
                name: [(f, unpack_or_show(name, f.value)) for f in snapshot.scan(STREAM, name, KEY)]
                for name in snapshot.partitions(STREAM)
            }
            for tally in snapshot.tallies(STREAM):
                # as a parked one it is in no database
                found = Found(KEY, 0, tally.value, parked=True)
                item = unpack_or_show(tally.partition, counted_record(tally).value)
                hot.setdefault(tally.partition, []).append((found, item))
            return hot

    def _bases(self, names: Iterable[str], ids: Sequence[str]) -> dict[str, _Base]:
        """The groups as the database has them, with the last entries of this buffer that they
        contain, by epoch."""
        if not ids:
            return {}
        arguments = {"ids": list(ids), "names": list(names), "buffer_id": self._buffer.id}
        rows = self._query("error_bases", arguments)
        return {
            r["name"]: (
                group_of(r) if r["id"] is not None else None,
                {0: r["written"]}
                | {int(epoch): seq for epoch, (seq, *_) in (r["epochs"] or {}).items()},
            )
            for r in rows
        }

    def _page(
        self,
        wanted: ErrorFilter,
        limit: int,
        cursor: tuple[float, str] | None,
        except_ids: Sequence[str],
    ) -> list[ErrorGroup]:
        at, id_ = cursor or (None, None)
        rows = self._query(
            "find_errors",
            {
                **asdict(wanted), "except_ids": list(except_ids), "cursor_at": at, "cursor_id": id_,
                "limit": limit,
            },
        )  # fmt: skip
        return [group_of(row) for row in rows]

    def _threads_of(self, ids: Sequence[str], thread_id: str | None) -> set[str]:
        if thread_id is None or not ids:
            return set()
        rows = self._query("errors_of_thread", {"ids": list(ids), "thread_id": thread_id})
        return {str(row["error_id"]) for row in rows}

    def _query(self, name: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        with (
            self._database.asking() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return cursor.execute(SQL[name], arguments).fetchall()


def counted_record(tally: Tally) -> Record:
    """The report that stands for all that were folded."""
    report = unpack_or_show(tally.partition, tally.value)
    assert isinstance(report, ErrorReport)
    return Record(KEY, replace(report, count=report.count + tally.count - 1).pack())


def _unwritten(base: _Base | None, found: Sequence[_Hot]) -> tuple[ErrorGroup | None, list[Item]]:
    """The database's group, and what it does not contain yet of what was found hot."""
    group, written = base or (None, {})
    items = [item for hot, item in found if hot.parked or hot.seq > written.get(hot.epoch, 0)]
    return group, without_forgotten(items)
