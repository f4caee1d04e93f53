"""Values, filters, namespaces and scopes of the store, without a database."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.store.base import InvalidNamespaceError, MatchCondition

from surgetank.encode.equality import difference
from surgetank.exceptions import EntryRejected, InvalidRequest, NamespaceForbidden
from surgetank.workflows.store import namespaces
from surgetank.workflows.store.filters import filter_of
from surgetank.workflows.store.scope import Scope, range_of
from surgetank.workflows.store.values import decode, encode

TEXT = st.text(st.characters())  # NUL and lone surrogates too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
LABEL = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=".\x00"), min_size=1, max_size=8
)


def packed(value: Any) -> tuple[bytes, str]:
    return encode("ns/key", value, max_bytes=1_000_000)


@given(st.dictionaries(TEXT, JSON, max_size=5))
def test_what_is_put_comes_back_and_has_a_projection(value):
    exact, projection = packed(value)
    back = decode(exact)
    assert difference(back, value) is None
    assert list(back) == list(value), "in its order"
    json.loads(projection, parse_constant=pytest.fail)
    assert "\\u0000" not in projection.replace("\\\\", "")


@pytest.mark.parametrize(
    "value",
    [
        {"n": math.nan}, {"n": [math.inf, -math.inf]}, {"s": "a\x00b"}, {"s": "\ud800"}, {"\udfff": 1},
        {"big": 10**400},
        {"b": -(2**63) - 1, "n": math.nan}, {"z": -0.0}, {"1.0": 1.0, "i": 1}, {"deep": {"a": {"b": {"c": []}}}}, {},
    ],
)  # fmt: skip
def test_what_jsonb_cannot_hold_comes_back_too(value):
    back = decode(packed(value)[0])
    assert difference(back, value) is None
    assert [type(v) for v in back.values()] == [type(v) for v in value.values()]


class Word(StrEnum):
    TEA = "tea"


def test_forms_of_the_same_come_back_plain():
    back = decode(packed(MappingProxyType(OrderedDict(t=(1, (2,)), w=Word.TEA)))[0])
    assert back == {"t": [1, [2]], "w": "tea"}
    assert type(back["w"]) is str


CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": {1: "x"}}, "$.a"), ({"a": [{"b": {None: 1}}]}, "$.a[0].b"), ({"d": datetime.now(UTC)}, "$.d"),
        ({"u": uuid4()}, "$.u"), ({"s": {1, 2}}, "$.s"), ({"b": b"x"}, "$.b"), (CYCLE, "$.self"), ({"d": DEEP}, "$.d"),
        ({"big": 10**5000}, "$"), ({"o": object()}, "$.o"), ([1], "$"), ("text", "$"),
    ],
)  # fmt: skip
def test_what_would_change_is_refused_with_its_path(value, path):
    with pytest.raises(EntryRejected) as caught:
        packed(value)
    assert caught.value.path.startswith(path)
    assert caught.value.remedy
    str(caught.value).encode()


def test_a_value_that_is_too_large_is_refused():
    with pytest.raises(EntryRejected, match="the limit is 100"):
        encode("a/k", {"x": "y" * 100}, max_bytes=100)


# -- filters


def test_a_filter_becomes_a_path_and_what_a_path_cannot_ask():
    nothing = {"path": None, "values": None, "filter": None}
    assert filter_of(None) == filter_of({}) == nothing
    made = filter_of({"a": 1, 'q".': {"$gt": 2, "$ne": 3}, "c": {"d": {"e": [1]}, "f": {}}})
    assert made["path"] == 'strict ($."a" == $v0) && ($."q\\"." > $v1)'
    assert json.loads(made["values"] or "") == {"v0": 1, "v1": 2}
    assert json.loads(made["filter"] or "") == [
        {"path": ['q".'], "op": "$ne", "value": 3},
        {"path": ["c", "d", "e"], "op": "$eq", "value": [1]},
        {"path": ["c", "f"], "op": "$object"},
    ]


@pytest.mark.parametrize(
    "asked", [{"a": {"$in": [1]}}, {"a": {"$gt": 1, "b": 2}}, {"a": math.nan}, {"a": "\x00"},
              {"\x00": 1}, {"\ud800": 1}, {str(n): 1 for n in range(101)}],
)  # fmt: skip
def test_a_filter_that_cannot_be_asked_is_refused(asked):
    with pytest.raises(InvalidRequest):
        filter_of(asked)


# -- namespaces


@given(st.lists(LABEL, max_size=5))
def test_labels_and_their_path_are_the_same(labels):
    assert namespaces.labels_of(namespaces.path_of(labels)) == tuple(labels)


@given(st.lists(LABEL, max_size=3), st.lists(LABEL, max_size=3))
def test_a_range_holds_what_is_below_and_nothing_else(prefix, labels):
    bounds = range_of(namespaces.path_of(prefix))
    path = namespaces.path_of(labels)
    low, high = bounds["low"] or "", bounds["high"]
    # PostgreSQL's collation "C" compares UTF-8.
    inside = path.encode() >= low.encode() and (high is None or path.encode() < high.encode())
    assert inside == (labels[: len(prefix)] == prefix)


@pytest.mark.parametrize("label", ["", "a.b", "\x00", "a\ud800", 7, None, "x" * 2000])
def test_what_can_be_no_label_is_refused(label):
    with pytest.raises(InvalidNamespaceError):
        namespaces.path_of(["a", label])


def test_the_search_for_namespaces_begins_at_what_all_have_in_common():
    asked = [
        MatchCondition("prefix", ("a", "*", "c")),
        MatchCondition("prefix", ("a", "b")),
        MatchCondition("suffix", ("z",)),
    ]
    assert namespaces.common_prefix(asked) == ("a", "b")
    wrong: Any = MatchCondition("infix", ("a",))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        namespaces.conditions_of([wrong])


# -- scopes


def test_a_scope_puts_its_root_before_what_is_asked_for_and_takes_it_away():
    scope = Scope.below("ada")
    assert scope.inward(("user:bob", "notes")) == ("user:ada", "user:bob", "notes")
    assert scope.outward(("user:ada", "notes")) == ("notes",)
    assert scope.inward((), of_item=False) == ("user:ada",)


def test_a_scope_by_name_takes_only_what_names_the_user():
    scope = Scope.naming("ada")
    assert scope.inward(("memories", "ada", "x")) == ("memories", "ada", "x")
    assert scope.inward((), of_item=False) == ()
    for foreign in (("memories",), ("memories", "bob"), ("ada2",), ("xada",)):
        with pytest.raises(NamespaceForbidden):
            scope.inward(foreign)


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_two_users_never_share_a_root(one, other):
    assert (Scope.below(one) == Scope.below(other)) == (one == other)
    assert "." not in Scope.below(one).root[0]
