"""A user who left traces everywhere, and the search for them in the bytes of files; and an erasure
that is killed.

python -m support.erasing HOME DATABASE_URL USER STEP
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa

from support.savers import put
from support.spilling import spill
from support.stores import index_of
from surgetank import Surgetank
from surgetank.model import Failure, FailureKind
from surgetank.server.access.roles import Role
from surgetank.server.access.tokens import TokenStore
from surgetank.server.http.outage import PatientDatabase
from surgetank.streams.tables import insertion
from surgetank.streams.tables.cold.manifest import Manifest
from surgetank.streams.tables.hot.protocol import Refused
from surgetank.workflows.store.scope import Scope

MARK = "zq7-trace-of-ada"
USER = f"ada-{MARK}"


def leave_traces(tank: Surgetank, user: str = USER, mark: str = MARK) -> None:
    """Threads (cold, hot, spilled, parked, copied), lines, events, originals, errors, jobs, tokens,
    kept answers, an item of the store."""
    saver = tank.checkpointer()
    for number in range(3):
        thread = f"t{number}-{mark}"
        first = put(saver, thread, {f"c{mark}": mark * 50, "big": os.urandom(9000).hex() + mark}, user_id=user,
                    note=f"a\u0000{mark}", score=float("nan"))  # fmt: skip
        saver.put_writes(first, [("x", mark)], task_id=f"task-{number}")
        tank.emit_log(f"said {mark}", thread_id=thread, user_id=user, text=mark)
        tank.broadcast_run_event("said", thread_id=thread, text=mark)
    assert tank.flush().ok
    tank.log_system_error("odd", f"it broke for {mark}", thread_id=f"t0-{mark}", severity="critical",
                          stack_trace=f"Traceback\n  {mark}", context={"said": mark})  # fmt: skip
    tank.log_system_error("odder", f"no thread {mark}", context={"user_id": user, "said": mark})
    put(saver, f"t0-{mark}", {f"c{mark}": mark}, step=1, user_id=user)
    put(saver, f"t9-{mark}", {"only": mark}, user_id=user)
    tank.emit_log(f"a guest's line {mark}", thread_id="bobs", user_id=user)
    if tank.settings.fallback_url is not None:
        spill(tank)
    own = tank.store(index=index_of()).within(Scope.below(user))
    own.put((f"notes {mark}",), mark, {"text": mark, mark: "x"}, ttl=60)
    tokens = TokenStore(PatientDatabase(tank.parts.database))
    token, _ = tokens.create(user, Role.VIEWER, by="admin", label=mark)
    with tank.parts.database.connection() as connection:
        connection.execute(
            "INSERT INTO surgetank.idempotency_keys (scope, key, fingerprint, claim, body)"
            " VALUES (%s, 'k', '', 'c', %s), (%s, 'k', '', 'c', %s)",
            (f"token:{token.id}", mark.encode(), f"user:{user}", mark.encode()),
        )


def leave_rows(tank: Surgetank, user: str = USER, mark: str = MARK) -> None:
    """Rows of tables: in files of several snapshots, merged, changed, deleted, hot, in segments, parked, with
    idempotency keys, of a flush that was interrupted, of a table that was dropped; and bob's beside each."""
    opened = tank.parts.tables.open()
    tank.sql(
        "CREATE TABLE diary (id BIGINT PRIMARY KEY, text TEXT, tags TEXT[]);"
        "CREATE TABLE dropped (text TEXT); CREATE STREAM TABLE ticks (text TEXT) WITH (TTL_SECONDS=1000)"
    )
    table = tank.tables.describe("diary")
    for number in range(9):
        for who in (user, "bob"):
            text = f"{mark} {number}" if who == user else f"bob's {number}"
            rows = [{"id": number, "text": text, "tags": [text]}]
            tank.tables.insert("diary", rows, user=who, key=f"{text} key")
        if number < 8:
            assert tank.tables.flush().ok
    tank.sql("UPDATE diary SET text = text || '!' WHERE id = 1; DELETE FROM diary WHERE id = 2")
    assert tank.tables.flush().ok
    opened.cold.compact(table)
    tank.sql("UPDATE diary SET text = text || '?' WHERE id = 3")
    for who, text in ((user, mark), ("bob", "bob's")):
        for name in ("dropped", "ticks"):
            tank.sql(f"INSERT INTO {name} VALUES (?)", [text], user=who)
        rows = [{"id": 100 + at, "text": f"{text} {at}", "tags": []} for at in range(2)]
        with mock.patch.object(insertion, "SEGMENT_ROWS", 2):
            tank.tables.insert("diary", pa.Table.from_pylist(rows), user=who)
    assert tank.tables.flush("dropped").ok
    with mock.patch.object(Manifest, "locked", side_effect=KeyboardInterrupt):
        with suppress(KeyboardInterrupt):
            tank.tables.flush("diary")
        with suppress(KeyboardInterrupt):
            tank.tables.drop("dropped")
    tank.sql("INSERT INTO diary VALUES (200, ?, NULL)", [f"parked {mark}"], user=user)
    lease = opened.hot.lease(table, owner="test", ttl_s=30, force=True)
    assert lease is not None
    failure = Failure(FailureKind.REJECTED, f"not {mark}", "Odd")
    opened.hot.ack(lease, 0, refused=[Refused(user, lease.through, failure)])
    opened.hot.release(lease)
    assert len(opened.hot.parked()) == 1


def traces(
    folders: Iterable[Path], mark: str = MARK, *, but: tuple[str, ...] = ("pg_wal", "wal")
) -> list[str]:
    """The files that hold the mark, in any of the forms in which it may be stored."""
    forms = [mark.encode(), mark.encode("utf-16-le"), mark.encode().hex().encode()]
    found: list[str] = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not any(part in but for part in path.parts):
                data = path.read_bytes()
                found += [str(path)] if any(form in data for form in forms) else []
    return found


def main() -> None:
    """Erase, and be killed just before the step with this number begins."""
    home, database_url, user, step = sys.argv[1:]
    with Surgetank(
        home, database_url=database_url, flush_in_process=False, flush_on_close=False
    ) as tank:
        count = 0

        def counted(owner: Any, name: str) -> None:
            plain = getattr(owner, name)

            def wrapped(*args: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == int(step):
                    os.kill(os.getpid(), signal.SIGKILL)
                return plain(*args, **options)

            setattr(owner, name, wrapped)

        for name in ("append", "erase", "scrub"):
            counted(tank.parts.buffer, name)
        for name in ("connection", "reading"):
            counted(tank.parts.database, name)
        tank.erase_user(user)
    print("survived", flush=True)


if __name__ == "__main__":
    main()
