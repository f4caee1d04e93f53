"""Hot checkpoints and pages of cold ones as one list. Pure."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from surgetank.streams.checkpoints.listing import Listing
from surgetank.streams.checkpoints.refs import CheckpointRef


def listing(*hot: str, deleted: frozenset[str] = frozenset()) -> Listing:
    found = Listing(None, None, None, known_cold=True, deleted=set(deleted))
    found.hot = [(cid, "t", "") for cid in sorted(hot, reverse=True)]
    return found


def page(*ids: str, thread: str = "t") -> list[CheckpointRef]:
    return [CheckpointRef(thread, "", cid) for cid in ids]


def drained(found: Listing, pages: list[list[CheckpointRef]]) -> list[tuple[str, bool]]:
    rest, seen = list(pages), list[tuple[str, bool]]()
    while True:
        if found.needs_page:
            found.take(rest.pop(0) if rest else [], last=not rest)
            continue
        ref = found.pop()
        if ref is None:
            return seen
        seen.append((ref.checkpoint_id, found.is_hot))


def test_the_newest_comes_first_from_whichever_side() -> None:
    assert drained(listing("5", "2"), [page("4", "3"), page("1")]) == [
        ("5", True), ("4", False), ("3", False), ("2", True), ("1", False),
    ]  # fmt: skip


def test_what_both_have_is_listed_once_and_is_hot() -> None:
    assert drained(listing("2"), [page("2", "1")]) == [("2", True), ("1", False)]


def test_nothing_is_told_before_the_page_that_could_come_first_is_there() -> None:
    found = listing("1")
    assert found.needs_page
    found.take(page("2"), last=False)
    assert not found.needs_page
    assert found.pop() == CheckpointRef("t", "", "2")
    assert found.needs_page, "the next page may hold what is newer than the hot one"
    found.take([], last=True)
    assert found.pop() == CheckpointRef("t", "", "1")
    assert found.pop() is None


def test_a_thread_that_was_deleted_in_the_buffer_is_left_out() -> None:
    found = listing(deleted=frozenset({"gone"}))
    assert drained(found, [page("2", thread="gone"), page("1")]) == [("1", False)]
    assert found.last_cold == CheckpointRef("t", "", "1")


def test_a_page_of_deleted_ones_alone_is_gone_through_and_the_cursor_moves() -> None:
    found = listing(deleted=frozenset({"gone"}))
    found.take(page("9", "8", thread="gone"), last=False)
    assert found.needs_page
    assert found.last_cold == CheckpointRef("gone", "", "8")


def test_what_comes_next_is_known_as_far_as_the_page_reaches() -> None:
    found = listing()
    found.take([*page("5", "4"), CheckpointRef("u", "", "3"), *page("2")], last=False)
    assert found.upcoming("t", "", 10) == ["5", "4", "2"]
    assert found.upcoming("t", "", 1) == ["5"]
    found.pop()
    assert found.upcoming("t", "", 10) == ["4", "2"]
    assert found.upcoming("u", "other", 10) == []


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.integers(1, 5))
@settings(derandomize=True, database=None, deadline=None)
def test_all_are_listed_once_in_order_whatever_the_pages(
    hot: set[int], cold: set[int], size: int
) -> None:
    names = [f"{number:02}" for number in sorted(cold, reverse=True)]
    pages = [page(*names[at : at + size]) for at in range(0, len(names), size)]
    found = drained(listing(*(f"{number:02}" for number in hot)), pages)
    assert [cid for cid, _ in found] == [f"{n:02}" for n in sorted(hot | cold, reverse=True)]
    assert {cid for cid, is_hot in found if is_hot} == {f"{n:02}" for n in hot}
