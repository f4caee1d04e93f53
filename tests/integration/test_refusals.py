"""What PostgreSQL refuses, row by row or altogether: raised by triggers, with the codes of real
trouble."""

from __future__ import annotations

import psycopg
import pytest

from support.savers import config, put
from surgetank import Surgetank
from surgetank.flush.breaker import BreakerState
from surgetank.model import JobStatus
from surgetank.streams.checkpoints.envelope import STREAM
from surgetank.streams.errors import groups
from surgetank.streams.logs import line as logline

TABLES = {
    STREAM: "surgetank.checkpoints",
    logline.STREAM: "surgetank.thread_logs",
    groups.STREAM: "surgetank.system_errors",
}


def refuse(url: str, sqlstate: str, condition: str, *, table: str = "surgetank.threads") -> None:
    """Let the table raise the code for every row that the condition holds for."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"""
            CREATE OR REPLACE FUNCTION surgetank.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF {condition} THEN RAISE EXCEPTION 'what the server said' USING ERRCODE = '{sqlstate}'; END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON {table}
            FOR EACH ROW EXECUTE FUNCTION surgetank.refuse();
            """
        )


def take_again(url: str, *, table: str = "surgetank.threads") -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP TRIGGER refuse ON {table}")


@pytest.mark.parametrize(
    "sqlstate", ["XX000", "55000", "54000", "42501", "XX001", "0A000", "P0001", "23514"]
)
def test_a_database_that_refuses_every_row_costs_no_entry(
    tank: Surgetank, database_url: str, sqlstate: str
) -> None:
    saver = tank.checkpointer()
    for i in range(5):
        put(saver, f"t{i}", {"n": i})
    refuse(database_url, sqlstate, "true")
    job = tank.flush(STREAM)
    assert tank.parked() == []
    assert (job.status, tank.parts.buffer.depth().entries >= 5) == (JobStatus.FAILED, True)
    assert "what the server said" in job.result["message"]

    take_again(database_url)
    assert tank.flush(STREAM).ok
    for i in range(5):
        assert saver.get_tuple(config(f"t{i}")) is not None


@pytest.mark.parametrize("sqlstate", ["XX000", "42501", "XX001", "0A000", "23514"])
def test_a_thread_that_the_database_refuses_does_not_keep_the_others_back(
    tank: Surgetank, database_url: str, sqlstate: str
) -> None:
    saver = tank.checkpointer()
    for i in range(5):
        put(saver, f"t{i}", {"n": i})
    refuse(database_url, sqlstate, "NEW.thread_id = 't3'")
    tank.flush(STREAM)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT thread_id FROM surgetank.threads ORDER BY 1").fetchall()
    assert [thread for (thread,) in rows] == ["t0", "t1", "t2", "t4"]
    assert tank.parts.flushers[STREAM].breaker.state() is BreakerState.CLOSED
    for _ in range(3):
        tank.flush(STREAM)
    assert [entry.partition for entry in tank.parked()] == ["t3"]
    assert saver.get_tuple(config("t3")) is not None, "parked entries stay readable"


def test_a_right_that_is_missing_on_one_table_is_the_database_s_trouble(
    tank: Surgetank, database_url: str
) -> None:
    """Checkpoints without writes go through, so a neighbour's success proves nothing: the probe
    touches every table."""
    saver = tank.checkpointer()
    refuse(database_url, "42501", "true", table="surgetank.checkpoint_writes")
    put(saver, "plain", {"n": 1})
    with_writes = put(saver, "with writes", {"n": 1})
    saver.put_writes(with_writes, [("channel", 1)], "task")
    for _ in range(4):
        tank.flush(STREAM)
    assert tank.parked() == []
    take_again(database_url, table="surgetank.checkpoint_writes")
    assert tank.flush(STREAM).ok


@pytest.mark.parametrize("table", ["checkpoints", "checkpoint_blobs", "checkpoint_writes"])
def test_the_probe_of_checkpoints_touches_every_table(
    tank: Surgetank, database_url: str, table: str
) -> None:
    sink = tank.parts.flushers[STREAM].sink
    sink.probe(buffer_id=tank.parts.buffer.id)
    refuse(database_url, "XX000", "true", table=f"surgetank.{table}")
    with pytest.raises(Exception, match="what the server said"):
        sink.probe(buffer_id=tank.parts.buffer.id)


@pytest.mark.parametrize("stream", TABLES)
def test_a_probe_of_every_sink_writes_and_leaves_nothing(
    tank: Surgetank, database_url: str, stream: str
) -> None:
    sink, table = tank.parts.flushers[stream].sink, TABLES[stream]
    sink.probe(buffer_id=tank.parts.buffer.id)
    with psycopg.connect(database_url) as connection:
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        assert connection.execute(
            "SELECT count(*) FROM surgetank.partition_progress"
        ).fetchone() == (0,)
    refuse(database_url, "XX000", "true", table=table)
    with pytest.raises(Exception, match="what the server said"):
        sink.probe(buffer_id=tank.parts.buffer.id)
