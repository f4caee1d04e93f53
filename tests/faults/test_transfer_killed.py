"""kill -9 of an import or export at every kind of point: started again, it doubles nothing and
misses nothing.

The final rows are compared with those of a move that nothing disturbed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import workload
from support.commands import run_module
from support.graphs import delta_graph
from support.postgres import PostgresServer
from support.recycling import Databases
from support.savers import put, put_chain
from support.transfer import Official, cli_in_process, postgres_official, sqlite_official
from surgetank import Surgetank

LOG = "surgetank.buffer.sqlite.log:SQLiteLog"
ACKS = "surgetank.buffer.sqlite.acks:SQLiteAcks"
SINK = "surgetank.streams.checkpoints.cold.sink:PostgresCheckpointSink"
JOURNAL = "surgetank.streams.checkpoints.transfer.journal:Journal"
SAVERS = {
    "postgres": "langgraph.checkpoint.postgres:PostgresSaver",
    "sqlite": "langgraph.checkpoint.sqlite:SqliteSaver",
}


@contextmanager
def opened(kind: str, server: PostgresServer, folder: Path) -> Iterator[Official]:
    """An empty saver of the kind."""
    if kind == "sqlite":
        with sqlite_official(folder / "checkpoints.sqlite") as found:
            yield found
        return
    name = server.create_database()
    with postgres_official(server.url_of(name)) as found:
        yield found
    server.drop_database(name)


@pytest.fixture(params=["postgres", "sqlite"])
def official(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, tmp_path: Path
) -> Iterator[Official]:
    with opened(request.param, postgres_server, tmp_path) as found:
        yield found


@dataclass(frozen=True)
class Undisturbed:
    """A filled saver, and what an import that nothing disturbed makes of it."""

    source: str
    moved: int
    rows: dict[str, list[Any]]


@pytest.fixture(scope="module", params=["postgres", "sqlite"])
def undisturbed_import(
    request: pytest.FixtureRequest,
    postgres_server: PostgresServer,
    databases: Databases,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Undisturbed]:
    folder = tmp_path_factory.mktemp("undisturbed")
    name = databases.take()
    url = postgres_server.url_of(name)
    with opened(request.param, postgres_server, folder) as found:
        fill(found.saver)
        move = ("import", "--from", found.address, "--json")
        moved = cli_in_process(*move, home=folder / "home", url=url).report()["checkpoints"]
        with Surgetank(folder / "home", database_url=url, flush_in_process=False) as tank:
            rows = ours(tank)
        yield Undisturbed(found.address, moved, rows)
    databases.give_back(name)


def fill(saver: Any) -> None:
    """Threads with forks, pending writes, namespaces and a DeltaChannel."""
    for thread in ("a", "b"):
        chain = put_chain(saver, thread, 6)
        fork = put(saver, thread, {"items": ["fork"]}, parent=chain[2], step=7)
        for c in (*chain, fork):
            saver.put_writes(c, [("items", 1), ("__interrupt__", "?"), ("step", [2])], "task", "~0")
        put_chain(saver, thread, 2, ns="sub:1")
    for step in range(4):
        delta_graph(saver).invoke(
            {"items": [f"step {step}"]}, {"configurable": {"thread_id": "delta"}}
        )


def killed(when: str, point: str, occurrence: int, *arguments: str, home: Path, url: str) -> None:
    """Run the command in a process that kills itself at this point."""
    done = run_module(
        "support.killed", when, point, occurrence, *arguments,
        SURGETANK_HOME=str(home), SURGETANK_DATABASE_URL=url, SURGETANK_LEASE_TTL="0.2",
    )  # fmt: skip
    assert done.returncode == -9, done.stderr


def ours(tank: Surgetank) -> dict[str, list[Any]]:
    """Our rows. How versions are numbered in their chains is not looked at: only that each is there
    once."""
    rows = workload.tables(tank)
    rows["checkpoint_blobs"] = sorted(row[:4] + row[5:] for row in rows["checkpoint_blobs"])
    return rows


@pytest.mark.parametrize(
    ("when", "point", "occurrence"),
    [
        ("before", f"{LOG}.append", 1),
        ("after", f"{LOG}.append", 4),
        ("before", f"{LOG}.append", 9),
        ("before", f"{SINK}.write", 1),
        ("after", f"{SINK}.write", 2),
        (
            "before",
            f"{SINK}.write",
            6,
        ),  # the last one: nothing is left to be read then, but to be flushed
        ("after", f"{ACKS}.ack", 2),
        ("before", f"{JOURNAL}.done", 1),
        ("after", f"{JOURNAL}.done", 2),
        ("before", f"{JOURNAL}.finish", 1),
    ],
)
def test_a_killed_import_goes_on_where_it_stopped(
    make_tank, undisturbed_import, tmp_path, database_url, when, point, occurrence
):
    move = ("import", "--from", undisturbed_import.source, "--json")
    here = {"home": tmp_path / "home", "url": database_url}

    killed(when, point, occurrence, *move, **here)
    told = cli_in_process(*move, **here).report()

    assert told["resumed"]
    assert told["checkpoints"] < undisturbed_import.moved or point.endswith("append")
    assert told["skipped"] == []
    tank = make_tank()
    assert tank.status().buffer.entries == 0
    assert ours(tank) == undisturbed_import.rows


@pytest.mark.parametrize(
    ("when", "method", "occurrence"),
    [
        ("before", "put_writes", 1),
        ("after", "put_writes", 3),
        ("before", "put", 1),
        ("after", "put", 4),
        ("before", "put", 11),
        ("before", "done", 1),
        ("after", "done", 2),
    ],
)
def test_a_killed_export_goes_on_where_it_stopped(
    tank, official, tmp_path, database_url, request, when, method, occurrence
):
    kind = request.node.callspec.params["official"]
    fill(tank.checkpointer())
    assert tank.flush("checkpoints", "a").ok
    move = ("export", "--to", official.address, "--json")
    here = {"home": tmp_path / "home", "url": database_url}
    point = f"{JOURNAL}.done" if method == "done" else f"{SAVERS[kind]}.{method}"

    killed(when, point, occurrence, *move, **here)
    assert cli_in_process(*move, **here).report()["resumed"]

    found = official.rows()
    for thread in ("a", "b", "delta"):
        official.saver.delete_thread(thread)
    cli_in_process(*move, **here).report()
    assert found == official.rows(), "as if nothing had happened"
