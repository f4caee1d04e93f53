"""How the serializer takes single types apart and puts them together again.

Classes are named by module and qualified name and found again by import, under LangGraph's allowlist rules; a class
that could not be found again, or would be blocked, is refused when it is written.
"""

from __future__ import annotations

import builtins
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import importlib
import ipaddress
import operator
import pathlib
import re
import sys
import types
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast
from zoneinfo import ZoneInfo

import orjson
import ormsgpack
from langgraph.checkpoint.serde import _msgpack as lg_msgpack
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.store.base import Item

from surgetank.encode import codes
from surgetank.exceptions import StateCorrupt, SurgetankError

Allowed = set[tuple[str, ...]] | bool | None
_INT64 = range(-(1 << 63), 1 << 64)
_OWN_SAFE = {
    ("collections", "OrderedDict"), ("collections", "Counter"), ("collections", "defaultdict"),
    ("collections", "deque"), ("builtins", "set"), ("builtins", "frozenset"),
    ("langgraph.store.base", "Item"), ("langgraph.checkpoint.serde.types", "_DeltaSnapshot"),
}  # fmt: skip
_BASES: dict[str, type] = {b.__name__: b for b in (dict, list, tuple, set, frozenset, str, int, float, bytes)}
# A dataclass may be one of these too, and then has content beside its fields.
_WITH_CONTENT = (*_BASES.values(), bytearray, collections.deque)
PLAIN = frozenset((dict, list, str, int, float, bool, bytes, bytearray, memoryview, type(None)))
_SIMPLE_NUMPY = frozenset("biufcSUMmV?")


class ValueRefused(SurgetankError):
    """A value that would not come back as it was put. `path` is relative to the value that was given."""

    def __init__(self, path: str, reason: str, remedy: str = "") -> None:
        super().__init__(f"{path or 'the value'}: {reason}.", remedy=remedy)
        self.path = path
        self.reason = reason


# -- forms that msgpack itself would change


