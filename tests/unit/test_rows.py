"""From buffer entries to rows: what is folded, what an operation separates, what comes too late.
Pure."""

from __future__ import annotations

from typing import Any

import pytest

from surgetank.exceptions import EntryRejected
from surgetank.model import Entry, Record
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.cold.rows import SMALL_BYTES, Plan, plan
from surgetank.streams.checkpoints.envelope import CheckpointRecord, Operation, WriteRecord
from surgetank.streams.checkpoints.refs import CheckpointRef

LARGE = b"x" * (SMALL_BYTES + 1)


def checkpoint(
    id_: str, *, parent: str | None = None, ns: str = "", present: dict[str, str] | None = None,
    metadata: bytes = b"{}",
) -> Record:  # fmt: skip
    versions: Any = {"channel_versions": present or {}}
    record = CheckpointRecord(
        parent, envelope.structure_of(versions), tuple(present or ()), "json", metadata,
        metadata_json=b"{}", scalars_json=b"{}",
    )  # fmt: skip
    return Record(envelope.checkpoint_key(ns, id_), record.pack())


def write(id_: str, task: str, idx: int, data: bytes = b"d") -> Record:
    packed = WriteRecord("channel", "path", "msgpack", data).pack()
    return Record(envelope.write_key("", id_, task, idx), packed)


def blob(channel: str, version: str, data: bytes = b"v") -> Record:
    return Record(envelope.blob_key("", channel, version), envelope.pack_blob("msgpack", data))


def operation(kind: str, *ids: str) -> Record:
    return Record(envelope.OPERATION_KEY, Operation("op", kind, "", ids).pack())


def entry(seq: int, *records: Record, replayed: bool = False) -> Entry:
    return Entry("checkpoints", "t", seq, records, 1.0, replayed=replayed)


def planned(*entries: Entry, dead: set[CheckpointRef] | None = None, in_row: bool = False) -> Plan:
    return plan([("t", entries)], dead if dead is not None else set(), in_row=in_row)


def ref(id_: str) -> CheckpointRef:
    return CheckpointRef("t", "", id_)


def test_a_checkpoint_that_is_put_again_replaces_the_older_one() -> None:
    work = planned(
        entry(1, checkpoint("1", metadata=b"old")), entry(2, checkpoint("1", metadata=b"new"))
    )
    assert work.first.checkpoints[ref("1")].metadata == b"new"
    assert work.first.seqs == {ref("1"): 2}
    assert work.heads == {"t": {"": "1"}}


@pytest.mark.parametrize(("idx", "kept"), [(0, b"first"), (-1, b"last")])
def test_of_two_writes_with_one_key_the_first_stays_of_special_ones_the_last(
    idx: int, kept: bytes
) -> None:
    work = planned(
        entry(1, write("1", "task", idx, b"first")), entry(2, write("1", "task", idx, b"last"))
    )
    (found,) = work.first.writes.values()
    assert found.data == kept


def test_values_are_not_folded_so_that_numbers_do_not_depend_on_how_entries_are_grouped() -> None:
    work = planned(entry(1, blob("c", "1", b"a")), entry(2, blob("c", "1", b"a")))
    assert [value for _, value in work.first.blobs] == [("msgpack", b"a")] * 2


def test_an_operation_separates_what_comes_before_from_what_comes_after() -> None:
    work = planned(
        entry(1, checkpoint("1")), entry(2, operation("delete_thread")), entry(3, checkpoint("2"))
    )
    assert set(work.first.checkpoints) == {ref("1")}
    (_, deletion), (_, after) = work.steps
    assert isinstance(deletion, Operation)
    assert deletion.kind == "delete_thread"
    assert not isinstance(after, Operation)
    assert set(after.checkpoints) == {ref("2")}
    assert work.heads == {"t": {"": "2"}}, "the head before the deletion counts no more"


def test_an_operation_at_the_end_leaves_no_empty_step() -> None:
    work = planned(entry(1, checkpoint("1")), entry(2, operation("delete_checkpoints", "0")))
    assert len(work.steps) == 1


def test_children_and_writes_of_what_was_deleted_come_too_late() -> None:
    dead = {ref("1")}
    work = planned(
        entry(1, blob("c", "2"), checkpoint("2", parent="1")), entry(2, write("2", "task", 0)),
        entry(3, write("1", "task", 0)), entry(4, checkpoint("3", parent="2")), dead=dead,
    )  # fmt: skip
    assert not work.first.checkpoints
    assert not work.first.writes
    assert dead == {ref("1"), ref("2"), ref("3")}


def test_what_was_deleted_and_is_put_again_lives() -> None:
    dead = {ref("1")}
    work = planned(entry(1, checkpoint("1")), entry(2, write("1", "task", 0)), dead=dead)
    assert set(work.first.checkpoints) == {ref("1")}
    assert len(work.first.writes) == 1
    assert dead == set()
    assert work.revived == {"t": [envelope.tombstone_note("", "1")]}


def test_what_is_tried_again_replaces_nothing_newer() -> None:
    work = planned(
        entry(2, checkpoint("1", metadata=b"new")),
        entry(3, checkpoint("1", metadata=b"old"), replayed=True),
    )
    assert work.first.checkpoints[ref("1")].metadata == b"new"
    alone = planned(entry(3, blob("c", "1"), checkpoint("1"), replayed=True))
    assert alone.first.replayed == {ref("1"), ("t", "", "c", "1")}


def test_at_level_two_small_values_are_in_their_checkpoints_row() -> None:
    put = entry(
        1, blob("s", "1", b"small"), blob("l", "1", LARGE),
        checkpoint("1", present={"s": "1", "l": "1"}),
    )  # fmt: skip
    # the checkpoint's record comes first, as `put` makes it
    put = Entry("checkpoints", "t", 1, put.records[::-1], 1.0)
    in_row = planned(put, in_row=True).first
    assert [key for key, _ in in_row.blobs] == [("t", "", "l", "1")]
    assert in_row.small == {("t", "", "s", "1"): ("msgpack", b"small")}
    assert in_row.own == {ref("1"): {"s": ("msgpack", b"small")}}
    assert len(planned(put).first.blobs) == 2, "at level one each has a row"


def test_at_level_two_small_writes_of_a_call_share_a_row() -> None:
    call = entry(1, write("1", "a", 0, b"s"), write("1", "a", 1, LARGE), write("1", "a", 2, b"t"))
    found = planned(call, in_row=True).first
    host = ("t", "", "1", "a", 1)
    assert found.host_of == {("t", "", "1", "a", 0): host, ("t", "", "1", "a", 2): host}
    assert planned(call).first.host_of == {}
    assert planned(entry(1, write("1", "a", 0)), in_row=True).first.host_of == {}


def test_an_unknown_kind_of_record_is_refused_with_the_entry_and_the_way_out() -> None:
    with pytest.raises(EntryRejected, match=r"unknown kind of record b'z"):
        planned(entry(7, Record(b"z\x00", b"")))


def test_writes_that_came_after_a_deletion_are_left_out() -> None:
    work = planned(entry(1, write("1", "task", 0)), entry(2, write("2", "task", 0)))
    work.first.drop_late_writes({ref("1")})
    assert [key[2] for key in work.first.writes] == ["2"]
    assert work.first.namespaces == {("t", "")}
