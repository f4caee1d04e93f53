"""Filters of a project's handlers as documents that metadata must contain."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from surgetank.server.access.narrowing import both, contains, document_of


@pytest.mark.parametrize(
    ("filters", "document"),
    [
        ({}, {}),
        ({"org": "a"}, {"org": "a"}),
        ({"org": {"$eq": "a"}, "n": 3}, {"org": "a", "n": 3}),
        ({"members": {"$contains": "ada"}}, {"members": ["ada"]}),
        ({"members": {"$contains": ["ada", "bob"]}}, {"members": ["ada", "bob"]}),
    ],
)
def test_a_filter_is_a_document(filters: dict[str, Any], document: dict[str, Any]) -> None:
    assert document_of(filters) == document


@pytest.mark.parametrize(
    "filters",
    [{1: "a"}, {"a": {}}, {"a": {"$ne": 1}}, {"a": {"$eq": 1, "$contains": 1}}, {"a": ["x"]}, {"a": {"$eq": {}}}],
)  # fmt: skip
def test_what_is_no_filter_is_refused(filters: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        document_of(filters)


CASES: list[tuple[Any, Any, bool]] = [
    ({"a": 1, "b": 2}, {"a": 1}, True),
    ({"a": 1}, {"a": 1, "b": 2}, False),
    ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1}}}, True),
    ({"a": ["x", "y", "z"]}, {"a": ["z", "x"]}, True),
    ({"a": ["x"]}, {"a": ["x", "y"]}, False),
    ({"a": "x"}, {"a": ["x"]}, False),
    ({"a": ["x"]}, {"a": "x"}, False),
    ({"a": True}, {"a": 1}, False),
    ({"a": 1.0}, {"a": 1}, True),
    ({"a": None}, {"a": None}, True),
    ({}, {"a": None}, False),
    ([{"a": 1, "b": 2}], [{"a": 1}], True),
]


def test_containment_is_that_of_postgresql(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        for value, part, contained in CASES:
            assert contains(value, part) is contained, (value, part)
            row = connection.execute("SELECT %s @> %s", (Jsonb(value), Jsonb(part))).fetchone()
            assert row == (contained,), (value, part)


@pytest.mark.parametrize(
    ("one", "other", "merged"),
    [
        (None, {"a": 1}, {"a": 1}),
        ({"a": 1}, None, {"a": 1}),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": 2}, None),
        ({"a": 1}, {"a": True}, None),
        ({"a": ["x"]}, {"a": ["y"]}, {"a": ["x", "y"]}),
        ({"a": "x"}, {"a": ["x"]}, None),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, None),
    ],
)
def test_both_is_contained_where_each_is(one: Any, other: Any, merged: Any) -> None:
    assert both(one, other) == merged
