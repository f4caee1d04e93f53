"""Bit rot in the buffer's file: nothing changed is ever given as if it were what was accepted; the
rest stays usable.

Bytes are changed in the pages of a closed file, at places and with values that a seed gives, and
rows are deleted and changed behind the buffer's back. Each trial reads by key, in order, and as a
flush does.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from support import workload
from support.buffers import DOWN, child_env, put, read_all, take
from support.commands import run_command
from support.tanks import MakeTank
from surgetank.buffer.coordination import Ack, Due
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.buffer.sqlite.salvage import Salvaged, salvage
from surgetank.events.types import Severity
from surgetank.exceptions import BufferCorrupt, BufferProblem, EntryUnreadable, LeaseLost
from surgetank.model import Entry, Lease, Record

SEED = 20_260_107
TRIALS = 250
_Kept = dict[
    str, list[tuple[int, tuple[tuple[bytes, bytes], ...]]]
]  # by partition: seq and records


def filled(path: Path) -> _Kept:
    """A buffer with chains, large values and entries of several records; what it holds."""
    rng = random.Random(SEED)
    kept: _Kept = {}
    buffer = SQLiteBuffer(path)
    grown = {f"thread-{i}": b"" for i in range(12)}
    for step in range(12):
        for name in grown:
            grown[name] += rng.randbytes(rng.choice([40, 200, 1500]))
            records = [
                Record(b"cp\0%04d" % step, b"checkpoint %d" % step + rng.randbytes(60)),
                Record(b"v\0messages\0%04d" % step, grown[name], b"messages"),
                Record(b"v\0n\0%04d" % step, b"%d" % step),
            ]
            seq = buffer.append("s", name, records)
            kept.setdefault(name, []).append((seq, tuple((r.key, r.value) for r in records)))
    buffer.append("s", "large", [Record(b"big", rng.randbytes(300_000))])
    kept["large"] = [
        (e.seq, tuple((r.key, r.value) for r in e.records)) for e in read_one(buffer, "large")
    ]
    buffer.close()
    return kept


def read_one(buffer: SQLiteBuffer, name: str) -> list[Entry]:
    leased = take(buffer, name)
    entries = read_all(buffer, leased.lease)
    buffer.release([leased.lease])
    return entries


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, _Kept]:
    path = tmp_path_factory.mktemp("sound") / "buffer.db"
    return path, filled(path)


def looked_up(buffer: SQLiteBuffer, kept: _Kept) -> int:
    """Read everything by key; returns how often damage was raised. Fails for a value that is not as
    it was kept."""
    raised = 0
    for name, entries in kept.items():
        newest = {key: (seq, value) for seq, records in entries for key, value in records}
        try:
            with buffer.snapshot() as view:
                for key, (seq, value) in newest.items():
                    found = view.latest("s", name, [key])
                    assert key in found, (name, key, "vanished silently")
                    assert (found[key].seq, found[key].value) == (seq, value), (name, key)
                last = view.last("s", name, b"")
                assert last is not None, name
                assert last.key == max(newest), name
                scanned = {f.key: f.value for f in view.scan("s", name, b"")}
                assert scanned == {key: value for key, (_, value) in newest.items()}, name
        except BufferCorrupt:
            raised += 1
    return raised


class Drained:
    """What a flush gets out of a buffer, as a sink would have it, and how often it was told of
    damage."""

    def __init__(self, buffer: SQLiteBuffer) -> None:
        self.buffer = buffer
        self.out: list[Entry] = []
        self.told = 0

    def flush(self) -> None:
        """Drain; what can't be read is set aside, or its partition postponed."""
        for _ in range(20):
            try:
                leased = self.buffer.lease("s", Due(force=True), owner="w", ttl_s=15.0)
                if not leased:
                    return
                for part in leased:
                    self._flush(part.lease)
            except BufferProblem:  # "full" as well, for pages that the file can't have
                self.told += 1

    def _flush(self, lease: Lease) -> None:
        try:
            while entries := self.buffer.read(lease, max_entries=5, max_bytes=1 << 30):
                lost = self.buffer.ack([Ack(lease, entries)])
                written = max(
                    (e.seq for e in self.out if e.partition == lease.partition), default=0
                )
                self.out += [e for e in entries if e.seq > written]  # as a sink's fence does it
                if lost:
                    return
            self.buffer.release([lease])
        except EntryUnreadable as error:
            self.told += 1
            try:
                self.buffer.park(lease, error.seq, DOWN)
                self.buffer.release([lease])
            except BufferCorrupt:
                self.buffer.postpone(lease, attempts=1, next_attempt_at=0, failure=DOWN)


