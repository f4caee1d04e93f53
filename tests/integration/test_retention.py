"""Retention by age, count and size on real PostgreSQL: what goes, what never goes, and who does it
when."""

from __future__ import annotations

from typing import Annotated, Any

import psycopg
import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import StateGraph
from typing_extensions import TypedDict

from support.savers import checkpoint, config, ids, listed, put, put_chain
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.exceptions import DatabaseUnavailable, InvalidRequest
from surgetank.streams.checkpoints.retention.plan import Limits
from surgetank.streams.checkpoints.retention.sweep import Budget


def flush(tank: Surgetank) -> None:
    job = tank.flush()
    assert job.ok, job.result


def chain(tank: Surgetank, thread: str, count: int, **options: Any) -> list[str]:
    made = ids(put_chain(tank.checkpointer(), thread, count, **options))
    flush(tank)
    return made


def remaining(tank: Surgetank, thread: str) -> list[str]:
    return sorted(ids([t.config for t in listed(tank.checkpointer(), thread)]))


def backdate(url: str, checkpoint_ids: list[str], days: float) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "UPDATE surgetank.checkpoints SET written_at = written_at - make_interval(secs => %s)"
            " WHERE checkpoint_id = ANY(%s)",
            (days * 86400, checkpoint_ids),
        )


def tick(tank: Surgetank, limits: Limits, **options: Any) -> float:
    return tank.parts.retention.tick(limits, **{"interval_s": 3600, **options})


DAY = 86400.0


def test_only_the_newest_of_each_namespace_stay_and_are_whole(tank):
    root, sub = chain(tank, "t", 9), chain(tank, "t", 5, ns="sub:1")
    before = {
        t.config["configurable"]["checkpoint_id"]: t for t in listed(tank.checkpointer(), "t")
    }
    report = tank.retain(keep=3)
    assert (report.checkpoints, report.threads_seen) == (8, 1)
    assert remaining(tank, "t") == sorted(root[-3:] + sub[-3:])  # at once, before the flush
    flush(tank)
    for found in listed(tank.checkpointer(), "t"):
        assert found.checkpoint == before[found.config["configurable"]["checkpoint_id"]].checkpoint
    assert remaining(tank, "t") == sorted(root[-3:] + sub[-3:])


def test_what_is_too_old_goes_but_never_the_newest(tank, database_url):
    made = chain(tank, "t", 6)
    backdate(database_url, made[:4], 40)
    tank.retain(age=30 * DAY)
    assert remaining(tank, "t") == made[4:]
    backdate(database_url, made, 400)
    tank.retain(age=30 * DAY)
    assert remaining(tank, "t") == made[5:]


