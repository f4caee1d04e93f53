"""Objects whose class is not what it was when they were stored: what comes back instead, as usable
as can be.

The rules, for a class that is still there: its own constructor decides, as LangGraph lets it; when
it refuses, the stored values are kept as they are and new fields get their defaults. An object that
is given back has every attribute that its class has. What can't be made that way comes back as a
dict of its fields, and so does what has no class any more. Each case is noticed (changes.py).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from langgraph.store.base import Item

from surgetank.streams.checkpoints.serde.changes import notice
from surgetank.streams.checkpoints.serde.marks import MARK, mark_of, split_mark
from surgetank.streams.checkpoints.serde.models import (
    FAILS,
    NOTHING,
    Stored,
    changed_model,
    default_of,
    is_model,
    is_model1,
    listed,
)
from surgetank.streams.checkpoints.serde.objects import WITH_CONTENT, with_attributes


def stored_of(label: str, form: str, fields: dict[str, Any], extra: Any) -> Stored:
    """What was stored, whatever its form."""
    if form in ("model", "model1"):
        state = list(extra) if extra and not isinstance(extra[0], str) else [extra]
        mark, was_set = split_mark(state[0])
        private = state[-1] if len(state) > 1 else None
        more = state[1] if len(state) > 2 else None
        return Stored(label, fields, set(was_set), extra=more, private=private, mark=mark)
    if form == "named":
        items = fields[""]
        names = fields.get("names") or [str(number) for number in range(len(items))]
        values = dict(zip(names, items, strict=True))
        return Stored(label, values, more=extra, positional="names" not in fields)
    more = dict(extra or {})
    mark = more.pop(MARK, None)
    return Stored(label, fields, more=more or None, mark=mark)


def as_it_was(kind: Any, form: str, stored: Stored) -> Any:
    """The object, without its constructor, if the class is still what it was; else None.

    Only classes of the kind that the form says are made this way: stored data must not choose any
    class.
    """
    if form == "named":
        names = named_fields(kind)
        if names is None or (
            tuple(stored.values) != names
            and not (stored.positional and len(stored.values) == len(names))
        ):
            return None
        return with_attributes(tuple.__new__(kind, stored.values.values()), stored.more)
    if form == "model1":
        if not is_model1(kind) or _other_types(kind, stored):
            return None
        if stored.mark is None and not stored.values.keys() >= kind.__fields__.keys():
            return None
        made = object.__new__(kind)
        object.__setattr__(made, "__dict__", stored.values)
        object.__setattr__(made, "__fields_set__", stored.was_set)
        return with_attributes(made, stored.private)
    if form == "fields" and issubclass(kind, Item):
        return with_attributes(object.__new__(kind), stored.values)
    if form != "fields" or not is_dataclass(kind) or issubclass(kind, WITH_CONTENT):
        return None
    if stored.values.keys() != fields_of(kind) or _other_types(kind, stored):
        return None
    made = object.__new__(kind)  # the class's own __new__ may want arguments
    return with_attributes(with_attributes(made, stored.values), stored.more)


def _other_types(kind: Any, stored: Stored) -> bool:
    return stored.mark is not None and stored.mark != mark_of(kind)


def rebuild(kind: Any, stored: Stored) -> Any:
    """An object of the class as it is now, or a dict."""
    if is_model(kind) or is_model1(kind):
        return changed_model(kind, stored)
    if named_fields(kind) is not None:
        return _named(kind, stored)
    if is_dataclass(kind):
        return _dataclass(kind, stored)
    return _other(kind, stored)


def named_fields(kind: Any) -> tuple[str, ...] | None:
    """The fields of a class made by `NamedTuple` or `namedtuple`; None for others."""
    return getattr(kind, "_fields", None) if issubclass(kind, tuple) else None


def is_dataclass(kind: Any) -> bool:
    """Whether a class is a dataclass. (The standard library's own answer narrows the type to
    something useless.)"""
    return hasattr(kind, "__dataclass_fields__")


@functools.lru_cache(maxsize=1024)
def fields_of(kind: Any) -> frozenset[str]:
    """The names of a dataclass's fields."""
    return frozenset(f.name for f in dataclasses.fields(kind))


def without_class(stored: Stored, form: str) -> Any:
    """What stands for an object whose class can't be had. Models within models become dicts, as in
    `model_dump()`."""
    data = stored.data()
    if stored.positional:
        return tuple(data.values())
    if form not in ("model", "model1"):
        return data
    try:
        from pydantic_core import SchemaSerializer, core_schema  # noqa: PLC0415 - only where pydantic is

        dumped = SchemaSerializer(core_schema.any_schema()).to_python(data)
    except FAILS:
        return data
    return dumped if isinstance(dumped, dict) else data


