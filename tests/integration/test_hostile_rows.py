"""Rows that somebody else wrote into the tables: reads and flushes end quickly, by name, within the
declared size."""

from __future__ import annotations

import functools
import tracemalloc
from typing import Any

import pytest
import zstandard

from support.savers import checkpoint, config, put, put_chain
from surgetank import StateCorrupt
from surgetank.encode.differences import patch
from surgetank.encode.differences.patch import FULL, PATCH, RAW, Blob


@pytest.fixture
def make_tank(make_tank: Any) -> Any:
    """Engines that keep no copies of recent states: what is read is what the tables hold."""
    return functools.partial(make_tank, recent_max_bytes=0)


def damage(tank: Any, statement: str, *values: Any) -> None:
    with tank.parts.database.connection() as connection:
        connection.execute("SET statement_timeout = '20s'")
        connection.execute(statement, values)


def grown(tank: Any, *, count: int = 12) -> list[Any]:
    """A thread whose channel `items` is a chain of patches, in the database."""
    configs = put_chain(tank.checkpointer(), "t", count)
    assert tank.flush().ok
    return configs


LOOP = "UPDATE surgetank.checkpoint_blobs SET base_n = (SELECT max(n) FROM surgetank.checkpoint_blobs WHERE channel = 'items'), codec = 2 WHERE channel = 'items'"  # noqa: E501
LONG = """
WITH made AS (
INSERT INTO surgetank.checkpoint_blobs (ns_pk, n, base_n, raw_bytes, position, codec, channel, version, type, data)
SELECT ns_pk, n + i, n + i - 1, 100, 5, 2, channel, CASE i WHEN 20000 THEN version ELSE 'x' || i END, type, 'x'
FROM surgetank.checkpoint_blobs CROSS JOIN generate_series(1, 20000) AS i
WHERE channel = 'items' AND n = (SELECT max(n) FROM surgetank.checkpoint_blobs WHERE channel = 'items')
RETURNING n)
UPDATE surgetank.checkpoints SET blob_numbers = blob_numbers || jsonb_build_object('items', (SELECT max(n) FROM made))
WHERE blob_numbers IS NOT NULL"""
HEAVY = "UPDATE surgetank.checkpoint_blobs SET raw_bytes = 200000000 WHERE channel = 'items' AND base_n IS NULL"
SWOLLEN = "UPDATE surgetank.checkpoint_blobs SET data = decode(repeat('00', 30000000), 'hex') WHERE channel = 'items'"
NEGATIVE = (
    "UPDATE surgetank.checkpoint_blobs SET position = -1, raw_bytes = -1 WHERE channel = 'items'"
)
DAMAGES = {
    "a loop": LOOP,
    "a long path": LONG,
    "a heavy base": HEAVY,
    "swollen data": SWOLLEN,
    "odd numbers": NEGATIVE,
}


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_read_of_damaged_chains_ends_with_thread_and_channel(tank, name, level):
    damage(tank, "UPDATE surgetank.storage_format SET level = %s", level)
    configs = grown(tank)
    damage(tank, DAMAGES[name])
    tracemalloc.start()
    try:
        with pytest.raises(StateCorrupt, match="'t', channel 'items'") as raised:
            tank.checkpointer().get_tuple(configs[-1])
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert raised.value.remedy


@pytest.mark.parametrize("name", DAMAGES)
def test_a_flush_onto_damaged_chains_stores_what_is_new_and_neighbours_whole(make_tank, name):
    grown(make_tank())
    tank = make_tank()  # another process: nothing is remembered of the chain
    damage(tank, DAMAGES[name])
    saver = tank.checkpointer()
    made = put(saver, "t", {"items": ["new"] * 40}, step=50)
    other = put(saver, "neighbour", {"items": ["also new"] * 40})
    job = tank.flush()
    assert job.ok, job.result
    if name not in (
        "a heavy base",
        "odd numbers",
    ):  # too large, and too small, to be patched against
        assert "a stored version is damaged" in job.result["replacements"][0]["reason"]
    for c, value in ((made, "new"), (other, "also new")):
        assert saver.get_tuple(c).checkpoint["channel_values"]["items"] == [value] * 40


