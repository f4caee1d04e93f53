"""PostgreSQL fails over to a replica under hosts with a buffer in Redis: what waits is kept, what happened is told, and
all goes on. With synchronous replication nothing is lost; without it, what can't be put back is named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.postgres import PostgresServer, programs, standby_of
from support.questions import ask, working
from support.redis_server import shared
from support.savers import config
from support.servers import run
from support.travel import Life, checkpoints, lines, occurrences, told
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.exceptions import CheckpointAnswered

PATIENCE_S = 60.0


@pytest.mark.parametrize("replication", ["synchronous", "behind"])
@pytest.mark.timeout(300)
def test_a_failover_loses_nothing_or_says_what(
    tmp_path: Path, private_postgres: PostgresServer, replication: str
) -> None:
    primary, url = private_postgres, shared().url(shards=2)
    life, behind = Life(), replication == "behind"
    with standby_of(primary) as replica:
        if not behind:
            with primary.admin() as connection:
                connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                connection.execute("SELECT pg_reload_conf()")
        settings: dict[str, Any] = {
            "database_url": f"host={primary.folder},{replica.folder} user=postgres dbname=postgres"
            " target_session_attrs=read-write",
            "buffer_url": url, "flush_age": 0.0, "flush_tick": 0.02, "breaker_max": 0.2, "retry_max": 0.2,
            "critical_after": 0.5,
        }  # fmt: skip
        with (
            Surgetank(tmp_path / "one", **settings) as one,
            Surgetank(tmp_path / "two", flush_in_process=False, **settings) as two,
            working(one),
        ):
            life.step(two, "before")
            question = ask(one, "asked", "May I?")
            idle(one)
            if behind:
                caught_up(primary, replica)
                replica.stop()
            life.step(two, "acknowledged by the primary")
            one.approvals.resolve(question.checkpoint_id, "approve", actor="ada")
            wait_until(lambda: heard(two, "asked", "completed"), "the run's end", PATIENCE_S)
            idle(one)

            primary.kill()
            life.step(two, "while nobody is there")
            wait_until(
                lambda: any(i.severity == "critical" for i in one.incidents("t")),
                "a banner",
                PATIENCE_S,
            )
            newest = two.checkpointer().get_tuple(config("t"))
            assert newest is not None
            assert newest.checkpoint["channel_values"]["text"] == "while nobody is there"
            if behind:
                replica.start()
            run(programs() / "pg_ctl", "promote", "-D", replica.data, "-w")

            life.step(two, "after")
            wait_until(lambda: one.status().buffer.entries == 0, "all to be flushed", PATIENCE_S)
            wait_until(
                lambda: checkpoints(one) == dict(life.steps), "what is saved again", PATIENCE_S
            )
            idle(one)
            assert lines(two) == [text for _, text in life.steps]
            assert occurrences(two) == len(life.steps)
            wait_until(
                lambda: not [i for i in one.incidents("t") if i.is_of_sink], "its end", PATIENCE_S
            )
            if not behind:
                with pytest.raises(CheckpointAnswered):
                    one.approvals.resolve(question.checkpoint_id, "reject", actor="eve")
                assert told(one, "database_went_back") == []
                return
            acts = wait_until(lambda: lost_acts(one), "what was lost to be told", PATIENCE_S)
            answered = [a for a in acts if a["action"] == "checkpoint_resolved"]
            assert [a["subject"] for a in answered] == [str(question.checkpoint_id)]
            assert {a["thread_id"] for a in acts} == {"asked"}
            assert any("an answer" in line.message for line in two.logs("asked"))
            assert any("lost" in notice.message for notice in two.status().notices)
            # It is asked again.
            one.approvals.resolve(question.checkpoint_id, "reject", actor="ada")


def idle(tank: Surgetank) -> None:
    wait_until(lambda: tank.status().buffer.entries == 0, "all to be flushed", PATIENCE_S)


def heard(tank: Surgetank, thread: str, status: str) -> bool:
    """Whether followers were told of a run with this status."""
    _, events = tank.events.thread_events(thread)
    return any(event.data.get("status") == status for event in events)


def lost_acts(tank: Surgetank) -> list[dict[str, Any]]:
    """What was told to be lost of runs and questions."""
    return [
        act
        for error in told(tank, "database_went_back")
        for act in error.error_context.get("acts", ())
    ]


def caught_up(primary: PostgresServer, replica: PostgresServer) -> None:
    """Wait until the replica has all that the primary has now."""
    with primary.admin() as connection:
        (position,) = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone() or ("",)

    def reached() -> bool:
        with replica.admin() as connection:
            query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            (there,) = connection.execute(query, (position,)).fetchone() or (False,)
        return bool(there)

    wait_until(reached, "the replica has caught up")
