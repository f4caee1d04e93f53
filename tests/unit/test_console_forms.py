"""Forms of the console: what nobody touched comes back as it was, what is typed is what it says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgetank.console.forms import FormRefused, of_content, of_schema, read
from surgetank.console.sentence import is_my_data_safe
from surgetank.console.showing import share, span, time

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(VALUES)
def test_content_that_nobody_touched_comes_back_as_it_was(content: Any) -> None:
    fields = of_content("edit.0", content)
    # a browser ends lines like this
    sent = {f.name: f.value.replace("\r\n", "\n").replace("\n", "\r\n") for f in fields}
    back = read(fields, sent)
    assert back == content
    assert type(back) is type(content)


SCHEMA = {
    "type": "object", "required": ["amount", "why"],
    "properties": {
        "amount": {"type": "integer"}, "share": {"type": "number"}, "why": {"type": "string"},
        "kind": {"enum": ["a", "b"]}, "now": {"type": "boolean"}, "more": {"type": "object"},
    },
}  # fmt: skip


def test_an_answer_has_the_types_that_the_schema_names_and_leaves_out_what_was_left_empty() -> None:
    fields = of_schema("answer", SCHEMA)
    assert [field.kind for field in fields] == [
        "integer",
        "number",
        "text",
        "choice",
        "boolean",
        "json",
    ]
    typed = dict(zip((f.name for f in fields), ("7", "0.5", "", "b", "true", ""), strict=True))
    assert read(fields, typed) == {"amount": 7, "share": 0.5, "why": "", "kind": "b", "now": True}


@pytest.mark.parametrize("typed", ["", "seven", "1.5", "1e999x", "{"])
def test_what_is_no_number_is_said_by_the_name_of_its_field(typed: str) -> None:
    fields = of_schema(
        "answer", {"properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
    )
    with pytest.raises(FormRefused, match="amount: this is not a whole number"):
        read(fields, {"answer.0": typed})


@pytest.mark.parametrize("schema", [{}, {"type": "string"}, {"properties": []}, {"oneOf": []}])
def test_a_schema_without_plain_properties_is_answered_in_json(schema: dict[str, Any]) -> None:
    fields = of_schema("answer", schema)
    assert read(fields, {"answer": '{"x": 1}'}) == {"x": 1}
    with pytest.raises(FormRefused):
        read(fields, {"answer": "NaN"})


def test_times_and_shares_are_written_for_people() -> None:
    assert [span(s) for s in (0, 0.0421, 4.21, 42, 600, 9000)] == [
        "0 s", "42 ms", "4.2 s", "42 s", "10 min", "2.5 h",
    ]  # fmt: skip
    assert [share(1, 3), share(999_999, 1_000_000), share(5, 5), share(0, 0)] == [
        "33.3 %", "99.9 %", "100 %", "none",
    ]  # fmt: skip
    assert "2001-09-09 01:46:40 UTC" in time(1e9)
    assert [time(None), time(1e300), time("no time")] == ["never", *["at an unknown time"] * 2]


def test_one_sentence_says_whether_data_is_safe(tank: Any) -> None:
    assert is_my_data_safe(tank.status()).text == "All saved."
    tank.emit_log("a line", thread_id="t")
    found = is_my_data_safe(tank.status())
    assert (found.level, found.text) == ("ok", "Saving as usual.")
    assert found.more.startswith("1 entry is on the way to the database")
