"""SQL of people who are not trusted: it has their rows and nothing else, and is over when its time is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from datetime import time as dtime
from decimal import Decimal

import psutil
import pyarrow as pa
import pytest

from support.hostile_sql import EXPENSIVE, statements
from support.waiting import wait_until
from surgetank.exceptions import Conflict, EngineClosed, InvalidRequest, QuotaExceeded
from surgetank.streams.tables.query.cancelling import Cancellation
from surgetank.streams.tables.query.names import Reference
from surgetank.streams.tables.query.pool import QueryPool
from surgetank.streams.tables.query.process import ChildProcess, Limits, StatementRefused

MARKER = "SECRET-8c1f"
MINE = pa.table({"id": [1, 2, 3], "note": ["one", "two", "three"], "wide": ["x"] * 3})


@pytest.fixture(scope="module")
def pool() -> Iterator[QueryPool]:
    pool = QueryPool(2, limits=Limits(time_s=0.5))
    yield pool
    pool.close()


def mine(reference: Reference) -> pa.RecordBatchReader | None:
    """Whatever is asked for, there are only these rows."""
    asked = (reference.schema or "app").casefold(), reference.name.casefold()
    return MINE.to_reader() if asked in (("app", "mine"), ("system", "jobs")) else None


def rows(pool: QueryPool, text: str, **more) -> list[dict]:
    return pool.run(text, user="ada", tables=mine, **more).table.to_pylist()


def _text(table: pa.Table) -> str:
    """All of an answer, also where Python has no such date."""
    try:
        return str(table.to_pylist())
    except (OverflowError, ValueError):
        return table.to_string(preview_cols=1000)


def test_hundreds_of_hostile_statements_read_no_file_make_none_and_leak_nothing(pool, tmp_path):
    marker, new = tmp_path / "marker.csv", tmp_path / "new"
    marker.write_text(f"a\n{MARKER}\n")
    before = list(tmp_path.iterdir())
    # The rows of somebody else go through the same processes, between the hostile ones.
    theirs = pa.table({"id": [9], "secret": [MARKER]})
    texts = statements(marker, new)
    answered = 0

    def attack(number: int, text: str) -> None:
        nonlocal answered
        found: object
        if number % 40 == 0:
            pool.run("SELECT * FROM app.theirs", user="bob", tables=lambda _: theirs.to_reader())
        try:
            found = _text(pool.run(text, user=f"mallory-{number % 2}", tables=mine).table)
            answered += 1
        except (InvalidRequest, QuotaExceeded) as refused:
            found = refused
        assert MARKER not in str(found), text

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(attack, range(len(texts)), texts))
    assert len(texts) > 400
    assert (
        answered > 20
    )  # the harmless ones are answered: not everything was refused for one reason
    assert list(tmp_path.iterdir()) == before


@pytest.mark.parametrize("text", EXPENSIVE)
def test_what_takes_everything_is_over_within_its_limit_and_a_second(pool, text):
    pool.run("SELECT 1", user="mallory", tables=mine)  # its process is there
    before = psutil.Process().memory_info().rss
    began = time.monotonic()
    with pytest.raises(QuotaExceeded):
        pool.run(text, user="mallory", tables=mine, limits=Limits(time_s=0.2, memory_bytes=2**28))
    assert time.monotonic() - began < 0.2 + 1
    assert psutil.Process().memory_info().rss - before < 50 * 1024**2


def test_what_would_be_written_to_a_disk_elsewhere_is_too_large_here():
    pool = QueryPool(1, limits=Limits(time_s=20, memory_bytes=2**27))
    text = "SELECT count(*) FROM (SELECT DISTINCT hash(range) FROM range(20000000))"
    with pytest.raises(QuotaExceeded, match="more memory than its 128 MB: Out of Memory"):
        pool.run(text, user="mallory", tables=mine)
    pool.close()


def test_others_go_on_while_somebody_takes_everything(pool):
    took = []
    for user in ("ada", "mallory"):  # their processes are there
        pool.run("SELECT 1", user=user, tables=mine)
    with ThreadPoolExecutor(1) as threads:
        longer = replace(pool.limits, time_s=2.5)
        hostile = threads.submit(pool.run, EXPENSIVE[3], user="mallory", tables=mine, limits=longer)
        while not hostile.done():
            began = time.monotonic()
            assert rows(pool, "SELECT count(*) AS n FROM app.mine") == [{"n": 3}]
            took.append(time.monotonic() - began)
        with pytest.raises(QuotaExceeded):
            hostile.result()
    assert len(took) > 1


def test_only_columns_that_a_query_needs_are_asked_for(pool):
    asked: list[Reference] = []

    def tables(reference: Reference) -> pa.RecordBatchReader:
        asked.append(reference)
        return MINE.to_reader()

    pool.run(
        'SELECT "ID" FROM app.mine m WHERE note = $1', user="ada", tables=tables, parameters=["one"]
    )
    pool.run("SELECT * FROM app.mine", user="ada", tables=tables)
    assert asked[0].columns == frozenset({"id", "note"})
    assert asked[0].equals[0].parameter == "1"
    assert [each.every for each in asked] == [False, True]


def test_what_a_text_named_is_known_when_its_user_asks_again_and_chooses_nothing_else(pool):
    asked: list[tuple[str, str]] = []

    def of(user: str, has: pa.Table | None):
        def tables(reference: Reference) -> pa.RecordBatchReader | None:
            asked.append((user, reference.name))
            return has.to_reader() if has is not None else None

        return tables

    text = "SELECT m.* FROM app.known AS m"
    for user, has in (
        ("ann", pa.table({"id": [1]})),
        ("ann", pa.table({"id": [1], "added": ["x"]})),  # columns came
        ("bob", pa.table({"id": [2]})),
        ("ann", pa.table({"other": [3]})),  # dropped, and made again
    ):
        found = pool.run(text, user=user, tables=of(user, has)).table
        assert found == has
    with pytest.raises(StatementRefused, match="known"):
        pool.run(text, user="ann", tables=of("ann", None))
    assert asked == [("ann", "known")] * 2 + [("bob", "known")] + [("ann", "known")] * 2
    assert pool._names.find("cay", text) is None


def test_a_text_that_is_known_and_fails_all_the_same_says_why_and_others_go_on(pool):
    large = pa.table({"id": range(500_000)})  # more than fits into the pipe
    pool._names.keep("ann", "SELECT 1 FRM x", (Reference("app", "large"),))
    with pytest.raises(StatementRefused, match="syntax error"):
        pool.run("SELECT 1 FRM x", user="ann", tables=lambda _: large.to_reader())
    assert rows(pool, "SELECT 42 AS a") == [{"a": 42}]


def test_names_of_schemas_that_duckdb_has_itself_can_be_used(pool):
    text = "SELECT system.jobs.id, 'system.jobs' AS t FROM system.jobs JOIN \"System\".jobs j USING (id) WHERE j.id = 2"
    assert rows(pool, text) == [{"id": 2, "t": "system.jobs"}]


PARAMETERS = (
    1, 2**70, "x", True, None, 1.5, float("inf"), b"a\0", Decimal("1.50"), [1, None], {"a": [Decimal(1)]},
    date(2026, 1, 2),
    datetime(2026, 1, 2, 3, 4, 5, 6), datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2))), dtime(1, 2, 3),
)  # fmt: skip


@pytest.mark.parametrize("value", PARAMETERS, ids=repr)
def test_a_parameter_comes_back_as_it_was(pool, value):
    ((back,),) = (each.values() for each in rows(pool, "SELECT $1 AS v", parameters=[value]))
    assert back == value


def test_what_is_no_value_of_sql_is_no_parameter(pool):
    with pytest.raises(InvalidRequest, match="can't be a object"):
        rows(pool, "SELECT $a", parameters={"a": object()})


def test_parameters_that_another_statement_uses_are_left_out(pool):
    assert rows(pool, "SELECT $a + 1 AS v", parameters={"a": 1, "b": 2}) == [{"v": 2}]
    assert rows(pool, "SELECT $2 AS v", parameters=[1, 2]) == [{"v": 2}]
    assert rows(pool, "SELECT ? - ? AS v", parameters=[1, 2, 3]) == [{"v": -1}]
    with pytest.raises(InvalidRequest):
        rows(pool, "SELECT $2 AS v", parameters=[1])


def test_an_answer_is_cut_at_its_limits_and_says_so(pool):
    cut = pool.run("FROM range(10000)", user="ada", tables=mine, limits=Limits(rows=3000))
    assert (cut.table.num_rows, cut.cut) == (3000, "rows")
    cut = pool.run(
        "SELECT repeat('x', 1000) FROM range(10000)",
        user="ada",
        tables=mine,
        limits=Limits(bytes=10**6),
    )
    assert cut.cut == "bytes"
    assert 0 < cut.table.num_rows < 1000


def test_more_rows_than_a_query_may_have_are_not_sent(pool):
    with pytest.raises(QuotaExceeded, match="needs more than"):
        rows(pool, "SELECT * FROM app.mine", limits=Limits(sent_bytes=100))


def test_a_syntax_error_has_its_position(pool):
    with pytest.raises(StatementRefused) as refused:
        rows(pool, "SELECT 1 FRM x")
    assert refused.value.position is not None
    assert "syntax error" in refused.value.what


def test_an_error_of_who_reads_tables_reaches_the_caller(pool):
    def away(reference: Reference) -> None:
        raise QuotaExceeded("away")

    pool.run("FROM app.mine", user="ada", tables=mine)
    children = sorted(pool.children())
    for text in ("FROM app.mine", "FROM app.mine", "FROM app.mine, app.other"):
        with pytest.raises(QuotaExceeded, match="away"):
            pool.run(text, user="ada", tables=away)
    assert len(rows(pool, "FROM app.mine")) == 3
    assert sorted(pool.children()) == children  # none had to be ended for it


def test_one_user_has_one_query_at_a_time_and_the_queue_has_an_end():
    pool = QueryPool(2, limits=Limits(time_s=30), waiting=3, waiting_per_user=2, wait_s=30)
    inside, go_on = threading.Event(), threading.Event()

    def slow(reference: Reference) -> pa.RecordBatchReader:
        inside.set()
        go_on.wait(30)
        return MINE.to_reader()

    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(pool.run, "FROM app.mine", user="ada", tables=slow)
        assert inside.wait(30)
        second, third = (
            threads.submit(pool.run, "SELECT 1", user="ada", tables=mine) for _ in "12"
        )
        wait_until(lambda: len(pool._queue) == 2, "two in the queue")
        with pytest.raises(QuotaExceeded, match="wait already"):
            pool.run("SELECT 1", user="ada", tables=mine)
        assert pool.run("SELECT 1", user="bob", tables=mine).table.num_rows == 1
        assert not second.done()
        go_on.set()
        assert [each.result().table.num_rows for each in (first, second, third)] == [3, 1, 1]
    pool.close()


def test_a_user_keeps_the_child_that_is_ready_until_there_are_as_many_as_may_be():
    pool = QueryPool(2)

    def child_of(user: str) -> int:
        pool.run("SELECT 1", user=user, tables=mine)
        return next(each.pid for each in pool._idle if each.user == user)

    ann = child_of("ann")
    assert child_of("ann") == ann
    bob = child_of("bob")
    assert bob != ann
    assert child_of("ann") == ann
    assert child_of("cay") == bob  # the one that was used longest ago
    assert child_of("ann") == ann
    assert sorted(pool.children()) == sorted([ann, bob])
    pool.close()


def test_a_child_that_was_killed_is_replaced(pool):
    rows(pool, "SELECT 1")
    for pid in pool.children():
        os.kill(pid, signal.SIGKILL)
    assert rows(pool, "SELECT 42 AS a") == [{"a": 42}]


def test_closing_ends_the_children_and_what_runs():
    pool = QueryPool(1, limits=Limits(time_s=60))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(
            pool.run,
            "SELECT count(*) FROM range(1000000000) a, range(1000000) b",
            user="a",
            tables=mine,
        )
        wait_until(lambda: len(pool._busy) == 1, "the query")
        (pid,) = pool.children()
        pool.close()
        with pytest.raises(EngineClosed):
            running.result()
    assert not psutil.pid_exists(pid)
    with pytest.raises(EngineClosed):
        pool.run("SELECT 1", user="a", tables=mine)


def test_children_end_with_a_parent_that_was_killed():
    program = (
        "import threading, time\n"
        "from surgetank.streams.tables.query.pool import QueryPool\n"
        "from surgetank.streams.tables.query.process import Limits\n"
        "pool = QueryPool(2, limits=Limits(time_s=60))\n"
        "pool.run('SELECT 1', user='a', tables=lambda _: None)\n"
        "slow = 'SELECT count(*) FROM range(1000000000) a, range(1000000) b'\n"
        "threading.Thread(target=lambda: pool.run(slow, user='a', tables=lambda _: None), daemon=True).start()\n"
        "while not pool._busy: time.sleep(0.01)\n"
        "pool.start(); pool._idle or pool._idle.append(type(next(iter(pool._busy)))(2**28))\n"
        "print(*pool.children(), flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(each) for each in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    wait_until(lambda: not any(runs(pid) for pid in pids), "the end of the children")


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_where_the_system_does_not_hold_the_limit_of_memory_the_parent_watches():
    child = ChildProcess(2**33)
    child._memory_bytes = 2**28
    child._begin()
    child._confined = False
    with pytest.raises(QuotaExceeded, match="more memory than 256 MB"):
        child.run(
            "SELECT count(*) FROM (SELECT repeat('x', 1000) || range AS t FROM range(5000000) ORDER BY t)",
            user="mallory", parameters=None, limits=Limits(time_s=10), tables=mine,
        )  # fmt: skip
    assert not child.alive
    child.close()


def test_a_query_is_cancelled_under_way_or_before_its_turn_and_others_go_on() -> None:
    pool = QueryPool(1, limits=Limits(time_s=60))
    try:
        with ThreadPoolExecutor(3) as threads:
            long, waiting = Cancellation(), Cancellation()
            text = "SELECT count(*) FROM range(100000) a, range(100000) b, range(100000) c"
            first = threads.submit(rows, pool, text, cancellation=long)
            wait_until(lambda: pool._running == 1 and not pool._queue, "the first to run")
            second = threads.submit(
                pool.run, "SELECT 1 x", user="bob", tables=mine, cancellation=waiting
            )
            wait_until(lambda: len(pool._queue) == 1, "the second to wait")
            third = threads.submit(pool.run, "SELECT 3 x", user="eve", tables=mine)
            waiting.cancel()
            with pytest.raises(Conflict, match="cancelled"):
                second.result(60)
            long.cancel()
            long.cancel()
            with pytest.raises(Conflict, match="cancelled"):
                first.result(60)
            assert third.result(60).table.to_pylist() == [{"x": 3}]
        with pytest.raises(Conflict, match="cancelled"):
            rows(pool, "SELECT 1", cancellation=long)
        assert rows(pool, "SELECT 2 AS x") == [{"x": 2}]
    finally:
        pool.close()
