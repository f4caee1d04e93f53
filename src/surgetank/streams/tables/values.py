"""One value of a column, on its way in and out: from Python, JSON or SQL to what is stored, and to JSON. Pure.

`reader(type, source)` makes one function for one column, so that an insert decides nothing about types. What
can't be stored exactly as it was given raises `Unfit`: nothing is rounded, cut or guessed.

What is stored, as Python has it: bool, int, float, Decimal (at the column's scale), str, date, time, datetime
(naive for TIMESTAMP, in UTC for TIMESTAMPTZ), bytes, UUID, JSON as canonical text (compact, keys sorted), and
lists of these. None is NULL, and no function here is asked about it.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

from surgetank.encode import jsontext
from surgetank.streams.tables import numeric
from surgetank.streams.tables.jsons import canonical
from surgetank.streams.tables.types import ColumnType
from surgetank.streams.tables.unfit import Unfit, kind, plain, shown

Convert = Callable[[Any], Any]
T = TypeVar("T")

_TOO_FINE = re.compile(r"[.,]\d{6}\d*[1-9]")  # of a second, more than microseconds
_WORDS = MappingProxyType({"true": True, "t": True, "false": False, "f": False})


class Source(StrEnum):
    """Where a value comes from, which says how a text is understood.

    PYTHON: text is no number; for JSON it is JSON text, as a SELECT gives it. JSON (what `json.loads` gives):
    bytes are base64, numbers may be text, and a text for a JSON column is that text. SQL: as PostgreSQL
    understands a literal in quotes; a time without a zone is UTC.
    """

    PYTHON = "python"
    JSON = "json"
    SQL = "sql"


def reader(type_: ColumnType, source: Source) -> Convert:
    """The function from a given value (not None) to the stored one. It raises `Unfit`."""
    if type_.is_list:
        return partial(_list, reader(type_.item, source))
    text = source is not Source.PYTHON
    if type_.name in numeric.WIDTHS:
        return numeric.integer(type_.name, text=text)
    match type_.name:
        case "REAL":
            return numeric.real(text=text)
        case "DOUBLE":
            return numeric.double(text=text)
        case "DECIMAL":
            return numeric.decimal(type_)
    return _READERS[type_.name](type_, source)


def writer(type_: ColumnType) -> Convert:
    """The function from a stored value (not None) to what JSON has for it. `reader` with
    `Source.JSON` is its inverse."""
    if type_.is_list:
        item = writer(type_.item)
        return lambda values: [None if value is None else item(value) for value in values]
    return _WRITERS.get(type_.name, _as_it_is)


# -- in


def _list(item: Convert, given: Any) -> list[Any]:
    if not isinstance(given, (list, tuple)):
        if not hasattr(given, "tolist"):  # an array of numpy
            raise Unfit(f"{kind(given)} is no list")
        given = given.tolist()
    made: list[Any] = []
    try:
        for value in given:
            made.append(None if value is None else item(value))  # noqa: PERF401 - its index is told
    except Unfit as error:
        raise Unfit(f"item {len(made)}: {error.reason}", remedy=error.remedy) from None
    return made


def _boolean(_: ColumnType, source: Source) -> Convert:
    def convert(given: Any) -> bool:
        if given is True or given is False:
            return bool(given)
        given = plain(given)
        if isinstance(given, bool):
            return given
        if source is Source.SQL and isinstance(given, str) and given.lower() in _WORDS:
            return _WORDS[given.lower()]
        raise Unfit(f"{kind(given)} is no boolean", remedy="use true or false.")

    return convert


_TEXT_REMEDY: Mapping[Source, str] = MappingProxyType(
    {
        Source.PYTHON: "give str(value).",
        Source.JSON: "write it in quotes.",
        Source.SQL: "use CAST(... AS TEXT).",
    }
)


def _text(_: ColumnType, source: Source) -> Convert:
    def convert(given: Any) -> Any:
        if type(given) is not str:
            if not isinstance(given, str):
                raise Unfit(f"{kind(given)} is no text", remedy=_TEXT_REMEDY[source])
            given = str.__str__(given)
        if not given.isascii():
            _refuse_surrogates(given)
        return given

    return convert


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unfit(
            f"a lone surrogate at character {error.start} is no text",
            remedy="it comes from decoding wrongly, for example with surrogateescape.",
        ) from None


def _date(_: ColumnType, source: Source) -> Convert:
    def convert(given: Any) -> date:
        if type(given) is date:
            return given
        if isinstance(given, str):
            return _parsed(date.fromisoformat, given, "a date such as 2026-11-28")
        given = plain(given)
        if isinstance(given, datetime) or not isinstance(given, date):
            way = (
                "use CAST(... AS DATE)." if source is Source.SQL else "give a date: moment.date()."
            )
            raise Unfit(f"{kind(given)} is no date", remedy=way)
        return date(given.year, given.month, given.day)

    return convert


def _time(_: ColumnType, __: Source) -> Convert:
    def convert(given: Any) -> time:
        if isinstance(given, str):
            given = _parsed(time.fromisoformat, given, "a time such as 07:15:00")
        if not isinstance(given, time):
            raise Unfit(f"{kind(given)} is no time")
        if given.tzinfo is not None:
            raise Unfit("TIME has no zone", remedy="use TIMESTAMPTZ, or leave the zone out.")
        return given.replace(fold=0) if given.fold else given

    return convert


def _timestamp(_: ColumnType, source: Source) -> Convert:
    def convert(given: Any) -> datetime:
        value = given if type(given) is datetime else _as_datetime(given)
        if value.tzinfo is not None:
            way = "moment.replace(tzinfo=None)"
            if source is Source.SQL:
                way = "CAST(... AS TIMESTAMP), which is UTC"
            raise Unfit(
                "TIMESTAMP has no zone",
                remedy=f"use TIMESTAMPTZ, or leave the zone out: {way}.",
            )
        return value.replace(fold=0) if value.fold else value

    return convert


def _timestamptz(_: ColumnType, source: Source) -> Convert:
    def convert(given: Any) -> datetime:
        value = given if type(given) is datetime else _as_datetime(given)
        if value.tzinfo is UTC:
            return value
        if value.tzinfo is None:
            if source is not Source.SQL:
                raise Unfit(
                    "a time without a zone", remedy="say which: datetime.now(UTC), or ...Z."
                )
            return value.replace(tzinfo=UTC)
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise Unfit("this time in UTC is outside of the years 1 to 9999") from None

    return convert


def _as_datetime(given: Any) -> datetime:
    if isinstance(given, str):
        return _parsed(datetime.fromisoformat, given, "a time such as 2026-11-28T07:15:00Z")
    given = plain(given)
    if not isinstance(given, datetime):
        raise Unfit(f"{kind(given)} is no timestamp", remedy="give a datetime, or ISO 8601 text.")
    if given != given or getattr(given, "nanosecond", None):  # noqa: PLR0124 - NaT of pandas
        raise Unfit(f"{shown(given)} has no exact microsecond", remedy="give None, or round it.")
    return datetime(
        given.year, given.month, given.day, given.hour, given.minute, given.second,
        given.microsecond, given.tzinfo, fold=given.fold,
    )  # fmt: skip


def _parsed(parse: Callable[[str], T], given: str, wanted: str) -> T:
    text = given.strip()
    if _TOO_FINE.search(text) is not None:
        raise Unfit(f"{shown(given)} is finer than microseconds", remedy="round it first.")
    try:
        return parse(text)
    except ValueError:
        raise Unfit(f"{shown(given)} is not {wanted}") from None


def _json(_: ColumnType, source: Source) -> Convert:
    def convert(given: Any) -> str:
        if source is Source.JSON or not isinstance(given, str):
            return canonical(given)
        try:
            value = jsontext.loads(given)
        except (ValueError, RecursionError):
            raise Unfit(
                f"{shown(given)} is no JSON", remedy="a text is written json.dumps(text)."
            ) from None
        return canonical(value)

    return convert


def _bytes(_: ColumnType, source: Source) -> Convert:
    def convert(given: Any) -> bytes:
        if type(given) is bytes:
            return given
        if isinstance(given, (bytes, bytearray, memoryview)):
            return bytes(given)
        if isinstance(given, str) and source is not Source.PYTHON:
            return _bytes_of_text(given, source)
        raise Unfit(f"{kind(given)} is no bytes", remedy="give text.encode().")

    return convert


def _bytes_of_text(given: str, source: Source) -> bytes:
    try:
        if source is Source.JSON:
            return base64.b64decode(given, validate=True)
        if given[:2] == "\\x":
            return bytes.fromhex(given[2:])
    except (binascii.Error, ValueError):
        pass
    wanted = "base64" if source is Source.JSON else r"bytes such as '\x00ff' or X'00ff'"
    raise Unfit(f"{shown(given)} is not {wanted}")


def _uuid(_: ColumnType, __: Source) -> Convert:
    def convert(given: Any) -> UUID:
        if type(given) is UUID:
            return given
        if isinstance(given, UUID):
            return UUID(int=given.int)
        try:
            return UUID(given) if isinstance(given, str) else UUID("")
        except ValueError:
            raise Unfit(f"{shown(given)} is no UUID") from None

    return convert


_READERS: Mapping[str, Callable[[ColumnType, Source], Convert]] = MappingProxyType(
    {
        "BOOLEAN": _boolean,
        "TEXT": _text,
        "DATE": _date,
        "TIME": _time,
        "TIMESTAMP": _timestamp,
        "TIMESTAMPTZ": _timestamptz,
        "JSON": _json,
        "BYTES": _bytes,
        "UUID": _uuid,
    }
)

# -- out


def _as_it_is(value: Any) -> Any:
    return value


def _float_out(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decimal_out(value: Decimal) -> str:
    return format(value, "f")


_WRITERS: Mapping[str, Convert] = MappingProxyType(
    {
        "REAL": _float_out,
        "DOUBLE": _float_out,
        "DECIMAL": _decimal_out,
        "DATE": date.isoformat,
        "TIME": time.isoformat,
        "TIMESTAMP": datetime.isoformat,
        "TIMESTAMPTZ": datetime.isoformat,
        "JSON": jsontext.loads,
        "BYTES": lambda value: base64.b64encode(value).decode(),
        "UUID": str,
    }
)
