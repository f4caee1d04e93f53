"""A fixed history of puts, writes, forks, deletions and prunes, and the picture that must remain of
it.

Run as a program it plays the history or flushes it, killing itself (`kill -9`) at a named point:

    python -m support.workload play|flush HOME DATABASE_URL POINT OCCURRENCE
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from langgraph.checkpoint.base import ChannelVersions, Checkpoint

from support.killed import die_in
from surgetank import Surgetank, SurgetankSaver

THREADS = ("alpha", "beta", "gamma")


def config(thread: str, number: int | None, ns: str = "") -> Any:
    configurable = {"thread_id": thread, "checkpoint_ns": ns}
    return {
        "configurable": configurable
        | ({"checkpoint_id": cid(number)} if number is not None else {})
    }


def cid(number: int) -> str:
    return f"1f0c0000-0000-6000-8000-{number:012}"


def put(
    saver: SurgetankSaver, thread: str, number: int, parent: int | None, value: Any, ns: str = ""
) -> None:
    values = {"items": value, "n": number, "same": "unchanged"}
    versions: ChannelVersions = {
        "items": f"{number:032}.0",
        "n": f"{number:032}.0",
        "same": f"{1:032}.0",
    }
    made = Checkpoint(
        v=4, id=cid(number), ts=f"2026-01-01T00:00:{number % 60:02}+00:00", channel_values=values,
        channel_versions=versions, versions_seen={"node": {"items": versions["items"]}}, updated_channels=["items"],
    )  # fmt: skip
    new = versions if parent is None else {k: versions[k] for k in ("items", "n")}
    saver.put(
        config(thread, parent, ns), made, {"source": "loop", "step": number, "parents": {}}, new
    )


def steps(saver: SurgetankSaver) -> Iterator[str]:
    """Play the history; yields the name of each step once it is accepted."""
    for number in range(1, 13):
        for thread in THREADS:
            items = [f"{thread} says {i} " * 20 for i in range(number)]
            put(saver, thread, number, number - 1 or None, items)
            yield f"put {thread} {number}"
            saver.put_writes(
                config(thread, number),
                [("items", items[-1:]), ("n", float("nan"))],
                f"task-{number}",
                "~0",
            )
            yield f"writes {thread} {number}"
    put(saver, "alpha", 13, 4, ["a fork"])
    yield "fork"
    put(saver, "alpha", 5, 4, ["put again"])
    yield "put again"
    put(saver, "beta", 20, None, ["sub"], ns="sub:1")
    yield "subgraph"
    saver.delete_thread("gamma")
    yield "delete gamma"
    put(saver, "gamma", 30, None, ["a new conversation"])
    yield "new gamma"
    saver.put_writes(config("gamma", 12), [("late", 1)], "task")
    yield "late write"
    saver.prune(["beta"], strategy="keep_latest")
    yield "prune beta"
    put(saver, "beta", 14, 12, ["after", "pruning"])
    yield "put beta after pruning"


def picture(tank: Surgetank) -> dict[str, Any]:
    """All that a user could see, and what lies in the tables."""
    saver = tank.checkpointer()
    seen = {
        thread: [
            (t.config, t.checkpoint, t.metadata, t.parent_config, t.pending_writes)
            for t in saver.list({"configurable": {"thread_id": thread}})
        ]
        for thread in THREADS
    }
    return {"seen": repr(seen), "rows": tables(tank)}


def tables(tank: Surgetank) -> dict[str, list[Any]]:
    """The rows of the checkpoint tables, without numbers that a database gives and without
    compression's choices."""
    columns = {
        "checkpoints": "checkpoint_id, parent_id, metadata::text, scalars::text",
        "checkpoint_blobs": "channel, version, n, type, raw_bytes",
        "checkpoint_writes": "checkpoint_id, task_id, idx, task_path, channel, type, encode(data, "
        "'hex'),"
        " encode(others, 'hex')",
    }
    with tank.parts.database.connection() as connection:
        rows = {
            name: connection.execute(
                f"SELECT thread_id, checkpoint_ns, {shown} FROM surgetank.{name}"
                " JOIN surgetank.checkpoint_namespaces USING (ns_pk) ORDER BY 1, 2, 3, 4, 5"
            ).fetchall()
            for name, shown in columns.items()
        }
        rows["threads"] = connection.execute(
            "SELECT thread_id, checkpoint_id, versions::text, state::text FROM surgetank.threads "
            "ORDER BY 1"
        ).fetchall()
    return rows


def _die_at(tank: Surgetank, point: str, occurrence: int) -> None:
    """Kill this process at the nth time that `before_x` or `after_x` is reached."""
    when, _, method = point.partition("_")
    owner: Any = tank.parts.flushers["checkpoints"].sink if method == "write" else tank.parts.buffer
    die_in(owner, method, when, occurrence)


def main() -> None:
    mode, home, database_url, point, occurrence = sys.argv[1:]
    tank = Surgetank(
        home,
        database_url=database_url,
        flush_in_process=False,
        flush_batch_entries=7,
        lease_ttl=0.2,
    )
    tank.open()
    _die_at(tank, point, int(occurrence))
    if mode == "play":
        for name in steps(tank.checkpointer()):
            print(name, flush=True)
    else:
        tank.flush()
    print("survived", flush=True)
    tank.close()


if __name__ == "__main__":
    main()
