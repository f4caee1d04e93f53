"""A difference and the value that it stands on give the value back, whatever the two are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgetank.encode.differences import delta

texts = st.binary(max_size=400)
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 60), st.binary(max_size=60)), max_size=4)


def edited(value: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """`value` with pieces replaced: where (as a part of its length), how many bytes, by what."""
    for where, count, piece in changes:
        at = int(where * len(value))
        value = value[:at] + piece + value[at + count :]
    return value


@given(texts, texts)
@settings(max_examples=300, derandomize=True, database=None)
def test_a_difference_gives_the_value_back(old: bytes, new: bytes) -> None:
    difference = delta.diff(old, new)
    if difference is not None:
        assert delta.apply(old, [difference]) == new


@given(st.binary(min_size=60, max_size=400), st.lists(edits, min_size=1, max_size=8))
@settings(max_examples=300, derandomize=True, database=None)
def test_a_chain_of_differences_gives_every_value_back(first: bytes, history: list[list]) -> None:
    values, chain = [first], []
    for changes in history:
        new = edited(values[-1], changes)
        difference = delta.diff(values[-1], new)
        if difference is None:
            break
        values.append(new)
        chain.append(difference)
        assert delta.apply(first, chain) == new
    for length, value in enumerate(values):
        assert delta.apply(first, chain[:length]) == value


@pytest.mark.parametrize("step", [1, 2, 30, 300])
def test_a_list_that_grows_costs_what_was_added_whatever_the_width_of_its_length(step: int) -> None:
    """msgpack gives a list's length one, three or five bytes; it may stand at the beginning or
    inside."""
    noise = random.Random(5).randbytes
    items = [noise(50) for _ in range(2000)]

    def state(count: int) -> bytes:
        length = bytes([0x90 + count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
        return (
            b"\x07msgpack\x82\xa1a\x01\xa1b"
            + length
            + b"".join(items[:count])
            + b"\xa1z"
            + items[-1] * 3
        )

    for count in range(10, 1500, 97):
        before, after = state(count), state(count + step)
        difference = delta.diff(before, after)
        if 2 * (50 * step + 200) < len(after):
            assert difference is not None
            assert len(difference) < 50 * step + 200


def test_a_value_that_shares_little_is_better_kept_whole() -> None:
    noise = random.Random(7).randbytes
    assert delta.diff(noise(5000), noise(5000)) is None
    assert delta.diff(b"", b"") is None
    assert delta.diff(noise(100), b"x") is None


def test_differences_say_one_change_at_the_beginning_in_the_middle_or_at_the_end() -> None:
    noise = random.Random(9).randbytes
    old = noise(100_000)
    for at in (0, 1, 31, 32, 33, 5000, 50_000, 99_960, 99_999, 100_000):
        for gone in (0, 1, 7, 8, 9, 40):
            new = old[:at] + noise(20) + old[at + gone :]
            difference = delta.diff(old, new)
            assert difference is not None
            assert len(difference) < 200
            assert delta.apply(old, [difference]) == new
