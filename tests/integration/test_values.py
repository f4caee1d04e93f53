"""What is put comes back equal in value and type, hot and cold, or `put` refuses it naming channel
and path."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import math
import re
import uuid
from pathlib import PurePosixPath
from typing import Any, cast
from zoneinfo import ZoneInfo

import numpy as np
import pydantic.dataclasses
import pydantic.v1
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.types import Send
from pydantic import BaseModel, PrivateAttr, SecretStr

from support.savers import checkpoint, config, put
from support.strict import widened
from surgetank import EntryRejected


class Colour(enum.Enum):
    RED = ("r", 1)


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


class Inner(BaseModel):
    x: Any = None


class Outer(BaseModel):
    inner: Any
    numbers: tuple[int, ...] = ()


class Strange(BaseModel):
    text: str

    def __init__(self, **data: Any) -> None:
        super().__init__(**{**data, "text": data["text"].upper()})


@dataclasses.dataclass(frozen=True)
class Point:
    x: Any
    y: Any = dataclasses.field(default=0, init=False)


class MyList(list):
    pass


class MyOrder(collections.OrderedDict):
    pass


class Old(pydantic.v1.BaseModel):
    x: Any = None


@pydantic.dataclasses.dataclass
class Checked:
    a: int
    b: Any = None


class Private(BaseModel):
    a: int = 1
    _secret: int = PrivateAttr(default=5)
    model_config = {"extra": "allow"}


class MyText(str):
    __slots__ = ()


Pair = collections.namedtuple("Pair", "left right")

# What a graph that has them would allow in strict mode.
NOT_SAFE = [
    ("pydantic.types", "SecretStr"),
    ("pathlib", "PurePosixPath"),
    ("pathlib._local", "PurePosixPath"),
]

KEPT: dict[str, Any] = {
    "nan": math.nan,
    "infinities": [math.inf, -math.inf, -0.0, 1e22, 5e-324],
    "nul": "a\x00b",
    "nul in a key": {"a\x00": "\x00"},
    "lone surrogate": "x\ud800y",
    "lone surrogate in a key": {"\udfff": ["\ud800"]},
    "tuple": (1, (2, [3, (4,)])),
    "tuple key": {(1, (2, "x")): 1},
    "keys of many types": {1: "a", "1": "b", None: "c", 2.5: "d", Colour.RED: "e", b"b": "f"},
    "big integers": [2**63, 2**64, -(2**70), 10**100],
    "bytes": [b"\x00\xff", bytearray(b"x"), {"k": bytearray(b"y")}],
    "numpy scalars": [
        np.float32(1.5),
        np.int64(3),
        np.float64(math.nan),
        np.bool_(True),
        np.datetime64("2026-01-01"),
    ],
    "numpy array": np.array([[1.0, math.nan], [2.0, math.inf]], order="F"),
    "numpy object array": np.array([1, "a", None, (1, 2)], dtype=object),
    "numpy structured array": np.array([(1, 2.5)], dtype=[("a", "<i4"), ("b", "<f8")]),
    "numpy empty": np.zeros((0, 3), dtype=">i2"),
    "decimals": [decimal.Decimal("NaN"), decimal.Decimal("1E+200000"), decimal.Decimal("-0.10")],
    "sets": [{1, (2, 3)}, frozenset({"a"}), collections.deque([1, (2,)], maxlen=5)],
    "collections": [
        collections.OrderedDict(b=1, a=2),
        collections.Counter("aab"),
        collections.defaultdict(list, a=[1]),
    ],
    "enums": [Colour.RED, Level.HIGH, Word.YES],
    "dates": [
        dt.datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Oslo"), fold=1),
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        dt.date(2026, 1, 1),
        dt.time(1, 2, 3),
        dt.timedelta(days=-1, microseconds=1),
        dt.timezone(dt.timedelta(hours=1), "named"),
    ],
    "models": [Outer(inner=Inner(x=(1, 2)), numbers=(1, 2)), Inner(x={"a": Inner(x=1)})],
    "a model whose constructor changes what it is given": Strange.model_construct(text="lower"),
    "dataclass": Point((1, 2)),
    "subclasses": [
        MyList([1]),
        MyText("t"),
        Pair(1, (2,)),
        MyOrder(b=1, a=(2,)),
        {MyText("k"): 1, Word.YES: 2},
    ],
    "pydantic of all kinds": [
        Old(x=(1, 2)),
        Checked(1, (2,)),
        cast("Any", Private)(a=2, more=(1,)),
        SecretStr("s"),
    ],
    "messages": [
        HumanMessage("hi", additional_kwargs={"t": (1, 2)}),
        AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}]),
        ToolMessage("x", tool_call_id="1", artifact=Inner(x=1)),
    ],
    "send": Send("node", {"a": (1,)}),
    "others": [uuid.UUID(int=1), PurePosixPath("/a/b"), re.compile("a+", re.IGNORECASE), 1 + 2j],
    "deep but not too deep": [[[[[[[[[[[[[[[[[[[["x"]]]]]]]]]]]]]]]]]]]],
    "neighbor_bounding_box": {"neighbor_bounding_box": [math.nan] * 4},
}


def same(a: Any, b: Any) -> bool:
    """Equal in value and type, NaN equal to NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and same(a.tolist(), b.tolist())
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(x, y) for x, y in zip(a.items(), b.items(), strict=True)
        )
    if isinstance(a, (list, tuple, collections.deque)):
        return (
            len(a) == len(b)
            and all(map(same, a, b))
            and getattr(a, "maxlen", 0) == getattr(b, "maxlen", 0)
        )
    if isinstance(a, BaseModel):
        return same(a.__dict__, b.__dict__) and a.model_fields_set == b.model_fields_set
    if isinstance(a, (float, np.floating)):
        return repr(a) == repr(b)
    if isinstance(a, decimal.Decimal):
        return str(a) == str(b)
    if isinstance(a, dt.datetime):
        return repr(a) == repr(b)
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return bool(a == b)


