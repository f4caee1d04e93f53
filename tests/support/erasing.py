"""A user who left traces everywhere, and the search for them in the bytes of files; and an erasure
that is killed.

python -m support.erasing HOME DATABASE_URL USER STEP
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support.savers import put
from support.spilling import spill
from support.stores import index_of
from surgetank import Surgetank
from surgetank.server.access.roles import Role
from surgetank.server.access.tokens import TokenStore
from surgetank.server.http.outage import PatientDatabase
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