def check(path: Path, kept: _Kept) -> bool:
    """One trial on a damaged file. True when damage was noticed."""
    accepted = {(name, seq): records for name, entries in kept.items() for seq, records in entries}
    try:
        buffer = SQLiteBuffer(path)
    except BufferCorrupt:
        return True
    try:
        raised = looked_up(buffer, kept)
        drained = Drained(buffer)
        drained.flush()
        if len(drained.out) < len(accepted):
            try:
                buffer.maintain()  # makes indexes anew
            except BufferCorrupt:
                raised += 1
            drained.flush()
        for entry in drained.out:
            records = tuple((r.key, r.value) for r in entry.records)
            assert accepted.get((entry.partition, entry.seq)) == records, (
                entry.partition,
                entry.seq,
            )
        noticed = bool(raised or drained.told or damage_of(buffer))
        missing = len(accepted) - len(drained.out)
        assert noticed or not missing, f"{missing} entries vanished silently"
        return noticed
    finally:
        buffer.close()


def damage_of(buffer: SQLiteBuffer) -> int:
    try:
        return len(buffer.damage())
    except BufferCorrupt:
        return 1


def flip_bits(raw: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        raw[rng.randrange(100, len(raw))] ^= 1 << rng.randrange(8)


def garble(raw: bytearray, rng: random.Random) -> None:
    size = rng.choice([4, 64, 512])
    start = rng.randrange(100, len(raw) - size)
    raw[start : start + size] = rng.randbytes(size)


def zero_a_sector(raw: bytearray, rng: random.Random) -> None:
    start = rng.randrange(1, len(raw) // 512) * 512
    raw[start : start + 512] = bytes(512)


def swap_pages(raw: bytearray, rng: random.Random) -> None:
    one, other = (rng.randrange(1, len(raw) // 4096) * 4096 for _ in range(2))
    raw[one : one + 4096], raw[other : other + 4096] = (
        raw[other : other + 4096],
        raw[one : one + 4096],
    )


@pytest.mark.parametrize("harm", [flip_bits, garble, zero_a_sector, swap_pages])
def test_a_damaged_page_never_gives_a_changed_value(
    sound: tuple[Path, _Kept], tmp_path: Path, harm: Callable[[bytearray, random.Random], None]
) -> None:
    path, kept = sound
    pristine = path.read_bytes()
    rng = random.Random(f"{SEED} {harm.__name__}")
    noticed = 0
    for trial in range(TRIALS // 4):
        raw = bytearray(pristine)
        size = len(raw)
        # Pages other than the large value's, which would get nearly all of the harm, in most
        # trials.
        limit = size if trial % 8 == 0 else size - 300_000
        part = raw[:limit]
        harm(part, rng)
        damaged = tmp_path / f"{trial}.db"
        damaged.write_bytes(part[:limit] + raw[limit:])
        try:
            noticed += check(damaged, kept)
        except Exception as error:
            raise AssertionError(f"seed {SEED}, trial {trial}: {error!r}") from error
        damaged.unlink()
    assert noticed > TRIALS // 16


def change(path: Path, sql: str, *arguments: object) -> int:
    """Do something behind the buffer's back."""
    file = sqlite3.connect(path, isolation_level=None)
    file.execute("BEGIN")
    triggers = file.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        file.execute(f"DROP TRIGGER {name}")
    count = file.execute(sql, arguments).rowcount
    for _, made in triggers:
        file.execute(made)
    file.execute("COMMIT")
    file.close()
    return count


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE records SET value = CAST(value || x'00' AS BLOB) WHERE id = ?",
        "UPDATE records SET key = x'6b32' WHERE id = ?",
        "UPDATE records SET accepted_at = accepted_at - 86400 WHERE id = ?",
        "UPDATE records SET checksum = checksum + 1 WHERE id = ?",
        "UPDATE records SET checksum = NULL WHERE id = ?",
        "DELETE FROM records WHERE id = ?",
        "DELETE FROM records WHERE id = ? + 1",
        "DELETE FROM records WHERE id >> 16 = ? >> 16",
        "UPDATE partitions SET name = 'other' WHERE name = 'p' AND ? > 0",
    ],
)
def test_whatever_is_changed_or_gone_is_found_and_the_rest_is_flushed(
    tmp_path: Path, sql: str
) -> None:
    path = tmp_path / "buffer.db"
    buffer = SQLiteBuffer(path)
    seqs = [
        buffer.append("s", "p", [Record(b"k", b"%d" % i), Record(b"l", b"second")])
        for i in range(5)
    ]
    put(buffer, "q", b"of q")
    assert change(path, sql, seqs[3] << 16) > 0
    again = SQLiteBuffer(path)
    name = "other" if (renamed := "partitions" in sql) else "p"
    with pytest.raises(BufferCorrupt) as caught, again.snapshot() as view:
        view.scan("s", name, b"")
    assert caught.value.partition == name
    drained = Drained(again)
    drained.flush()
    of_p = [
        r.value
        for e in drained.out
        if e.partition in ("p", "other")
        for r in e.records
        if r.key == b"k"
    ]
    assert of_p == ([] if renamed else [b"0", b"1", b"2", b"4"])
    assert [e.records[0].value for e in drained.out if e.partition == "q"] == [b"of q"]
    aside = [entry.seq for entry in again.parked()]
    missing = "id >> 16" in sql
    assert aside == (seqs if renamed else [] if missing else [seqs[3]])
    if missing:
        (damage,) = again.damage()
        assert (damage.stream, damage.partition) == ("s", "p")
        assert "1 accepted entries are missing" in damage.what
        assert again.damage(new=True) == [damage]
        again.damage_announced([damage.id])
        assert again.damage(new=True) == []
    else:
        with pytest.raises(BufferCorrupt, match=str(seqs[0] if renamed else seqs[3])):
            again.parked_entry(again.parked()[0].id)
    assert again.depth().entries == len(aside)
    again.close()
    buffer.close()


def test_an_error_of_a_damaged_record_says_what_is_affected(tmp_path: Path) -> None:
    buffer = SQLiteBuffer(tmp_path / "buffer.db")
    seq = put(buffer, "p", b"value", key=b"key")
    change(buffer.path, "UPDATE records SET value = x'00'")
    with (
        pytest.raises(BufferCorrupt, match=f"Entry {seq} of s/p, key b'key'") as caught,
        buffer.snapshot() as view,
    ):
        view.latest("s", "p", [b"key"])
    assert (caught.value.partition, caught.value.seq, caught.value.key) == ("p", seq, b"key")
    assert "--salvage" in caught.value.remedy
    buffer.close()


def test_what_builds_on_a_damaged_value_is_never_made_whole_from_it(tmp_path: Path) -> None:
    buffer = SQLiteBuffer(tmp_path / "buffer.db")
    grown = bytes(range(256)) * 20
    for i in range(4):
        buffer.append("s", "p", [Record(b"%d" % i, grown + b"x" * (100 * i), b"family")])
    assert (
        change(buffer.path, "UPDATE records SET value = zeroblob(length(value)) WHERE base IS NULL")
        == 1
    )
    again = SQLiteBuffer(buffer.path)
    drained = Drained(again)
    drained.flush()
    assert drained.out == []
    assert len(again.parked()) == 4
    for parked in again.parked():
        with pytest.raises(BufferCorrupt):
            again.parked_entry(parked.id)
    assert again.unpark([parked.id for parked in again.parked()])
    drained.flush()
    assert drained.out == []
    again.close()
    buffer.close()


def test_damage_is_told_to_operators_and_keeps_nobody_else(make_tank: MakeTank) -> None:
    tank = make_tank()
    saver = tank.checkpointer()
    for thread in ("well", "rotten", "holed"):
        for number in range(1, 5):
            workload.put(
                saver, thread, number, number - 1 or None, [f"{thread} {i}" for i in range(number)]
            )
    path = Path(tank.parts.buffer.name)
    entries = "SELECT r.id >> 16 FROM records r JOIN partitions p ON p.id = r.partition_id WHERE p.name = ? GROUP BY 1"
    file = sqlite3.connect(path)
    third = {name: file.execute(entries, (name,)).fetchall()[2][0] for name in ("rotten", "holed")}
    file.close()
    change(
        path,
        "UPDATE records SET key = CAST(key || x'00' AS BLOB) WHERE id >> 16 = ?",
        third["rotten"],
    )
    change(path, "DELETE FROM records WHERE id >> 16 = ?", third["holed"])
    job = tank.flush()
    assert not job.ok
    assert [p.seq for p in tank.parked()] == [third["rotten"]]
    tank.parts.reporting.tell_all(tank.parts.flushers)
    for thread, known in {"well": 4, "rotten": 3, "holed": 3}.items():
        found = list(saver.list({"configurable": {"thread_id": thread}}))
        assert len(found) == known, thread
    groups = {g.error_type: g for g in tank.errors.find().errors}
    assert groups["buffer_damaged"].severity is Severity.CRITICAL
    assert "holed" in groups["buffer_damaged"].error_message
    assert "damaged on the disk" in groups["checkpoint_flush_critical_error"].error_message
    tank.parts.reporting.tell_all(tank.parts.flushers)
    assert {g.error_type: g.occurrences for g in tank.errors.find().errors}["buffer_damaged"] == 1


# -- salvage


def salvaged(
    path: Path, folder: Path
) -> tuple[Salvaged, dict[tuple[str, int], tuple[tuple[bytes, bytes], ...]]]:
    """What a salvage brings out, and the entries that then drain from the new buffer."""
    found = salvage(path, folder)
    buffer = SQLiteBuffer(found.path)
    buffer.check()
    drained = Drained(buffer)
    drained.flush()
    assert drained.told == 0
    assert buffer.depth().entries == found.parked
    buffer.close()
    return found, {
        (e.partition, e.seq): tuple((r.key, r.value) for r in e.records) for e in drained.out
    }


def test_a_sound_buffer_is_salvaged_whole(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    kept = filled(path)
    before = SQLiteBuffer(path)
    (leased,) = before.lease("s", Due(partition="thread-0", force=True), owner="w", ttl_s=15.0)
    before.park(leased.lease, kept["thread-0"][2][0], DOWN)
    before.release([leased.lease])
    put(before, "thread-1", b"in the log only")
    raw = path.read_bytes()
    found, out = salvaged(path, tmp_path / "new")
    assert (found.lost, found.unreadable, found.parked) == ([], [], 1)
    accepted = {(name, seq): records for name, entries in kept.items() for seq, records in entries}
    parked = ("thread-0", kept["thread-0"][2][0])
    del accepted[parked]
    assert {place: out.get(place) for place in accepted} == accepted
    assert len(out) == len(accepted) + 1
    again = SQLiteBuffer(found.path)
    assert again.id == before.id
    (entry,) = again.parked()
    assert (entry.seq, entry.failure) == (parked[1], DOWN)
    whole = again.parked_entry(entry.id)
    assert whole is not None
    assert tuple((r.key, r.value) for r in whole.records) == kept["thread-0"][2][1]
    assert put(again) > max(seq for _, seq in out)
    again.close()
    assert path.read_bytes() == raw, "it is only read"
    before.close()


@pytest.mark.parametrize("harm", [flip_bits, garble, zero_a_sector, swap_pages])
def test_a_salvage_brings_out_what_is_whole_and_nothing_else(
    sound: tuple[Path, _Kept], tmp_path: Path, harm: Callable[[bytearray, random.Random], None]
) -> None:
    path, kept = sound
    accepted = {(name, seq): records for name, entries in kept.items() for seq, records in entries}
    rng = random.Random(f"{SEED} salvage {harm.__name__}")
    file = sqlite3.connect(path)
    pages = file.execute(
        "SELECT rootpage FROM sqlite_schema WHERE tbl_name = 'records' AND rootpage > 0"
    )
    roots = [page for (page,) in pages]
    file.close()
    for trial in range(8):
        raw = bytearray(path.read_bytes())
        harm(raw, rng)
        if trial % 2:
            for page in roots:  # SQLite reads no record any more
                raw[(page - 1) * 4096 : page * 4096] = rng.randbytes(4096)
        damaged = tmp_path / f"{trial}.db"
        damaged.write_bytes(raw)
        _, out = salvaged(damaged, tmp_path / f"new-{trial}")
        assert all(accepted[place] == records for place, records in out.items()), (
            f"seed {SEED}, trial {trial}"
        )
        assert len(out) > len(accepted) // 4, f"seed {SEED}, trial {trial}"


def test_whose_a_partition_is_comes_out_too(tmp_path: Path) -> None:
    before = SQLiteBuffer(tmp_path / "buffer.db")
    before.append("s", "p", [Record(b"k", b"v")], fence=8)
    before.raise_fence("s", "empty", 8)
    before.close()
    after = SQLiteBuffer(salvage(tmp_path / "buffer.db", tmp_path / "new").path)
    for partition in ("p", "empty"):
        with pytest.raises(LeaseLost):
            after.append("s", partition, [Record(b"k", b"late")], fence=7)
        assert after.append("s", partition, [Record(b"k", b"v")], fence=8)
    after.close()


def test_what_the_database_has_is_not_written_again_after_a_salvage(
    make_tank: MakeTank, tmp_path: Path
) -> None:
    tank = make_tank()
    saver = tank.checkpointer()
    for number in range(1, 5):
        workload.put(saver, "t", number, number - 1 or None, [f"t {i}" for i in range(number)])
    home = tmp_path / "home"
    shutil.copytree(home, tmp_path / "copy", ignore=shutil.ignore_patterns("*-shm"))
    assert tank.flush().ok
    tank.close()
    new = tmp_path / "new"
    status = main_of(["doctor", "--salvage", str(new), "--home", str(tmp_path / "copy")])
    assert status == 0
    again = make_tank(home=new)
    assert again.status().buffer.entries > 0
    assert again.flush().ok
    found = list(again.checkpointer().list({"configurable": {"thread_id": "t"}}))
    assert len(found) == 4
    again.close()
    assert main_of(["doctor", "--salvage", str(new), "--home", str(tmp_path / "copy")]) != 0, (
        "it is never overwritten"
    )


def main_of(words: list[str]) -> int:
    done = run_command(tuple(words), child_env())
    assert "Traceback" not in done.stderr
    return done.returncode
