"""The judgement over progress, mark and what waits: all small cases, and the promises that hold in
each of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations, product

import pytest

from surgetank.model import Mark
from surgetank.sinks.standing import Finding, covers, has_gone_back, is_plain, judge, top

A, B = 7, 8  # epochs
ONE, OTHER = 1, 2  # digests

ENTRIES = [
    Mark(epoch, seq, digest) for epoch, seq, digest in product((A, B), (1, 2, 3), (ONE, OTHER))
]
PLACES = [None, *(Mark(A, seq, digest) for seq, digest in product((1, 2, 3), (ONE, OTHER)))]
OF_B = [None, *(Mark(B, seq, ONE) for seq in (1, 2, 3))]
MARKS = [
    None,
    Mark(A, 1, ONE),
    Mark(A, 2, ONE),
    Mark(A, 2, OTHER),
    Mark(A, 3, ONE),
    Mark(B, 1, ONE),
    Mark(B, 3, ONE),
]


def standings() -> Iterator[dict[int, Mark]]:
    for of_a, of_b in product(PLACES, OF_B):
        yield {mark.epoch: mark for mark in (of_a, of_b) if mark is not None}


def waitings() -> Iterator[list[Mark]]:
    """What may wait: up to three entries, one for each epoch and number."""
    for chosen in chain.from_iterable(combinations(ENTRIES, n) for n in range(4)):
        if len({(e.epoch, e.seq) for e in chosen}) == len(chosen):
            yield sorted(chosen, key=lambda e: e.seq)


CASES = [(s, m, w) for s in standings() for m in MARKS for w in waitings()]


def test_no_entry_counts_as_written_without_a_witness_of_its_epoch() -> None:
    for standing, mark, waiting in CASES:
        for epoch, seq in judge(standing, mark, waiting).written.items():
            assert standing[epoch].seq == seq
            assert standing[epoch] in waiting, (standing, mark, waiting)


def test_only_an_interrupted_flush_leaves_anything_out() -> None:
    for standing, mark, waiting in CASES:
        verdict = judge(standing, mark, waiting)
        assert bool(verdict.written) == (verdict.finding is Finding.INTERRUPTED)


def test_what_is_written_as_it_is_has_numbers_above_all_that_the_sink_has() -> None:
    for standing, mark, waiting in CASES:
        verdict = judge(standing, mark, waiting)
        if verdict.finding in (Finding.PLAIN, Finding.INTERRUPTED):
            rest = [e for e in waiting if e.seq > verdict.written.get(e.epoch, 0)]
            assert all(e.seq > top(standing) for e in rest), (standing, mark, waiting)


def test_a_covered_entry_is_never_written_again_under_its_number() -> None:
    for standing, mark, waiting in CASES:
        verdict = judge(standing, mark, waiting)
        if any(covers(standing, e.epoch, e.seq) for e in waiting):
            assert verdict.finding in (Finding.INTERRUPTED, Finding.DIVERGED, Finding.WENT_BACK)


def test_a_sink_that_lost_the_mark_is_found_whatever_waits() -> None:
    for standing, mark, waiting in CASES:
        lost = mark is not None and (
            mark.epoch not in standing
            or standing[mark.epoch].seq < mark.seq
            or (standing[mark.epoch].seq == mark.seq and standing[mark.epoch].digest != mark.digest)
        )
        assert (judge(standing, mark, waiting).finding is Finding.WENT_BACK) == lost
        assert has_gone_back(standing, mark) == lost


def test_what_a_sink_that_went_back_says_is_only_trusted_where_it_fits() -> None:
    for standing, mark, waiting in CASES:
        verdict = judge(standing, mark, waiting)
        if verdict.finding is Finding.WENT_BACK:
            assert mark is not None
            assert not covers(verdict.trusted, mark.epoch, mark.seq)
            assert all(standing[epoch] == there for epoch, there in verdict.trusted.items())


def test_the_quick_form_says_the_same() -> None:
    for standing, mark, waiting in CASES:
        lowest = min((e.seq for e in waiting), default=None)
        plain = judge(standing, mark, waiting).finding is Finding.PLAIN
        assert is_plain(standing, mark, lowest) == plain, (standing, mark, waiting)


@pytest.mark.parametrize(
    ("standing", "mark", "waiting", "finding"),
    [
        ({}, None, [Mark(A, 1, ONE)], Finding.PLAIN),
        ({A: Mark(A, 2, ONE)}, Mark(A, 2, ONE), [Mark(A, 3, ONE)], Finding.PLAIN),
        # Another process of the buffer, later.
        ({A: Mark(A, 2, ONE)}, Mark(A, 2, ONE), [Mark(B, 3, ONE)], Finding.PLAIN),
        # Killed between commit and acknowledgement.
        (
            {A: Mark(A, 2, ONE)},
            None,
            [Mark(A, 1, ONE), Mark(A, 2, ONE), Mark(A, 3, ONE)],
            Finding.INTERRUPTED,
        ),
        # A machine that was resumed from a snapshot gives its numbers again.
        ({A: Mark(A, 2, ONE)}, None, [Mark(A, 1, ONE), Mark(A, 2, OTHER)], Finding.DIVERGED),
        # The same, not so far yet.
        ({A: Mark(A, 3, ONE)}, Mark(A, 1, ONE), [Mark(A, 2, ONE)], Finding.DIVERGED),
        # A restored file, and what was accepted after it.
        ({A: Mark(A, 3, ONE)}, Mark(A, 1, ONE), [Mark(B, 2, ONE)], Finding.OVERTAKEN),
        # A restored database.
        ({A: Mark(A, 1, ONE)}, Mark(A, 2, ONE), [Mark(A, 3, ONE)], Finding.WENT_BACK),
        ({}, Mark(A, 2, ONE), [], Finding.WENT_BACK),
        # Progress of the released version has no digest: it is believed, as it always was.
        ({0: Mark(0, 2, 0)}, None, [Mark(0, 1, ONE), Mark(0, 3, ONE)], Finding.INTERRUPTED),
        ({0: Mark(0, 2, 0)}, Mark(0, 2, ONE), [Mark(A, 3, ONE)], Finding.PLAIN),
    ],
)
def test_what_it_says_of_what_happens(
    standing: dict[int, Mark], mark: Mark | None, waiting: list[Mark], finding: Finding
) -> None:
    assert judge(standing, mark, waiting).finding is finding