class _Text(str):
    """Text with lone surrogates, marked so that it is encoded apart."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True)
class _Pairs:
    pairs: list[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class _ByteArray:
    data: bytes


def _plain_key(key: Any) -> bool:
    kind = type(key)
    if kind is str:
        return _encodable(key)
    return key is None or kind in (bool, float, bytes) or (kind is int and key in _INT64)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def wrap(value: Any) -> Any:
    """`value` with its lists and dicts copied and what msgpack would change marked. Other types are left alone."""
    kind = type(value)
    if kind is list:
        return [wrap(item) for item in value]
    if kind is dict:
        if all(_plain_key(key) for key in value):
            return {key: wrap(item) for key, item in value.items()}
        return _Pairs([[wrap(key), wrap(item)] for key, item in value.items()])
    if kind is str and not _encodable(value):
        return _Text(value)
    if kind is bytearray:
        return _ByteArray(bytes(value))
    if kind is memoryview:
        raise ValueRefused("", "a memoryview is no value of its own", "store bytes(...) of it")
    return value


def has_mutable_bytes(value: Any) -> bool:
    """Whether a bytearray or memoryview is in the lists and dicts of a value, at the speed of one JSON encode."""
    spotted = False

    def spot(item: Any) -> None:
        nonlocal spotted
        spotted = spotted or isinstance(item, (bytearray, memoryview))

    try:
        orjson.dumps(value, default=spot, option=_SPOT)
    except (TypeError, ValueError, RecursionError):
        return True  # text or numbers that JSON doesn't have: the careful way will tell
    return spotted


_SPOT = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


# -- finding the place of a refusal


def children(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a value with the step that leads to each."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{_shown(key)}]"), item
    elif isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f".{field.name}", getattr(value, field.name, None)
    elif isinstance(getattr(type(value), "model_fields", None), dict):
        for name, item in value.__dict__.items():
            yield f".{name}", item


def _shown(key: Any) -> str:
    try:
        return ascii(key)[:80]
    except Exception as error:  # noqa: BLE001 - a hostile __repr__ is shown by what it raised
        return f"<key whose repr raises {type(error).__name__}>"


def reason(value: Any, error: Exception) -> tuple[str, str]:
    """Why a value is refused, and what to do instead."""
    if isinstance(error, ValueRefused):
        return error.reason, error.remedy
    text = str(error)
    if "ecursion" in text:
        return "nested too deeply for msgpack, or a cycle", "flatten it, or store ids instead of references"
    return f"{type(value).__name__} can't be serialized ({text})", "store a type that the serializer knows"


# -- types


class Registry:
    """Takes objects apart and puts them together, under one allowlist."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._names: dict[type, tuple[str, str]] = {}
        self._how: dict[type, Callable[[Any], tuple[int, Any]]] = {}
        self._classes: dict[tuple[str, str], type] = {}
        self.shapes: dict[type, _ModelShape] = {}

    def take_apart(self, obj: Any) -> tuple[int, Any]:
        """The extension code of an object, and what is encoded under it. Raises `ValueRefused`."""
        kind = type(obj)
        how = self._how.get(kind)
        if how is None:
            how = self._how[kind] = _APART.get(kind) or self._choose(obj, kind)
        return how(obj)

    def _choose(self, obj: Any, kind: type) -> Callable[[Any], tuple[int, Any]]:
        """How objects of a class are taken apart."""
        fields = getattr(kind, "__pydantic_fields__", None)
        if fields is not None and hasattr(kind, "model_construct"):  # pydantic's dataclasses have fields too
            module, name = self.name(kind)
            names = tuple(fields)
            self.shapes[kind] = _ModelShape(module, name, names)
            return lambda o: (codes.OBJECT, [module, name, "model", *_model_state(o, names)])
        if isinstance(obj, enum.Enum):
            return lambda o: (codes.ENUM, [*self.name(kind), o.name, o.value])
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(obj, (numpy.generic, numpy.ndarray)):
            return partial(_numpy_apart, numpy)
        if isinstance(obj, BaseException):
            raise ValueRefused("", f"an exception ({kind.__name__})", "store its repr() or str()")
        if dataclasses.is_dataclass(obj) and not isinstance(obj, _WITH_CONTENT):
            return lambda o: (codes.OBJECT, [*self.name(kind), "fields", *_dataclass_state(o)])
        if isinstance(obj, tuple) and hasattr(kind, "_fields"):
            return lambda o: (
                codes.OBJECT, [*self.name(kind), "named", {"": list(tuple.__iter__(o))}, _attributes(o)]
            )  # fmt: skip
        if hasattr(kind, "__fields__") and hasattr(kind, "construct"):  # pydantic 1
            return lambda o: (codes.OBJECT, [*self.name(kind), "model1", dict(o.__dict__), _model1_state(o)])
        if isinstance(obj, Item):
            return lambda o: (codes.OBJECT, [*self.name(kind), "fields", _attributes(o) or {}, None])
        if kind.__module__ == "langgraph.types" and kind.__name__ == "Send":
            return lambda o: (codes.SEND, [o.node, o.arg, getattr(o, "timeout", None)])
        return self._choose_collection(obj, kind)

    def _choose_collection(self, obj: Any, kind: type) -> Callable[[Any], tuple[int, Any]]:
        if isinstance(obj, collections.defaultdict):
            return partial(self._defaultdict_apart, kind)
        for base in _BASES.values():
            if isinstance(obj, base):
                return partial(self._subclass_apart, kind, base)
        if isinstance(obj, pathlib.PurePath):
            return lambda o: (codes.LG_POSITIONAL, [*self.name(kind), list(o.parts)])
        if callable(getattr(obj, "get_secret_value", None)):
            return lambda o: (codes.COLLECTION, [*self.name(kind), "call", [o.get_secret_value()], None])
        raise ValueRefused(
            "", f"the type {kind.__module__}.{kind.__qualname__} can't be stored",
            "store a dict, a dataclass or a pydantic model",
        )  # fmt: skip

    def _subclass_apart(self, kind: type, base: type, obj: Any) -> tuple[int, Any]:
        return codes.COLLECTION, [*self.name(kind), base.__name__, _content(obj, base), _attributes(obj)]

    def _defaultdict_apart(self, kind: type, obj: collections.defaultdict[Any, Any]) -> tuple[int, Any]:
        if kind is not collections.defaultdict and _attributes(obj):
            raise ValueRefused("", "a defaultdict with attributes of its own", "store dict(...) of it")
        return codes.COLLECTION, [*self.name(kind), "defaultdict", _content(obj, dict), self._factory(obj)]

    def _factory(self, obj: collections.defaultdict[Any, Any]) -> tuple[str, str] | None:
        factory = obj.default_factory
        if factory is None:
            return None
        if isinstance(factory, type) and factory.__module__ == "builtins":
            return factory.__module__, factory.__qualname__
        raise ValueRefused("", "a defaultdict whose factory is no built-in type", "store dict(...) of it")

    def name(self, kind: type) -> tuple[str, str]:
        """Module and qualified name of a class that can be found again. Raises `ValueRefused`."""
        known = self._names.get(kind)
        if known is None:
            known = (kind.__module__, kind.__qualname__)
            if _find(*known) is not kind:
                raise ValueRefused(
                    "", f"the class {known[0]}.{known[1]} can't be imported again under that name",
                    "define it at the top level of a module",
                )  # fmt: skip
            if not self._permitted(*known):
                raise ValueRefused(
                    "", f"the class {known[0]}.{known[1]} is not on the msgpack allowlist and would not come back",
                    "declare it in the graph's state schema, or add it to allowed_msgpack_modules",
                )  # fmt: skip
            self._names[kind] = known
        return known

    def _permitted(self, module: str, name: str) -> bool:
        key = (module, name)
        safe = key in lg_msgpack.SAFE_MSGPACK_TYPES or key in _OWN_SAFE
        return safe or self._allowed is True or (isinstance(self._allowed, set) and key in self._allowed)

    def _class(self, module: str, name: str) -> type:
        known = self._classes.get((module, name))
        if known is None:
            if not self._permitted(module, name):
                raise ValueRefused(
                    "", f"stored data names the class {module}.{name}, which is not on the msgpack allowlist",
                    "add it to allowed_msgpack_modules if you trust it",
                )  # fmt: skip
            found = _find(module, name)
            if not isinstance(found, type):
                raise StateCorrupt(
                    f"Stored data names the class {module}.{name}, which can't be imported.",
                    remedy="install the package that has it, or keep the class where it was.",
                )
            known = self._classes[module, name] = found
        return known

    # -- reading

    def build_object(self, module: str, name: str, form: str, fields: dict[str, Any], extra: Any) -> Any:
        """An object out of its fields, without its constructor."""
        kind: Any = self._class(module, name)
        if form == "named":
            return _with_attributes(tuple.__new__(kind, fields[""]), extra)
        if form == "model":
            return _build_model(kind, fields, extra)
        made = object.__new__(kind)  # the class's own __new__ may want arguments
        if form == "model1":
            was_set, private = extra if extra and not isinstance(extra[0], str) else (extra, None)
            object.__setattr__(made, "__dict__", fields)
            object.__setattr__(made, "__fields_set__", set(was_set))
            return _with_attributes(made, private)
        return _with_attributes(_with_attributes(made, fields), extra)

    def put_together(self, code: int, data: bytes, decode: Callable[[bytes], Any]) -> Any:
        """The value behind one of our other extension codes."""
        if code == codes.BIG_INT:
            return int.from_bytes(data, "big", signed=True)
        if code == codes.TEXT:
            return data.decode("utf-8", "surrogatepass")
        if code == codes.BYTEARRAY:
            return bytearray(data)
        made = decode(data)
        if code == codes.PAIRS:
            return {_hashable(key): value for key, value in made}
        if code == codes.COMPLEX:
            return complex(*made)
        if code == codes.DATETIME:
            return dt.datetime(*made[:8], fold=made[8])  # noqa: DTZ001 - the eighth is the zone
        if code == codes.ENUM:
            return self._enum(*made)
        if code == codes.COLLECTION:
            return self._collection(*made)
        if code == codes.SEND:
            return _send(*made)
        if code in (codes.NUMPY_SCALAR, codes.NUMPY_ITEMS):
            return _numpy_together(code, made)
        raise StateCorrupt(
            f"Stored data has the unknown extension code {code}.",
            remedy="read it with the Surgetank that wrote it.",
        )

    def _enum(self, module: str, name: str, member: str | None, value: Any) -> Any:
        kind: Any = self._class(module, name)
        return kind[member] if member in kind.__members__ else kind(value)

    def _collection(self, module: str, name: str, base: str, content: Any, extra: Any) -> Any:
        kind: Any = self._class(module, name)
        if base == "call":
            if not hasattr(kind, "get_secret_value"):  # stored data must not choose what is called
                raise StateCorrupt(f"Stored data calls {module}.{name}.", remedy="find out who wrote it.")
            return kind(*content)
        if base == "deque":
            return kind(content, extra)
        if base in ("dict", "defaultdict"):
            mapping = _mapping_of(kind)
            made = mapping.__new__(kind)
            for key, value in content:
                mapping.__setitem__(made, _hashable(key), value)
            if base == "defaultdict":
                made.default_factory = getattr(builtins, extra[1]) if extra else None
                return made
        elif base == "list":
            made = list.__new__(kind)
            list.extend(made, content)
        else:
            maker: Any = _BASES[base]
            made = maker.__new__(kind, content)
            if base == "set":
                set.update(made, content)
        return _with_attributes(made, extra)