def test_a_thread_comes_under_its_size_and_keeps_its_newest(tank):
    saver, parent = tank.checkpointer(), None
    made = []
    for step in range(40):
        values = {
            "noise": [bytes([step, i]) * 40 + step.to_bytes(20, "big") * 30 for i in range(40)]
        }
        parent = put(saver, "t", values, parent=parent, step=step)
        made.append(parent)
    flush(tank)
    whole = tank.storage(thread="t").threads[0].bytes
    report = tank.retain(max_bytes=whole // 2)
    flush(tank)
    after = tank.storage(thread="t").threads[0]
    assert after.bytes <= whole // 2
    assert after.checkpoints >= 5  # not more than needed
    assert abs(report.freed_bytes - (whole - after.bytes)) < whole // 10  # the estimate is one
    tank.retain(max_bytes=0)
    flush(tank)
    assert remaining(tank, "t") == ids(made)[-1:]


def test_a_dry_run_says_exactly_what_then_goes(tank, database_url):
    made = chain(tank, "a", 10)
    chain(tank, "b", 2)
    backdate(database_url, made[:3], 40)
    planned = tank.retain(age=30 * DAY, keep=5, dry_run=True)
    assert remaining(tank, "a") == made
    assert tank.parts.buffer.depth().entries == 0
    assert planned.plans[0].doomed == {"": made[:5]}
    assert planned.plans[0].reasons == {"age": 3, "keep": 2}
    done = tank.retain(age=30 * DAY, keep=5)
    assert done.plans == planned.plans
    assert remaining(tank, "a") == made[5:]


class State(TypedDict):
    log: Annotated[
        list[str],
        DeltaChannel(lambda old, new: [*old, *(x for w in new for x in w)], snapshot_frequency=5),
    ]


def test_what_a_delta_channel_is_rebuilt_from_stays(tank):
    builder = StateGraph(State)
    builder.add_node("say", lambda state: {"log": [f"line {len(state['log'])}"]})
    builder.add_edge("__start__", "say")
    graph, thread = builder.compile(checkpointer=tank.checkpointer()), config("t")
    for turn in range(13):
        graph.invoke({"log": [f"turn {turn}"]}, thread)
    flush(tank)
    before = graph.get_state(thread).values
    count = len(remaining(tank, "t"))
    report = tank.retain(keep=2)
    assert report.checkpoints > 10
    assert report.plans[0].indivisible
    flush(tank)
    assert 2 <= len(remaining(tank, "t")) < count
    assert graph.get_state(thread).values == before
    assert len(graph.invoke({"log": ["more"]}, thread)["log"]) == len(before["log"]) + 2
    assert [h.values["log"] for h in graph.get_state_history(thread, limit=2)]


def test_what_waits_in_the_buffer_and_what_it_stands_on_stay(tank):
    saver = tank.checkpointer()
    made = chain(tank, "t", 8)
    value = {"items": ["a fork"], "step": 2}
    fork = checkpoint(
        value,
        {
            "items": "fork",
            "step": saver.get_tuple(config("t", "", made[2])).checkpoint["channel_versions"][
                "step"
            ],
        },
    )
    saver.put(
        config("t", "", made[2]),
        fork,
        {"source": "fork", "step": 9, "parents": {}},
        {"items": "fork"},
    )
    saver.put_writes(config("t", "", made[4]), [("items", 1)], "task")
    tank.retain(keep=1)
    assert remaining(tank, "t") == sorted([made[2], made[4], fork["id"]])
    flush(tank)
    assert saver.get_tuple(config("t", "", fork["id"])).checkpoint["channel_values"] == value
    tank.retain(keep=1)  # once it is in the database, the fork needs its parent no more
    flush(tank)
    assert remaining(tank, "t") == [fork["id"]]
    assert saver.get_tuple(config("t", "", fork["id"])).checkpoint["channel_values"] == value


def test_a_value_without_a_version_survives_the_pruning_of_others(tank):
    saver = tank.checkpointer()
    made = chain(tank, "t", 3)
    odd = checkpoint({"loose": "value" * 50}, {})
    saver.put(config("t", "", made[-1]), odd, {"source": "loop", "step": 4, "parents": {}}, {})
    flush(tank)
    tank.retain(keep=1)
    flush(tank)
    assert saver.get_tuple(config("t")).checkpoint["channel_values"] == {"loose": "value" * 50}


def test_limits_that_make_no_sense_are_refused(tank):
    for limits in ({}, {"keep": 0}, {"age": -1.0}, {"max_bytes": -1}):
        with pytest.raises(InvalidRequest):
            tank.retain(**limits)
    with pytest.raises(InvalidRequest):
        tank.delete_idle_threads(0)


def test_whole_threads_go_only_when_asked_for_and_only_idle_ones(tank, database_url):
    old, busy, fresh = chain(tank, "old", 3), chain(tank, "busy", 3), chain(tank, "fresh", 2)
    backdate(database_url, old + busy, 100)
    put(tank.checkpointer(), "busy", {"n": 1})
    assert tank.delete_idle_threads(90 * DAY, dry_run=True).deleted_threads == ("old",)
    assert remaining(tank, "old") == old
    assert tank.delete_idle_threads(90 * DAY).deleted_threads == ("old",)
    flush(tank)
    assert remaining(tank, "old") == []
    assert remaining(tank, "fresh") == fresh
    assert len(remaining(tank, "busy")) == 4


# -- in the background


def test_the_background_prunes_flushes_and_records_it(make_tank):
    tank = make_tank(
        flush_in_process=True, flush_age=0.0, flush_tick=0.01, retain_keep=4, retain_interval=0.05
    )
    saver = tank.checkpointer()
    made = ids(put_chain(saver, "t", 12))
    wait_until(
        lambda: tank.parts.buffer.depth().entries == 0 and len(remaining(tank, "t")) == 4, "pruned"
    )
    assert remaining(tank, "t") == made[-4:]
    job = wait_until(
        lambda: next((j for j in tank.jobs() if j.stream == "retention"), None), "its record"
    )
    assert job.ok
    assert (job.trigger, job.result["threads_pruned"]) == ("schedule", 1)
    wait_until(lambda: tank.storage().retention[0].finished_at is not None, "the end of a pass")


def test_nothing_is_pruned_without_limits(make_tank):
    tank = make_tank(flush_in_process=True)
    assert tank.parts.sweeper is None


def test_one_tick_does_a_bounded_piece_and_the_next_goes_on(tank):
    threads = {f"t{n}": chain(tank, f"t{n}", 7) for n in range(5)}
    limits, budget = Limits(keep=2), Budget(threads=2, checkpoints=4, seconds=60)
    ticks = 1
    while tick(tank, limits, budget=budget) < 60:
        ticks += 1
        deleted = sum(7 - len(remaining(tank, t)) for t in threads)
        assert deleted <= 4 * ticks
        flush(tank)
        assert ticks < 50
    assert {t: remaining(tank, t) for t in threads} == {t: made[-2:] for t, made in threads.items()}
    (last,) = tank.storage().retention
    assert (last.threads_seen, last.checkpoints_deleted, last.under_way) == (5, 25, False)
    assert tick(tank, limits) > 50  # not due again before the interval is over


def test_only_one_process_works_at_a_time(tank, database_url):
    chain(tank, "t", 5)
    tick(tank, Limits(keep=100))
    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM surgetank.retention_progress FOR UPDATE")
        assert tick(tank, Limits(keep=1)) == 60
        assert len(remaining(tank, "t")) == 5
    tick(tank, Limits(keep=1))
    assert len(remaining(tank, "t")) == 1


def test_changed_limits_look_again_at_threads_that_did_not_change(tank, database_url):
    made = chain(tank, "t", 5)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE surgetank.threads SET updated_at = updated_at - interval '3 hours'"
        )
        connection.execute(
            "UPDATE surgetank.partition_progress SET updated_at = updated_at - interval '3 hours'"
        )
    tick(tank, Limits(keep=5))
    tick(tank, Limits(keep=3))
    assert remaining(tank, "t") == made[-3:]


