"""Storage format: level 2 keeps small values in their checkpoint's row; level 1 is what the
released version reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ormsgpack
import psycopg
import pytest

from support.savers import checkpoint, config, ids, put
from surgetank import Surgetank
from surgetank.database.migrate import load, migrate
from surgetank.database.pool import Database
from surgetank.encode.differences.patch import decompress

LONG = "a value that is too long for its checkpoint's row"


def grow(tank: Surgetank, thread: str, count: int, parent: Any = None, start: int = 0) -> list[Any]:
    """A chain in which `step` changes and `limit`, `name` (small) and `text` (long) never do."""
    saver, configs = tank.checkpointer(), [parent] if parent else []
    for step in range(start, start + count):
        values = {"step": step, "limit": 7, "name": None, "text": LONG}
        versions = {
            "step": f"{step + 2:032}.5",
            **dict.fromkeys(("limit", "name", "text"), f"{1:032}.5"),
        }
        made = checkpoint(values, versions)
        at = config(thread, "", configs[-1]["configurable"]["checkpoint_id"] if configs else None)
        new = versions if not configs else {"step": versions["step"]}
        configs.append(saver.put(at, made, {"source": "loop", "step": step, "parents": {}}, new))  # type: ignore[arg-type]
    return configs[1:] if parent else configs


def check(tank: Surgetank, configs: list[Any]) -> None:
    saver = tank.checkpointer()
    for step, at in enumerate(configs):
        found = saver.get_tuple(at)
        assert found is not None
        assert found.checkpoint["channel_values"] == {
            "step": step,
            "limit": 7,
            "name": None,
            "text": LONG,
        }


def sql(tank: Surgetank, query: str) -> list[tuple[Any, ...]]:
    with tank.parts.database.connection() as connection:
        return connection.execute(query.encode()).fetchall()


def lower(tank: Surgetank) -> None:
    """What the database of an upgraded installation says."""
    sql(tank, "UPDATE surgetank.storage_format SET level = 1 RETURNING level")


def restarted(tank: Surgetank) -> None:
    """Forget what the sink remembers of threads, as a new process would not know it."""
    cache = tank.parts.flushers["checkpoints"].sink._cache
    for thread in list(cache._threads):
        cache.forget(thread)


def test_small_values_take_no_rows_whether_they_changed_or_not(tank):
    configs = grow(tank, "t", 3)
    assert tank.flush().ok
    configs += grow(tank, "t", 2, configs[-1], 3)
    assert tank.flush().ok
    restarted(tank)
    configs += grow(tank, "t", 2, configs[-1], 5)
    assert tank.flush().ok
    assert sql(tank, "SELECT channel FROM surgetank.checkpoint_blobs") == [("text",)]
    assert sql(tank, "SELECT DISTINCT blob_numbers FROM surgetank.checkpoints") == [({"text": 1},)]
    check(tank, configs)


def test_a_hot_checkpoint_finds_small_values_of_cold_ones_the_newest_and_older_ones(tank):
    configs = grow(tank, "t", 4)
    assert tank.flush().ok
    check(tank, [*configs, *grow(tank, "t", 1, configs[-1], 4)])
    saver = tank.checkpointer()
    fork = checkpoint(
        {"step": 1, "limit": 7},
        {"step": f"{3:032}.5", "limit": f"{1:032}.5"},
    )
    at = saver.put(configs[1], fork, {"source": "fork", "step": 9, "parents": {}}, {})
    found = saver.get_tuple(at)
    assert found.checkpoint["channel_values"] == {"step": 1, "limit": 7}
    assert tank.flush().ok
    assert saver.get_tuple(at) == found


@pytest.mark.parametrize("parent", ["none", "unknown"])
def test_a_checkpoint_without_a_known_parent_finds_what_it_did_not_change(tank, parent):
    grow(tank, "t", 3)
    assert tank.flush().ok
    at = config("t", "", "1e000000-0000-6000-8000-000000000000" if parent == "unknown" else None)
    versions = {"step": f"{3:032}.5", **dict.fromkeys(("limit", "name", "text"), f"{1:032}.5")}
    made = checkpoint({"step": 1, "limit": 7, "name": None, "text": LONG}, versions)
    new = tank.checkpointer().put(at, made, {"source": "loop", "step": 1, "parents": {}}, {})
    assert tank.flush().ok
    tank.checkpointer().prune(["t"], strategy="keep_latest")  # takes away what it was found in
    assert tank.flush().ok
    assert sql(tank, "SELECT checkpoint_id FROM surgetank.checkpoints") == [(ids([new])[0],)]
    found = tank.checkpointer().get_tuple(new)
    assert found.checkpoint["channel_values"] == {"step": 1, "limit": 7, "name": None, "text": LONG}
    assert sql(tank, "SELECT state FROM surgetank.threads") == [
        ({"step": 1, "limit": 7, "name": None, "text": LONG},)
    ]


WRITES = [("flag", None), ("text", LONG), ("__interrupt__", 1), ("count", 3)]


def test_small_writes_lie_beside_a_large_one_of_their_call_and_come_back_in_order(tank):
    saver = tank.checkpointer()
    at = put(saver, "t", {"text": LONG})
    saver.put_writes(at, WRITES, "task-1", "~0")
    saver.put_writes(at, [("flag", None), ("count", 3)], "task-2")
    saver.put_writes(at, [("count", 4)], "task-3")
    hot = saver.get_tuple(at).pending_writes
    assert tank.flush().ok
    assert saver.get_tuple(at).pending_writes == hot
    rows = sql(
        tank,
        "SELECT task_id, channel, others IS NULL FROM surgetank.checkpoint_writes ORDER BY 1, 2",
    )
    assert rows == [
        ("task-1", "__interrupt__", True),
        ("task-1", "text", False),
        ("task-2", "flag", False),
        ("task-3", "count", True),
    ]
    child = put(saver, "t", {"text": LONG}, parent=at, step=1)
    saver.put_writes(child, WRITES, "task-1", "~0")
    assert tank.flush().ok
    saver.put_writes(child, [("late", 1)], "task-9")
    assert [(t, c, v) for t, c, v in saver.get_tuple(child).pending_writes if t == "task-1"] == [
        (t, c, v) for t, c, v in hot if t == "task-1"
    ]
    size = tank.storage(thread="t")
    assert next(u for u in size.kinds if u.kind == "writes").rows == 6


def test_of_writes_that_come_again_the_first_stays_wherever_it_lies(tank):
    saver = tank.checkpointer()
    at = put(saver, "t", {"text": LONG})
    saver.put_writes(at, WRITES, "task", "~0")
    assert tank.flush().ok
    before = saver.get_tuple(at).pending_writes
    again = [
        ("flag", "another"),
        ("text", "another " * 20),
        ("__interrupt__", 2),
        ("count", 99),
        ("more", 1),
    ]
    saver.put_writes(at, again, "task", "~0")
    saver.put_writes(at, [("count", 98)], "task", "~0")
    hot = saver.get_tuple(at).pending_writes
    assert tank.flush().ok
    after = saver.get_tuple(at).pending_writes
    assert after == hot
    assert [w for w in after if w[1] not in ("__interrupt__", "more")] == [
        w for w in before if w[1] != "__interrupt__"
    ]
    assert ("task", "__interrupt__", 2) in after
    assert ("task", "more", 1) in after


def test_level_1_has_a_row_for_each_write(tank):
    lower(tank)
    saver = tank.checkpointer()
    at = put(saver, "t", {"text": LONG})
    saver.put_writes(at, WRITES, "task", "~0")
    hot = saver.get_tuple(at).pending_writes
    assert tank.flush().ok
    assert sql(
        tank, "SELECT count(*), count(others), max(codec) FROM surgetank.checkpoint_writes"
    ) == [(4, 0, 0)]
    assert saver.get_tuple(at).pending_writes == hot
    assert tank.raise_storage_format()
    saver.put_writes(at, WRITES, "task", "~0")
    assert tank.flush().ok
    assert saver.get_tuple(at).pending_writes == hot


def test_a_thread_begun_at_level_1_goes_on_at_level_2(tank):
    lower(tank)
    configs = grow(tank, "t", 3)
    assert tank.flush().ok
    assert len(sql(tank, "SELECT FROM surgetank.checkpoint_blobs")) == 6
    assert tank.storage().format == 1
    assert tank.raise_storage_format()
    assert not tank.raise_storage_format()
    for forget in (False, True):
        if forget:
            restarted(tank)
        configs += grow(tank, "t", 2, configs[-1], len(configs))
        assert tank.flush().ok
    assert len(sql(tank, "SELECT FROM surgetank.checkpoint_blobs")) == 6
    assert tank.storage().format == 2
    check(tank, configs)
    tank.checkpointer().prune(["t"], strategy="keep_latest")
    assert tank.flush().ok
    # those of level 1 that did not change
    assert len(sql(tank, "SELECT FROM surgetank.checkpoint_blobs")) == 3
    assert tank.checkpointer().get_tuple(configs[-1]).checkpoint["channel_values"]["limit"] == 7


def test_level_1_writes_what_the_released_version_reads(tank):
    lower(tank)
    configs = grow(tank, "t", 3)
    assert tank.flush().ok
    for codec, body, numbers in sql(
        tank, "SELECT codec, body, blob_numbers FROM surgetank.checkpoints"
    ):
        structure, present, *_ = fields = ormsgpack.unpackb(decompress(codec, body))
        assert len(fields) == 5
        assert numbers is None
        versions = ormsgpack.unpackb(structure)["channel_versions"]
        for channel in present:  # its reader asks for each by version
            rows = sql(
                tank,
                "SELECT FROM surgetank.read_blobs('t', '', "
                f"ARRAY['{channel}'], ARRAY['{versions[channel]}'])",
            )
            assert rows
    check(tank, configs)


def test_an_upgraded_database_begins_at_level_1_and_a_new_one_at_2(fresh_database, tmp_path):
    def level() -> int:
        with psycopg.connect(fresh_database) as connection:
            row = connection.execute("SELECT level FROM surgetank.storage_format").fetchone()
        assert row is not None
        return int(row[0])

    folder = tmp_path / "released"
    folder.mkdir()
    for migration in load():
        if migration.version <= 10:
            _write(folder, migration.version, migration.name, migration.sql)
    database = Database(fresh_database)
    try:
        migrate(database, folder)
        migrate(database)
        assert level() == 1
        with psycopg.connect(fresh_database) as connection:
            connection.execute("DROP SCHEMA surgetank CASCADE")
        migrate(database)
        assert level() == 2
    finally:
        database.close()


def _write(folder: Path, version: int, name: str, text: str) -> None:
    (folder / f"{version:04}_{name}.sql").write_text(text)
