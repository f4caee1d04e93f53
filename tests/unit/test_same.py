"""What counts as the same value, and how a difference is told."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import enum
import math
from typing import Any

import numpy as np
import ormsgpack
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from surgetank.encode.equality import difference
from surgetank.streams.checkpoints.any_saver.calls import calls_of
from surgetank.streams.checkpoints.envelope import WriteRecord
from surgetank.streams.checkpoints.serde.serializer import FaithfulSerializer
from surgetank.streams.checkpoints.transfer.packed import (
    extension_of,
    extensions,
    is_foreign,
    typed_of,
    unpack_tree,
)


@dataclasses.dataclass
class Point:
    x: Any


SAME: list[tuple[Any, Any]] = [
    (math.nan, float("nan")),
    ({"a": [math.nan, (1, 2)]}, {"a": [math.nan, (1, 2)]}),
    ({math.nan: 1}, {float("nan"): 1}),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (decimal.Decimal("NaN"), decimal.Decimal("NaN")),
    (np.array([math.nan, 1.0]), np.array([math.nan, 1.0])),
    (np.float32(math.nan), np.float32(math.nan)),
    (HumanMessage("x"), HumanMessage("x")),
    (Point(math.nan), Point(math.nan)),
    (ormsgpack.Ext(3, b"a"), ormsgpack.Ext(3, b"a")),
    ({1, 2}, {2, 1}),
]

DIFFERENT: list[tuple[Any, Any, str]] = [
    ({"a": (1, 2)}, {"a": [1, 2]}, "$.a: list instead of tuple"),
    ([1], [1.0], "$[0]: float instead of int"),
    ([1], [True], "$[0]: bool instead of int"),
    (0.0, -0.0, "$: another float"),
    ({"a": 1}, {}, "$.a: missing"),
    ({}, {"a": 1}, "$.a: was not there before"),
    ([1, 2], [1], "$: 1 items instead of 2"),
    (decimal.Decimal("1.0"), decimal.Decimal("1.00"), "$: another Decimal"),
    (np.array([1, 2]), np.array([[1, 2]]), "$: int64(1, 2) instead of int64(2,)"),
    (np.zeros(1, "f4"), np.zeros(1, "f8"), "float64"),
    (collections.deque([1], maxlen=1), collections.deque([1]), "deque"),
    (HumanMessage("x"), HumanMessage("y"), "$.content: another str"),
    (Point((1,)), Point([1]), "$.x: list instead of tuple"),
    (ormsgpack.Ext(3, b"a"), ormsgpack.Ext(3, b"b"), "another Ext"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same_is_the_same_nan_included(a, b):
    assert difference(a, b) is None


@pytest.mark.parametrize(("a", "b", "told"), DIFFERENT)
def test_a_difference_in_value_or_type_is_told_with_its_place(a, b, told):
    assert told in (difference(a, b) or "nothing")


def test_a_difference_does_not_show_the_values():
    assert "hunter2" not in (difference({"password": "hunter2"}, {"password": "other"}) or "")


def test_json_takes_a_tuple_for_a_list_everywhere():
    assert difference({"a": [(1,)]}, {"a": ([1],)}, json_like=True) is None
    assert difference({"a": (1,)}, {"a": [2]}, json_like=True) is not None


def writes(*indexes: int) -> list[tuple[str, int, WriteRecord]]:
    return [("task", i, WriteRecord(f"c{i}", "", "null", b"")) for i in indexes]


@pytest.mark.parametrize(
    "indexes", [(0, 1, 2), (2, 0, 1), (0, -1, 2), (-3,), (1, -1), (0, -1, -3), (3, 1, -1, -3)]
)
def test_each_write_stands_where_a_saver_gives_it_its_index(indexes):
    ((task_id, _, placed),) = calls_of(writes(*indexes))
    assert task_id == "task"
    assert len(placed) == len(indexes)
    for i in indexes:
        if i >= 0:
            assert placed[i].channel == f"c{i}"


def test_a_gap_that_nothing_fills_is_refused():
    with pytest.raises(ValueError, match="write 1 of task 'task' is missing"):
        calls_of(writes(0, 2))


def test_values_are_taken_apart_without_their_classes():
    faithful = FaithfulSerializer()
    plain = faithful.dumps_typed({"a": [1, None, b"x"], 2: "b"})
    assert not is_foreign(plain)
    assert typed_of(unpack_tree(plain)) == plain
    nested = faithful.dumps_typed({"a": [HumanMessage("x"), {"t": (1,)}]})
    assert is_foreign(nested)
    assert typed_of(unpack_tree(nested)) == nested, "untouched"
    with pytest.raises(ValueError, match=r".+"):
        extensions(nested[1][:-1])
    for size in (1, 3, 300, 70_000):
        assert extension_of(("msgpack", ormsgpack.packb(ormsgpack.Ext(7, b"\xc0" * size)))) == 7
    assert extension_of(plain) is None


class Word(enum.StrEnum):
    YES = "yes"


class Number(enum.IntEnum):
    ONE = 1


class Tagged(str):  # noqa: SLOT000 - it has attributes
    """Text with something of its own."""


def tagged(text: str) -> Tagged:
    made = Tagged(text)
    made.tag = 1  # type: ignore[attr-defined]
    return made


class Ordinary(enum.Enum):
    YES = "yes"


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (Word.YES, "yes"),
        (Number.ONE, 1),
        (AIMessage("hello").text, "hello"),
        ({"a": [Word.YES, (Number.ONE,)]}, {"a": ["yes", (1,)]}),
        ({Word.YES: Number.ONE}, {"yes": 1}),
        (Point(Word.YES), Point("yes")),
        (HumanMessage("x", extra=[Word.YES]), HumanMessage("x", extra=["yes"])),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Tagged("x"), "x"),
    ],
)
def test_by_its_meaning_a_plain_text_or_number_is_the_same(expected, found):
    assert difference(expected, found, by_meaning=True) is None
    assert difference(expected, found) is not None


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (Word.YES, "no"),
        (Number.ONE, True),
        (Number.ONE, 1.0),
        (True, 1),
        (1, True),
        ("yes", Word.YES),
        (Ordinary.YES, "yes"),
        ((1, 2), [1, 2]),
        (collections.Counter("ab"), {"a": 1, "b": 1}),
        (collections.defaultdict(list), {}),
        (tagged("x"), "x"),
        (HumanMessage("x"), {"content": "x"}),
        ({Word.YES: 1}, {"no": 1}),
        ({Word.YES: 1}, {"yes": 1, "more": 2}),
        (Point(1), {"x": 1}),
    ],
)
def test_by_its_meaning_too_what_a_program_would_notice_is_a_difference(expected, found):
    assert difference(expected, found, by_meaning=True) is not None