def test_a_thread_of_another_buffer_is_left_alone_until_it_is_idle_for_a_day(
    make_tank, tmp_path, database_url
):
    mine, other = make_tank(), make_tank(home=tmp_path / "other")
    made = chain(other, "t", 5)
    tick(mine, Limits(keep=1))
    assert len(remaining(mine, "t")) == 5
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE surgetank.threads SET updated_at = updated_at - interval '2 days'"
        )
        connection.execute("UPDATE surgetank.retention_progress SET next_at = now()")
    tick(mine, Limits(keep=1))
    assert remaining(mine, "t") == made[-1:]


def test_a_thread_that_cannot_be_read_is_skipped_and_told(tank, database_url):
    chain(tank, "a", 3)
    made = chain(tank, "b", 3)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE surgetank.checkpoints SET codec = 1, body = 'broken' FROM "
            "surgetank.checkpoint_namespaces s"
            " WHERE s.ns_pk = checkpoints.ns_pk AND s.thread_id = 'a'"
        )
    tick(tank, Limits(keep=1))
    assert remaining(tank, "b") == made[-1:]
    (job,) = tank.jobs()[:1]
    assert "'a'" in job.warnings[0]


def test_flushing_goes_on_while_retention_waits_for_a_lock(make_tank, database_url):
    tank = make_tank(
        flush_in_process=True, flush_age=0.0, flush_tick=0.01, retain_keep=1, retain_interval=0.05
    )
    with psycopg.connect(database_url) as blocker:
        blocker.execute("LOCK TABLE surgetank.retention_progress")
        put_chain(tank.checkpointer(), "t", 5)
        wait_until(lambda: tank.parts.buffer.depth().entries == 0, "flushed")
        assert tank.parts.sweeper.running
    wait_until(lambda: len(remaining(tank, "t")) == 1, "pruned")


def test_retention_survives_a_database_that_is_away(make_tank, tmp_path, caplog):
    caplog.set_level("INFO", "surgetank")
    tank = make_tank(
        database_url=f"postgresql:///nothing?host={tmp_path}",
        connect_timeout=0.5,
        flush_in_process=True,
        retain_keep=1,
    )
    with pytest.raises(DatabaseUnavailable):
        tank.retain(keep=1)
    wait_until(lambda: "retention_waits" in caplog.text, "the first attempt")
    assert tank.parts.sweeper.running
    assert not tank.status().problems