@pytest.mark.parametrize("name", KEPT)
def test_a_value_comes_back_as_it_was_put(tank, name):
    value, saver = KEPT[name], widened(tank.checkpointer(), __name__, more=NOT_SAFE)
    c = put(saver, "t", {"top": value, "nested": {"list": [value]}}, about="value")
    saver.put_writes(c, [("channel", value)], "task")
    for temperature in ("hot", "cold"):
        found = saver.get_tuple(c)
        values = found.checkpoint["channel_values"]
        assert same(values["top"], value), temperature
        assert same(values["nested"], {"list": [value]}), temperature
        assert same(found.pending_writes[0][2], value), temperature
        job = tank.flush()
        assert job.ok, job.result
    with tank.parts.database.connection() as connection:
        assert connection.execute(
            "SELECT jsonb_typeof(state) FROM surgetank.threads"
        ).fetchone() == ("object",)


@pytest.mark.parametrize(
    "value", ["a\x00b", math.nan, math.inf, "x\ud800", (1, 2), 2**70, np.float32(1), {"a": {1}}]
)
def test_metadata_comes_back_as_it_was_put(tank, value):
    saver = tank.checkpointer()
    c = put(saver, "t", {"a": 1}, odd=value, nested={"odd": value})
    for _ in ("hot", "cold"):
        metadata = saver.get_tuple(c).metadata
        assert same(metadata["odd"], value)
        assert same(metadata["nested"], {"odd": value})
        assert tank.flush().ok


