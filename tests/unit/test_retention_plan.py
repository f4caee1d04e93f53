"""What of a thread goes by age, count and size. Pure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgetank.streams.checkpoints.retention.plan import (
    Contents,
    Limits,
    Stored,
    StoredBlob,
    closure,
    plan,
    remaining_bytes,
)


def chain(count: int, *, ns: str = "", size: int = 10, **more: Any) -> list[Stored]:
    """Checkpoints 0, 1, 2 ..., each the parent of the next; the newest is 0 seconds old."""
    return [
        Stored(
            ns, f"{n:03}", f"{n - 1:03}" if n else None, age_s=100.0 * (count - 1 - n), size=size,
            **more,
        )
        for n in range(count)
    ]  # fmt: skip


def gone(checkpoints: list[Stored], limits: Limits, **more: Any) -> dict[str, list[str]]:
    found = plan(Contents("t", checkpoints, **more), limits)
    return {ns: list(ids) for ns, ids in found.doomed.items()}


def test_no_limit_means_that_nothing_goes() -> None:
    assert not Limits()
    assert gone(chain(5), Limits()) == {}


def test_what_is_older_goes_oldest_first_and_the_newest_stays_however_old() -> None:
    assert gone(chain(5), Limits(age_s=150)) == {"": ["000", "001", "002"]}
    assert gone(chain(5), Limits(age_s=200)) == {"": ["000", "001"]}, "not what is just as old"
    assert gone(chain(3), Limits(age_s=0)) == {"": ["000", "001"]}


def test_so_many_stay_in_each_namespace() -> None:
    both = [*chain(4), *chain(2, ns="sub")]
    assert gone(both, Limits(keep=1)) == {"": ["000", "001", "002"], "sub": ["000"]}
    assert gone(both, Limits(keep=3)) == {"": ["000"]}


def test_over_the_size_the_oldest_go_and_no_more_than_needed() -> None:
    assert gone(chain(5), Limits(max_bytes=30)) == {"": ["000", "001"]}
    assert gone(chain(5), Limits(max_bytes=50)) == {}
    assert gone(chain(5), Limits(max_bytes=1)) == {"": ["000", "001", "002", "003"]}


def test_each_that_goes_is_counted_by_its_limit() -> None:
    found = plan(Contents("t", chain(5)), Limits(age_s=350, keep=4, max_bytes=30))
    assert found.count == 2
    assert found.reasons == {"age": 1, "size": 1}
    assert (found.checkpoints, found.bytes, found.freed_bytes) == (5, 50, 20)
    assert plan(Contents("t", chain(5), values=False), Limits(keep=1)).freed_bytes is None


def test_what_the_buffer_holds_something_for_stays_and_what_it_descends_from() -> None:
    checkpoints = chain(4)
    pinned = frozenset({("", "001")})
    assert gone(checkpoints, Limits(keep=1), pinned=pinned) == {"": ["000", "002"]}
    hot = [*chain(3), Stored("", "003", "002", hot=True), Stored("", "004", "003", hot=True)]
    assert gone(hot, Limits(keep=1)) == {"": ["000", "001"]}


def test_what_a_kept_one_is_rebuilt_from_stays_up_to_the_nearest_stored_value() -> None:
    delta = frozenset({"log"})
    checkpoints = [
        Stored("", "000", None, delta_channels=delta, present=delta),
        Stored("", "001", "000", delta_channels=delta, present=delta),
        Stored("", "002", "001", delta_channels=delta),
        Stored("", "003", "002", delta_channels=delta),
    ]
    assert gone(checkpoints, Limits(keep=1)) == {"": ["000"]}
    assert plan(Contents("t", checkpoints), Limits(keep=1)).indivisible
    known = {c.key: c for c in checkpoints}
    assert closure(known, [("", "001")]) == {("", "001")}
    assert closure(known, [("", "003")]) == {("", "003"), ("", "002"), ("", "001")}


def test_a_version_lives_as_long_as_one_that_refers_to_it() -> None:
    blobs = [StoredBlob("c", None, 100, 40), StoredBlob("c", 0, 100, 5)]
    checkpoints = [Stored("", "0", None, blobs=(0,)), Stored("", "1", "0", blobs=(1,))]
    contents = Contents("t", checkpoints, blobs)
    assert contents.size == 45
    assert remaining_bytes(contents, {("", "0"), ("", "1")}) == 45
    assert remaining_bytes(contents, {("", "0")}) == 40
    assert remaining_bytes(contents, {("", "1")}) == 40, "stored whole, as well compressed"
    shared = Contents(
        "t", [Stored("", "0", None, blobs=(0,)), Stored("", "1", "0", blobs=(0,))], blobs
    )
    assert remaining_bytes(shared, {("", "1")}) == 40


@given(
    st.integers(1, 12), st.none() | st.floats(0, 1500), st.none() | st.integers(1, 12),
    st.none() | st.integers(0, 200), st.sets(st.integers(0, 11)), st.booleans(),
)  # fmt: skip
@settings(derandomize=True, database=None, deadline=None)
def test_whatever_the_limits_the_newest_stays_and_what_stays_can_be_rebuilt(
    count: int,
    age: float | None,
    keep: int | None,
    most: int | None,
    present: set[int],
    delta: bool,
) -> None:
    channels = frozenset({"log"}) if delta else frozenset()
    checkpoints = [
        Stored(
            "", f"{n:03}", f"{n - 1:03}" if n else None, age_s=100.0 * (count - n), size=10,
            delta_channels=channels, present=channels if n in present or not n else frozenset(),
        )
        for n in range(count)
    ]  # fmt: skip
    found = plan(Contents("t", checkpoints), Limits(age, keep, most))
    left = {c.key for c in checkpoints} - {("", cid) for cid in found.doomed.get("", ())}
    assert ("", f"{count - 1:03}") in left
    known = {c.key: c for c in checkpoints}
    assert closure(known, left) == left
    assert sum(found.reasons.values()) == found.count


@pytest.mark.parametrize("limits", [Limits(keep=1), Limits(age_s=0), Limits(max_bytes=0)])
def test_an_empty_thread_has_an_empty_plan(limits: Limits) -> None:
    assert plan(Contents("t"), limits).count == 0
