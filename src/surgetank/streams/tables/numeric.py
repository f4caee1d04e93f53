"""Numbers of columns: integers, floats and decimals, each refused where it can't be stored exactly. Pure.

With `text` a number may also be written as one, as JSON has to for what is wider than a float.
"""

from __future__ import annotations

import math
import operator
import re
import struct
from collections.abc import Callable, Mapping
from decimal import Context, Decimal, Inexact, InvalidOperation
from types import MappingProxyType
from typing import Any

from surgetank.streams.tables.types import ColumnType
from surgetank.streams.tables.unfit import Unfit, kind, plain, shown

Convert = Callable[[Any], Any]

WIDTHS: Mapping[str, int] = MappingProxyType({"SMALLINT": 16, "INT": 32, "BIGINT": 64})
_EXACT = 2**53  # up to here a float has every integer
_DIGITS = 15  # so many digits of a float are those that somebody wrote
_FLOAT32 = struct.Struct("<f")  # a native one makes inf of what is too large
_NUMBERS = MappingProxyType(
    {
        "nan": math.nan,
        "infinity": math.inf,
        "-infinity": -math.inf,
        "inf": math.inf,
        "-inf": -math.inf,
    }
)


def integer(name: str, *, text: bool) -> Convert:
    """Of a type in `WIDTHS`."""
    bits = WIDTHS[name]
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def convert(given: Any) -> int:
        if type(given) is int and least <= given <= most:
            return given
        value = _as_int(given, text=text)
        if not least <= value <= most:
            raise Unfit(f"a number outside of {name} ({least} to {most})", remedy=_wider(name))
        return value

    return convert


def _wider(name: str) -> str:
    return "use BIGINT." if name != "BIGINT" else "use DECIMAL(38, 0), or TEXT."


def _as_int(given: Any, *, text: bool) -> int:
    given = plain(given)
    if isinstance(given, bool):
        raise Unfit("a boolean is no number", remedy="use 0 or 1, or a column of type BOOLEAN.")
    if text and isinstance(given, str):
        if len(given) > 40 or not re.fullmatch(r"\s*[-+]?[0-9]+\s*", given):
            raise Unfit(f"{shown(given)} is no integer")
        return int(given)
    if isinstance(given, float):
        if not given.is_integer() or abs(given) > _EXACT:
            raise Unfit(f"{given!r} is no integer that is known exactly", remedy="round it first.")
        return int(given)
    if isinstance(given, Decimal):
        if not given.is_finite() or given.adjusted() > 40 or given != given.to_integral_value():
            raise Unfit(f"{shown(given)} is no integer", remedy="round it first.")
        return int(given)
    try:
        return operator.index(given)
    except TypeError:
        raise Unfit(f"{kind(given)} is no integer") from None


def double(*, text: bool) -> Convert:
    """Of 64 bits."""

    def convert(given: Any) -> float:
        if type(given) is float:
            return given
        return _as_float(given, text=text)

    return convert


def real(*, text: bool) -> Convert:
    """Of 32 bits: the nearest one, which is what the type says."""

    def convert(given: Any) -> float:
        value = given if type(given) is float else _as_float(given, text=text)
        try:
            nearest: float = _FLOAT32.unpack(_FLOAT32.pack(value))[0]
        except OverflowError:
            raise Unfit(f"{value!r} is too large for REAL", remedy="use DOUBLE.") from None
        return nearest

    return convert


def _as_float(given: Any, *, text: bool) -> float:
    given = plain(given)
    if isinstance(given, float):
        return float(given)
    if isinstance(given, bool):
        raise Unfit("a boolean is no number", remedy="use 0 or 1, or a column of type BOOLEAN.")
    if text and isinstance(given, str):
        return _float_of_text(given)
    try:
        if isinstance(given, int):
            if int(value := float(given)) != given:
                raise Unfit("an integer that no float has exactly", remedy="use BIGINT or DECIMAL.")
            return value
        if isinstance(given, Decimal):
            return math.nan if given.is_nan() else _finite(float(given), given)
    except OverflowError:
        raise Unfit("a number too large for a float", remedy="use DECIMAL.") from None
    raise Unfit(f"{kind(given)} is no number")


def _float_of_text(given: str) -> float:
    word = given.strip().lower()
    if word in _NUMBERS:
        return _NUMBERS[word]
    if not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?", word):
        raise Unfit(f"{shown(given)} is no number")
    return _finite(float(word))


def _finite(value: float, given: Decimal | None = None) -> float:
    if math.isinf(value) and not (given is not None and given.is_infinite()):
        raise Unfit("a number too large for a float", remedy="use DECIMAL.")
    return value


def decimal(type_: ColumnType) -> Convert:
    """Of its precision and scale."""
    step = Decimal(1).scaleb(-type_.scale)
    context = Context(prec=type_.precision, traps=[InvalidOperation, Inexact])
    zero = Decimal(0).quantize(step)

    def convert(given: Any) -> Decimal:
        value = given if type(given) is Decimal else _as_decimal(given)
        try:
            kept = value.quantize(step, context=context)
        except Inexact:
            raise Unfit(
                f"{shown(value)} has more than {type_.scale} digits behind the point",
                remedy="round it first, or declare more of them.",
            ) from None
        except InvalidOperation:
            kept = Decimal("NaN")
        if not kept.is_finite():
            raise Unfit(
                f"{shown(value)} does not fit {type_.sql}",
                remedy="use a number that it can have, or a column with more digits.",
            )
        return kept or zero  # no column has a negative zero

    return convert


def _as_decimal(given: Any) -> Decimal:
    given = plain(given)
    if isinstance(given, bool) or not isinstance(given, (int, float, str, Decimal)):
        raise Unfit(f"{kind(given)} is no number")
    if isinstance(given, float):
        value = Decimal(repr(given))
        if value.is_finite() and len(value.as_tuple().digits) > _DIGITS:
            raise Unfit(
                f"{given!r} is a float, whose last digits nobody wrote",
                remedy="round it first, or give a decimal or the number as text.",
            )
        return value
    if isinstance(given, str) and (
        len(given) > 200 or not re.fullmatch(r"\s*[-+]?[0-9.]+([eE][-+]?[0-9]{1,4})?\s*", given)
    ):
        raise Unfit(f"{shown(given)} is no number")
    try:
        return Decimal(given)
    except (InvalidOperation, ValueError):
        raise Unfit(f"{shown(given)} is no number") from None
