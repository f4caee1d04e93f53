"""Tables whose files are in a bucket that two hosts share: what one flushes the other reads; a store that refuses,
fails half-way or is away costs no row."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.redis_server import url_for
from support.s3_server import S3Server
from surgetank import Surgetank, objects
from surgetank.app import doctor
from surgetank.app.sql import SqlCaller
from surgetank.exceptions import ColdStateUnavailable, ConfigurationError, Conflict, InvalidRequest
from surgetank.objects import ObjectStore
from surgetank.streams.tables.cold.manifest import Manifest
from surgetank.streams.tables.cold.upkeep import KEEPING

NOTES = "CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT)"
AT_ONCE = replace(KEEPING, snapshots_s=0.0, grace_s=0.0, orphans_s=0.0)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "RETRIES", 0)


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    return s3_server.make_bucket()


@pytest.fixture
def host(
    make_tank: Any, tmp_path: Path, s3_server: S3Server, bucket: str
) -> Callable[..., Surgetank]:
    """A host with a home of its own; all have the bucket and the database."""

    def made(name: str, **more: Any) -> Surgetank:
        options = {"tables_url": s3_server.url("tables", bucket=bucket), **more}
        tank: Surgetank = make_tank(home=tmp_path / name, **options)
        return tank

    return made


def insert(tank: Surgetank, user: str, *ids: int) -> None:
    for each in ids:
        tank.sql("INSERT INTO notes VALUES (?, ?)", [each, f"{user} {each}"], user=user)


def seen(tank: Surgetank, **more: Any) -> list[int]:
    found = tank.sql("SELECT id FROM notes ORDER BY id", **more)[-1].rows
    assert found is not None
    return [row["id"] for row in found.to_pylist()]


def confined(tank: Surgetank, user: str) -> list[int]:
    done = tank.sql.run("SELECT id FROM notes ORDER BY id", SqlCaller(user=user))
    assert done.error is None, done.error
    found = done.results[-1].rows
    assert found is not None
    return [row["id"] for row in found.to_pylist()]


def stored(s3_server: S3Server, bucket: str) -> list[str]:
    names = ObjectStore(s3_server.url("tables", bucket=bucket)).found()
    return sorted(name for name in names if name.endswith(".parquet"))


def test_what_one_host_flushes_the_other_reads_changes_merges_and_exports(
    host: Callable[..., Surgetank], s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    one, two = host("one"), host("two")
    one.sql(NOTES)
    for first in (1, 11, 21):
        insert(one, "ada", first, first + 1)
        insert(two, "bob", first + 2)
        assert one.flush().ok
        assert two.flush().ok
    everything = [1, 2, 3, 11, 12, 13, 21, 22, 23]
    assert (seen(one), seen(two)) == (everything, everything)
    assert (confined(two, "ada"), confined(one, "bob")) == ([1, 2, 11, 12, 21, 22], [3, 13, 23])
    two.sql("DELETE FROM notes WHERE id = 2", user="ada")
    two.sql("UPDATE notes SET text = 'new' WHERE id = 1", user="ada")
    assert two.flush().ok
    table = next(each for each in two.parts.tables.open().catalog.tables())
    assert two.parts.tables.open().cold.compact(table).inputs > 1
    everything.remove(2)
    assert (seen(one), seen(two)) == (everything, everything)
    exported = one.tables.export_to("notes", tmp_path / "notes.parquet", form="parquet")
    assert exported.rows == len(everything)
    assert sorted(pq.read_table(tmp_path / "notes.parquet").column("id").to_pylist()) == everything
    assert not (tmp_path / "one" / "tables").exists(), "no file of tables is in a home"
    assert stored(s3_server, bucket)


def test_hosts_that_flush_and_merge_at_once_lose_and_double_no_row(
    host: Callable[..., Surgetank],
) -> None:
    hosts = [host("one"), host("two")]
    hosts[0].sql("CREATE SHARED TABLE rates (id BIGINT, text TEXT)")
    start = threading.Barrier(2)

    def work(number: int) -> None:
        tank = hosts[number]
        start.wait()
        for turn in range(4):
            for at in range(3):
                tank.sql("INSERT INTO rates VALUES (?, 'x')", [number * 100 + turn * 10 + at])
            assert tank.flush().ok
            opened = tank.parts.tables.open()
            opened.cold.compact(opened.catalog.tables()[0])

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, number) for number in (0, 1)]:
            done.result()
    wanted = sorted(
        n * 100 + turn * 10 + at for n in (0, 1) for turn in range(4) for at in range(3)
    )
    for tank in hosts:
        found = tank.sql("SELECT id FROM rates ORDER BY id")[-1].rows
        assert found is not None
        assert found.column("id").to_pylist() == wanted


def test_an_erased_user_is_in_no_object_and_in_no_copy_of_any_host(
    host: Callable[..., Surgetank], s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    one, two = host("one"), host("two")
    one.sql(NOTES)
    insert(one, "ada", 1, 2)
    insert(one, "bob", 3)
    assert one.flush().ok
    assert seen(two) == [1, 2, 3]
    two.erase_user("ada")
    for tank in (two, one):
        cold = tank.parts.tables.open().cold
        with mock.patch.object(cold, "_keeping", AT_ONCE):
            cold.sweep()
    assert two.erase_user("ada").state == "completed"
    store = ObjectStore(s3_server.url("tables", bucket=bucket))
    assert not [name for name in store.found() if b"ada" in store.get(name)]
    copies = [path for path in tmp_path.glob("*/tables-cache/**/*") if path.is_file()]
    assert not [path for path in copies if b"ada" in path.read_bytes()]
    assert (seen(one), seen(two)) == ([3], [3])


@pytest.mark.parametrize("what", ["credentials", "bucket", "busy"])
def test_rows_stay_and_the_reason_is_said_until_the_bucket_can_be_used(
    what: str, host: Callable[..., Surgetank], s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    wrong = {
        "credentials": (s3_server.url("tables", bucket=bucket, key="wrong"), "InvalidAccessKeyId"),
        "bucket": (s3_server.url("tables", bucket="never-made"), "NoSuchBucket"),
        "busy": (s3_server.url("tables", bucket=bucket), "SlowDown"),
    }
    url, reason = wrong[what]
    tank = host("one", tables_url=url)
    tank.sql(NOTES)
    insert(tank, "ada", 1, 2)
    if what == "busy":
        s3_server.fail(bucket, methods="PUT", after=1)  # the identity is stored, the file isn't
    job = tank.flush()
    assert not job.ok
    status = tank.status()
    notices = str(status.notices)
    assert "can't be reached" not in notices, "the database isn't to blame"
    for shown in (str(job.result), notices, str(tank.errors.find())):
        assert reason in shown
        assert "s3cret" not in shown
        assert "wrong-key" not in shown
    assert not status.healthy
    assert seen(tank) == [1, 2], "rows that wait are read"
    s3_server.mend(bucket)
    tank.close()
    tank = host("one")
    assert seen(tank) == [1, 2]
    assert tank.flush().ok
    assert seen(tank) == [1, 2]
    assert tank.status().healthy


def test_doctor_says_whether_the_bucket_answers(
    host: Callable[..., Surgetank], s3_server: S3Server, bucket: str
) -> None:
    tank = host("one")
    good = next(each for each in doctor.examine(tank) if each.check == "tables")
    assert (good.state, f"s3://{bucket}/tables" in good.detail) == ("ok", True)
    with s3_server.failing(bucket):
        bad = next(each for each in doctor.examine(tank) if each.check == "tables")
    assert (bad.state, "SlowDown" in bad.detail) == ("problem", True)


def test_a_file_whose_commit_failed_is_swept_when_it_is_old(
    host: Callable[..., Surgetank], s3_server: S3Server, bucket: str
) -> None:
    tank = host("one")
    tank.sql(NOTES)
    insert(tank, "ada", 1)
    cold = tank.parts.tables.open().cold
    with mock.patch.object(Manifest, "locked", side_effect=OSError("gone")):
        assert not tank.flush().ok
    orphan = stored(s3_server, bucket)
    assert len(orphan) == 1
    assert tank.flush().ok
    assert cold.sweep() == 0
    with mock.patch.object(cold, "_keeping", AT_ONCE):
        assert cold.sweep() == 1
        assert cold.strays() == []
    assert set(stored(s3_server, bucket)) & set(orphan) == set()
    assert seen(tank) == [1]


def test_a_bucket_that_is_away_is_said_and_what_was_copied_is_read(
    host: Callable[..., Surgetank], s3_server: S3Server, bucket: str
) -> None:
    one, two = host("one"), host("two")
    one.sql(NOTES)
    insert(one, "ada", 1)
    assert one.flush().ok
    assert seen(two) == [1]
    insert(one, "ada", 2)
    assert one.flush().ok
    with s3_server.failing(bucket):
        assert seen(one) == [1, 2]
        with pytest.raises(ColdStateUnavailable, match=r"can't be used \(SlowDown"):
            seen(two)
        assert seen(one, user="ada") == [1, 2]
    assert seen(two) == [1, 2]


def test_copies_are_bounded_and_a_query_that_needs_more_is_refused(
    host: Callable[..., Surgetank], tmp_path: Path
) -> None:
    tank = host("one", tables_cache_bytes=1 << 20)
    tank.sql("CREATE TABLE notes (id BIGINT, text BYTES)")
    for number in range(4):
        noise = random.Random(number).randbytes(400_000)
        tank.sql("INSERT INTO notes VALUES (?, ?)", [number, noise], user="ada")
        assert tank.flush().ok
    copies = list(tmp_path.glob("one/tables-cache/files/*/*"))
    assert sum(path.stat().st_size for path in copies) <= 1 << 20
    with pytest.raises(InvalidRequest, match="SURGETANK_TABLES_CACHE_BYTES"):
        seen(tank)
    assert confined(tank, "ada") == [0, 1, 2, 3], "read one after the other"
    copies = list(tmp_path.glob("one/tables-cache/files/*/*"))
    assert sum(path.stat().st_size for path in copies) <= 1 << 20


def test_the_bucket_of_another_database_and_files_in_a_folder_are_refused_by_name(
    host: Callable[..., Surgetank], fresh_database: str, tmp_path: Path, s3_server: S3Server
) -> None:
    one = host("one")
    one.sql(NOTES)
    insert(one, "ada", 1)
    assert one.flush().ok
    other = host("other", database_url=fresh_database)
    other.sql(NOTES)
    insert(other, "bob", 1)
    job = other.flush()
    assert "those of another database's tables" in str(job.result)
    assert seen(other) == [1]
    other.close()
    at_home = host("home", tables_url=None)
    with pytest.raises(Conflict, match="s3://"):
        seen(at_home)


def test_no_error_and_no_setting_shows_a_credential(
    host: Callable[..., Surgetank], s3_server: S3Server
) -> None:
    tank = host("one")
    tank.sql(NOTES)
    insert(tank, "ada", 1)
    assert tank.flush().ok
    storages = tank.sql("SELECT * FROM system.storages")[-1].rows
    assert storages is not None
    shown = f"{storages.to_pylist()} {tank.settings!r} {tank.status()}"
    assert "s3cret" not in shown
    assert "s3://" in shown


def test_hosts_that_share_a_buffer_share_the_rows_that_wait(
    host: Callable[..., Surgetank], tmp_path: Path, s3_server: S3Server, bucket: str
) -> None:
    url = url_for(tmp_path)
    one, two = (host(name, buffer_url=url) for name in ("one", "two"))
    one.sql(NOTES)
    insert(one, "olga", 1)
    insert(two, "bob", 2)
    batch = pa.table({"id": pa.array([3, 4], pa.int64()), "text": ["olga 3", "olga 4"]})
    one.tables.insert("notes", batch, user="olga")
    assert seen(one) == seen(two) == [1, 2, 3, 4]
    assert (confined(two, "olga"), confined(one, "bob")) == ([1, 3, 4], [2])
    for tank in (one, two):
        with pytest.raises(Conflict, match="PRIMARY KEY"):
            insert(tank, "olga", 3)
    two.sql("UPDATE notes SET text = 'new' WHERE id = 1", user="olga")
    one.sql("DELETE FROM notes WHERE id = 4", user="olga")
    assert seen(one) == seen(two) == [1, 2, 3]
    one.close()  # the host that took them is gone
    assert two.flush().ok
    assert two.parts.tables.open().hot.waiting() == []
    again = host("one", buffer_url=url)
    found = again.sql("SELECT text FROM notes ORDER BY id")[-1].rows
    assert found is not None
    assert found.column("text").to_pylist() == ["new", "bob 2", "olga 3"]
    insert(two, "olga", 5)
    report = again.erase_user("olga")
    assert not [each for each in report.out_of_reach if "wait on other hosts" in each]
    assert seen(two) == seen(again) == [2]
    store = ObjectStore(s3_server.url("tables", bucket=bucket))
    waiting = [name for name in store.found() if name.startswith("hot/")]
    # No hexadecimal digits: names of files are some.
    assert not [name for name in waiting if b"olga" in store.get(name)]


def test_rows_that_wait_in_the_file_of_before_are_not_left_there(
    host: Callable[..., Surgetank], tmp_path: Path
) -> None:
    one = host("one")
    one.sql(NOTES)
    insert(one, "ada", 1)
    waiting = mock.patch.object(one.parts.tables.open().hot, "lease", return_value=None)
    with waiting:
        one.close()
    with pytest.raises(ConfigurationError, match="1 rows of tables wait"):
        seen(host("one", buffer_url=url_for(tmp_path)))
