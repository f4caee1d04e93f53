"""How the serializer takes single types apart and puts them together again.

Classes are named by module and qualified name and found again by import, under LangGraph's allowlist rules; a class
that could not be found again, or would be blocked, is refused when it is written.
"""

from __future__ import annotations

import builtins
import collections
import dataclasses
import datetime as dt
import enum
import pathlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from langgraph.checkpoint.serde import _msgpack as lg_msgpack
from langgraph.store.base import Item

from surgetank.checkpoints.serde_forms import ValueRefused
from surgetank.checkpoints.serde_leaves import APART, numpy_apart, numpy_together, send
from surgetank.checkpoints.serde_objects import (
    BASES,
    WITH_CONTENT,
    ModelShape,
    attributes,
    build_model,
    content,
    dataclass_state,
    find,
    hashable,
    mapping_of,
    model1_state,
    model_state,
    with_attributes,
)
from surgetank.encode import codes
from surgetank.exceptions import StateCorrupt

Allowed = set[tuple[str, ...]] | bool | None
_OWN_SAFE = {
    ("collections", "OrderedDict"), ("collections", "Counter"), ("collections", "defaultdict"),
    ("collections", "deque"), ("builtins", "set"), ("builtins", "frozenset"),
    ("langgraph.store.base", "Item"), ("langgraph.checkpoint.serde.types", "_DeltaSnapshot"),
}  # fmt: skip


class Registry:
    """Takes objects apart and puts them together, under one allowlist."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._names: dict[type, tuple[str, str]] = {}
        self._how: dict[type, Callable[[Any], tuple[int, Any]]] = {}
        self._classes: dict[tuple[str, str], type] = {}
        self.shapes: dict[type, ModelShape] = {}

    def take_apart(self, obj: Any) -> tuple[int, Any]:
        """The extension code of an object, and what is encoded under it. Raises `ValueRefused`."""
        kind = type(obj)
        how = self._how.get(kind)
        if how is None:
            how = self._how[kind] = APART.get(kind) or self._choose(obj, kind)
        return how(obj)

    def _choose(self, obj: Any, kind: type) -> Callable[[Any], tuple[int, Any]]:
        """How objects of a class are taken apart."""
        fields = getattr(kind, "__pydantic_fields__", None)
        if fields is not None and hasattr(kind, "model_construct"):  # pydantic's dataclasses have fields too
            module, name = self.name(kind)
            names = tuple(fields)
            self.shapes[kind] = ModelShape(module, name, names)
            return lambda o: (codes.OBJECT, [module, name, "model", *model_state(o, names)])
        if isinstance(obj, enum.Enum):
            return lambda o: (codes.ENUM, [*self.name(kind), o.name, o.value])
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(obj, (numpy.generic, numpy.ndarray)):
            return partial(numpy_apart, numpy)
        if isinstance(obj, BaseException):
            raise ValueRefused("", f"an exception ({kind.__name__})", "store its repr() or str()")
        if dataclasses.is_dataclass(obj) and not isinstance(obj, WITH_CONTENT):
            return lambda o: (codes.OBJECT, [*self.name(kind), "fields", *dataclass_state(o)])
        if isinstance(obj, tuple) and hasattr(kind, "_fields"):
            return lambda o: (
                codes.OBJECT, [*self.name(kind), "named", {"": list(tuple.__iter__(o))}, attributes(o)]
            )  # fmt: skip
        if hasattr(kind, "__fields__") and hasattr(kind, "construct"):  # pydantic 1
            return lambda o: (codes.OBJECT, [*self.name(kind), "model1", dict(o.__dict__), model1_state(o)])
        if isinstance(obj, Item):
            return lambda o: (codes.OBJECT, [*self.name(kind), "fields", attributes(o) or {}, None])
        if kind.__module__ == "langgraph.types" and kind.__name__ == "Send":
            return lambda o: (codes.SEND, [o.node, o.arg, getattr(o, "timeout", None)])
        return self._choose_collection(obj, kind)

    def _choose_collection(self, obj: Any, kind: type) -> Callable[[Any], tuple[int, Any]]:
        if isinstance(obj, collections.defaultdict):
            return partial(self._defaultdict_apart, kind)
        for base in BASES.values():
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
        return codes.COLLECTION, [*self.name(kind), base.__name__, content(obj, base), attributes(obj)]

    def _defaultdict_apart(self, kind: type, obj: collections.defaultdict[Any, Any]) -> tuple[int, Any]:
        if kind is not collections.defaultdict and attributes(obj):
            raise ValueRefused("", "a defaultdict with attributes of its own", "store dict(...) of it")
        return codes.COLLECTION, [*self.name(kind), "defaultdict", content(obj, dict), self._factory(obj)]

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
            if find(*known) is not kind:
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
            found = find(module, name)
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
            return with_attributes(tuple.__new__(kind, fields[""]), extra)
        if form == "model":
            return build_model(kind, fields, extra)
        made = object.__new__(kind)  # the class's own __new__ may want arguments
        if form == "model1":
            was_set, private = extra if extra and not isinstance(extra[0], str) else (extra, None)
            object.__setattr__(made, "__dict__", fields)
            object.__setattr__(made, "__fields_set__", set(was_set))
            return with_attributes(made, private)
        return with_attributes(with_attributes(made, fields), extra)

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
            return {hashable(key): value for key, value in made}
        if code == codes.COMPLEX:
            return complex(*made)
        if code == codes.DATETIME:
            return dt.datetime(*made[:8], fold=made[8])  # noqa: DTZ001 - the eighth is the zone
        if code == codes.ENUM:
            return self._enum(*made)
        if code == codes.COLLECTION:
            return self._collection(*made)
        if code == codes.SEND:
            return send(*made)
        if code in (codes.NUMPY_SCALAR, codes.NUMPY_ITEMS):
            return numpy_together(code, made)
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
            mapping = mapping_of(kind)
            made = mapping.__new__(kind)
            for key, value in content:
                mapping.__setitem__(made, hashable(key), value)
            if base == "defaultdict":
                made.default_factory = getattr(builtins, extra[1]) if extra else None
                return made
        elif base == "list":
            made = list.__new__(kind)
            list.extend(made, content)
        else:
            maker: Any = BASES[base]
            made = maker.__new__(kind, content)
            if base == "set":
                set.update(made, content)
        return with_attributes(made, extra)
