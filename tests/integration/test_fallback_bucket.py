"""Fallback storage in a bucket, end to end: spilled, read, flushed, recovered; a store that fails half-way, and one
that refuses us."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from support import workload
from support.s3_server import S3Server
from support.savers import config, listed, put_chain
from support.spilling import spill
from surgetank import objects
from surgetank.exceptions import FallbackUnavailable
from surgetank.objects import ObjectStore


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "RETRIES", 0)


def spilled(url: str) -> list[str]:
    return [name for name in ObjectStore(url).found() if name.endswith(".spill")]


def test_a_lost_buffer_s_entries_come_back_out_of_a_bucket(
    make_tank: Any, tmp_path: Path, s3_server: S3Server, undisturbed: Any
) -> None:
    url = s3_server.url()
    old = make_tank(home=tmp_path / "old", fallback_url=url)
    for _ in workload.steps(old.checkpointer()):
        pass
    assert spill(old, file_bytes=60_000) > 1
    lost = old.parts.buffer.id
    old.close()
    shutil.rmtree(tmp_path / "old")
    tank = make_tank(fallback_url=url)
    recovery = tank.recovery(lost=[lost])
    assert {report.state.value for report in recovery.take_over(recovery.reports())} == {
        "recovered"
    }
    assert tank.flush().ok
    tank.parts.spills.clean()
    assert workload.picture(tank) == undisturbed
    assert spilled(url) == []
    assert tank.status().healthy


def test_what_lies_in_a_bucket_is_read_and_flushed_and_its_files_go(
    make_tank: Any, s3_server: S3Server
) -> None:
    url = s3_server.url()
    tank = make_tank(fallback_url=url)
    put_chain(tank.checkpointer(), "t", 5)
    before = listed(tank.checkpointer(), "t")
    assert spill(tank) == 1
    shown = tank.status().fallback
    assert (shown.entries, "s3cret" in str(shown)) == (5, False)
    assert listed(tank.checkpointer(), "t") == before
    assert tank.flush().ok
    tank.parts.spills.clean()
    assert (listed(tank.checkpointer(), "t"), spilled(url)) == (before, [])


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_store_that_fails_half_way_keeps_everything_in_the_buffer(
    make_tank: Any, s3_server: S3Server, after: int
) -> None:
    bucket = s3_server.make_bucket()
    tank = make_tank(fallback_url=s3_server.url(bucket=bucket))
    saver = tank.checkpointer()
    for thread in ("a", "b", "c"):
        put_chain(saver, thread, 3)
    before = {thread: listed(saver, thread) for thread in ("a", "b", "c")}
    with s3_server.failing(bucket, methods="PUT POST", after=after):
        with pytest.raises(FallbackUnavailable, match="SlowDown: Please reduce your request rate"):
            spill(tank, file_bytes=1)
        assert {thread: listed(saver, thread) for thread in before} == before
    assert tank.flush().ok
    assert {thread: listed(saver, thread) for thread in before} == before


def test_a_bucket_that_is_away_is_named_and_never_an_older_state(
    make_tank: Any, s3_server: S3Server
) -> None:
    bucket = s3_server.make_bucket()
    tank = make_tank(fallback_url=s3_server.url(bucket=bucket))
    put_chain(tank.checkpointer(), "t", 3)
    before = listed(tank.checkpointer(), "t")
    spill(tank)
    with s3_server.failing(bucket):
        with pytest.raises(FallbackUnavailable, match=f"s3://{bucket}/surgetank.* can't be used"):
            tank.checkpointer().get_tuple(config("t"))
        assert not tank.flush().ok
    assert tank.flush().ok
    assert listed(tank.checkpointer(), "t") == before


def test_wrong_credentials_and_a_missing_bucket_are_said_without_a_secret(
    make_tank: Any, s3_server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = {
        s3_server.url(key="wrong"): "InvalidAccessKeyId",
        s3_server.url(bucket="never-made"): "NoSuchBucket",
    }
    for url, reason in reasons.items():
        tank = make_tank(fallback_url=url)
        put_chain(tank.checkpointer(), "t", 3)
        with pytest.raises(FallbackUnavailable) as told:
            spill(tank)
        tank.parts.spills.step(())
        shown = f"{told.value} {tank.status()} {tank.errors.find()} {caplog.text}"
        assert reason in shown
        assert "s3cret" not in shown
        assert "wrong-key" not in shown
        assert tank.flush().ok
        tank.close()