def test_what_a_projection_replaced_is_recorded_in_the_job(tank):
    put(
        tank.checkpointer(),
        "t",
        {"score": math.nan, "box": {"neighbor_bounding_box": [math.nan, 1.0]}},
        rating=math.inf,
    )
    job = tank.flush()
    assert job.ok
    paths = {r["path"]: r["original"] for r in job.result["replacements"]}
    assert paths == {
        "$.metadata.rating": "inf",
        "$.channel_values.score": "nan",
        "$.channel_values.box.neighbor_bounding_box[0]": "nan",
    }
    assert job.result["values_replaced"] == 4  # the score stands in two projections
    with tank.parts.database.connection() as connection:
        state, metadata = connection.execute(
            "SELECT state, metadata FROM surgetank.threads JOIN surgetank.checkpoint_history USING "
            "(thread_id)"
        ).fetchone()
    assert state == {"score": None, "box": {"neighbor_bounding_box": [None, 1.0]}}
    assert metadata["rating"] is None


def cyclic() -> Any:
    value: dict[str, Any] = {"a": []}
    value["a"].append(value)
    return value


def deep(levels: int) -> Any:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


REFUSED: dict[str, tuple[Any, str]] = {
    "an unknown object": ({"a": [1, object()]}, r"\$\.channel_values\.bad\.a\[1\]"),
    "a function": ([len], r"\$\.channel_values\.bad\[0\]"),
    "an exception": (ValueError("x"), r"\$\.channel_values\.bad .*an exception"),
    "an exception inside a value": ({"e": ValueError("x")}, r"\$\.channel_values\.bad\.e"),
    "a cycle": (cyclic(), "cycle"),
    "too deep": (deep(100_000), "too deeply"),
    "a memoryview": ({"m": memoryview(b"x")}, "memoryview"),
    "a generator": ((x for x in [1]), r"\$\.channel_values\.bad"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_not_come_back_is_refused_with_its_place(tank, name):
    value, place = REFUSED[name]
    saver = tank.checkpointer()
    first = put(saver, "t", {"good": 1})
    with pytest.raises(EntryRejected, match=place) as refused:
        put(saver, "t", {"good": 2, "bad": value}, parent=first, step=1)
    assert refused.value.partition == "t"
    assert refused.value.remedy
    with pytest.raises(EntryRejected, match=r"\$\.writes\.bad"):
        saver.put_writes(first, [("bad", value)], "task")
    assert saver.get_tuple(config("t")).config == first, "nothing of a refused put is accepted"
    assert tank.status().buffer.entries == 1


def test_errors_are_written_as_langgraph_writes_them(tank):
    saver = tank.checkpointer()
    c = put(saver, "t", {"a": 1})
    saver.put_writes(c, [("__error__", ValueError("broken"))], "task")
    assert saver.get_tuple(c).pending_writes == [("task", "__error__", "ValueError('broken')")]


def test_a_value_over_the_limit_is_refused_before_anything_is_accepted(make_tank):
    tank = make_tank(max_value_bytes=1000)
    with pytest.raises(EntryRejected, match=r"\$\.channel_values\.big of 't': \d+ bytes"):
        put(tank.checkpointer(), "t", {"small": 1, "big": "x" * 2000})
    assert tank.status().buffer.entries == 0


def test_a_large_value_goes_through(tank):
    saver = tank.checkpointer()
    value = np.random.default_rng(1).bytes(60_000_000)
    c = put(saver, "t", {"blob": value})
    assert tank.flush().ok
    assert saver.get_tuple(c).checkpoint["channel_values"]["blob"] == value


def test_values_without_a_version_are_kept_too(tank):
    saver = tank.checkpointer()
    made = checkpoint({"loose": (1, 2)}, {})
    c = saver.put(config("t"), made, {"source": "update", "step": 0}, {})
    for _ in ("hot", "cold"):
        assert saver.get_tuple(c).checkpoint["channel_values"] == {"loose": (1, 2)}
        assert tank.flush().ok


@pytest.mark.parametrize("version", ["1\x00", "\ud800", "x" * 20_000])
def test_a_version_that_postgresql_could_not_be_asked_for_is_refused(tank, version):
    made = checkpoint({"a": 1}, {"a": version})
    for new in ({"a": version}, {}):
        with pytest.raises(EntryRejected, match=r"\$\.channel_versions") as refused:
            tank.checkpointer().put(config("t"), made, {"step": 0}, new)
        str(refused.value).encode()  # and can be printed
