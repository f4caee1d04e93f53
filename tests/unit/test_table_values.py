"""Values of tables' columns: what goes in comes out equal, or is refused with column and reason."""

from __future__ import annotations

import math
import struct
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgetank.encode import jsontext
from surgetank.exceptions import EntryRejected
from surgetank.streams.tables.definition import Column, Default, DefaultKind, Kind, Table
from surgetank.streams.tables.keys import encoder
from surgetank.streams.tables.rows import RowForm
from surgetank.streams.tables.types import NAMES, ColumnType
from surgetank.streams.tables.unfit import Unfit
from surgetank.streams.tables.values import Source, reader, writer

TEXTS = st.text(st.characters(codec="utf-8"))
NAIVE = st.datetimes(timezones=st.none())
JSONS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | TEXTS
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "BOOLEAN": st.booleans(),
    "SMALLINT": st.integers(-(2**15), 2**15 - 1),
    "INT": st.integers(-(2**31), 2**31 - 1),
    "BIGINT": st.integers(-(2**63), 2**63 - 1),
    "REAL": st.floats(width=32),
    "DOUBLE": st.floats(),
    "DECIMAL(38, 9)": st.decimals(
        allow_nan=False,
        allow_infinity=False,
        places=9,
        min_value=-(10**29) + 1,
        max_value=10**29 - 1,
    ),
    "TEXT": TEXTS,
    "DATE": st.dates(),
    "TIME": st.times(),
    "TIMESTAMP": NAIVE,
    "TIMESTAMPTZ": st.datetimes(
        min_value=datetime(2, 1, 1),
        max_value=datetime(9998, 1, 1),
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30))]),
    ),
    "BYTES": st.binary(),
    "UUID": st.uuids(),
    "JSON": JSONS.filter(lambda value: value is not None)
    .map(jsontext.dumps_clean)
    .map(bytes.decode),
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)


def test_each_type_has_values_here() -> None:
    assert {ColumnType.parse(text).name for text in VALUES} == set(NAMES)


