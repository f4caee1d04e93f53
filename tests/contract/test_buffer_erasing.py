"""The promises of `Buffer` about erasing: what is kept of a partition goes, what waits and
everybody else's stays."""

from __future__ import annotations

from support.buffers import BAD, BufferHouse, drain, put, read_all, take, values
from surgetank.buffer.coordination import Ack
from surgetank.buffer.protocol import Buffer
from surgetank.job_result import JobResult
from surgetank.model import FlushJob, JobStatus


def job(id_: str, **result: object) -> FlushJob:
    return FlushJob(
        id_,
        "s",
        "manual",
        JobStatus.COMPLETED,
        created_at=1.0,
        node="n",
        result=JobResult.of(result),
    )


def test_a_partition_of_which_nothing_waits_goes_with_all_that_is_kept_of_it(
    buffer: Buffer,
) -> None:
    put(buffer, "gone", b"acknowledged")
    drain(buffer)
    put(buffer, "stays", b"theirs")
    assert buffer.erase(["gone", "unknown"], []) == (1, [])
    with buffer.snapshot() as view:
        assert view.partitions("s") == ["stays"]
        assert view.notes("s", "gone") == {}
    assert buffer.depth().entries == 1
    put(buffer, "gone", b"anew")
    assert values(read_all(buffer, take(buffer, "gone").lease)) == [b"anew"]


def test_what_waits_is_never_erased_and_is_named(buffer: Buffer) -> None:
    put(buffer, "p", b"waits")
    assert buffer.erase(["p"], []) == (0, ["p"])
    assert values(read_all(buffer, take(buffer, "p").lease)) == [b"waits"]


def test_parked_entries_are_discarded_for_good_and_counted_out(buffer: Buffer) -> None:
    put(buffer, "p", b"good")
    seq = put(buffer, "p", b"bad")
    parked = buffer.park(take(buffer, "p").lease, seq, BAD)
    before = buffer.depth()
    buffer.discard_parked([parked.id, 4711])
    after = buffer.depth()
    assert buffer.parked() == []
    assert buffer.parked_entry(parked.id) is None
    assert (before.entries - after.entries, before.bytes - after.bytes) == (1, parked.bytes)


def test_jobs_keep_their_numbers_and_lose_what_names_an_erased_word(buffer: Buffer) -> None:
    buffer.save_job(
        job("named", rows_flushed=3, message="s/ada-1: refused", errors=[{"partition": "ada-1"}])
    )
    buffer.save_job(job("other", rows_flushed=4, message="s/bob: refused"))
    buffer.erase([], ["ada-1"])
    named, other = buffer.job("named"), buffer.job("other")
    assert named is not None
    assert other is not None
    assert (named.result["rows_flushed"], "ada-1" in repr(named)) == (3, False)
    assert other.result == {"rows_flushed": 4, "message": "s/bob: refused"}


def test_after_scrubbing_no_byte_of_what_was_removed_is_in_the_files(house: BufferHouse) -> None:
    buffer = house.open()
    secret = b"a-value-that-must-go" * 20
    put(buffer, "gone", secret)
    put(buffer, "stays", b"theirs" * 20)
    lease = take(buffer, "gone").lease
    buffer.ack([Ack(lease, read_all(buffer, lease), release=True)])
    assert buffer.erase(["gone"], []) == (1, [])
    assert buffer.scrub()
    assert not [p for p in house.folder.rglob("*") if p.is_file() and secret[:20] in p.read_bytes()]
    assert values(read_all(buffer, take(buffer, "stays").lease)) == [b"theirs" * 20]
