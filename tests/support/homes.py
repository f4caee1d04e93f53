"""Homes as a released format left them: made by that version's code, kept compressed, with what
must be read from them.

`python -m support.homes NAME.tar.xz`, run with the code of a release, makes one: `home/`, and in
`expected.json` what that code read from it. Nothing is closed before the files are taken, so the
write-ahead logs are part of the home.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage

from support.buffers import BAD, FakeClock
from support.graphs import agent
from support.spilling import spill
from support.workload import config, put
from surgetank import Surgetank
from surgetank.buffer.coordination import Ack, Due
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.events.protocol import EventLog
from surgetank.events.types import Incident, NewEvent, Original, Severity
from surgetank.model import Failure, Record
from surgetank.notify.alerts.book import Alert, Message
from surgetank.notify.alerts.sqlite_book import SQLiteAlertBook

FIXTURES = Path(__file__).parents[1] / "fixtures"
STREAMS = ("checkpoints", "thread_logs", "system_errors", "notes-only")
AT = 1_760_000_000.0  # when the home was left
LEASE_S = 600.0
TALKS = ("talk-1", "talk-2", "talk-spilled")


def open_home(home: Path, database_url: str, clock: FakeClock, **settings: Any) -> Surgetank:
    """An engine on such a home; nothing flushes unless the test says so."""
    return Surgetank(
        home, database_url=database_url, clock=clock, flush_in_process=False, flush_on_close=False,
        fallback_url=str(home / "fallback"), debug_originals=True, node="old", **settings,
    ).open()  # fmt: skip


def talks(tank: Surgetank) -> dict[str, list[str]]:
    """What was said in each conversation, by the graph's own state."""
    graph = agent(tank.checkpointer())
    said = {}
    for thread in TALKS:
        state = graph.get_state({"configurable": {"thread_id": thread}})
        said[thread] = [f"{m.type}: {m.content}" for m in state.values["messages"]]
        said[thread].append(f"{state.next} {len(list(graph.get_state_history(state.config)))}")
    return said


def picture(buffer: Any) -> dict[str, Any]:
    """All that a buffer says it holds, values by their digests."""
    seen: dict[str, Any] = {}
    for stream in STREAMS:
        with buffer.snapshot() as snapshot:
            for name in snapshot.partitions(stream):
                seen[f"{stream}/{name}"] = [
                    [
                        f.key.hex(),
                        f.seq,
                        f.parked,
                        len(f.value),
                        hashlib.sha256(f.value).hexdigest(),
                    ]
                    for f in snapshot.scan(stream, name, b"")
                ]
            for name in {*snapshot.partitions(stream), "noted", "deleted"}:
                if notes := snapshot.notes(stream, name):
                    seen[f"notes of {stream}/{name}"] = {
                        k.hex(): v.hex() for k, v in sorted(notes.items())
                    }
    depth = buffer.depth()
    seen["depth"] = [depth.entries, depth.bytes]
    seen["states"] = [
        [
            s.stream,
            s.partition,
            s.entries,
            s.bytes,
            s.oldest_at,
            s.attempts,
            s.leased_by,
            _message(s.failure),
        ]
        for s in buffer.states()
    ]
    seen["jobs"] = [[j.id, j.stream, j.status.value, j.created_at] for j in buffer.jobs()]
    seen["parked"] = [
        [p.id, p.stream, p.partition, p.seq, p.bytes, p.failure.message] for p in buffer.parked()
    ]
    seen["spills"] = [[f.number, f.name, f.state, f.records] for f in buffer.spill_files()]
    return _plain(seen)


def _message(failure: Failure | None) -> str | None:
    return failure.message if failure is not None else None


def told(events: EventLog, alerts: SQLiteAlertBook) -> dict[str, Any]:
    """All that an event log and the alert book in its file hold."""
    _, tail = events.tail(0)
    return _plain(
        {
            "events": [event.to_dict() for event in tail],
            "incidents": [
                [i.key, i.stream, i.severity.value, i.since, i.message] for i in events.incidents()
            ],
            "originals": [[o.partition, o.path, o.original] for o in events.originals()],
            "told": [[t.rule, t.subject, t.at] for t in alerts.sent()],
            "attempts": [
                [a.id, a.channel, a.title, a.outcome.value, a.error] for a in alerts.attempts()
            ],
            "health": [[h.channel, h.delivered, h.failed] for h in alerts.health()],
            "waiting": alerts.waiting(),
        }
    )


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(value))
    return made


