"""Pydantic models whose class changed since they were stored. The rules are those of
rebuild.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from surgetank.streams.checkpoints.serde.changes import notice
from surgetank.streams.checkpoints.serde.marks import MARK, mark_of, split_mark
from surgetank.streams.checkpoints.serde.objects import with_attributes

FAILS = (
    Exception,
    SystemExit,
)  # what a constructor of the user's may raise; Ctrl-C is not its affair
NOTHING: Any = object()


@dataclasses.dataclass(slots=True)
class Stored:
    """What was stored of an object. `extra` and `private` are pydantic's, `more` else hung on the
    object."""

    label: str
    values: dict[str, Any]
    was_set: set[str] | None = None
    extra: dict[str, Any] | None = None
    private: dict[str, Any] | None = None
    more: dict[str, Any] | None = None
    positional: bool = False  # a NamedTuple that was stored without names
    mark: str | None = None

    def data(self) -> dict[str, Any]:
        """The object as a dict, without any class."""
        return {**(self.extra or {}), **self.values}


def is_model(kind: Any) -> bool:
    """Whether a class is a model of pydantic 2."""
    return hasattr(kind, "__pydantic_fields__") and hasattr(kind, "model_construct")


def is_model1(kind: Any) -> bool:
    """Whether a class is a model of pydantic 1."""
    return not is_model(kind) and hasattr(kind, "__fields__") and hasattr(kind, "construct")


def model_as_it_was(kind: Any, known: Mapping[str, Any], fields: dict[str, Any], state: Any) -> Any:
    """A pydantic model out of what `ModelShape` stored, without its constructor; None if its class
    has changed."""
    was_set, extra, private = state if state and type(state[0]) is not str else (state, None, None)
    if was_set and (mark := was_set[0])[:1] == MARK:
        if mark != mark_of(kind):
            return None
        was_set = set(was_set)
        was_set.remove(mark)
    elif fields.keys() != known.keys() or not hasattr(kind, "model_construct"):
        return None
    else:
        was_set = split_mark(was_set)[1]
    made = object.__new__(kind)
    put = object.__setattr__
    put(made, "__dict__", fields)
    put(made, "__pydantic_fields_set__", set(was_set))
    if not kind.__pydantic_root_model__:  # a RootModel has these two in its class
        put(made, "__pydantic_extra__", extra)
        put(made, "__pydantic_private__", private)
    return made


def changed_model(kind: Any, stored: Stored) -> Any:
    """A model of the class as it is now."""
    known: Mapping[str, Any] = kind.__pydantic_fields__ if is_model(kind) else kind.__fields__
    removed = [name for name in stored.values if name not in known]
    made = _constructed(kind, stored, known, removed)
    new_one = is_model(kind)
    if made is None:
        return _model_as_stored(kind, stored, known, removed)
    passed = stored.values.keys() | (stored.extra or {}).keys()
    fields_set = "__pydantic_fields_set__" if new_one else "__fields_set__"
    if stored.was_set is not None:
        now_set = getattr(made, fields_set)
        kept = {name for name in stored.was_set if name in known or name in made.__dict__}
        object.__setattr__(made, fields_set, kept | (now_set - passed))
    _set_private(made, kind, stored, new_one=new_one)
    lost = [name for name in removed if not hasattr(made, name)]
    if lost:
        notice(
            stored.label,
            f"its class has no {listed(lost)} any more; what was stored there is left out.",
        )
    else:
        notice(
            stored.label, "it changed since objects were stored; its constructor took them.", "info"
        )
    return made


def _constructed(kind: Any, stored: Stored, known: Mapping[str, Any], removed: list[str]) -> Any:
    """What the class makes of the stored values; None when it refuses, or gives back something
    half-built."""
    everything = {**stored.values, **(stored.extra or {})}
    for left_out in ((), removed) if removed else ((),):
        arguments = {
            _argument(kind, k, known): v for k, v in everything.items() if k not in left_out
        }
        try:
            made = kind(**arguments)
        except FAILS:
            continue
        if isinstance(made, kind) and all(name in made.__dict__ for name in known):
            return made
    return None


def _argument(kind: Any, name: str, known: Mapping[str, Any]) -> str:
    """The keyword under which a constructor takes a field."""
    field = known.get(name)
    config = getattr(kind, "model_config", {})
    if field is None or config.get("populate_by_name") or config.get("validate_by_name"):
        return name
    alias = getattr(field, "validation_alias", None) or field.alias
    return alias if isinstance(alias, str) else name


def _model_as_stored(
    kind: Any, stored: Stored, known: Mapping[str, Any], removed: list[str]
) -> Any:
    """The values as they were stored, whatever the class says of them; defaults for what is new,
    else None."""
    values, unknown = {}, []
    for name, field in known.items():
        value = stored.values[name] if name in stored.values else default_of(field)
        if value is NOTHING:
            unknown.append(name)
            value = None
        values[name] = value
    extra = dict(stored.extra or {})
    if _allows_extra(kind):
        extra |= {name: stored.values[name] for name in removed}
        removed = []
    made = object.__new__(kind)
    new_one = is_model(kind)
    object.__setattr__(made, "__dict__", values if new_one else {**values, **extra})
    was_set = set(stored.values if stored.was_set is None else stored.was_set)
    kept = {name for name in was_set if name in known or name in extra}
    object.__setattr__(made, "__pydantic_fields_set__" if new_one else "__fields_set__", kept)
    if new_one and not kind.__pydantic_root_model__:
        object.__setattr__(made, "__pydantic_extra__", extra if _allows_extra(kind) else None)
        object.__setattr__(made, "__pydantic_private__", None)
    _set_private(made, kind, stored, new_one=new_one)
    if unknown:
        what = f"it requires {listed(unknown)} now, which was not stored: None until it is set. Give it a default."
    elif removed:
        what = f"its class has no {listed(removed)} any more; what was stored there is left out."
    else:
        what = "its constructor refuses what was stored; the values are as they were, unchecked."
    notice(stored.label, what)
    return made


def _allows_extra(kind: Any) -> bool:
    if is_model(kind):
        return bool(kind.model_config.get("extra") == "allow")
    return getattr(kind.__config__.extra, "value", None) == "allow"


def default_of(field: Any) -> Any:
    """The default of a pydantic field; `NOTHING` if it is required."""
    required = (
        field.is_required() if callable(getattr(field, "is_required", None)) else field.required
    )
    if required:
        return NOTHING
    try:
        return (
            field.get_default(call_default_factory=True)
            if hasattr(field, "metadata")
            else field.get_default()
        )
    except FAILS:
        return NOTHING


def _set_private(made: Any, kind: Any, stored: Stored, *, new_one: bool) -> None:
    """Private values: those that were stored, else the defaults of those that the class has now."""
    known = getattr(kind, "__private_attributes__", None)
    if not known:
        return
    values = dict((getattr(made, "__pydantic_private__", None) or {}) if new_one else {})
    for name, attribute in known.items():
        if stored.private is not None and name in stored.private:
            values[name] = stored.private[name]
        elif name not in values:
            try:
                value = attribute.get_default()
            except FAILS:
                continue
            if "Undefined" not in type(value).__name__:
                values[name] = value
    if new_one:
        object.__setattr__(made, "__pydantic_private__", values)
    else:
        with_attributes(made, values)


def filled(made: Any) -> Any:
    """A model that LangGraph's serializer made: when the class refuses what was stored, it lacks
    what is new."""
    known = (
        getattr(made, "__pydantic_fields__", None)
        if is_model(type(made))
        else getattr(made, "__fields__", None)
    )
    if not known or made.__dict__.keys() >= known.keys():
        return made
    kind = type(made)
    stored = Stored(
        f"{kind.__module__}.{kind.__qualname__}", dict(made.__dict__), was_set=set(made.__dict__)
    )
    return _model_as_stored(kind, stored, known, [])


def listed(names: Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(repr(name) for name in list(names)[:10])
