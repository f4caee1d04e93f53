"""Serialized values as plain data for SQL, without importing or building any class of the user's.

Reads what Surgetank's and LangGraph's serializers write. Constructor calls are shown as their
arguments, so a message becomes the dict of its fields. Nothing of the data is ever executed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import ormsgpack

from surgetank.encode import codes

_LARGE_ARRAY = 64 * 1024


def to_plain(type_: str, data: bytes) -> Any:
    """The value as dicts, lists and scalars (bytes may remain). Raises `ValueError` for bytes of
    another serializer."""
    if type_ == "null":
        return None
    if type_ in ("bytes", "bytearray"):
        return data
    if type_ == "json":
        return json.loads(data)
    if type_ == "msgpack":
        return _decode(data)
    raise ValueError(f"values of the type {type_!r} can't be shown")


def list_items(data: bytes) -> list[tuple[int, int]] | None:
    """Where the items of a serialized list begin and end, when each of them is an object, a text,
    bytes or a scalar: a chat's messages, for example. None for anything else. Reads the items'
    headers only (msgpack's specification).
    """
    first = data[0] if data else 0
    if 0x90 <= first <= 0x9F:
        count, at = first & 0x0F, 1
    elif first in (0xDC, 0xDD):
        at = 3 if first == 0xDC else 5
        count = int.from_bytes(data[1:at], "big")
    else:
        return None
    items: list[tuple[int, int]] = []
    for _ in range(count):
        if at >= len(data):
            return None
        head = data[at]
        if 0xA0 <= head <= 0xBF:
            end = at + 1 + (head & 0x1F)
        elif (sized := _SIZED.get(head)) is not None:
            width, more = sized
            end = at + 1 + width + more + int.from_bytes(data[at + 1 : at + 1 + width], "big")
        elif (fixed := _FIXED.get(head)) is not None:
            end = at + fixed
        elif head <= 0x7F or head >= 0xE0:
            end = at + 1
        else:
            return None
        items.append((at, end))
        at = end
    return items if at == len(data) else None


# First bytes of msgpack values: width of their length and bytes besides (an ext's type), or bytes
# in all.
_SIZED = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1),
    0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}  # fmt: skip
_FIXED = {
    0xC0: 1,
    0xC2: 1,
    0xC3: 1,
    0xCA: 5,
    0xCB: 9,
    0xCC: 2,
    0xCD: 3,
    0xCE: 5,
    0xCF: 9,
    0xD0: 2,
    0xD1: 3,
    0xD2: 5,
    0xD3: 9,
    0xD4: 3,
    0xD5: 4,
    0xD6: 6,
    0xD7: 10,
    0xD8: 18,
}


def _decode(data: bytes) -> Any:
    return ormsgpack.unpackb(data, ext_hook=_show, option=ormsgpack.OPT_NON_STR_KEYS)


def _show(code: int, data: bytes) -> Any:
    if code == codes.BIG_INT:
        return int.from_bytes(data, "big", signed=True)
    if code == codes.TEXT:
        return data.decode("utf-8", "surrogatepass")
    if code == codes.BYTEARRAY:
        return bytes(data)
    inner = _decode(data)
    shown = _OWN.get(code)
    if shown is not None:
        return shown(inner)
    if code == codes.LG_SINGLE and inner[:2] == ["uuid", "UUID"]:
        text = inner[2]
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    if code <= codes.LG_PYDANTIC2:
        return inner[2]
    return {"$ext": code, "$bytes": len(data)}


def _pairs(inner: list[Any]) -> dict[Any, Any]:
    return {
        key if isinstance(key, (str, int, float, bool, bytes)) else repr(key): value
        for key, value in inner
    }


def _collection(inner: list[Any]) -> Any:
    _, _, base, content, _ = inner
    return _pairs(content) if base in ("dict", "defaultdict") else content


def _object(inner: list[Any]) -> Any:
    _, _, form, fields, _ = inner
    return fields[""] if form == "named" else fields


def _datetime(inner: list[Any]) -> str:
    year, month, day, hour, minute, second, micro, zone, _ = inner
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}" + (
        f"[{zone}]" if zone else ""
    )


def _array(inner: list[Any]) -> Any:
    dtype, shape, order, raw = inner
    if len(raw) > _LARGE_ARRAY:
        return {"$ndarray": dtype, "$shape": shape}
    try:
        import numpy as np  # noqa: PLC0415 - an optional package
    except ImportError:
        return {"$ndarray": dtype, "$shape": shape}
    return np.frombuffer(raw, dtype=np.dtype(dtype)).reshape(shape, order=order).tolist()


def _scalar(inner: list[Any]) -> Any:
    if inner[0][1] == "U":
        return inner[1].decode("utf-32-be" if inner[0][0] == ">" else "utf-32-le", "surrogatepass")
    if inner[0][1] == "S":
        return inner[1]
    shown = _array([inner[0], [1], "C", inner[1]])
    return shown[0] if isinstance(shown, list) else shown


def _items(inner: list[Any]) -> Any:
    descr, shape, items = inner
    return (
        items
        if descr == "O"
        else {"$ndarray": descr, "$shape": shape, "$base64": base64.b64encode(items).decode()}
    )


_OWN: dict[int, Callable[[list[Any]], Any]] = {
    codes.TUPLE: lambda inner: inner,
    codes.PAIRS: _pairs,
    codes.COLLECTION: _collection,
    codes.OBJECT: _object,
    codes.ENUM: lambda inner: inner[3],
    codes.DATETIME: _datetime,
    codes.COMPLEX: lambda inner: str(complex(*inner)),
    codes.SEND: lambda inner: {"node": inner[0], "arg": inner[1]},
    codes.NUMPY_SCALAR: _scalar,
    codes.NUMPY_ITEMS: _items,
    codes.LG_NUMPY: _array,
    codes.LG_DELTA: lambda inner: inner,
}