@pytest.mark.parametrize("text", VALUES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_value_survives_python_json_and_arrow(text: str, data: st.DataObject) -> None:
    type_ = ColumnType.parse(text)
    value = data.draw(VALUES[text])
    stored = reader(type_, Source.PYTHON)(value)
    if type_.name != "JSON":
        assert same(stored, value)
    through = (
        orjson.loads(orjson.dumps(writer(type_)(stored)))
        if type_.name != "JSON"
        else writer(type_)(stored)
    )
    if through is not None:
        assert same(reader(type_, Source.JSON)(through), stored)
    assert same(reader(type_, Source.PYTHON)(stored), stored)  # what a read gave can be inserted
    kept = stored.bytes if type_.name == "UUID" else stored
    back = pa.array([kept], type_.arrow).to_pylist()[0]
    assert same(back, stored), (back, stored)


@settings(max_examples=40, deadline=None)
@given(items=st.lists(st.none() | VALUES["DECIMAL(38, 9)"]))
def test_a_list_keeps_its_items_and_its_holes(items: list[Any]) -> None:
    type_ = ColumnType.parse("DECIMAL(38, 9)[]")
    stored = reader(type_, Source.PYTHON)(items)
    assert stored == items
    assert reader(type_, Source.JSON)(writer(type_)(stored)) == stored


@pytest.mark.parametrize("text", [text for text in VALUES if text != "JSON"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_keys_are_equal_and_in_order_as_their_values_are(text: str, data: st.DataObject) -> None:
    type_ = ColumnType.parse(text)
    one, other = (reader(type_, Source.PYTHON)(data.draw(VALUES[text])) for _ in range(2))
    encode = encoder(type_)
    assert encode(one) == encode(data.draw(st.just(one)))
    if one == one and other == other:
        assert (encode(one) == encode(other)) == (one == other)
        assert (encode(one) < encode(other)) == (one < other)


def test_keys_of_one_value_in_two_forms_are_the_same() -> None:
    double = encoder(ColumnType.parse("DOUBLE"))
    assert double(0.0) == double(-0.0)
    negative_nan = struct.unpack(">d", b"\xff\xf8\x00\x00\x00\x00\x00\x01")[0]
    assert double(math.nan) == double(negative_nan)
    price = ColumnType.parse("DECIMAL(38, 2)")
    read = reader(price, Source.PYTHON)
    assert (
        encoder(price)(read(1))
        == encoder(price)(read("1.00"))
        == encoder(price)(read(Decimal("1.0")))
    )
    moment = datetime(2026, 11, 28, 5, tzinfo=UTC)
    zoned = reader(ColumnType.parse("TIMESTAMPTZ"), Source.PYTHON)
    assert encoder(ColumnType.parse("TIMESTAMPTZ"))(moment) == encoder(
        ColumnType.parse("TIMESTAMPTZ")
    )(zoned(moment.astimezone(timezone(timedelta(hours=5)))))
    canon = reader(ColumnType.parse("JSON"), Source.PYTHON)
    assert (
        canon({"b": 1, "a": [1, None]})
        == canon('{"a": [1, null],  "b": 1}')
        == '{"a":[1,null],"b":1}'
    )


class Hostile:
    def __repr__(self) -> str:
        raise SystemError("no")


REFUSED: list[tuple[str, Source, Any, str]] = [
    ("BOOLEAN", Source.PYTHON, 1, "no boolean"),
    ("BOOLEAN", Source.JSON, "true", "no boolean"),
    ("SMALLINT", Source.PYTHON, 2**15, "outside of SMALLINT"),
    ("INT", Source.PYTHON, -(2**31) - 1, "outside of INT"),
    ("BIGINT", Source.JSON, "9223372036854775808", "outside of BIGINT"),
    ("BIGINT", Source.PYTHON, True, "boolean"),
    ("BIGINT", Source.PYTHON, "1", "no integer"),
    ("BIGINT", Source.JSON, "1e3", "no integer"),
    ("BIGINT", Source.JSON, "9" * 10_000, "no integer"),
    ("BIGINT", Source.PYTHON, 2.0**53 * 4, "known exactly"),
    ("BIGINT", Source.PYTHON, math.nan, "known exactly"),
    ("BIGINT", Source.PYTHON, Decimal("1e999999"), "no integer"),
    ("DOUBLE", Source.PYTHON, 2**53 + 1, "no float has exactly"),
    ("DOUBLE", Source.PYTHON, 10**400, "too large"),
    ("DOUBLE", Source.SQL, "1e999", "too large"),
    ("DOUBLE", Source.PYTHON, "NaN", "no number"),
    ("REAL", Source.PYTHON, 1e39, "too large for REAL"),
    ("DECIMAL(10, 2)", Source.PYTHON, Decimal("1.001"), "behind the point"),
    ("DECIMAL(10, 2)", Source.PYTHON, Decimal("123456789.1"), "does not fit"),
    ("DECIMAL(10, 2)", Source.PYTHON, Decimal("NaN"), "does not fit"),
    ("DECIMAL(10, 2)", Source.PYTHON, Decimal("sNaN"), "does not fit"),
    ("DECIMAL(10, 2)", Source.PYTHON, math.inf, "does not fit"),
    ("DECIMAL(10, 2)", Source.PYTHON, 0.1 + 0.2, "nobody wrote"),
    ("DECIMAL(10, 2)", Source.JSON, "1e9999999999", "no number"),
    ("DECIMAL(10, 2)", Source.JSON, "1.2.3", "no number"),
    ("TEXT", Source.PYTHON, b"x", "no text"),
    ("TEXT", Source.PYTHON, "a\udc80", "surrogate at character 1"),
    ("DATE", Source.PYTHON, datetime(2026, 1, 1), "no date"),
    ("DATE", Source.JSON, "2026-02-30", "not a date"),
    ("TIME", Source.PYTHON, time(1, tzinfo=UTC), "no zone"),
    ("TIMESTAMP", Source.PYTHON, datetime(2026, 1, 1, tzinfo=UTC), "no zone"),
    ("TIMESTAMP", Source.JSON, "2026-01-01T00:00:00.1234567", "finer than microseconds"),
    ("TIMESTAMP", Source.JSON, 1_700_000_000, "no timestamp"),
    ("TIMESTAMPTZ", Source.PYTHON, datetime(2026, 1, 1), "without a zone"),
    ("TIMESTAMPTZ", Source.JSON, "2026-01-01T00:00:00", "without a zone"),
    ("TIMESTAMPTZ", Source.JSON, "0001-01-01T00:00:00+14:00", "outside of the years"),
    ("JSON", Source.PYTHON, {"a": math.nan}, "no nan"),
    ("JSON", Source.PYTHON, {1: "a"}, "no JSON"),
    ("JSON", Source.PYTHON, {"x": 2**70, "y": {2: 3}}, "no JSON"),
    ("JSON", Source.PYTHON, {"a": {1, 2}}, "no JSON"),
    ("JSON", Source.PYTHON, "hello", "no JSON"),
    ("JSON", Source.PYTHON, "[" * 100_000, "no JSON"),
    ("JSON", Source.JSON, "a\udc80", "no JSON"),
    ("BYTES", Source.JSON, "no base64!", "not base64"),
    ("BYTES", Source.PYTHON, "text", "no bytes"),
    ("UUID", Source.PYTHON, "no", "no UUID"),
    ("UUID", Source.PYTHON, 5, "no UUID"),
    ("UUID", Source.PYTHON, Hostile(), "no UUID"),
    ("INT[]", Source.PYTHON, [1, "x"], "item 1"),
    ("INT[]", Source.PYTHON, "12", "no list"),
    ("INT[]", Source.PYTHON, {1: 2}, "no list"),
]


@pytest.mark.parametrize(("text", "source", "value", "reason"), REFUSED)
def test_what_could_not_be_stored_as_it_is_is_refused(
    text: str, source: Source, value: Any, reason: str
) -> None:
    with pytest.raises(Unfit) as caught:
        reader(ColumnType.parse(text), source)(value)
    assert reason in str(caught.value)


def nested(depth: int) -> Any:
    made: Any = 2**70 if depth == 201 else 1  # the slower way, and the faster one
    for _ in range(depth):
        made = [made]
    return made


@pytest.mark.parametrize("depth", [201, 100_000])
def test_json_that_is_nested_too_deep_is_refused(depth: int) -> None:
    for value in (nested(depth), {"short": nested(depth), "n": [[]] * 300}):
        with pytest.raises(Unfit, match="nested more than 200 deep") as caught:
            reader(ColumnType.parse("JSON"), Source.PYTHON)(value)
        assert "nest it less" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "source", "value", "stored"),
    [
        ("BIGINT", Source.PYTHON, 3.0, 3),
        ("BIGINT", Source.JSON, "-9223372036854775808", -(2**63)),
        ("BIGINT", Source.PYTHON, np.int16(7), 7),
        ("BOOLEAN", Source.PYTHON, np.bool_(True), True),
        ("BOOLEAN", Source.SQL, "F", False),
        ("DOUBLE", Source.PYTHON, np.float32(0.5), 0.5),
        ("DOUBLE", Source.PYTHON, Decimal("-Infinity"), -math.inf),
        ("DOUBLE", Source.JSON, "-Infinity", -math.inf),
        ("REAL", Source.PYTHON, 0.1, struct.unpack("f", struct.pack("f", 0.1))[0]),
        ("REAL[]", Source.PYTHON, np.array([1.5, 2.5], np.float32), [1.5, 2.5]),
        ("DECIMAL(10, 2)", Source.JSON, 9.9, Decimal("9.90")),
        ("DECIMAL(10, 2)", Source.PYTHON, Decimal("-0.00"), Decimal("0.00")),
        ("DATE", Source.JSON, "2026-11-28", date(2026, 11, 28)),
        ("TIMESTAMP", Source.JSON, "2026-11-28T05:00:00.100000000", datetime(2026, 11, 28, 5, 0, 0, 100_000)),
        ("TIMESTAMPTZ", Source.SQL, "2026-11-28 05:00:00", datetime(2026, 11, 28, 5, tzinfo=UTC)),
        ("JSON", Source.JSON, "hello", '"hello"'),
        ("JSON", Source.SQL, '{"a":18446744073709551616}', '{"a":18446744073709551616}'),
        ("JSON", Source.PYTHON, {"a": 2**70, "b": "ä"}, f'{{"a":{2**70},"b":"ä"}}'),
        ("BYTES", Source.JSON, "AP8=", b"\0\xff"),
        ("BYTES", Source.SQL, "\\x00ff", b"\0\xff"),
        ("UUID", Source.JSON, f"{uuid.UUID(int=77)}", uuid.UUID(int=77)),
    ],
)  # fmt: skip
def test_what_means_the_same_is_taken(text: str, source: Source, value: Any, stored: Any) -> None:
    found = reader(ColumnType.parse(text), source)(value)
    assert found == stored
    assert type(found) is type(stored)
    assert str(found) == str(stored)


# -- rows

NOW = datetime(2026, 11, 28, 5, 0, 0, 7, tzinfo=UTC)
ID = uuid.UUID(int=5)


def table(*columns: Column, key: tuple[str, ...] = (), kind: Kind = Kind.USER) -> Table:
    return Table(id=1, namespace="shop", name="orders", kind=kind, columns=columns, key=key)


def column(number: int, name: str, type_: str, **more: Any) -> Column:
    return Column(number, name, ColumnType.parse(type_), **more)


def form() -> RowForm:
    made = table(
        column(3, "Sku", "TEXT", nullable=False),
        column(4, "n", "INT", default=Default(DefaultKind.CONSTANT, 1)),
        column(5, "at", "TIMESTAMP", default=Default(DefaultKind.NOW)),
        column(6, "id", "UUID", nullable=False, default=Default(DefaultKind.UUID)),
        column(7, "note", "TEXT"),
        key=("Sku", "n"),
    )
    return RowForm(made, now=lambda: NOW, new_id=lambda: ID)


def test_what_a_row_does_not_say_has_its_default() -> None:
    row = form().read({"Sku": "a"}, user="ann")
    assert row == ("a", 1, NOW.replace(tzinfo=None), ID, None)
    assert form().read({"SKU": "a", "N": 2, "note": None, "at": None})[:3] == ("a", 2, None)
    assert form().values(["n", "sku"], [3, "b"])[:2] == ("b", 3)


def test_a_row_comes_out_as_json() -> None:
    made = form()
    assert made.as_json(made.read({"Sku": "a"})) == {
        "Sku": "a",
        "n": 1,
        "at": "2026-11-28T05:00:00.000007",
        "id": str(ID),
        "note": None,
    }


def test_the_key_of_a_row_ends_where_the_next_part_begins() -> None:
    key = form().key
    assert key is not None
    rows = [("a", 1), ("a\0", 1), ("a\0\0", 1), ("", 1), ("a", 2)]
    assert len({key((*row, None, ID, None)) for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("row", "path", "reason"),
    [
        ({}, "$[7].Sku", "missing"),
        ({"Sku": None}, "$[7].Sku", "NOT NULL"),
        ({"Sku": "a", "id": None}, "$[7].id", "NOT NULL"),
        ({"Sku": "a", "N": "x"}, "$[7].n", "no integer"),
        ({"Sku": "a", "nope": 1}, "$[7].nope", "no such column"),
        ({"Sku": "a", "SKU": "b"}, "$[7].Sku", "twice"),
        ({"Sku": "a", 5: "b"}, "$[7].5", "no such column"),
        ([("Sku", "a")], "$[7]", "no row"),
        ("Sku", "$[7]", "no row"),
    ],
)
def test_a_row_is_refused_with_its_number_its_column_and_the_reason(
    row: Any, path: str, reason: str
) -> None:
    with pytest.raises(EntryRejected) as caught:
        form().read(row, user="ann", index=7)
    assert caught.value.path == path
    assert reason in caught.value.reason
    assert caught.value.partition == "shop.orders/ann"


def test_too_few_values_are_refused() -> None:
    with pytest.raises(EntryRejected, match="1 values for 2 columns"):
        form().values(["Sku", "n"], ["a"])
