"""The event log in Redis: a thread's events are in one shard, and all of them have one order.

Numbers of all shards can be compared (`common.lua`). Who reads up to the newest one says so to every shard,
which gives no smaller number from then on: so nothing is ever missed, whatever clocks do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from zlib import crc32

from surgetank.encode import jsontext
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.encode.spelled import forms
from surgetank.events.types import (
    Forwarded,
    Gap,
    Incident,
    NewEvent,
    Original,
    PublicCause,
    RunEvent,
    Severity,
)
from surgetank.redis.address import RedisAddress
from surgetank.redis.connecting import server_at
from surgetank.redis.scripts import Scripts
from surgetank.redis.server import Arg, Call

_LOG = Scripts("surgetank.events", "redis_log.lua")
_INCIDENTS = Scripts("surgetank.events", "redis_incidents.lua")
_THREADS_KEPT = 200_000
_ORIGINALS_KEPT = 50_000
_CHAINS_KEPT_S = 2 * 86_400.0  # twice as long as rows are forwarded
_DROPPED_AT_ONCE = 5_000
_ALL_BYTES = 1 << 50


class RedisEventLog:
    """An `EventLog` on the server at `address`, keeping about `max_events` events for at most
    `max_age_s`. Raises `BufferUnavailable`, `BufferFull`."""

    over_network = True

    def __init__(
        self,
        address: RedisAddress,
        *,
        max_events: int = 200_000,
        max_age_s: float = 24 * 3600.0,
        originals_max_age_s: float = 24 * 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._server = server_at(address, name="event log")
        self._tags = [address.tag(shard) for shard in range(address.shards)]
        self._few = address.tag("incidents")
        self._alerts = address.tag("alerts")
        self._max_events = max_events
        self._max_age_s = max_age_s
        self._originals_max_age_s = originals_max_age_s
        self._clock = clock

    # -- events

    def publish(self, events: Sequence[NewEvent]) -> list[RunEvent]:
        now = self._clock()
        by_shard: dict[int, list[int]] = {}
        for number, event in enumerate(events):
            by_shard.setdefault(self._shard(event.thread_id), []).append(number)
        calls = []
        for shard, numbers in by_shard.items():
            args: list[Arg] = [now]
            for number in numbers:
                args += _args(events[number])
            calls.append(Call(_LOG["publish"], self._tags[shard], args, once=True))
        found: dict[int, RunEvent] = {}
        for numbers, replies in zip(by_shard.values(), self._server.call_all(calls), strict=True):
            for number, (id_, seq) in zip(numbers, replies, strict=True):
                event = events[number]
                found[number] = RunEvent(
                    id=id_,
                    type=str(event.type),
                    thread_id=event.thread_id,
                    seq=seq,
                    at=now,
                    data=dict(event.data),
                )
        return [found[number] for number in range(len(events))]

    def forward(self, rows: Sequence[Forwarded], position: str, *, anew: bool = False) -> int:
        """The position is written after all shards have their rows. After a kill in between they are
        sent again, and each shard knows which it has."""
        now = self._clock()
        by_shard: dict[int, list[Arg]] = {shard: [] for shard in range(len(self._tags)) if anew}
        for row in rows:
            thread = row.event.thread_id if row.event is not None else None
            event = _args(row.event) if row.event is not None else ["", "", b""]
            by_shard.setdefault(self._shard(thread), []).extend((row.chain, row.nth, *event))
        calls = [
            Call(_LOG["forward"], self._tags[shard], [now, int(anew), *args], once=True)
            for shard, args in by_shard.items()
        ]
        written = sum(self._server.call_all(calls))
        self._server.call(_LOG["set_position"], self._tags[0], [position], once=True)
        return int(written)

    def forward_position(self) -> str | None:
        (position,) = self._server.call(_LOG["position"], self._tags[0])
        return position.decode() if position else None

    def forwarded(self, chains: Sequence[int]) -> dict[int, int]:
        found: dict[int, int] = {}
        for nths in self._each("forwarded", *chains):
            for chain, nth in zip(chains, nths, strict=True):
                if nth:
                    found[chain] = max(found.get(chain, 0), int(nth))
        return found

    def tail(
        self, after_id: int, *, limit: int = 1000, max_bytes: int | None = None
    ) -> tuple[Gap | None, list[RunEvent]]:
        newest, gone = self._standing()
        if after_id > newest:  # a number of a log that is gone: begin again rather than wait for it
            return Gap(None, after_id, newest), []
        gap = Gap(None, after_id, gone) if after_id < gone else None
        if after_id == newest:
            return gap, []
        most = max_bytes if max_bytes is not None else _ALL_BYTES
        rows, complete = list[Any](), newest
        for more, found in self._each("page", after_id, newest, limit, most, once=True):
            rows += found
            if more:  # what comes after it in its shard may be older than what others have
                complete = min(complete, found[-1][0])
        page, size = list[RunEvent](), 0
        for row in sorted(rows, key=lambda row: row[0]):
            if row[0] > complete or len(page) >= limit or size >= most:
                break
            page.append(_event(*row))
            size += len(row[5])
        return gap, page

    def _standing(self) -> tuple[int, int]:
        """The newest number, and the last that is gone."""
        replies = self._each("standing")
        newest, gone = max(last for last, _ in replies), max(dropped for _, dropped in replies)
        return max(newest, gone), gone

    def thread_events(
        self,
        thread_id: str | None,
        after_seq: int = 0,
        *,
        limit: int = 1000,
        max_bytes: int | None = None,
    ) -> tuple[Gap | None, list[RunEvent]]:
        most = max_bytes if max_bytes is not None else _ALL_BYTES
        last, gone, rows = self._server.call(
            _LOG["thread"], self._tag(thread_id), [thread_id or "", after_seq, limit, most]
        )
        if after_seq > last:
            return Gap(thread_id, after_seq, last), []
        gap = Gap(thread_id, after_seq, gone) if after_seq < gone else None
        return gap, [_event(*row) for row in rows]

    def last_id(self) -> int:
        newest, _ = self._standing()
        # Somebody begins after it: no shard may give a smaller number from now on.
        self._each("page", newest, newest, 1, 1, once=True)
        return newest

    def before_last(self, count: int) -> int:
        if count < 1:
            return self.last_id()
        ids = sorted(id_ for ids in self._each("newest", count) for id_ in ids)
        if len(ids) < count:  # all that there are, and after what is gone: that is no news
            return self._standing()[1]
        return int(ids[-count]) - 1

    def last_seq(self, thread_id: str | None) -> int:
        last, _, _ = self._server.call(
            _LOG["thread"], self._tag(thread_id), [thread_id or "", 0, 0, 0]
        )
        return int(last)

    # -- incidents

    def raise_incident(self, incident: Incident) -> bool:
        public = incident.public
        body = jsontext.dumps(
            {
                "key": incident.key,
                "stream": incident.stream,
                "thread_id": incident.thread_id,
                "severity": incident.severity.value,
                "message": incident.message,
                "detail": incident.detail,
                "public": [public.error, public.reference],
            }
        )
        args: list[Arg] = [
            incident.key,
            incident.severity.rank,
            body,
            incident.affected,
            incident.since,
        ]
        return bool(self._server.call(_INCIDENTS["raise"], self._few, args, once=True))

    def clear_incident(self, key: str) -> Incident | None:
        stored = self._server.call(_INCIDENTS["clear"], self._few, [key], once=True)
        return _incident(*stored) if stored else None

    def incidents(self) -> list[Incident]:
        rows = self._server.call(_INCIDENTS["incidents"], self._few)
        found = [_incident(*row) for row in rows]
        return sorted(found, key=lambda incident: (incident.since, incident.key))

    def _forget_incidents(self, of: Callable[[Incident], bool]) -> None:
        keys = [incident.key for incident in self.incidents() if of(incident)]
        if keys:
            self._server.call(_INCIDENTS["forget"], self._few, keys, once=True)

    # -- originals

    def keep_originals(self, originals: Sequence[Original]) -> None:
        stored = [
            jsontext.dumps([o.stream, o.partition, o.job, o.path, o.reason, o.original, o.at])
            for o in originals
        ]
        self._server.call(_INCIDENTS["keep"], self._few, [_ORIGINALS_KEPT, *stored], once=True)

    def originals(self, *, thread_id: str | None = None, limit: int = 500) -> list[Original]:
        oldest = self._clock() - self._originals_max_age_s
        return [
            original
            for original, _ in self._originals()
            if original.at >= oldest and thread_id in (None, original.partition)
        ][:limit]

    def _originals(self) -> list[tuple[Original, bytes]]:
        rows = self._server.call(_INCIDENTS["originals"], self._few, [0, _ORIGINALS_KEPT])
        return [(Original(*jsontext.loads(row)), row) for row in rows]

    def _forget_originals(self, of: Callable[[Original], bool]) -> None:
        rows = [row for original, row in self._originals() if of(original)]
        for at in range(0, len(rows), 500):
            some = rows[at : at + 500]
            self._server.call(_INCIDENTS["forget_originals"], self._few, some, once=True)

    # -- forgetting

    def forget_thread(self, thread_id: str) -> None:
        self._server.call(_LOG["forget_thread"], self._tag(thread_id), [thread_id], once=True)
        self._forget_originals(lambda original: original.partition == thread_id)
        fork = f"fork:{thread_id}"  # told to operators only
        self._forget_incidents(lambda i: i.thread_id == thread_id or i.key == fork)

    def forget_lines(self, thread_id: str, numbers: Sequence[int]) -> None:
        args: list[Arg] = [thread_id, *numbers]
        self._server.call(_LOG["forget_lines"], self._tag(thread_id), args, once=True)

    def erase(self, threads: Iterable[str], words: Sequence[str]) -> None:
        gone = set(threads)
        by_shard: dict[int, list[str]] = {}
        for thread in gone:
            by_shard.setdefault(self._shard(thread), []).append(thread)
        self._server.call_all(
            [
                Call(_LOG["erase_threads"], self._tags[shard], some, once=True)
                for shard, some in by_shard.items()
            ]
        )
        spelled = sorted(forms(words))
        if spelled:
            self._server.call(_LOG["erase_words"], self._tag(None), spelled, once=True)
            self._server.call(_LOG["erase_alerts"], self._alerts, spelled, once=True)
        self._forget_originals(lambda original: original.partition in gone)
        self._forget_incidents(
            lambda i: (
                i.thread_id in gone
                or any(form in text for form in spelled for text in (i.message, i.detail, i.key))
            )
        )

    # -- life

    def size_bytes(self) -> int:
        return sum(self._each("size"))

    def scrub(self) -> bool:
        """Memory is given back at once; what the server's files still have goes when it rewrites
        them."""
        self._server.require_open()
        return True

    def maintain(self) -> None:
        now = self._clock()
        oldest = now - self._max_age_s
        counts = [count for count, _, _ in self._each("ages", oldest, 0)]
        over = min(sum(counts) - self._max_events, _DROPPED_AT_ONCE)
        replies = self._each("ages", oldest, max(over, 0))
        # By number, so that what is kept is always the end of the log, whatever a clock did.
        first_young = min((young for _, young, _ in replies if young), default=1 << 53)
        through = first_young - 1
        if over > 0:
            through = max(through, sorted(n for _, _, first in replies for n in first)[over - 1])
        most = max(1, _THREADS_KEPT // len(self._tags))
        self._each("drop", through, now - _CHAINS_KEPT_S, most, once=True)
        self._forget_originals(lambda original: original.at < now - self._originals_max_age_s)

    def close(self) -> None:
        self._server.close()

    def _shard(self, thread_id: str | None) -> int:
        return crc32((thread_id or "").encode()) % len(self._tags)

    def _tag(self, thread_id: str | None) -> bytes:
        return self._tags[self._shard(thread_id)]

    def _each(self, script: str, *args: Arg, once: bool = False) -> list[Any]:
        return self._server.call_all([Call(_LOG[script], tag, args, once) for tag in self._tags])


def _args(event: NewEvent) -> list[Arg]:
    return [event.thread_id or "", str(event.type), dumps_jsonb(dict(event.data))[0]]


def _event(id_: int, type_: bytes, thread: bytes, seq: int, at: bytes, body: bytes) -> RunEvent:
    try:
        data = dict(jsontext.loads(body))
    except (TypeError, ValueError) as error:  # shown as such: its neighbours are read
        data = {"unreadable": f"{len(body)} bytes ({error})", "begins": jsontext.preview(body)}
    return RunEvent(
        id=id_,
        type=type_.decode(),
        thread_id=thread.decode() or None,
        seq=seq,
        at=float(at),
        data=data,
    )


def _incident(_: bytes, stored: bytes, affected: bytes, since: bytes) -> Incident:
    body = jsontext.loads(stored)
    return Incident(
        key=body["key"],
        stream=body["stream"],
        thread_id=body["thread_id"],
        severity=Severity.of(body["severity"]),
        since=float(since),
        message=body["message"],
        detail=body["detail"],
        public=PublicCause(*body["public"]),
        affected=int(affected),
    )
