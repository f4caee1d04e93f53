"""Objects of classes: what of them is stored, and how they are put together again without their
constructors.

Models, dataclasses and subclasses of containers. Finding the class, and whether it may be used, is
the registry's (types.py).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib
import operator
import sys
import types
from collections.abc import Callable
from typing import Any, cast

import ormsgpack

from surgetank.streams.checkpoints.serde.marks import MARK, mark_of

BASES: dict[str, type] = {
    b.__name__: b for b in (dict, list, tuple, set, frozenset, str, int, float, bytes)
}
# A dataclass may be one of these too, and then has content beside its fields.
WITH_CONTENT = (*BASES.values(), bytearray, collections.deque)


def hashable(key: Any) -> Any:
    """A key as it was: msgpack gives tuples back as lists."""
    return tuple(hashable(k) for k in key) if isinstance(key, list) else key


_absent: dict[tuple[str, str], int] = {}  # what was not found, and how many modules there were then
_MOST_ABSENT = 4096


def find(module: str, name: str) -> Any:
    """What a module has under a qualified name now; None when there is none. Imports the module if
    need be."""
    loaded = sys.modules.get(module)
    try:
        if loaded is not None:
            return operator.attrgetter(name)(loaded) if "." in name else getattr(loaded, name, None)
        if _absent.get((module, name)) == len(sys.modules):
            return None
        return operator.attrgetter(name)(importlib.import_module(module))
    except (Exception, SystemExit):  # noqa: BLE001 - a module may raise anything when it is imported
        if len(_absent) >= _MOST_ABSENT:
            _absent.clear()
        _absent[module, name] = len(sys.modules)
        return None


def mapping_of(kind: type) -> Any:
    """The built-in mapping whose plain methods serve a class, whatever the class overrides."""
    return next(
        (c for c in (collections.OrderedDict, collections.defaultdict) if issubclass(kind, c)), dict
    )


def attributes(obj: Any) -> dict[str, Any] | None:
    """What an object has of its own beside its content: its `__dict__` and the slots of its
    classes."""
    found, kind = dict(getattr(obj, "__dict__", ())), cast("Any", type(obj))
    for name in _slots(kind):
        if hasattr(obj, name):
            found[name] = getattr(obj, name)
    return found or None


@functools.lru_cache(maxsize=1024)
def _slots(kind: Any) -> tuple[str, ...]:
    """The names of all slots of a class and its bases."""
    return tuple(
        name
        for owner in kind.__mro__
        for name, member in vars(owner).items()
        if isinstance(member, types.MemberDescriptorType) and owner.__module__ != "builtins"
    )


def with_attributes(made: Any, attributes: dict[str, Any] | None) -> Any:
    """The object with attributes set, whatever its class thinks of that."""
    for name, value in (attributes or {}).items():
        object.__setattr__(made, name, value)
    return made


def content(obj: Any, base: Any) -> Any:
    """The content of an object that derives from a built-in type, read past what its class
    overrides."""
    if base is dict:
        return [list(pair) for pair in mapping_of(type(obj)).items(obj)]
    if base in (str, int, float, bytes):
        return base.__getnewargs__(obj)[0] if base is not bytes else bytes(obj)
    return list(base.__iter__(obj))


# -- fields


def model_state(obj: Any, names: tuple[str, ...], mark: str) -> tuple[dict[str, Any], Any]:
    """A pydantic model's fields, and what else belongs to it: which were set, extra and private
    values."""
    values = obj.__dict__
    if len(values) != len(names):  # cached properties also live there
        values = {name: values[name] for name in names if name in values}
    extra, private, was_set = (
        obj.__pydantic_extra__,
        obj.__pydantic_private__,
        obj.__pydantic_fields_set__,
    )
    set_names = [mark, *(name for name in names if name in was_set)]
    if len(set_names) != len(was_set) + 1:  # extra values count as set too
        set_names += sorted(was_set.difference(names))
    if extra is None and private is None:
        return values, set_names
    return values, [set_names, extra, private]


class ModelShape:
    """What all objects of one pydantic class have in common, encoded once: the class and which
    fields were set."""

    __slots__ = ("_count", "_head", "_mark", "_names", "_tail")

    def __init__(self, module: str, name: str, names: tuple[str, ...], mark: str) -> None:
        self._names = names
        self._mark = mark
        self._count = len(names)
        # an array of five
        self._head = b"\x95" + b"".join(map(ormsgpack.packb, (module, name, "model")))
        # Of the object before: its fields that were set, whether it can't have others, and their
        # bytes.
        self._tail: tuple[set[str], bool, bytes] = (set(), False, b"")

    def pack(self, obj: Any, encode: Callable[[Any], bytes]) -> bytes:
        """The payload of a model's extension: class, form, fields, and what else belongs to it."""
        values, extra, was_set = obj.__dict__, obj.__pydantic_extra__, obj.__pydantic_fields_set__
        if extra or obj.__pydantic_private__ is not None or len(values) != self._count:
            values, state = model_state(obj, self._names, self._mark)
            return self._head + encode(values) + encode(state)
        known, closed, tail = self._tail
        if was_set != known or closed is not (extra is None) or not tail:
            tail = encode(model_state(obj, self._names, self._mark)[1])
            self._tail = (set(was_set), extra is None, tail)
        return self._head + encode(values) + tail


def model1_state(obj: Any, mark: str) -> list[Any]:
    """Which fields of a pydantic 1 model were set, and its private values if it has any."""
    private = {
        name: getattr(obj, name) for name in obj.__private_attributes__ if hasattr(obj, name)
    }
    was_set = [mark, *sorted(obj.__fields_set__)]
    return [was_set, private] if private else was_set


def named_state(obj: Any) -> dict[str, list[Any]]:
    """The items of a NamedTuple, and which fields they are of."""
    return {"": list(tuple.__iter__(obj)), "names": list(obj._fields)}


def dataclass_state(obj: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The fields of a dataclass, and what else hangs on the object; of a pydantic one also its
    mark."""
    names = [f.name for f in dataclasses.fields(obj)]
    fields = {name: getattr(obj, name) for name in names if hasattr(obj, name)}
    more = {k: v for k, v in (attributes(obj) or {}).items() if k not in fields and k != MARK}
    if hasattr(obj, "__dict__") and hasattr(type(obj), "__pydantic_fields__"):
        more[MARK] = mark_of(type(obj))
    return fields, more or None
