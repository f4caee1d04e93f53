"""JSON that RFC 8259 and PostgreSQL's jsonb both accept, whatever is put in, and a list of what was
replaced.

Clean input costs about one fast encode and is returned as it is; only dirty input is walked,
without recursion. What an encoder would write is counted first, because it writes a shared value
each time it meets it. A replacement is a loss: NaN and infinities become null, NUL and lone
surrogates U+FFFD, cycles, too deep nesting and unknown objects a marker. What has a standard form
in JSON (a tuple as array, a UUID as text, an Enum as its value, bytes as {"$bytes": base64}) is
converted and not counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from gc import get_referents, is_tracked
from typing import Any

import orjson
import ormsgpack

from surgetank.encode.jsonable import (
    MAX_DEPTH,
    MAX_STRING,
    Opened,
    convert,
    hostile,
    key_of,
    name_of,
)
from surgetank.model import Replacement

MAX_REPLACEMENTS = 1000
# Of what a walk gives, in total: values that are shared unfold, and a hostile mapping may make new
# ones for ever.
MAX_NODES = 1_200_000
_JSON = (
    orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)
_STRICT = (
    ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
_LOOSE = (
    _STRICT
    & ~ormsgpack.OPT_PASSTHROUGH_TUPLE
    & ~ormsgpack.OPT_PASSTHROUGH_ENUM
    & ~ormsgpack.OPT_PASSTHROUGH_UUID
)
_packb, _dumps = (
    ormsgpack.packb,
    orjson.dumps,
)  # called with positions only: keywords cost as much as a small value
_CONTAINERS = frozenset((dict, list, tuple))
_MANY = 100_000  # values that are not counted more closely
_DEEP = 254  # levels that the encoders take
_SMALL = 64
_LENGTHS = (b"\xdc", b"\xde")
_FEW_LENGTHS = 32
_FLOAT = 0xCB
_BACKSLASH = 0x5C
_SHORT = 4096
_FEW = 512  # bytes that are looked at one by one; more of them are left to a regular expression
_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]", re.DOTALL)
_ENCODE_ERRORS = (TypeError, ValueError, RecursionError, OverflowError)
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class Sanitized:
    """A clean value and what was replaced in it.

    `replacements` holds the first thousand; `count` counts all of them.
    """

    value: Any
    replacements: tuple[Replacement, ...] = ()
    count: int = 0


def sanitize(value: Any) -> Sanitized:
    """`value` with only dict (str keys), list, str, int, float, bool and None in it. Never raises.

    >>> sanitize({"score": float("nan")}).value
    {'score': None}
    """
    return Sanitized(value) if _is_clean(value) else _Walk().run(value)


def sanitize_for_json(value: Any) -> Any:
    """`value` as `json.dumps(..., allow_nan=False)` and `::jsonb` accept it. Never raises."""
    return value if _is_clean(value) else _Walk().run(value).value


def dumps_jsonb(value: Any) -> tuple[bytes, tuple[Replacement, ...]]:
    """JSON bytes for a jsonb column, and what was replaced on the way. Never raises."""
    try:
        if type(value) in _CONTAINERS and _unfolds(value):
            raise ValueError("too many shared values")
        packed = _packb(value, None, _LOOSE)
        encoded = _dumps(value, None, _JSON)
        if _bytes_are_clean(encoded, packed):
            return encoded, ()
    except _ENCODE_ERRORS:
        pass  # something that JSON doesn't have, or too deep: the walk deals with it
    clean = sanitize(value)
    return encode_clean(clean.value), clean.replacements


def encode_clean(value: Any) -> bytes:
    """JSON bytes of a value that `sanitize` gave."""
    encoded = _encode(value)
    # orjson knows integers of 64 bits only.
    return (
        encoded
        if encoded is not None
        else json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    )


def _encode(value: Any) -> bytes | None:
    try:
        return orjson.dumps(value, option=_JSON)
    except _ENCODE_ERRORS:
        return None


def _unfolds(value: Any) -> bool:
    """Whether the encoders may not be given the value: they write what is shared each time it is
    met, so forty lists of two become a million millions. What they would write is counted here,
    container by container, up to a limit.
    """
    if type(value) is dict and len(value) < _SMALL:
        for item in value.values():
            if (
                type(item) in _CONTAINERS
                and item
                and (len(item) > _SMALL or _holds_containers(item))
            ):
                break
        else:
            return False
    level, total, depth = [value], 0, 0
    while level:
        depth += 1
        total += sum(map(len, level))
        if total > _MANY or depth > _DEEP:
            break
        opened = [c for c in level if len(c) <= _SMALL or not _only_numbers(c)]
        level = [item for item in get_referents(*opened) if type(item) in _CONTAINERS and item]
    else:
        return False
    try:
        return depth > _DEEP or _unfolded(value, {}) > MAX_NODES
    except RecursionError:  # a cycle
        return True


def _holds_containers(container: Any) -> bool:
    """Whether anything in it can unfold. The garbage collector knows it of most: what it tracks may;
    what it does not track holds scalars, or tuples that it tracks no more because they do.
    """
    if is_tracked(container):
        return True
    items = container.values() if type(container) is dict else container
    return not _CONTAINERS.isdisjoint(map(type, items))


def _only_numbers(container: Any) -> bool:
    """Whether a long list has only numbers in it, told by adding them up: many times faster than
    asking each."""
    if type(container) is not list or type(container[0]) is not float:
        return False
    try:
        return type(sum(container)) is float
    except Exception:  # noqa: BLE001 - something else is in it, and may raise anything
        return False


def _unfolded(value: Any, known: dict[int, int]) -> int:
    """How many values an encoder would write; each container is looked at once."""
    size = known.get(id(value))
    if size is None:
        items = value.values() if type(value) is dict else value
        size = len(value) + sum(
            _unfolded(item, known) for item in items if type(item) in _CONTAINERS
        )
        known[id(value)] = size
    return size


def _is_clean(value: Any) -> bool:
    """Whether nothing needs to be replaced or converted, told by bytes, at the speed of the
    encoders.

    msgpack is asked before orjson, which walks nested tuples until the stack is used up and the
    process dies. Searching single bytes (as numbers: for a bytes object Python raises an exception
    inside) is many times faster than searching words, so words are looked for only where their
    first byte is.
    """
    if type(value) in _CONTAINERS and _unfolds(value):
        return False
    try:
        packed = _packb(value, None, _STRICT)
        if (
            0xC4 in packed
            or 0xC5 in packed
            or 0xC6 in packed
            or (0 in packed and not _only_lengths(packed))
        ):
            # Perhaps a NUL in text, perhaps byte strings, which JSON doesn't have; mostly just
            # numbers.
            return _bytes_are_clean(_dumps(value, None, _JSON), packed)
        if len(packed) > MAX_STRING:
            return False
        return (
            _FLOAT not in packed or _all_finite(packed) or b"null" not in _dumps(value, None, _JSON)
        )
    except _ENCODE_ERRORS:
        return False


def _only_lengths(packed: bytes) -> bool:
    """Whether every NUL byte is the first of an array's or object's length (after 0xdc, 0xde), and
    so none of a text.

    In UTF-8 neither of these two comes before a NUL; but the length of a text that begins with one
    may end so.
    """
    at = packed.find(0)
    for _ in range(_FEW_LENGTHS):
        if at < 0:
            return True
        before = packed[max(0, at - 5) : at]
        if before[-1:] not in _LENGTHS or 0xD9 in before or 0xDA in before or 0xDB in before:
            return False
        at = packed.find(0, at + 1)
    return False


def _bytes_are_clean(encoded: bytes, packed: bytes) -> bool:
    if len(packed) > MAX_STRING or (
        _BACKSLASH in encoded and 0 in packed and b"\\u0000" in encoded
    ):
        return False
    # orjson writes NaN as null; what looks like a NaN may be a part of another number.
    return _FLOAT not in packed or _all_finite(packed) or b"null" not in encoded


def _all_finite(packed: bytes) -> bool:
    """False for what may hold a NaN or an infinity: in msgpack a float is 0xcb and eight bytes, and
    an exponent of all ones is infinity or NaN (IEEE 754).
    """
    if len(packed) < _SHORT or packed.count(_FLOAT) > _FEW:
        return _NOT_FINITE.search(packed) is None
    at, end = packed.find(_FLOAT), len(packed) - 2
    while 0 <= at < end:
        if packed[at + 1] & 0x7F == 0x7F and packed[at + 2] >= 0xF0:
            return False
        at = packed.find(_FLOAT, at + 1)
    return True


@dataclass(slots=True)
class _Frame:
    items: Iterator[tuple[Any, Any]]
    out: dict[str, Any] | list[Any]
    identity: int
    key: Any = None
    renamed: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Walk:
    """One walk over a dirty value, depth first, with its own stack."""

    frames: list[_Frame] = field(default_factory=list)
    found: list[Replacement] = field(default_factory=list)
    count: int = 0
    nodes: int = 0

    def run(self, value: Any) -> Sanitized:
        root: list[Any] = []
        top = _Frame(iter([(None, value)]), root, 0)
        self.frames.append(top)
        open_now: set[int] = set()
        while self.frames:
            frame = self.frames[-1]
            step = self._next(frame)
            if step is None:
                self.frames.pop()
                open_now.discard(frame.identity)
                continue
            frame.key, item = step
            self._put(frame, self._open(convert(item, self._note), open_now))
        return Sanitized(root[0], tuple(self.found), self.count)

    def _next(self, frame: _Frame) -> tuple[Any, Any] | None:
        if self.nodes >= MAX_NODES:
            if self.nodes == MAX_NODES:  # told once
                self._note(
                    f"more than {MAX_NODES} values, shared ones counted each time; the rest is "
                    f"left out",
                    "",
                )
                self.nodes += 1
            return None
        self.nodes += 1
        try:
            step = next(frame.items, None)
            if step is not None:
                key, item = step
                return key, item
        except BaseException as error:  # noqa: BLE001 - a container that breaks while it is walked ends there
            self._note(f"the container raises {name_of(hostile(error))}", "")
        return None

    def _open(self, made: Any, open_now: set[int]) -> Any:
        if not isinstance(made, Opened):
            return made
        if made.identity in open_now:
            self._note("a cycle", "")
            return "<cycle>"
        if len(self.frames) > MAX_DEPTH:
            self._note(f"nested deeper than {MAX_DEPTH}", "")
            return f"<nested deeper than {MAX_DEPTH}>"
        open_now.add(made.identity)
        return _Frame(iter(made.items), {} if made.is_object else [], made.identity)

    def _put(self, parent: _Frame, made: Any) -> None:
        value = made.out if isinstance(made, _Frame) else made
        if isinstance(parent.out, list):
            parent.out.append(value)
        else:
            parent.out[self._free_key(parent, parent.out, parent.key)] = value
        if isinstance(made, _Frame):
            self.frames.append(made)

    def _free_key(self, frame: _Frame, out: dict[str, Any], key: Any) -> str:
        name = (
            key
            if type(key) is str and key.isascii() and "\x00" not in key
            else key_of(key, self._note)
        )
        if name not in out:
            return name
        number = frame.renamed.get(name, 1) + 1
        while f"{name}~{number}" in out:
            number += 1
        frame.renamed[name] = number
        self._note(f"two keys are both {name[:80]!r} as text; renamed", repr(name_of(key)))
        return f"{name}~{number}"

    def _note(self, reason: str, original: str) -> None:
        self.count += 1
        if len(self.found) < MAX_REPLACEMENTS:
            self.found.append(Replacement(self._path(), reason, original))

    def _path(self) -> str:
        path = "$"
        for frame in self.frames[1:][:50]:
            if isinstance(frame.out, list):
                path += f"[{frame.key}]"
            else:
                name = key_of(frame.key, _untold)[:80]
                path += (
                    f".{name}"
                    if _PLAIN_KEY.match(name)
                    else f"[{json.dumps(name, ensure_ascii=False)}]"
                )
        return path


def _untold(_reason: str, _original: str) -> None:
    """For a key that is only shown in a path: its replacement is told where it stands."""
