"""What people expect of a package: a version, a `repr` to read, `setup()`, a clear no to a missing
thread id."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from typing import Any

import psycopg
import pytest

import surgetank
from support.savers import config, listed, put_chain
from surgetank import EntryRejected, Surgetank
from surgetank.cli.output import when
from surgetank.model import Failure, FailureKind, ParkedEntry


def test_the_version_is_that_of_the_package() -> None:
    version = importlib.metadata.version("surgetank")
    assert surgetank.__version__ == version
    done = subprocess.run(
        [sys.executable, "-m", "surgetank", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"surgetank {version}\n"


def test_what_is_shown_of_an_engine_says_what_it_is_and_no_secret(tmp_path: Any) -> None:
    secret = "postgresql://me:geheim@db.example.com/app"
    tank = Surgetank(tmp_path / "home", database_url=secret)
    assert (
        repr(tank) == f"<Surgetank home='{tmp_path}/home' database=db.example.com:5432/app closed>"
    )


def test_what_is_shown_of_savers_jobs_and_status_is_one_short_line(make_tank: Any) -> None:
    tank = make_tank()
    saver = tank.checkpointer()
    assert repr(saver) == f"<SurgetankSaver on {tank.settings.buffer_path}>"
    put_chain(saver, "t", 2)
    assert re.fullmatch(
        r"<Status \w+: 2 entries wait \(lag [\d.]+ s\), 0 failing, 0 parked>", repr(tank.status())
    )
    job = tank.flush()
    assert repr(job) == f"<FlushJob {job.id} of checkpoints: completed, 2 entries, 0 warnings>"
    assert repr(tank).endswith(" open>")
    failure = Failure(FailureKind.REJECTED, "row (geheim)", "DataError", stack_trace="line\nline")
    parked = ParkedEntry(3, "checkpoints", "t", 7, 120, 1.0, 2.0, failure)
    assert repr(parked) == "<ParkedEntry 3: checkpoints/t entry 7, 120 bytes, DataError>"


async def test_setup_makes_the_schema_and_may_be_called_again(
    fresh_database: str, make_tank: Any
) -> None:
    saver = make_tank(database_url=fresh_database).checkpointer()
    saver.setup()
    with psycopg.connect(fresh_database) as connection:
        assert connection.execute(
            "SELECT to_regclass('surgetank.checkpoints') IS NOT NULL"
        ).fetchone() == (True,)
    saver.setup()
    await saver.asetup()


async def test_setup_during_an_outage_raises_nothing_says_why_and_the_graph_goes_on(
    make_tank: Any, caplog: pytest.LogCaptureFixture
) -> None:
    saver = make_tank(database_url="postgresql://nobody@127.0.0.1:1/none").checkpointer()
    saver.setup()
    await saver.asetup()
    assert len([r for r in caplog.messages if "setup_postponed" in r]) == 2
    put_chain(saver, "t", 2)
    assert len(listed(saver, "t")) == 2


@pytest.mark.parametrize("given", [{"thread_id": None}, {}])
def test_a_missing_thread_id_is_refused_with_the_way_out(
    make_tank: Any, given: dict[str, Any]
) -> None:
    saver = make_tank().checkpointer()
    checkpoint = listed(saver, "t") or put_chain(saver, "t", 1)
    stored = next(iter(saver.list(config("t"))))
    nameless: Any = {"configurable": {**given, "checkpoint_ns": ""}}
    for call in (
        lambda: saver.get_tuple(nameless),
        lambda: saver.put(nameless, stored.checkpoint, stored.metadata, {}),
        lambda: saver.put_writes(nameless, [("a", 1)], "task"),
    ):
        with pytest.raises(EntryRejected, match=r"no thread id.*Way out: give one"):
            call()
    assert checkpoint
    assert [t.config["configurable"]["thread_id"] for t in saver.list(None)] == ["t"]


def test_none_is_no_name_of_a_thread_for_deleting_copying_pruning_and_listing(
    make_tank: Any,
) -> None:
    saver = make_tank().checkpointer()
    put_chain(saver, "None", 1)
    nobody: Any = None
    for call in (
        lambda: saver.delete_thread(nobody),
        lambda: saver.copy_thread(nobody, "x"),
        lambda: saver.copy_thread("None", nobody),
        lambda: saver.prune([nobody], strategy="delete"),
        lambda: list(saver.list({"configurable": {"thread_id": nobody}})),
    ):
        with pytest.raises(EntryRejected, match="no thread id"):
            call()
    assert len(listed(saver, "None")) == 1


def test_times_are_shown_with_their_zone() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d", when(1_700_000_000.0))
    assert when(None) == "-"
    assert when(1e18) == "1000000000000000000 s since 1970 UTC"
