"""The buffer's file deleted or replaced under a running process: noticed, told, nothing accepted
into nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import workload
from support.buffers import drain, put, values
from support.tanks import MakeTank
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.events.types import Severity
from surgetank.exceptions import BufferUnavailable
from surgetank.model import Record
from surgetank.sqlite import identity


@pytest.fixture(autouse=True)
def _look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_EVERY_S", 0.0)


@pytest.fixture
def buffer(tmp_path: Path) -> Iterator[SQLiteBuffer]:
    buffer = SQLiteBuffer(tmp_path / "buffer.db")
    yield buffer
    buffer.close()


def unlink(path: Path) -> None:
    path.unlink()


def unlink_wal(path: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


def unlink_all(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink()


def replace(path: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    copy.rename(path)


def restore_backup(path: Path) -> None:
    unlink_all(path)
    SQLiteBuffer(path).close()


@pytest.mark.parametrize("harm", [unlink, unlink_wal, unlink_all, replace, restore_backup])
def test_nothing_is_accepted_into_a_file_that_is_gone_and_what_it_holds_is_flushed(
    buffer: SQLiteBuffer, harm: Callable[[Path], None]
) -> None:
    for i in range(5):
        put(buffer, "p", b"%d" % i)
    harm(buffer.path)
    with pytest.raises(BufferUnavailable, match=r"deleted|replaced") as caught:
        put(buffer, "p", b"late")
    assert "flush" in caught.value.remedy
    with pytest.raises(BufferUnavailable, match="taken away"):
        buffer.try_append("s", "p", [Record(b"k", b"late")])
    buffer.maintain()
    with buffer.snapshot() as view:
        assert [f.value for f in view.scan("s", "p", b"")] == [b"0", b"1", b"2", b"3", b"4"]
    assert values(drain(buffer)) == [b"0", b"1", b"2", b"3", b"4"]
    assert buffer.depth().entries == 0


def test_a_file_that_only_grows_is_never_taken_for_another(buffer: SQLiteBuffer) -> None:
    for _ in range(3):
        for _ in range(40):
            put(buffer, "p", bytes(50_000))
        buffer.maintain()
        other = SQLiteBuffer(buffer.path)
        put(other, "q", b"of another handle")
        other.close()
        drain(buffer)
        buffer.maintain()
    assert buffer.file.identity.problem(now=True) is None


def test_it_is_told_and_what_was_accepted_before_reaches_the_database(make_tank: MakeTank) -> None:
    tank = make_tank()
    saver = tank.checkpointer()
    for number in range(1, 4):
        workload.put(saver, "t", number, number - 1 or None, [f"said {i}" for i in range(number)])
    path = Path(tank.parts.buffer.name)
    unlink_all(path)
    with pytest.raises(BufferUnavailable, match="was taken away under this process"):
        workload.put(saver, "t", 4, 3, ["late"])
    tank.parts.housekeep()
    assert any("taken away" in problem for problem in tank.status().problems)
    assert tank.flush().ok
    (group,) = [g for g in tank.errors.find().errors if g.error_type == "buffer_problem"]
    assert group.severity is Severity.CRITICAL
    assert "was deleted" in group.error_message
    assert not path.exists(), "no new file stands where it was"
    found = saver.get_tuple({"configurable": {"thread_id": "t"}})
    assert found is not None
    assert found.checkpoint["channel_values"]["items"] == ["said 0", "said 1", "said 2"]
