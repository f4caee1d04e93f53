"""What was changed, as people read it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from surgetank.console.changes import changes_of, words
from surgetank.workflows.approvals.decisions import difference

TEXTS = st.text("ab \n", max_size=40)


@given(TEXTS, TEXTS)
def test_the_pieces_of_a_text_are_both_texts(before: str, after: str) -> None:
    pieces = words(before, after)
    assert "".join(text for kind, text in pieces if kind != "in") == before
    assert "".join(text for kind, text in pieces if kind != "out") == after


def test_of_a_text_the_words_that_differ_are_shown() -> None:
    (change,) = changes_of(
        difference({"text": "Dear Ada, we are sorry."}, {"text": "Dear Ben, we are sorry."})
    )
    assert change.where == "text"
    assert change.pieces == (
        ("same", "Dear "), ("out", "Ada"), ("in", "Ben"), ("same", ", we are sorry."),
    )  # fmt: skip


def test_a_number_is_one_word() -> None:
    assert words("It costs 39.90 EUR.", "It costs 25.00 EUR.") == [
        ("same", "It costs "), ("out", "39.90"), ("in", "25.00"), ("same", " EUR."),
    ]  # fmt: skip


def test_parts_are_named_and_values_are_said_in_words() -> None:
    before = [{"a/b": 1, "gone": "", "flag": True}, {"x": [1]}]
    after = [{"a/b": 2, "new": None, "flag": False}, {"x": [1]}]
    found = {
        each.where: each.pieces for each in changes_of(difference(before, after), ["send", "wait"])
    }
    assert found == {
        "send / a/b": (("out", "1"), ("same", " "), ("in", "2")),
        "send / gone": (("out", "an empty text"),),
        "send / flag": (("out", "yes"), ("same", " "), ("in", "no")),
        "send / new": (("in", "nothing"),),
    }


def test_huge_texts_are_compared_by_lines_or_shown_as_they_are_and_what_is_alike_is_cut() -> None:
    lines = [f"line {n} of a long text\n" for n in range(1000)]
    changed = [*lines[:500], "another line\n", *lines[501:]]
    (change,) = changes_of(difference("".join(lines), "".join(changed)))
    assert ("out", "line 500 of a long text\n") in change.pieces
    assert sum(len(text) for _, text in change.pieces) < 500
    assert words("x " * 5000, "y " * 5000) == [("out", "x " * 5000), ("in", "y " * 5000)]
    assert words("a\n" * 5000, "b\n" * 5000)[0] == ("out", "a\n" * 5000)
