"""How the serializer takes single types apart and puts them together again.

Classes are named by module and qualified name and found again by import, under LangGraph's
allowlist rules; a class that could not be found again, or would be blocked, is refused when it is
written.
"""

from __future__ import annotations

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

from surgetank.encode import codes
from surgetank.exceptions import StateCorrupt
from surgetank.streams.checkpoints.serde.changes import notice
from surgetank.streams.checkpoints.serde.containers import (
    CONTAINERS,
    FACTORIES,
    OWN_EXTRA,
    collection,
)
from surgetank.streams.checkpoints.serde.forms import ValueRefused
from surgetank.streams.checkpoints.serde.leaves import APART, numpy_apart, numpy_together, send
from surgetank.streams.checkpoints.serde.marks import mark_of
from surgetank.streams.checkpoints.serde.models import model_as_it_was
from surgetank.streams.checkpoints.serde.objects import (
    BASES,
    WITH_CONTENT,
    ModelShape,
    attributes,
    content,
    dataclass_state,
    find,
    hashable,
    model1_state,
    model_state,
    named_state,
)
from surgetank.streams.checkpoints.serde.rebuild import as_it_was, rebuild, stored_of, without_class

Allowed = set[tuple[str, ...]] | bool | None
_OWN_SAFE = {
    ("collections", "OrderedDict"), ("collections", "Counter"), ("collections", "defaultdict"),
    ("collections", "deque"), ("builtins", "set"), ("builtins", "frozenset"),
    ("langgraph.store.base", "Item"), ("langgraph.checkpoint.serde.types", "_DeltaSnapshot"),
}  # fmt: skip
_MOST_CLASSES = 4096
# Classes that no import finds, as they were when objects of them were last written: the newest of
# each name.
_unfindable: dict[tuple[str, str], type] = {}


