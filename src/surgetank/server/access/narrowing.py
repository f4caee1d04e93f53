"""What metadata must contain, as PostgreSQL's `@>` has it. Pure.

Handlers of a project answer with filters (`langgraph_sdk.auth.types.FilterType`): a value, `{"$eq":
value}`, or `{"$contains": value or list of values}` for metadata that are lists. Each becomes a
document that the metadata must contain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def document_of(filters: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a handler's answer. Raises `ValueError` for what is no filter."""
    return {_key(name): _wanted(name, given) for name, given in filters.items()}


def _key(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"its key {name!r} is no text")  # noqa: TRY004 - as all that is no filter
    return name


def _wanted(name: str, given: Any) -> Any:
    if not isinstance(given, Mapping):
        return _plain(name, given)
    if len(given) != 1:
        raise ValueError(f"{name!r} has no operator, or more than one")
    ((operator, value),) = given.items()
    if operator == "$eq":
        return _plain(name, value)
    if operator == "$contains":
        return [_plain(name, each) for each in (value if isinstance(value, list) else [value])]
    raise ValueError(f"{name!r} has the operator {operator!r}, known are $eq and $contains")


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"{name!r} is compared with a {type(value).__name__}")


def contains(value: Any, part: Any) -> bool:
    """Whether JSON contains other JSON."""
    if isinstance(part, Mapping):
        return isinstance(value, Mapping) and all(
            name in value and contains(value[name], wanted) for name, wanted in part.items()
        )
    if isinstance(part, list):
        return isinstance(value, list) and all(
            any(contains(each, wanted) for each in value) for wanted in part
        )
    # true is no 1 in JSON
    return isinstance(value, bool) == isinstance(part, bool) and bool(value == part)


def both(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """One document for two; None where nothing can contain both."""
    merged = dict(one or {})
    for name, wanted in (other or {}).items():
        if name not in merged:
            merged[name] = wanted
            continue
        there = merged[name]
        if isinstance(there, Mapping) and isinstance(wanted, Mapping):
            inner = both(there, wanted)
            if inner is None:
                return None
            merged[name] = inner
        elif isinstance(there, list) and isinstance(wanted, list):
            merged[name] = [*there, *wanted]
        elif not (contains(there, wanted) and contains(wanted, there)):
            return None
    return merged
