"""Objects of classes: what of them is stored, and how they are put together again without their constructors.

Models, dataclasses and subclasses of containers. Finding the class, and whether it may be used, is the registry's
(serde_types.py).
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import importlib
import operator
import types
from collections.abc import Callable
from typing import Any, cast

import ormsgpack

BASES: dict[str, type] = {b.__name__: b for b in (dict, list, tuple, set, frozenset, str, int, float, bytes)}
# A dataclass may be one of these too, and then has content beside its fields.
WITH_CONTENT = (*BASES.values(), bytearray, collections.deque)


def hashable(key: Any) -> Any:
    """A key as it was: msgpack gives tuples back as lists."""
    return tuple(hashable(k) for k in key) if isinstance(key, list) else key


def find(module: str, name: str) -> Any:
    """What a module has under a qualified name; None when there is none."""
    try:
        return operator.attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError, ValueError):
        return None


def mapping_of(kind: type) -> Any:
    """The built-in mapping whose plain methods serve a class, whatever the class overrides."""
    return next((c for c in (collections.OrderedDict, collections.defaultdict) if issubclass(kind, c)), dict)


def attributes(obj: Any) -> dict[str, Any] | None:
    """What an object has of its own beside its content: its `__dict__` and the slots of its classes."""
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
    """The content of an object that derives from a built-in type, read past what its class overrides."""
    if base is dict:
        return [list(pair) for pair in mapping_of(type(obj)).items(obj)]
    if base in (str, int, float, bytes):
        return base.__getnewargs__(obj)[0] if base is not bytes else bytes(obj)
    return list(base.__iter__(obj))


# -- fields


def model_state(obj: Any, names: tuple[str, ...]) -> tuple[dict[str, Any], Any]:
    """A pydantic model's fields, and what else belongs to it: which were set, extra and private values."""
    values = obj.__dict__
    if len(values) != len(names):  # cached properties also live there
        values = {name: values[name] for name in names if name in values}
    extra, private, was_set = obj.__pydantic_extra__, obj.__pydantic_private__, obj.__pydantic_fields_set__
    set_names = [name for name in names if name in was_set]
    if len(set_names) != len(was_set):  # extra values count as set too
        set_names += sorted(was_set.difference(names))
    if extra is None and private is None:
        return values, set_names
    return values, [set_names, extra, private]


class ModelShape:
    """What all objects of one pydantic class have in common, encoded once: the class and which fields were set."""

    __slots__ = ("_count", "_head", "_names", "_tail")

    def __init__(self, module: str, name: str, names: tuple[str, ...]) -> None:
        self._names = names
        self._count = len(names)
        self._head = b"\x95" + b"".join(map(ormsgpack.packb, (module, name, "model")))  # an array of five
        # Of the object before: its fields that were set, whether it can't have others, and their bytes.
        self._tail: tuple[set[str], bool, bytes] = (set(), False, b"")

    def pack(self, obj: Any, encode: Callable[[Any], bytes]) -> bytes:
        """The payload of a model's extension: class, form, fields, and what else belongs to it."""
        values, extra, was_set = obj.__dict__, obj.__pydantic_extra__, obj.__pydantic_fields_set__
        if extra or obj.__pydantic_private__ is not None or len(values) != self._count:
            values, state = model_state(obj, self._names)
            return self._head + encode(values) + encode(state)
        known, closed, tail = self._tail
        if was_set != known or closed is not (extra is None) or not tail:
            tail = encode(model_state(obj, self._names)[1])
            self._tail = (set(was_set), extra is None, tail)
        return self._head + encode(values) + tail


def build_model(kind: Any, fields: dict[str, Any], state: Any) -> Any:
    """A pydantic model out of what `ModelShape` stored."""
    known = kind.__pydantic_fields__
    fields_set, extra, private = state if state and not isinstance(state[0], str) else (state, None, None)
    if fields.keys() != known.keys():
        # The class changed since: its constructor decides whether the old fields still make sense.
        return kind(**fields, **(extra or {}))
    made = object.__new__(kind)
    object.__setattr__(made, "__dict__", fields)
    object.__setattr__(made, "__pydantic_fields_set__", set(fields_set))
    if not kind.__pydantic_root_model__:  # a RootModel has these two in its class
        object.__setattr__(made, "__pydantic_extra__", extra)
        object.__setattr__(made, "__pydantic_private__", private)
    return made


def model1_state(obj: Any) -> list[Any]:
    """Which fields of a pydantic 1 model were set, and its private values if it has any."""
    private = {name: getattr(obj, name) for name in obj.__private_attributes__ if hasattr(obj, name)}
    was_set = sorted(obj.__fields_set__)
    return [was_set, private] if private else was_set


def dataclass_state(obj: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The fields of a dataclass, and what else hangs on the object."""
    names = [f.name for f in dataclasses.fields(obj)]
    fields = {name: getattr(obj, name) for name in names if hasattr(obj, name)}
    more = {k: v for k, v in (attributes(obj) or {}).items() if k not in fields}
    return fields, more or None
