"""Serialized values without deserializing them: taken apart into msgpack's own types and put
together again. Pure.

What LangGraph's serializer writes as an extension (an object, a set, a date ...) stays an
`ormsgpack.Ext`, its bytes untouched. Values that carry Surgetank's own extensions
(`encode/codes.py`) are the ones that LangGraph can't read.
"""

from __future__ import annotations

from typing import Any

import ormsgpack

from surgetank.encode import codes
from surgetank.exceptions import BrokenRow
from surgetank.streams.checkpoints.refs import CheckpointRef

Typed = tuple[str, bytes]
_PLAIN_TYPES = {"null", "bytes", "bytearray"}
_NESTED = {*range(8), *(c for c in range(codes.TUPLE, codes.SEND + 1) if c not in codes.RAW)}


def check(ref: CheckpointRef, path: str, type_: str | None, data: bytes | None) -> Typed:
    """Type and bytes if they can be carried. Raises `BrokenRow` for damaged, pickled and unknown
    values."""
    kind, raw = type_ or "null", bytes(data or b"")
    if kind == "pickle":
        raise BrokenRow(ref, f"{path} is pickled, and Surgetank does not unpickle")
    if kind in _PLAIN_TYPES or "+" in kind:  # with a plus: encrypted, and carried as it is
        return kind, raw
    if kind == "json":
        return kind, raw
    if kind != "msgpack":
        raise BrokenRow(ref, f"{path} has an unknown type {kind!r}")
    try:
        extensions(raw)
    except ValueError as error:
        raise BrokenRow(ref, f"{path} is damaged ({error})") from error
    return kind, raw


def unpack_tree(typed: Typed) -> Any:
    """Plain data with extensions left as `ormsgpack.Ext`."""
    kind, data = typed
    if kind == "null":
        return None
    if kind in ("bytes", "bytearray"):
        return data
    return ormsgpack.unpackb(data, ext_hook=ormsgpack.Ext, option=ormsgpack.OPT_NON_STR_KEYS)


def pack_tree(tree: Any) -> bytes:
    """The bytes behind `unpack_tree`."""
    return ormsgpack.packb(tree, option=ormsgpack.OPT_NON_STR_KEYS)


def typed_of(tree: Any) -> Typed:
    """A value of a tree as a value of its own."""
    if tree is None:
        return "null", b""
    if type(tree) is bytes:
        return "bytes", tree
    return "msgpack", pack_tree(tree)


def extensions(data: bytes) -> set[int]:
    """The codes of all extensions in msgpack, nested ones too. Raises `ValueError` for what is no
    msgpack."""
    found: set[int] = set()

    def hook(code: int, payload: bytes) -> Any:
        found.add(code)
        if code in _NESTED:
            ormsgpack.unpackb(payload, ext_hook=hook, option=ormsgpack.OPT_NON_STR_KEYS)
        return ormsgpack.Ext(code, payload)

    ormsgpack.unpackb(data, ext_hook=hook, option=ormsgpack.OPT_NON_STR_KEYS)
    return found


def is_foreign(typed: Typed) -> bool:
    """Whether LangGraph's own serializer can't read the value as it is."""
    return typed[0] == "msgpack" and any(code >= codes.TUPLE for code in extensions(typed[1]))


def extension_of(typed: Typed) -> int | None:
    """The code of the extension that the value as a whole is (msgpack specification, ext format
    family)."""
    kind, data = typed
    at = {0xC7: 2, 0xC8: 3, 0xC9: 5, **dict.fromkeys(range(0xD4, 0xD9), 1)}.get(
        data[0] if data else 0
    )
    return data[at] if kind == "msgpack" and at is not None else None
