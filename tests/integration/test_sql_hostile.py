"""An ordinary user of a real engine wants rows of somebody else: hot ones, ones in files, a private table, and what the
system has of their threads. Nothing of it is in any answer, nor in what an error says."""

from __future__ import annotations

import pytest

from support.hostile_sql import of_others
from support.savers import put
from support.tanks import MakeTank
from surgetank import Surgetank
from surgetank.app.sql import SqlCaller

MARKER = "SECRET-51ab"
MALLORY = SqlCaller(user="mallory")
TABLES = """
    CREATE NAMESPACE own;
    CREATE TABLE own.notes (id BIGINT PRIMARY KEY, note TEXT);
    CREATE SHARED TABLE own.vault (id BIGINT PRIMARY KEY, note TEXT);
"""


@pytest.fixture
def attacked(make_tank: MakeTank) -> Surgetank:
    tank = make_tank(sql_time_limit=0.3)
    put(tank.checkpointer(), "of-ann", {"topic": MARKER}, user_id="ann")
    tank.emit_log(MARKER, thread_id="of-ann")
    tank.log_system_error("odd", MARKER, thread_id="of-ann", severity="critical")
    tank.sql(TABLES)
    tank.sql(f"INSERT INTO own.vault VALUES (1, '{MARKER}')")
    tank.sql(f"INSERT INTO own.notes VALUES (1, '{MARKER} in a file')", user="ann")
    tank.sql("INSERT INTO own.notes VALUES (1, 'hers in a file')", user="mallory")
    tank.sql("STORAGE FLUSH ALL")
    assert tank.flush().ok
    tank.sql(f"INSERT INTO own.notes VALUES (2, '{MARKER} hot')", user="ann")
    tank.sql("INSERT INTO own.notes VALUES (2, 'hers hot')", user="mallory")
    tank.sql(f"INSERT INTO own.vault VALUES (2, '{MARKER}')")
    return tank


def test_no_statement_of_an_ordinary_user_shows_or_changes_rows_of_somebody_else(attacked):
    texts = of_others("own", "notes", "vault")
    answered = 0
    for text in texts:
        outcome = attacked.sql.run(text, MALLORY)
        rows = [each.rows.to_pylist() for each in outcome.results if each.rows is not None]
        answered += bool(rows)
        assert MARKER not in f"{rows} {outcome.error!r}", text
    assert len(texts) > 250
    assert answered > 30
    kept = "SELECT count(*) AS n FROM own.{} WHERE note LIKE '" + MARKER + "%'"
    for table in ("notes", "vault"):
        (found,) = attacked.sql(kept.format(table))
        assert found.rows is not None
        assert found.rows.to_pylist() == [{"n": 2}]