# -- NamedTuples and dataclasses


def _named(kind: Any, stored: Stored) -> Any:
    if stored.positional:  # new fields stand at the end
        if len(stored.values) > len(kind._fields):
            notice(
                stored.label,
                "it has fewer fields than were stored; it comes back as a plain tuple.",
            )
            return tuple(stored.values.values())
        stored.values = dict(zip(kind._fields, stored.values.values(), strict=False))
    defaults: Mapping[str, Any] = getattr(kind, "_field_defaults", {})
    missing = [n for n in kind._fields if n not in stored.values and n not in defaults]
    if missing:
        notice(
            stored.label,
            f"it requires {listed(missing)} now, which was not stored; it comes back as a dict.",
        )
        return stored.data()
    values = [stored.values[n] if n in stored.values else defaults[n] for n in kind._fields]
    removed = [name for name in stored.values if name not in kind._fields]
    if removed:
        notice(
            stored.label,
            f"its class has no {listed(removed)} any more; what was stored there is left out.",
        )
    else:
        notice(
            stored.label,
            "it changed since objects were stored; new fields have their defaults.",
            "info",
        )
    return with_attributes(tuple.__new__(kind, values), stored.more)


def _dataclass(kind: Any, stored: Stored) -> Any:
    fields = {f.name: f for f in dataclasses.fields(kind)}
    try:
        made = kind(**{n: v for n, v in stored.values.items() if n in fields and fields[n].init})
        with_attributes(
            made, {n: v for n, v in stored.values.items() if n in fields and not fields[n].init}
        )
    except FAILS:
        made = object.__new__(kind)
        with_attributes(made, {n: v for n, v in stored.values.items() if n in fields})
        for name, field in fields.items():
            if name not in stored.values:
                with_attributes(made, _dataclass_default(name, field))
    missing = [name for name in fields if not hasattr(made, name)]
    if missing:
        notice(
            stored.label,
            f"it requires {listed(missing)} now, which was not stored; it comes back as a dict.",
        )
        return stored.data()
    lost = _attach(
        made, {n: v for n, v in stored.values.items() if n not in fields} | (stored.more or {})
    )
    if lost:
        notice(
            stored.label,
            f"its class has no {listed(lost)} any more; what was stored there is left out.",
        )
    else:
        notice(
            stored.label,
            "it changed since objects were stored; new fields have their defaults.",
            "info",
        )
    return made


def _dataclass_default(name: str, field: dataclasses.Field[Any]) -> dict[str, Any]:
    default = field.default
    if default is dataclasses.MISSING:
        factory: Callable[[], Any] | Any = field.default_factory
        if factory is dataclasses.MISSING:
            return {}
        try:
            default = factory()
        except FAILS:
            return {}
    if type(default).__name__ == "FieldInfo":  # a pydantic dataclass's Field(...)
        default = default_of(default)
    return {} if default is NOTHING else {name: default}


def complete(made: Any, label: str) -> Any:
    """A dataclass that is a container too: new fields get their defaults. None for what has
    none."""
    for field in dataclasses.fields(made):
        if not hasattr(made, field.name):
            with_attributes(made, _dataclass_default(field.name, field) or {field.name: None})
            notice(
                label,
                f"it has a new field {field.name!r}, which was not stored: its default, or None.",
            )
    return made


def _attach(made: Any, values: Mapping[str, Any]) -> list[str]:
    """Hang on the object what its class doesn't know; returns what it has no room for."""
    lost = []
    for name, value in values.items():
        try:
            object.__setattr__(made, name, value)
        except (AttributeError, TypeError):
            lost.append(name)
    return lost


def _other(kind: Any, stored: Stored) -> Any:
    """A class that is none of those now. One of attrs is made by its constructor; what others do
    when they are called stored data must not find out.
    """
    if hasattr(kind, "__attrs_attrs__"):
        try:
            made = kind(**stored.data())
        except FAILS:
            made = None
        if isinstance(made, kind):
            notice(
                stored.label,
                "it is a class of attrs now; its constructor took what was stored.",
                "info",
            )
            return made
    notice(
        stored.label,
        "it is another kind of class now; its objects come back as dicts of their fields.",
    )
    return stored.data()
