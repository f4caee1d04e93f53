"""Types whose values are taken apart the same way whoever uses them: dates, numbers, sets, NumPy's
arrays.

`APART` says for each type which extension code it gets and what is encoded under it.
"""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import ipaddress
import re
import sys
import types
import uuid
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

from langgraph.checkpoint.serde.types import _DeltaSnapshot

from surgetank.encode import codes
from surgetank.exceptions import StateCorrupt
from surgetank.streams.checkpoints.serde.forms import ByteArray, Pairs, Text, ValueRefused

_SIMPLE_NUMPY = frozenset("biufcSUMmV?")


def delta_snapshot(value: Any) -> Any:
    """LangGraph's wrapper of a stored DeltaChannel value."""
    return _DeltaSnapshot(value)


def send(node: str, arg: Any, timeout: Any) -> Any:
    """LangGraph's `Send`."""
    from langgraph.types import Send  # noqa: PLC0415 - langgraph itself imports checkpointers

    return Send(node, arg) if timeout is None else Send(node, arg, timeout=timeout)


def _bigint(obj: int) -> tuple[int, bytes]:
    return codes.BIG_INT, obj.to_bytes(obj.bit_length() // 8 + 1, "big", signed=True)


def _datetime(obj: dt.datetime) -> tuple[int, Any]:
    zone = obj.tzinfo
    if obj.fold == 0 and (zone is None or zone is dt.UTC):
        return codes.LG_METHOD, ["datetime", "datetime", obj.isoformat(), "fromisoformat"]
    parts = [obj.year, obj.month, obj.day, obj.hour, obj.minute, obj.second, obj.microsecond]
    return codes.DATETIME, [*parts, zone, obj.fold]


def _zone(obj: ZoneInfo) -> tuple[int, Any]:
    if obj.key is None:
        raise ValueRefused("", "a ZoneInfo without a name", "use ZoneInfo('Area/City')")
    return codes.LG_SINGLE, ["zoneinfo", "ZoneInfo", obj.key]


def _single(
    module: str, name: str, text: Callable[[Any], Any] = str
) -> Callable[[Any], tuple[int, Any]]:
    return lambda obj: (codes.LG_SINGLE, [module, name, text(obj)])


def _time(obj: dt.time) -> tuple[int, Any]:
    parts = {
        "hour": obj.hour,
        "minute": obj.minute,
        "second": obj.second,
        "microsecond": obj.microsecond,
    }
    return codes.LG_KEYWORDS, [
        "datetime",
        "time",
        {**parts, "tzinfo": obj.tzinfo, "fold": obj.fold},
    ]


_IP = ("IPv4Address", "IPv4Interface", "IPv4Network", "IPv6Address", "IPv6Interface", "IPv6Network")
APART: dict[type, Callable[[Any], tuple[int, Any]]] = {
    tuple: lambda o: (codes.TUPLE, list(o)),
    int: _bigint,
    Text: lambda o: (codes.TEXT, str.__str__(o).encode("utf-8", "surrogatepass")),
    Pairs: lambda o: (codes.PAIRS, o.pairs),
    ByteArray: lambda o: (codes.BYTEARRAY, o.data),
    complex: lambda o: (codes.COMPLEX, [o.real, o.imag]),
    set: lambda o: (codes.COLLECTION, ["builtins", "set", "set", list(o), None]),
    frozenset: lambda o: (codes.COLLECTION, ["builtins", "frozenset", "frozenset", list(o), None]),
    collections.deque: lambda o: (
        codes.COLLECTION,
        ["collections", "deque", "deque", list(o), o.maxlen],
    ),
    _DeltaSnapshot: lambda o: (codes.LG_DELTA, o.value),
    dt.datetime: _datetime,
    dt.date: lambda o: (codes.LG_POSITIONAL, ["datetime", "date", [o.year, o.month, o.day]]),
    dt.time: _time,
    dt.timedelta: lambda o: (
        codes.LG_POSITIONAL,
        ["datetime", "timedelta", [o.days, o.seconds, o.microseconds]],
    ),
    dt.timezone: lambda o: (
        codes.LG_POSITIONAL,
        ["datetime", "timezone", list(o.__getinitargs__())],
    ),
    ZoneInfo: _zone,
    uuid.UUID: _single("uuid", "UUID", lambda o: o.hex),
    decimal.Decimal: _single("decimal", "Decimal"),
    re.Pattern: lambda o: (codes.LG_POSITIONAL, ["re", "compile", [o.pattern, o.flags]]),
    **{getattr(ipaddress, name): _single("ipaddress", name) for name in _IP},
}


def numpy_apart(numpy: types.ModuleType, obj: Any) -> tuple[int, Any]:
    """A NumPy scalar or array. Raises `ValueRefused` for what its bytes don't tell."""
    kind = type(obj)
    if isinstance(obj, numpy.generic):
        if obj.dtype.names or obj.dtype.kind not in _SIMPLE_NUMPY or kind is numpy.void:
            raise ValueRefused("", f"a NumPy scalar of dtype {obj.dtype}", "store .item() of it")
        # As text or bytes of their own: NumPy pads the empty one with a NUL.
        if isinstance(obj, str):
            return codes.NUMPY_SCALAR, ["<U", str.__str__(obj).encode("utf-32-le", "surrogatepass")]
        return codes.NUMPY_SCALAR, [
            obj.dtype.str,
            bytes(obj) if isinstance(obj, bytes) else obj.tobytes(),
        ]
    if kind is not numpy.ndarray:
        raise ValueRefused(
            "", f"an array of the type {kind.__name__}", "store numpy.asarray(...) of it"
        )
    if obj.dtype.kind in _SIMPLE_NUMPY - {"V"} and not obj.dtype.metadata:
        order = "F" if obj.flags.f_contiguous and not obj.flags.c_contiguous else "C"
        return codes.LG_NUMPY, [
            obj.dtype.str,
            list(obj.shape),
            order,
            obj.tobytes(order="A" if order == "F" else "C"),
        ]
    if obj.dtype.kind == "O":
        return codes.NUMPY_ITEMS, ["O", list(obj.shape), list(obj.flat)]
    if obj.dtype.names and not obj.dtype.hasobject:
        return codes.NUMPY_ITEMS, [_descr(obj.dtype), list(obj.shape), obj.tobytes()]
    raise ValueRefused("", f"an array of dtype {obj.dtype}", "store a plain dtype")


def _descr(dtype: Any) -> list[Any]:
    described = [
        [name, kind]
        for name, kind, *rest in dtype.descr
        if not rest and isinstance(kind, str) and name
    ]
    if sys.modules["numpy"].dtype([tuple(d) for d in described]) != dtype:
        raise ValueRefused(
            "", f"an array of dtype {dtype}", "store its fields as arrays of their own"
        )
    return described


def numpy_together(code: int, made: Any) -> Any:
    """The scalar or array behind `numpy_apart`."""
    try:
        import numpy  # noqa: PLC0415, ICN001 - an optional package
    except ImportError as error:
        raise StateCorrupt("Stored data has a NumPy array.", remedy="pip install numpy") from error
    if code == codes.NUMPY_SCALAR:
        # Text and bytes are not read as an array's element, which would lose NULs at the end.
        dtype = numpy.dtype(made[0])
        if dtype.kind == "U":
            order = "be" if dtype.str[0] == ">" else "le"
            return numpy.str_(made[1].decode(f"utf-32-{order}", "surrogatepass"))
        return (
            numpy.bytes_(made[1])
            if dtype.kind == "S"
            else numpy.frombuffer(made[1], dtype=dtype)[0]
        )
    descr, shape, items = made
    if descr != "O":
        dtype = numpy.dtype([tuple(d) for d in descr])
        return numpy.frombuffer(items, dtype=dtype).reshape(shape).copy()
    array = numpy.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array.reshape(shape)
