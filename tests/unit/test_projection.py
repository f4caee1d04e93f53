"""The latest state for SQL: of a long list only the end is decoded, and what is shown is as if all
of it were."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from surgetank.encode import plain
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.streams.checkpoints.cold import projection
from surgetank.streams.checkpoints.serde.serializer import FaithfulSerializer

serde = FaithfulSerializer()


def whole(channel: str, type_: str, data: bytes) -> bytes:
    """What is shown when everything is decoded first."""
    decoded = plain.to_plain(type_, data)
    encoded, _ = dumps_jsonb(decoded)
    return projection._tail(decoded) if len(encoded) > projection.CHANNEL_BYTES else encoded


@pytest.mark.parametrize("count", [1, 15, 16, 40, 150])
def test_a_chat_is_shown_by_its_newest_messages(count):
    said = [
        kind(f"{i} " * 300, id=str(i)) for i in range(count) for kind in (HumanMessage, AIMessage)
    ]
    type_, data = serde.dumps_typed(said)
    shown, replaced = projection.project("messages", type_, data)
    assert (shown, replaced) == (whole("messages", type_, data), ())


def test_what_is_replaced_in_what_is_shown_is_told_with_its_place():
    said: list[Any] = ["x" * 1000 for _ in range(30)]
    said[0] = said[29] = "a\x00b"
    shown, replaced = projection.project("notes", *serde.dumps_typed(said))
    assert b"\\u0000" not in shown
    assert [r.path for r in replaced] == ["$.channel_values.notes[29]"]


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
)


@given(
    st.lists(
        leaves
        | st.text(min_size=200, max_size=300)
        | st.binary(min_size=2, max_size=3).map(lambda short: short * 30_000)
    )
)
def test_items_of_a_list_are_found_by_their_headers(values):
    _, data = serde.dumps_typed(values)
    found = plain.list_items(data)
    assert found is not None
    decoded = [plain.to_plain("msgpack", data[start:end]) for start, end in found]
    assert repr(decoded) == repr(plain.to_plain("msgpack", data))


@pytest.mark.parametrize("value", [{"a": 1}, [[1]], [{"a": 1}], "text", 7])
def test_anything_but_a_flat_list_is_left_alone(value):
    assert plain.list_items(serde.dumps_typed(value)[1]) is None


def test_damaged_bytes_are_no_list():
    _, data = serde.dumps_typed(["abc", 1])
    assert plain.list_items(data[:-1]) is None
    assert plain.list_items(data + b"x") is None
    assert plain.list_items(b"") is None
