"""How far two values are the same, against counting byte by byte."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from surgetank.encode.differences.common import _PIECE, same_beginning, same_end

PIECE = st.binary(max_size=90)
FEW = st.lists(st.sampled_from(b"ab"), max_size=6).map(bytes)


def counted(a: bytes, b: bytes) -> int:
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


@given(PIECE, PIECE | FEW, PIECE | FEW, PIECE, FEW, FEW)
@example(b"", b"", b"", b"", b"", b"")
@example(b"x" * 32, b"1", b"2", b"x" * 32, b"", b"")  # just where the near search ends
@example(b"x" * 31, b"1", b"2", b"x" * 31, b"a", b"")
@settings(derandomize=True, database=None, deadline=None)
def test_as_much_is_the_same_as_counting_finds(
    first: bytes, own: bytes, other: bytes, last: bytes, before_new: bytes, before_old: bytes
) -> None:
    new, old = before_new + first + own + last, before_old + first + other + last
    i, j = len(before_new), len(before_old)

    assert same_beginning(new, i, old, j) == counted(new[i:], old[j:])
    assert same_end(new, i, old, j) == counted(new[i:][::-1], old[j:][::-1])


@pytest.mark.parametrize("size", [_PIECE - 1, _PIECE, _PIECE + 1, 2 * _PIECE, 3 * _PIECE + 7])
def test_a_difference_is_found_in_any_piece_of_a_large_value(size: int) -> None:
    old = random.Random(7).randbytes(size)
    spots = {0, 40, _PIECE - 2, _PIECE - 1, _PIECE, 2 * _PIECE, size - 41, size - 1}
    for at in sorted(spot for spot in spots if spot < size):
        new = old[:at] + bytes([old[at] ^ 1]) + old[at + 1 :]

        assert same_beginning(new, 0, old, 0) == at
        assert same_end(new, 0, old, 0) == size - at - 1
    assert same_beginning(old, 0, old, 0) == same_end(old, 0, old, 0) == size