def delta_snapshot(value: Any) -> Any:
    """LangGraph's wrapper of a stored DeltaChannel value."""
    return _DeltaSnapshot(value)


def _send(node: str, arg: Any, timeout: Any) -> Any:
    from langgraph.types import Send  # noqa: PLC0415 - langgraph itself imports checkpointers

    return Send(node, arg) if timeout is None else Send(node, arg, timeout=timeout)


def _hashable(key: Any) -> Any:
    return tuple(_hashable(k) for k in key) if isinstance(key, list) else key


def _find(module: str, name: str) -> Any:
    try:
        return operator.attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError, ValueError):
        return None


def _mapping_of(kind: type) -> Any:
    """The built-in mapping whose plain methods serve a class, whatever the class overrides."""
    return next((c for c in (collections.OrderedDict, collections.defaultdict) if issubclass(kind, c)), dict)


def _attributes(obj: Any) -> dict[str, Any] | None:
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


def _with_attributes(made: Any, attributes: dict[str, Any] | None) -> Any:
    for name, value in (attributes or {}).items():
        object.__setattr__(made, name, value)
    return made


def _content(obj: Any, base: Any) -> Any:
    if base is dict:
        return [list(pair) for pair in _mapping_of(type(obj)).items(obj)]
    if base in (str, int, float, bytes):
        return base.__getnewargs__(obj)[0] if base is not bytes else bytes(obj)
    return list(base.__iter__(obj))