@pytest.mark.parametrize("name", ["a loop", "a long path"])
def test_pruning_a_thread_with_damaged_chains_ends(make_tank, name):
    configs = grown(make_tank())
    tank = make_tank()
    damage(tank, DAMAGES[name])
    saver = tank.checkpointer()
    saver.prune(["t"], strategy="keep_latest")
    job = tank.flush()
    assert job.ok, job.result
    if name == "a long path":
        assert "a stored version is damaged" in job.result["replacements"][0]["reason"]
    with pytest.raises(StateCorrupt):
        saver.get_tuple(configs[-1])


def test_the_projection_of_a_damaged_version_is_null_and_the_flush_goes_on(make_tank):
    configs = grown(make_tank())
    tank = make_tank()
    damage(tank, LOOP)
    saver = tank.checkpointer()
    versions = saver.reader._cold.latest("t", "", []).structure["channel_versions"]
    made = checkpoint({"items": [], "step": 99}, {**versions, "step": "x"})
    damage(tank, "UPDATE surgetank.threads SET versions = '{}'")
    del made["channel_values"]["items"]
    made["channel_values"] = {"items": ["whatever"], "step": 99}
    saver.put(configs[-1], made, {"source": "loop", "step": 99}, {"step": "x"})
    assert tank.flush().ok
    with tank.parts.database.connection() as connection:
        state = connection.execute("SELECT state FROM surgetank.threads").fetchone()[0]
    assert state == {"items": None, "step": 99}


def test_a_body_that_is_no_body_is_state_corrupt(tank):
    configs = grown(tank, count=2)
    for body in (
        b"",
        b"\xc1",
        b"\x90",
        b"\x95\x01\x01\x01\x01\x01",
        zstandard.compress(b"x" * 5000)[:-3],
    ):
        for codec in (RAW, FULL, PATCH, 77):
            damage(tank, "UPDATE surgetank.checkpoints SET codec = %s, body = %s", codec, body)
            with pytest.raises(StateCorrupt, match="'t'"):
                tank.checkpointer().get_tuple(configs[-1])


def bomb(size: int) -> bytes:
    """A frame of a few kilobytes that holds `size` zeros."""
    return zstandard.ZstdCompressor(level=19).compress(bytes(size))


@pytest.mark.parametrize("declared", [100, 100_000])
def test_a_zstd_bomb_takes_no_more_than_what_was_declared(declared):
    packed = bomb(300_000_000)
    base = Blob(1, None, 0, RAW, 100, b"a" * 100)
    blobs = {
        "whole": [Blob(1, None, 0, FULL, declared, packed)],
        "patch": [base, Blob(2, 1, 1, PATCH, declared, packed)],
    }
    tracemalloc.start()
    try:
        for path in blobs.values():
            with pytest.raises(StateCorrupt):
                patch.decode_all(path, {path[-1].n})
            with pytest.raises(StateCorrupt):
                patch.decode_path(path)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_frame_that_lies_about_its_size_is_state_corrupt():
    """The size in the header is what zstd gives memory for; what follows is longer."""
    packed = bytearray(zstandard.compress(b"ab" * 50_000))
    said = zstandard.frame_content_size(bytes(packed))
    at = bytes(packed).index(said.to_bytes(4, "little"))
    packed[at : at + 4] = (1000).to_bytes(4, "little")
    assert zstandard.frame_content_size(bytes(packed)) == 1000
    with pytest.raises(StateCorrupt):
        patch.decode_all([Blob(1, None, 0, FULL, 1000, bytes(packed))], {1})


def test_a_huge_frame_of_a_value_without_declared_size_is_refused_by_its_header():
    header = b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little")
    with pytest.raises(StateCorrupt, match="1099511627776 bytes"):
        patch.decompress(FULL, header + b"\x01\x00\x00")


def test_parents_that_lead_in_a_circle_end_the_walk_of_a_delta_history(tank):
    configs = grown(tank, count=4)
    damage(
        tank,
        "UPDATE surgetank.checkpoints SET parent_id = (SELECT max(checkpoint_id) FROM "
        "surgetank.checkpoints)",
    )
    with pytest.raises(StateCorrupt, match="lead back"):
        tank.checkpointer().get_delta_channel_history(config=configs[-1], channels=["never there"])


def test_honest_chains_pass_all_these_bounds(tank):
    saver = tank.checkpointer()
    configs = put_chain(saver, "t", 80)
    assert tank.flush().ok
    for step, c in enumerate(configs):
        assert saver.get_tuple(c).checkpoint["channel_values"]["step"] == step
    saver.prune(["t"], strategy="keep_latest")
    assert tank.flush().ok
    assert len(saver.get_tuple(config("t")).checkpoint["channel_values"]["items"]) == 80
