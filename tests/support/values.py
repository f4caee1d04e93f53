"""Values as awkward as a state can hold: strategies for property tests, and what it means to come
back the same."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import ipaddress
import math
import pathlib
import re
import typing
import uuid
from typing import Any, cast
from zoneinfo import ZoneInfo

import numpy as np
import pydantic
import pydantic.v1
from hypothesis import strategies as st
from langgraph.store.base import Item, SearchItem


class Word(enum.StrEnum):
    YES = "yes"
    ODD = "a\x00b"


class Many(enum.Flag):
    A = 1
    B = 2


class Disguised(str, enum.Enum):  # noqa: UP042 - that is the point
    """A text whose value is a number."""

    def __new__(cls, value: int) -> Disguised:
        made = str.__new__(cls, "text")
        made._value_ = value
        return made

    def __repr__(self) -> str:
        return "Disguised.A"

    A = 5


class Tagged(list[Any]):
    __slots__ = ("_Tagged__hidden", "tag")


class Sealed(dict[Any, Any]):
    """Its constructor wants what only its maker knows."""

    def __new__(cls, secret: Any) -> Sealed:
        return super().__new__(cls)

    def __init__(self, secret: Any) -> None:
        super().__init__(secret=secret)


class Number(int):
    note: Any = None


class Real(float):
    pass


class Words(str):
    __slots__ = ()


class Bits(bytes):
    pass


class Row(tuple[Any, ...]):  # noqa: SLOT001 - so it may carry more
    pass


class Pair(collections.namedtuple("Pair", "left right")):  # noqa: SLOT002
    """Without `__slots__`, so it may carry more."""


@dataclasses.dataclass
class Output(collections.OrderedDict[str, Any]):
    """A dataclass that is a dict too, as the outputs of transformers are."""

    loss: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Output) and same(list(self.items()), list(other.items()))

    __hash__ = None  # type: ignore[assignment]


class Base:
    __slots__ = ("inherited",)


@dataclasses.dataclass(slots=True)
class Slotted(Base):
    x: Any = None


@dataclasses.dataclass(frozen=True)
class Particular:
    x: Any

    def __new__(cls, x: Any) -> Particular:
        return object.__new__(cls)


class Model(pydantic.BaseModel):
    x: Any = None
    _private: Any = pydantic.PrivateAttr(default=None)
    model_config = pydantic.ConfigDict(extra="allow")


class Old(pydantic.v1.BaseModel):
    x: Any = None
    _private: Any = pydantic.v1.PrivateAttr(None)


class Several(pydantic.RootModel[list[Any]]):
    pass


def with_attributes(made: Any, **attributes: Any) -> Any:
    """The object with these attributes."""
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def old(x: Any, private: Any) -> Old:
    """A pydantic 1 model with a private value."""
    return with_attributes(Old(x=x), _private=private)


def object_array(items: list[Any]) -> Any:
    """A NumPy array of objects, one-dimensional whatever the items are."""
    array = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array


# -- strategies

TEXT = st.text(max_size=12) | st.text(
    alphabet=st.sampled_from("a\x00\x1f\x7f\u2028\ud800\udfff\U0001f600é"), max_size=6
)
_ZONES: list[dt.tzinfo | None] = [
    None, dt.UTC, ZoneInfo("Europe/Oslo"), dt.timezone(dt.timedelta(seconds=-3661, microseconds=7)),
    dt.timezone(dt.timedelta(0), "named"),
]  # fmt: skip
ZONES = st.sampled_from(_ZONES)
FLOATS = st.floats() | st.sampled_from(
    [math.nan, -math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e308]
)
INTS = st.integers() | st.sampled_from(
    [2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, -(2**200)]
)
DATETIMES = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold),
    st.datetimes(),
    ZONES,
    st.integers(0, 1),
)
DECIMALS = st.decimals(allow_nan=True) | st.sampled_from(
    [
        decimal.Decimal(x)
        for x in ("sNaN", "NaN123", "-0", "1E+200000", "1E-200000", "0E-999999", "1.10")
    ]
)
_NUMPY = [
    np.float32(1.1), np.float64(math.nan), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True), np.complex64(1 - 2j),
    np.longdouble(1) / 3, np.str_(""), np.str_("a\x00"), np.str_("x\ud800"), np.bytes_(b""), np.bytes_(b"a\x00"),
    np.datetime64("NaT"), np.datetime64("2026-01-01T00:00:00.000000001"), np.timedelta64(5),
    np.array(5.0), np.array([], dtype="<U3"), np.array(["a", "", "b\x00c"]), np.zeros((2, 0, 3), dtype=">i2"),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(10)[::3], np.array([(1, 2.5)], dtype="i4,f8"),
]  # fmt: skip
HASHABLE_LEAVES = (
    TEXT | INTS | FLOATS | st.none() | st.booleans() | st.binary(max_size=8) | st.uuids() | DATETIMES
    | st.dates() | st.timedeltas() | st.times(timezones=st.none() | st.just(dt.UTC)) | st.complex_numbers()
    | DECIMALS.filter(lambda d: not d.is_snan()) | st.sampled_from([*Word, *Many, Many.A | Many.B, Many(0)])
    | st.just(Disguised.A)
    | st.ip_addresses() | st.builds(Words, TEXT) | st.builds(Number, INTS) | st.builds(Real, FLOATS)
    | st.builds(Bits, st.binary(max_size=4)) | st.sampled_from(_ZONES)
)  # fmt: skip
LEAVES = (
    HASHABLE_LEAVES | DECIMALS | st.binary(max_size=300).map(bytearray)
    | st.integers(0, len(_NUMPY) - 1).map(_NUMPY.__getitem__)
    | st.builds(lambda n, note: with_attributes(Number(n), note=note), INTS, TEXT)
    | st.builds(pathlib.PurePosixPath, TEXT) | st.builds(lambda t: re.compile(re.escape(t), re.IGNORECASE), TEXT)
    | st.sampled_from([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_interface("10.0.0.1/8")])
)  # fmt: skip
KEYS = (
    HASHABLE_LEAVES
    | st.lists(HASHABLE_LEAVES, max_size=2).map(tuple)
    | st.frozensets(TEXT, max_size=2)
)
MOMENT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = st.lists(inner, max_size=4)
    named = st.dictionaries(TEXT, inner, max_size=3)
    return (
        items | items.map(tuple) | named | st.dictionaries(KEYS, inner, max_size=3) | items.map(Row)
        | st.sets(KEYS, max_size=3) | st.frozensets(KEYS, max_size=3)
        | st.builds(collections.deque, items, st.sampled_from([None, 9]))
        | named.map(collections.OrderedDict) | st.builds(lambda d: collections.defaultdict(list, d), named)
        | st.builds(collections.Counter, st.lists(TEXT, max_size=4))
        | st.builds(lambda i, t: with_attributes(Tagged(i), tag=t), items, inner) | st.builds(Sealed, inner)
        | st.builds(lambda a, b: with_attributes(Pair(a, b), more=a), inner, inner)
        | st.builds(lambda d, x: with_attributes(_filled(Output(loss=x), d)), named, inner)
        | st.builds(lambda x, y: with_attributes(Slotted(x), inherited=y), inner, inner) | st.builds(Particular, inner)
        | st.builds(lambda x, p: with_attributes(cast("Any", Model)(x=x, more=p), _private=p), inner, inner)
        | st.builds(Several, items) | st.builds(old, inner, inner) | items.map(object_array)
        | inner.map(lambda x: Item(value={"x": x}, key="k", namespace=("a",), created_at=MOMENT, updated_at=MOMENT))
        | inner.map(lambda x: SearchItem(("a",), "k", {"x": x}, MOMENT, MOMENT, score=0.5))
    )  # fmt: skip


def _filled(made: Any, content: dict[str, Any]) -> Any:
    collections.OrderedDict.update(made, content)
    return made


VALUES = st.recursive(LEAVES, _containers, max_leaves=12)


# -- the same again


def same(a: Any, b: Any) -> bool:
    """Equal in value and type, attributes and order included, NaN equal to NaN."""
    if type(a) is not type(b) or not _same_attributes(a, b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and same(a.tolist(), b.tolist())
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and repr(a) == repr(b)
    if isinstance(a, dict):
        first, second = (list(_items(d)) for d in (a, b))
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(a, (list, tuple, collections.deque)):
        return (
            len(a) == len(b)
            and all(map(same, a, b))
            and getattr(a, "maxlen", 0) == getattr(b, "maxlen", 0)
        )
    if isinstance(a, (set, frozenset)):
        return len(a) == len(b) and sorted(map(_shown, a)) == sorted(map(_shown, b))
    if isinstance(a, (float, complex, decimal.Decimal, dt.datetime, dt.time, dt.timezone)):
        return repr(a) == repr(b)
    if dataclasses.is_dataclass(a) or isinstance(
        a, (pydantic.BaseModel, pydantic.v1.BaseModel, Item)
    ):
        return True  # their attributes are all there is to them
    return bool(a == b)


def _items(mapping: dict[Any, Any]) -> Any:
    return mapping.items()


def _shown(item: Any) -> str:
    """Equal items are shown alike: two equal sets may give their items in different orders."""
    if isinstance(item, frozenset):
        return f"{type(item)}{sorted(map(_shown, item))}"
    if type(item) is tuple:
        return f"{type(item)}{[_shown(part) for part in item]}"
    return f"{type(item)}{item!r}"


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    private = getattr(kind, "__private_attributes__", {})
    own = kind.__module__ not in (
        "builtins",
        "datetime",
        "decimal",
        "collections",
        "re",
        "zoneinfo",
        "uuid",
        "pathlib",
    )
    slots = [
        name for c in kind.__mro__ if own for name in _as_tuple(c.__dict__.get("__slots__", ()))
    ]
    extra = ["model_extra"] if issubclass(kind, pydantic.BaseModel) else []
    return tuple(name for name in (*slots, *private, *extra) if not name.startswith("__"))


def _as_tuple(slots: typing.Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _same_attributes(a: Any, b: Any) -> bool:
    if isinstance(a, (enum.Enum, np.ndarray, np.generic, uuid.UUID, pathlib.PurePath)):
        return True
    own = [dict(getattr(x, "__dict__", {})) for x in (a, b)]
    slots = [
        {n: getattr(x, n) for n in _names(cast("Any", type(a))) if hasattr(x, n)} for x in (a, b)
    ]
    was_set = [
        getattr(x, "model_fields_set", None) or getattr(x, "__fields_set__", None) for x in (a, b)
    ]
    pairs = (*zip(*map(dict.items, own), strict=False), *zip(*map(dict.items, slots), strict=False))
    as_many = len(own[0]) == len(own[1]) and len(slots[0]) == len(slots[1])
    return (
        as_many
        and was_set[0] == was_set[1]
        and all(n == m and same(x, y) for (n, x), (m, y) in pairs)
    )