def _model_state(obj: Any, names: tuple[str, ...]) -> tuple[dict[str, Any], Any]:
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


class _ModelShape:
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
            values, state = _model_state(obj, self._names)
            return self._head + encode(values) + encode(state)
        known, closed, tail = self._tail
        if was_set != known or closed is not (extra is None) or not tail:
            tail = encode(_model_state(obj, self._names)[1])
            self._tail = (set(was_set), extra is None, tail)
        return self._head + encode(values) + tail


def _build_model(kind: Any, fields: dict[str, Any], state: Any) -> Any:
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


def _model1_state(obj: Any) -> list[Any]:
    """Which fields of a pydantic 1 model were set, and its private values if it has any."""
    private = {name: getattr(obj, name) for name in obj.__private_attributes__ if hasattr(obj, name)}
    was_set = sorted(obj.__fields_set__)
    return [was_set, private] if private else was_set


def _dataclass_state(obj: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    names = [f.name for f in dataclasses.fields(obj)]
    fields = {name: getattr(obj, name) for name in names if hasattr(obj, name)}
    more = {k: v for k, v in (_attributes(obj) or {}).items() if k not in fields}
    return fields, more or None


# -- leaves


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


def _single(module: str, name: str, text: Callable[[Any], Any] = str) -> Callable[[Any], tuple[int, Any]]:
    return lambda obj: (codes.LG_SINGLE, [module, name, text(obj)])


def _time(obj: dt.time) -> tuple[int, Any]:
    parts = {"hour": obj.hour, "minute": obj.minute, "second": obj.second, "microsecond": obj.microsecond}
    return codes.LG_KEYWORDS, ["datetime", "time", {**parts, "tzinfo": obj.tzinfo, "fold": obj.fold}]


_IP = ("IPv4Address", "IPv4Interface", "IPv4Network", "IPv6Address", "IPv6Interface", "IPv6Network")
_APART: dict[type, Callable[[Any], tuple[int, Any]]] = {
    tuple: lambda o: (codes.TUPLE, list(o)),
    int: _bigint,
    _Text: lambda o: (codes.TEXT, str.__str__(o).encode("utf-8", "surrogatepass")),
    _Pairs: lambda o: (codes.PAIRS, o.pairs),
    _ByteArray: lambda o: (codes.BYTEARRAY, o.data),
    complex: lambda o: (codes.COMPLEX, [o.real, o.imag]),
    set: lambda o: (codes.COLLECTION, ["builtins", "set", "set", list(o), None]),
    frozenset: lambda o: (codes.COLLECTION, ["builtins", "frozenset", "frozenset", list(o), None]),
    collections.deque: lambda o: (codes.COLLECTION, ["collections", "deque", "deque", list(o), o.maxlen]),
    _DeltaSnapshot: lambda o: (codes.LG_DELTA, o.value),
    dt.datetime: _datetime,
    dt.date: lambda o: (codes.LG_POSITIONAL, ["datetime", "date", [o.year, o.month, o.day]]),
    dt.time: _time,
    dt.timedelta: lambda o: (
        codes.LG_POSITIONAL,
        ["datetime", "timedelta", [o.days, o.seconds, o.microseconds]],
    ),
    dt.timezone: lambda o: (codes.LG_POSITIONAL, ["datetime", "timezone", list(o.__getinitargs__())]),
    ZoneInfo: _zone,
    uuid.UUID: _single("uuid", "UUID", lambda o: o.hex),
    decimal.Decimal: _single("decimal", "Decimal"),
    re.Pattern: lambda o: (codes.LG_POSITIONAL, ["re", "compile", [o.pattern, o.flags]]),
    **{getattr(ipaddress, name): _single("ipaddress", name) for name in _IP},
}


def _numpy_apart(numpy: types.ModuleType, obj: Any) -> tuple[int, Any]:
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
        raise ValueRefused("", f"an array of the type {kind.__name__}", "store numpy.asarray(...) of it")
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
        [name, kind] for name, kind, *rest in dtype.descr if not rest and isinstance(kind, str) and name
    ]
    if sys.modules["numpy"].dtype([tuple(d) for d in described]) != dtype:
        raise ValueRefused("", f"an array of dtype {dtype}", "store its fields as arrays of their own")
    return described


def _numpy_together(code: int, made: Any) -> Any:
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
        return numpy.bytes_(made[1]) if dtype.kind == "S" else numpy.frombuffer(made[1], dtype=dtype)[0]
    descr, shape, items = made
    if descr != "O":
        dtype = numpy.dtype([tuple(d) for d in descr])
        return numpy.frombuffer(items, dtype=dtype).reshape(shape).copy()
    array = numpy.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array.reshape(shape)