def unpack(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Unpack a fixture into a folder; the home, and what must be read from it."""
    with tarfile.open(FIXTURES / name) as archive:
        archive.extractall(folder, filter="data")
    home = folder / "home"
    # Where spilled values lie is an absolute path: it was on another machine.
    with sqlite3.connect(home / "buffer.db") as file:
        file.execute("UPDATE spills SET address = ?", (str(home / "fallback"),))
    file.close()
    return home, json.loads((folder / "expected.json").read_text())


def fill(tank: Surgetank, clock: FakeClock) -> None:
    """A bit of everything."""
    buffer, saver = tank.parts.buffer, tank.checkpointer()
    assert isinstance(buffer, SQLiteBuffer)
    graph = agent(saver)
    for thread in TALKS:
        at = {"configurable": {"thread_id": thread}}
        words = [
            f"{thread} asks about {i}: " + " ".join(f"word{j * i % 97}" for j in range(40))
            for i in range(6)
        ]
        for said in words:
            graph.invoke({"messages": [HumanMessage(said)], "steps": 3}, at)
            clock.advance(1)
        if thread == "talk-spilled":
            others = [Due(partition=name, force=True) for name in TALKS[:2]]
            held = [
                x.lease
                for due in others
                for x in buffer.lease("checkpoints", due, owner="old", ttl_s=5)
            ]
            assert spill(tank) > 0
            buffer.release(held)
    put(saver, "forked", 1, None, ["one"])
    put(saver, "forked", 2, 1, ["one", "two"])
    put(saver, "forked", 3, 1, ["one", "fork"])
    saver.put_writes(config("forked", 3), [("items", ["three"]), ("n", 4)], "task")
    put(saver, "deleted", 1, None, ["secret"])
    saver.delete_thread("deleted")
    saver.put_writes(config("deleted", 1), [("items", ["late"])], "late")
    put(saver, "deleted", 2, 1, ["a late child"])
    put(saver, "deleted", 9, None, ["a new conversation"])
    for number in range(1, 5):
        put(saver, "bad", number, number - 1 or None, [f"bad {i}" * 40 for i in range(number)])
    (bad,) = buffer.lease("checkpoints", Due(partition="bad", force=True), owner="old", ttl_s=5)
    (_, second, *_) = buffer.read(bad.lease, max_entries=10, max_bytes=1 << 30)
    buffer.park(bad.lease, second.seq, BAD)
    buffer.release([bad.lease])
    buffer.append("notes-only", "noted", [Record(b"k", b"v")])
    (noted,) = buffer.lease("notes-only", Due(force=True), owner="old", ttl_s=5)
    entries = buffer.read(noted.lease, max_entries=10, max_bytes=1 << 30)
    buffer.ack([Ack(noted.lease, entries, maxima={b"m": b"7"}, passing={b"p": b"1"}, release=True)])
    for i in range(30):
        tank.emit_log(
            f"line {i}", thread_id="talk-1", level="warning" if i % 7 == 0 else "info", number=i
        )
        tank.log_system_error(
            "PaymentFailed", f"card {i} refused", thread_id="talk-1", context={"attempt": i}
        )
    tank.broadcast_run_event("progress", thread_id="talk-2", percent=50)
    assert tank.flush().ok is False
    events = tank.parts.reporting.events
    events.publish([NewEvent("custom", "talk-1", {"n": i}) for i in range(20)])
    events.raise_incident(
        Incident("k", "checkpoints", "talk-1", Severity.CRITICAL, clock.now, "it is down", "why")
    )
    events.keep_originals(
        [Original("checkpoints", "talk-1", "job", "$.x", "nan", "NaN", clock.now)]
    )


def tell(book: SQLiteAlertBook) -> None:
    """An alert that waits, one that arrived, one that failed."""
    alerts = [Alert("rule", f"s{i}", Severity.ERROR, f"title {i}", "text") for i in range(3)]
    book.post(
        alerts,
        ("a", "b"),
        lambda new: [Message("rule", Severity.ERROR, x.title, x.text) for x in new],
        throttle_s=60,
    )
    first, second = book.take("a", hold_s=5), book.take("b", hold_s=5)
    assert first is not None
    assert second is not None
    book.record(first, None)
    book.record(second, "refused")


def _composed(alerts: Sequence[Alert]) -> list[Message]:
    return [Message(alert.rule, alert.severity, alert.title, alert.text) for alert in alerts]


def main() -> None:
    clock = FakeClock(AT - 100)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "live", "home")
        tank = open_home(home, "postgresql://nobody@127.0.0.1:1/none", clock, connect_timeout=0.2)
        fill(tank, clock)
        book = SQLiteAlertBook(home / "buffer-events.db", clock=clock)
        tell(book)
        clock.now = AT
        tank.parts.buffer.lease(
            "thread_logs", Due(force=True), owner="killed worker", ttl_s=LEASE_S
        )
        expected = {
            "picture": picture(tank.parts.buffer), "told": told(tank.parts.reporting.events, book),
            "talks": talks(tank),
        }  # fmt: skip
        copy = Path(folder, "copy")
        shutil.copytree(home.parent, copy, ignore=shutil.ignore_patterns("*-shm"))
        (copy / "expected.json").write_text(json.dumps(expected))
        with tarfile.open(sys.argv[1], "w:xz") as archive:
            for path in (copy / "home", copy / "expected.json"):
                archive.add(path, path.name, filter=_anonymous)
        book.close()
        tank.close()


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    main()