class Registry:
    """Takes objects apart and puts them together, under one allowlist."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._names: dict[type, tuple[str, str]] = {}
        self._how: dict[type, Callable[[Any], tuple[int, Any]]] = {}
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
        # pydantic's dataclasses have fields too
        if fields is not None and hasattr(kind, "model_construct"):
            module, name = self.name(kind)
            names, mark = tuple(fields), mark_of(kind)
            self.shapes[kind] = ModelShape(module, name, names, mark)
            return lambda o: (codes.OBJECT, [module, name, "model", *model_state(o, names, mark)])
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
                codes.OBJECT, [*self.name(kind), "named", named_state(o), attributes(o)]
            )  # fmt: skip
        if hasattr(kind, "__fields__") and hasattr(kind, "construct"):  # pydantic 1
            return lambda o: (
                codes.OBJECT,
                [*self.name(kind), "model1", dict(o.__dict__), model1_state(o, mark_of(kind))],
            )
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
            return lambda o: (
                codes.COLLECTION,
                [*self.name(kind), "call", [o.get_secret_value()], None],
            )
        raise ValueRefused(
            "", f"the type {kind.__module__}.{kind.__qualname__} can't be stored",
            "store a dict, a dataclass or a pydantic model",
        )  # fmt: skip

    def _subclass_apart(self, kind: type, base: type, obj: Any) -> tuple[int, Any]:
        return codes.COLLECTION, [
            *self.name(kind),
            base.__name__,
            content(obj, base),
            attributes(obj),
        ]

    def _defaultdict_apart(
        self, kind: type, obj: collections.defaultdict[Any, Any]
    ) -> tuple[int, Any]:
        if kind is not collections.defaultdict and attributes(obj):
            raise ValueRefused(
                "", "a defaultdict with attributes of its own", "store dict(...) of it"
            )
        return codes.COLLECTION, [
            *self.name(kind),
            "defaultdict",
            content(obj, dict),
            self._factory(obj),
        ]

    def _factory(self, obj: collections.defaultdict[Any, Any]) -> tuple[str, str] | None:
        factory = obj.default_factory
        if factory is None:
            return None
        name = getattr(factory, "__name__", "")
        if FACTORIES.get(name) is factory:
            return "builtins", name
        raise ValueRefused(
            "", "a defaultdict whose factory is no plain built-in type", "store dict(...) of it"
        )

    def name(self, kind: type) -> tuple[str, str]:
        """Module and qualified name of a class. Raises `ValueRefused` for one that is not allowed.

        A class that can't be found under its name (it was defined inside a function, or made by a
        call) is accepted as LangGraph accepts it: this process finds it again, another one gets the
        fields as a dict.
        """
        known = self._names.get(kind)
        if known is None:
            known = (kind.__module__, kind.__qualname__)
            if not self._permitted(*known):
                raise ValueRefused(
                    "", f"the class {known[0]}.{known[1]} is not on the msgpack allowlist and "
                    f"would not come back",
                    "declare it in the graph's state schema, or add it to allowed_msgpack_modules",
                )  # fmt: skip
            if len(self._names) >= _MOST_CLASSES:  # classes that are made anew by each call
                self._names.clear()
                self._how.clear()
                self.shapes.clear()
            self._names[kind] = known
        if (found := find(*known)) is not kind and not isinstance(found, type):
            if _unfindable.get(known) is not kind:
                if len(_unfindable) >= _MOST_CLASSES:
                    _unfindable.clear()
                _unfindable[known] = kind
            notice(
                f"{known[0]}.{known[1]}", "it can't be imported under that name, so another "
                "process gets a dict of its "
                "fields, as with LangGraph's savers. Define it at the top level of a module.",
            )  # fmt: skip
        return known

    def _permitted(self, module: str, name: str) -> bool:
        key = (module, name)
        if self._allowed is True or key in lg_msgpack.SAFE_MSGPACK_TYPES or key in _OWN_SAFE:
            return True
        # LangGraph's allowlists have no qualified names.
        return isinstance(self._allowed, set) and (
            key in self._allowed or (module, name.rpartition(".")[2]) in self._allowed
        )

    def _class(self, module: str, name: str) -> Any:
        """The class as it is now; None when it can't be had, which is noticed."""
        if self._allowed is not True and not self._permitted(module, name):
            notice(
                f"{module}.{name}",
                "it is not on the msgpack allowlist; its objects come back as plain data. Declare "
                "it in the graph's "
                "state schema, or add it to allowed_msgpack_modules.",
            )
            return None
        found = find(module, name)
        if not isinstance(found, type):
            found = _unfindable.get((module, name))
        if found is None:
            notice(
                f"{module}.{name}",
                "it can't be imported any more; its objects come back as plain data. Keep an alias "
                "under the old "
                "name, or install the package that has it.",
            )
        return found

    # -- reading

    def build_object(
        self, module: str, name: str, form: str, fields: dict[str, Any], extra: Any
    ) -> Any:
        """An object out of its fields: without its constructor if its class is what it was when it
        was stored."""
        kind: Any = self._class(module, name)
        if (
            form == "model"
            and kind is not None
            and (known := getattr(kind, "__pydantic_fields__", None))
        ):
            made = model_as_it_was(kind, known, fields, extra)
            if made is not None:
                return made
        stored = stored_of(f"{module}.{name}", form, fields, extra)
        if kind is None:
            return without_class(stored, form)
        made = as_it_was(kind, form, stored)
        return made if made is not None else rebuild(kind, stored)

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
        if kind is None:
            return value
        if not issubclass(kind, enum.Enum):  # stored data must not choose what is called
            notice(f"{module}.{name}", "it is no Enum any more; the plain value comes back.")
            return value
        if member is not None and member in kind.__members__:
            return kind[member]
        try:
            return kind(value)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - `_missing_` is the user's code
            notice(
                f"{module}.{name}", f"it has no member {member!r} any more "
                f"({type(error).__name__}); the plain value "
                "comes back. Keep the member, or give the class a `_missing_`.",
            )  # fmt: skip
            return value

    def _collection(self, module: str, name: str, base: str, content: Any, extra: Any) -> Any:
        kind: Any = self._class(module, name)
        if base == "call":
            # Stored data must not choose what is called.
            if kind is not None and hasattr(kind, "get_secret_value"):
                return kind(*content)
            if kind is not None:
                notice(
                    f"{module}.{name}", "it keeps no secret any more; the plain value comes back."
                )
            return content[0]
        if kind is not None and issubclass(kind, CONTAINERS[base]):
            return collection(kind, f"{module}.{name}", base, content, extra)
        if kind is not None:
            notice(
                f"{module}.{name}",
                f"it is no {base} any more; its objects come back as plain ones.",
            )
        return collection(
            CONTAINERS[base],
            f"{module}.{name}",
            base,
            content,
            extra if base in OWN_EXTRA else None,
        )
