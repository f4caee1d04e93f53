"""Large states on a database that is healthy but slow: they are saved in the end, not given up
again and again."""

from __future__ import annotations

import random

from support.savers import config, put
from support.tanks import MakeTank
from surgetank.database.pool import Database


def test_a_state_that_takes_longer_than_a_statement_may_is_saved_at_once(
    make_tank: MakeTank,
) -> None:
    tank = make_tank(statement_timeout=0.1, recent_max_bytes=0)
    saver = tank.checkpointer()
    text = random.Random(0).randbytes(40_000_000)
    put(saver, "large", {"text": text})
    job = tank.flush()
    assert job.ok, job.result
    found = saver.get_tuple(config("large"))
    assert found is not None
    assert found.checkpoint["channel_values"]["text"] == text


def test_the_deadline_of_a_flush_grows_with_what_it_writes(database_url: str) -> None:
    database = Database(database_url, statement_timeout_s=30)
    try:
        for size, expected in ((0, "30s"), (100_000_000, "130s")):
            with database.connection(size=size) as connection:
                assert connection.execute("SHOW statement_timeout").fetchall() == [(expected,)]
    finally:
        database.close()
