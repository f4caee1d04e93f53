"""Nobody is left blind: logs, events, incidents and errors, hot, cold and across an outage, on real
PostgreSQL."""

from __future__ import annotations

import logging
import math
import threading
from typing import Any, TypedDict

import psycopg
import pytest
from langgraph.graph import END, START, StateGraph

import surgetank
from support.postgres import PostgresServer
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.database.migrate import migrate
from surgetank.database.pool import Database
from surgetank.events.types import EventType, Severity
from surgetank.exceptions import ErrorNotFound, ErrorStateConflict, InvalidRequest
from surgetank.streams.errors.answers import ErrorFilter


class State(TypedDict, total=False):
    n: int
    neighbor_bounding_box: Any
    measured: Any


def graph_of(tank: Surgetank, node: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile(checkpointer=tank.checkpointer())


def config(thread: str, **more: Any) -> Any:
    return {"configurable": {"thread_id": thread, **more}}


def messages(tank: Surgetank, thread: str, **wanted: Any) -> list[str]:
    return [line.message for line in tank.logs(thread, **wanted).lines]


@pytest.fixture
def private_url(private_postgres: PostgresServer) -> str:
    name = private_postgres.create_database()
    url = private_postgres.url_of(name)
    database = Database(url)
    migrate(database)
    database.close()
    return url


# -- thread logs


def test_lines_are_read_in_order_hot_cold_and_half_flushed(tank: Surgetank):
    for i in range(5):
        tank.emit_log(f"line {i}", thread_id="t")
    assert messages(tank, "t") == [f"line {i}" for i in range(5)]
    assert tank.flush("thread_logs").ok
    for i in range(5, 8):
        tank.emit_log(f"line {i}", thread_id="t", level="warning")
    assert messages(tank, "t") == [f"line {i}" for i in range(8)]
    assert messages(tank, "t", levels=["warning"]) == ["line 5", "line 6", "line 7"]
    page = tank.logs("t", limit=3)
    assert [line.message for line in page.lines] == ["line 0", "line 1", "line 2"]
    rest = tank.logs("t", after=page.lines[-1].seq)
    assert [line.message for line in rest.lines] == [f"line {i}" for i in range(3, 8)]
    assert messages(tank, "t", before=rest.lines[-1].seq, limit=2) == ["line 5", "line 6"]


def test_a_follower_sees_every_line_once_while_they_are_flushed(tank: Surgetank):
    total, seen, after = 400, list[str](), 0
    writer = threading.Thread(
        target=lambda: [tank.emit_log(str(i), thread_id="t") for i in range(total)]
    )
    stop = threading.Event()

    def flush_on() -> None:
        while not stop.is_set():
            tank.flush("thread_logs")

    flusher = threading.Thread(target=flush_on)
    writer.start()
    flusher.start()
    try:
        while len(seen) < total:
            for line in tank.logs("t", after=after, limit=50).lines:
                seen.append(line.message)
                after = line.seq
            assert writer.is_alive() or len(seen) == total or tank.logs("t", after=after).lines
    finally:
        stop.set()
        writer.join()
        flusher.join()
    assert seen == [str(i) for i in range(total)]


def test_hostile_lines_and_fields_arrive(tank: Surgetank):
    tank.emit_log(
        "nul \x00 and \ud800", thread_id="t", value=float("nan"), deep={"a": {1, 2}}, raw=b"\xff"
    )
    tank.emit_log("x" * 100_000, thread_id="t", big="y" * 1_000_000)
    job = tank.flush("thread_logs")
    assert job.ok, job.result
    first, second = tank.logs("t").lines
    assert first.fields["value"] is None
    assert "NUL" not in first.message
    assert len(second.message) < 70_000


def test_logging_inside_a_node_lands_in_the_thread_s_log(tank: Surgetank):
    logger = logging.getLogger("app.node")
    logger.setLevel(logging.INFO)
    handler = tank.log_handler()
    logging.getLogger().addHandler(handler)

    def node(state: State) -> State:
        logger.info("counted %d", 7, extra={"speed": 3})
        surgetank.emit_log("said directly")
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            logger.exception("it broke")
        return {"n": 1}

    try:
        graph_of(tank, node).invoke({"n": 0}, config("t", user_id="ada"))
        logger.info("outside of any thread")
    finally:
        logging.getLogger().removeHandler(handler)
    counted, said, broke = tank.logs("t").lines
    assert (counted.message, counted.logger, counted.fields["speed"], counted.user_id) == (
        "counted 7", "app.node", 3, "ada",
    )  # fmt: skip
    assert said.message == "said directly"
    assert broke.level == "error"
    assert "RuntimeError: broken" in broke.fields["exc_info"]


def test_a_line_without_a_thread_is_refused_with_the_way_out(tank: Surgetank):
    with pytest.raises(InvalidRequest, match="working_for"):
        tank.emit_log("lost")
    with surgetank.working_for("t", "ada"):
        tank.emit_log("found")
    assert tank.logs("t").lines[0].user_id == "ada"


def test_structlog_events_are_copied(tank: Surgetank):
    processor = tank.log_processor()
    event = {"event": "thing_done", "level": "warning", "count": 3, "thread_id": "t"}
    assert processor(None, "warning", dict(event)) == event
    (line,) = tank.logs("t").lines
    assert (line.message, line.level, line.fields) == ("thing_done", "warning", {"count": 3})


# -- run events


def test_events_have_numbers_per_thread_and_are_replayed(tank: Surgetank):
    for i in range(3):
        tank.broadcast_run_event("progress", thread_id="a", step=i)
        tank.broadcast_run_event({"type": "progress", "step": i}, thread_id="b")
    _, mine = tank.events.thread_events("a", after_seq=1)
    assert [(e.seq, e.data["step"]) for e in mine] == [(2, 1), (3, 2)]
    _, everything = tank.events.tail(0)
    assert [e.thread_id for e in everything] == ["a", "b"] * 3
    assert [e.id for e in everything] == sorted(e.id for e in everything)


def test_another_process_s_events_are_seen(tank: Surgetank, make_tank: MakeTank):
    other = make_tank()
    other.broadcast_run_event("hello", thread_id="t", value=math.nan)
    _, (event,) = tank.events.tail(0)
    assert event.to_dict()["value"] is None


def test_history_that_is_gone_is_told_as_a_gap(make_tank: MakeTank):
    tank = make_tank(events_kept=10)
    for i in range(25):
        tank.broadcast_run_event("tick", thread_id="t", i=i)
    tank.events.maintain()
    gap, events = tank.events.thread_events("t", after_seq=3)
    assert gap is not None
    assert (gap.after, gap.missed_to) == (3, 15)
    assert [e.seq for e in events] == list(range(16, 26))
    assert tank.events.thread_events("t", after_seq=15)[0] is None
    gap, _ = tank.events.tail(1)
    assert gap is not None
    # a number of another life of the log
    gap, events = tank.events.thread_events("t", after_seq=99)
    assert gap is not None
    assert events == []


# -- system errors


def test_alike_errors_are_one_group_and_can_be_resolved_come_back_and_be_deleted(tank: Surgetank):
    def fail(n: int) -> str:
        try:
            raise ValueError(f"order {n} is broken")
        except ValueError as error:
            return tank.log_system_error(
                "order_failed", str(error), thread_id=f"t{n}", error=error, context={"n": n}
            )

    ids = {fail(n) for n in range(3)}
    assert len(ids) == 1
    (id_,) = ids
    for flushed in (False, True):
        if flushed:
            assert tank.flush("system_errors").ok
        group = tank.errors.get(id_)
        assert (group.occurrences, group.severity, group.error_context["n"]) == (
            3,
            Severity.ERROR,
            2,
        )
        assert "ValueError: order 2 is broken" in group.stack_trace
        assert tank.errors.find(ErrorFilter(thread_id="t1")).errors == (group,)
        assert tank.errors.find(ErrorFilter(thread_id="other")).errors == ()
    tank.errors.act(id_, "resolve", "ada", notes="fixed in 1.2")
    with pytest.raises(ErrorStateConflict, match="ada"):
        tank.errors.act(id_, "resolve", "bob")
    assert tank.errors.find(ErrorFilter(resolved=False)).errors == ()
    fail(9)
    back = tank.errors.get(id_)
    assert (back.resolved, back.regressions, back.occurrences) == (False, 1, 4)
    assert back.previous_resolution is not None
    assert back.previous_resolution["resolution_notes"] == "fixed in 1.2"
    with pytest.raises(ErrorStateConflict):
        tank.errors.act(id_, "delete", "ada")
    tank.errors.act(id_, "resolve", "bob")
    assert tank.flush("system_errors").ok
    audit = [(row["action"], row["actor"]) for row in tank.errors.detail(id_).audit]
    assert audit == [("resolve", "ada"), ("regressed", "surgetank"), ("resolve", "bob")]
    tank.errors.act(id_, "delete", "ada")
    with pytest.raises(ErrorNotFound):
        tank.errors.get(id_)
    assert tank.flush("system_errors").ok
    with pytest.raises(ErrorNotFound):
        tank.errors.get(id_)


def test_pages_of_errors_have_neither_gap_nor_double(tank: Surgetank):
    for i in range(30):
        tank.log_system_error(f"type_{i}", "same words")
        if i == 20:
            assert tank.flush("system_errors").ok
    seen, cursor = list[str](), None
    while True:
        page = tank.errors.find(limit=7, cursor=cursor)
        seen += [group.error_type for group in page.errors]
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == [f"type_{i}" for i in reversed(range(30))]
    counts, problem = tank.errors.counts()
    assert (len(counts), problem) == (30, None)


def test_an_interrupted_flush_counts_an_occurrence_once(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch
):
    id_ = tank.log_system_error("once", "only once")
    buffer = tank.parts.buffer
    with monkeypatch.context() as patched:
        patched.setattr(buffer, "ack", lambda acks: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tank.flush("system_errors")
    # Written and not acknowledged: hot and cold at once.
    assert tank.errors.get(id_).occurrences == 1
    assert tank.flush("system_errors").ok
    assert tank.errors.get(id_).occurrences == 1


def test_two_buffers_count_into_one_group(make_tank: MakeTank, tmp_path: Any):
    one, two = make_tank(), make_tank(home=tmp_path / "other")
    ids = {tank.log_system_error("shared", "the same thing") for tank in (one, two, two)}
    assert one.flush("system_errors").ok
    assert two.flush("system_errors").ok
    assert one.errors.get(ids.pop()).occurrences == 3


# -- drills


def test_an_outage_is_seen_by_user_and_operator_while_it_lasts_and_clears_after_it(
    make_tank: MakeTank, private_postgres: PostgresServer, private_url: str
):
    tank = make_tank(
        database_url=private_url, flush_in_process=True, flush_age=0.2, flush_tick=0.05
    )
    go_on = threading.Event()
    rounds = 0

    def node(state: State) -> State:
        nonlocal rounds
        rounds += 1
        surgetank.emit_log(f"round {state['n']}")
        go_on.wait(0.02)
        return {"n": state["n"] + 1}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_conditional_edges("node", lambda s: END if go_on.is_set() else "node")
    graph = builder.compile(checkpointer=tank.checkpointer())
    run = threading.Thread(
        target=graph.invoke, args=({"n": 0}, {**config("live"), "recursion_limit": 10_000})
    )
    run.start()
    wait_until(lambda: tank.jobs(status="completed"), "a first flush")
    private_postgres.kill()

    def told(kind: EventType) -> list[Any]:
        return [e for e in tank.events.thread_events(None, limit=9999)[1] if e.type == kind]

    (event,) = wait_until(lambda: told(EventType.FLUSH_ERROR), "the event")
    assert event.data["severity"] == "warning"
    assert event.data["affected"] == 1
    assert "you can go on working" in event.data["message"]
    (banner,) = wait_until(lambda: tank.incidents("live"), "the banner")
    assert "Saving is delayed" in banner.message
    page = wait_until(lambda: p if (p := tank.errors.find()).errors else None, "the error")
    assert page.problem is not None
    (error,) = page.errors
    assert error.error_type == "checkpoint_flush_error"
    assert "Traceback" in error.stack_trace
    assert {
        "stream",
        "affected",
        "attempts",
        "entries",
        "bytes",
        "sqlstate",
        "sink",
        "database_configured",
        "job",
    } <= (set(error.error_context))
    wait_until(
        lambda: tank.jobs.get(error.error_context["job"]).status.value == "failed", "the job to end"
    )
    # A new run, in the middle of it, works and is told too.
    graph_of(tank, lambda state: {"n": 1}).invoke({"n": 0}, config("new"))
    wait_until(lambda: tank.incidents("new"), "the new thread's banner")
    go_on.set()
    run.join()
    lines = messages(tank, "live", limit=10_000)
    assert [m for m in lines if m.startswith("round")] == [f"round {i}" for i in range(rounds)]

    private_postgres.start()

    wait_until(lambda: told(EventType.FLUSH_RECOVERED), "the incident to end")
    wait_until(lambda: tank.parts.buffer.depth().entries == 0, "everything to arrive")
    assert len(told(EventType.FLUSH_ERROR)) == len(told(EventType.FLUSH_RECOVERED)) == 1
    assert tank.incidents() == tank.incidents("live") == tank.incidents("new") == []
    assert messages(tank, "live", limit=10_000)[: len(lines)] == lines
    with psycopg.connect(private_url) as connection:
        rows = connection.execute(
            "SELECT error_type, occurrences FROM surgetank.system_errors WHERE error_type LIKE "
            "'checkpoint%'"
        ).fetchall()
        logged = connection.execute(
            "SELECT count(*), count(DISTINCT message) FROM surgetank.thread_logs WHERE message "
            "LIKE 'round%'"
        ).fetchone()
    assert [row[0] for row in rows] == ["checkpoint_flush_error"]  # one incident, one grouped error
    assert logged == (rounds, rounds)


def test_an_outage_that_lasts_becomes_critical(
    make_tank: MakeTank, private_postgres: PostgresServer, private_url: str
):
    tank = make_tank(
        database_url=private_url,
        flush_in_process=True,
        flush_age=0.1,
        flush_tick=0.05,
        critical_after=0.5,
    )
    private_postgres.kill()
    graph_of(tank, lambda state: {"n": 1}).invoke({"n": 0}, config("t"))

    def critical() -> list[Any]:
        return [e for e in tank.events.tail(0)[1] if e.type == EventType.FLUSH_CRITICAL]

    (event,) = wait_until(critical, "the event")
    assert event.data["error_details"]["error"]
    (banner,) = tank.incidents("t")
    assert (banner.thread_id, banner.severity) == ("t", Severity.CRITICAL)
    wait_until(
        lambda: (
            [e.error_type for e in tank.errors.find().errors] == ["checkpoint_flush_critical_error"]
        ),
        "the group to be critical",
    )


def test_nan_completes_is_counted_told_and_comes_back(tank: Surgetank):
    """The failure it all began with: NaNs in a checkpoint."""
    box = {"neighbor_bounding_box": [math.nan, math.nan, 1.0]}
    graph = graph_of(tank, lambda state: {"neighbor_bounding_box": math.nan, "measured": box})
    graph.invoke({"n": 0}, config("t"))
    job = tank.flush()
    assert job.status.value == "completed"
    assert job.result["values_replaced"] >= 3
    warned = [line for line in tank.logs("t").lines if line.level == "warning"]
    assert any("can't stand in JSON" in line.message for line in warned)
    values = graph.get_state(config("t")).values
    assert math.isnan(values["neighbor_bounding_box"])
    assert [math.isnan(x) for x in values["measured"]["neighbor_bounding_box"]] == [
        True,
        True,
        False,
    ]


def test_a_channel_that_fails_stops_no_other_and_is_told(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tank.parts.reporting.runs, "log", lambda *a, **k: 1 / 0)
    tank.parts.reporting.problem(RuntimeError("odd"), where="test")
    from surgetank.notify.news import News

    tank.parts.reporting.notifier.tell(
        News(
            "trouble",
            Severity.CRITICAL,
            "t",
            EventType.FLUSH_CRITICAL,
            "checkpoint_flush_critical_error",
        )
    )
    types = {group.error_type for group in tank.errors.find().errors}
    assert types == {"test_problem", "checkpoint_flush_critical_error", "notification_failed"}
    assert [e.type for e in tank.events.thread_events("t")[1]] == [EventType.FLUSH_CRITICAL]
    assert any("thread_log" in problem for problem in tank.status().problems)


def test_a_storm_of_one_error_is_counted_and_does_not_fill_the_buffer(tank: Surgetank):
    total = 2000
    for i in range(total):
        id_ = tank.log_system_error(
            "storm", "the same again", thread_id=f"t{i % 3}", context={"pad": "x" * 1000}
        )
    tank.parts.reporting.errors.send_counts(all_=True)
    assert tank.parts.buffer.depth().entries < 200
    assert tank.errors.get(id_).occurrences == total
    assert tank.flush("system_errors").ok
    assert tank.errors.get(id_).occurrences == total
    assert sum(t["occurrences"] for t in tank.errors.detail(id_).threads) == total
    trends, _ = tank.errors.trends(since=0)
    assert sum(t["occurrences"] for t in trends) == total


def test_debug_mode_keeps_originals_for_a_while(make_tank: MakeTank):
    now = [1_000_000.0]
    tank = make_tank(debug_originals=True, debug_originals_max_age=60, clock=lambda: now[0])
    quiet = make_tank(clock=lambda: now[0])
    for engine, thread in ((tank, "t"), (quiet, "u")):
        graph_of(engine, lambda state: {"measured": {"x": math.nan}}).invoke(
            {"n": 0}, config(thread)
        )
        assert engine.flush(partition=thread).result["values_replaced"]
    kept = tank.events.originals()
    assert {(o.partition, o.original) for o in kept} == {("t", "nan")}
    assert tank.events.originals(thread_id="u") == []
    now[0] += 61
    assert tank.events.originals() == []
    tank.events.maintain()
    now[0] -= 61
    assert tank.events.originals() == []


def test_old_lines_and_resolved_errors_are_forgotten_the_rest_stays(make_tank: MakeTank):
    now = [2_000_000_000.0]
    tank = make_tank(logs_keep=100, errors_keep=100, clock=lambda: now[0])
    tank.emit_log("old", thread_id="t")
    resolved, open_ = tank.log_system_error("a", "a"), tank.log_system_error("b", "b")
    tank.errors.act(resolved, "resolve", "ada")
    now[0] += 200
    tank.emit_log("new", thread_id="t")
    assert tank.flush("thread_logs").ok
    assert tank.flush("system_errors").ok
    assert tank.parts.reporting.retention.run(now[0])["forget_logs"] == 1
    assert messages(tank, "t") == ["new"]
    with pytest.raises(ErrorNotFound):
        tank.errors.get(resolved)
    assert tank.errors.get(open_).occurrences == 1


@pytest.mark.parametrize("kind", ["", "gap", "log", "subscribed", "a\nb", "x" * 101, "öl"])
def test_types_that_could_be_mistaken_are_refused(tank: Surgetank, kind: str):
    with pytest.raises(InvalidRequest, match="type of an event"):
        tank.broadcast_run_event(kind, thread_id="t")


def test_an_unknown_severity_is_refused_with_the_known_ones(tank: Surgetank):
    with pytest.raises(ValueError, match="info, warning, error, critical"):
        tank.log_system_error("odd", "words", severity="bad")
