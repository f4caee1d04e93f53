"""kill -9 of a process that flushes into a saver: flushed again, the saver's rows are as if nothing
had happened."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.commands import run_module
from support.killed import die_at
from support.savers import listed, put, put_chain
from support.transfer import Official, postgres_official, sqlite_official
from surgetank import Surgetank

SINK = "surgetank.streams.checkpoints.any_saver.sink:SaverSink"
SAVERS = {
    "postgres": "langgraph.checkpoint.postgres:PostgresSaver",
    "sqlite": "langgraph.checkpoint.sqlite:SqliteSaver",
}


def open_official(kind: str, address: str) -> Any:
    return postgres_official(address) if kind == "postgres" else sqlite_official(Path(address))


def flush(home: str, database_url: str, kind: str, address: str) -> None:
    """Flush all into the saver."""
    settings: Any = {
        "flush_in_process": False,
        "flush_on_close": False,
        "lease_ttl": 0.2,
        "flush_batch_entries": 6,
    }
    with (
        open_official(kind, address) as official,
        Surgetank(home, database_url=database_url, sink=official.saver, **settings) as tank,
    ):
        job = tank.flush()
        assert job.ok, job.result


@pytest.fixture(params=["postgres", "sqlite"])
def official(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Official]]:
    kind = request.param
    address = (
        request.getfixturevalue("fresh_database")
        if kind == "postgres"
        else str(tmp_path / "c.sqlite")
    )
    with open_official(kind, address) as found:
        yield kind, found


@pytest.mark.parametrize(
    ("when", "point", "occurrence"),
    [
        ("after", "SINK.write", 1),  # between write and acknowledgement
        ("after", "SINK.write", 2),
        ("before", "SAVER.put", 3),
        ("after", "SAVER.put", 4),
        ("before", "SAVER.put_writes", 2),
        ("after", "SAVER.delete_thread", 1),
    ],
)
def test_a_killed_flush_into_a_saver_leaves_no_trace(
    make_tank, official, tmp_path, database_url, when, point, occurrence
):
    kind, target = official
    tank = make_tank()
    saver = tank.checkpointer()
    chain = put_chain(saver, "t", 6)
    for c in chain:
        saver.put_writes(c, [("items", 1), ("__interrupt__", "?")], "task", "~0")
    put_chain(saver, "gone", 3)
    saver.delete_thread("gone")
    put(saver, "gone", {"a": "new"})
    expected = [t.checkpoint for t in listed(saver, "t")]
    home = str(tmp_path / "home")
    point = point.replace("SINK", SINK).replace("SAVER", SAVERS[kind])

    done = run_module(
        "faults.test_saver_sink_killed",
        when,
        point,
        occurrence,
        home,
        database_url,
        kind,
        target.address,
    )
    assert done.returncode == -9, done.stderr
    flush(home, database_url, kind, target.address)

    assert tank.status().buffer.entries == 0
    assert [t.checkpoint for t in listed(target.saver, "t")] == expected
    assert all(len(t.pending_writes or ()) == 2 for t in listed(target.saver, "t"))
    assert [t.checkpoint["channel_values"] for t in listed(target.saver, "gone")] == [{"a": "new"}]
    tables = target.rows()
    assert len(tables["checkpoints"]) == 7
    assert len(tables.get("writes", tables.get("checkpoint_writes", []))) == 12


if __name__ == "__main__":
    die_at(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    flush(*sys.argv[4:])
