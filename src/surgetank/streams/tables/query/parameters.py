"""The parameters of a query on their way to the child: JSON, with a name for each type that JSON doesn't have. Pure."""

from __future__ import annotations

import base64
import datetime as dt
import math
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from surgetank.exceptions import InvalidRequest

Parameters = Sequence[Any] | Mapping[str, Any]
_PLAIN = (str, int, bool, type(None))
_READ: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "float": float,
        "bytes": base64.b64decode,
        "decimal": Decimal,
        "uuid": uuid.UUID,
        "datetime": dt.datetime.fromisoformat,
        "date": dt.date.fromisoformat,
        "time": dt.time.fromisoformat,
        "list": lambda items: [read(item) for item in items],
        "dict": lambda items: {key: read(item) for key, item in items},
    }
)


def written(value: Any) -> Any:
    """A value as JSON has it. Raises `InvalidRequest` for one that no column could have."""
    if isinstance(value, _PLAIN) or (isinstance(value, float) and math.isfinite(value)):
        return value
    match value:
        case float():
            return {"float": str(value)}
        case bytes() | bytearray() | memoryview():
            return {"bytes": base64.b64encode(value).decode()}
        case Decimal() | uuid.UUID():
            return {type(value).__name__.lower(): str(value)}
        case dt.datetime():
            return {"datetime": value.isoformat()}
        case dt.date():
            return {"date": value.isoformat()}
        case dt.time():
            return {"time": value.isoformat()}
        case list() | tuple():
            return {"list": [written(item) for item in value]}
        case dict() if all(isinstance(key, str) for key in value):
            return {"dict": [(key, written(item)) for key, item in value.items()]}
    raise InvalidRequest(
        f"A parameter of a statement can't be a {type(value).__name__}.",
        remedy="use a number, a text, bytes, a time, a UUID, or lists and dicts of them.",
    )


def read(value: Any) -> Any:
    """The value that was written."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    return _READ[kind](content)


def matched(used: Collection[str], parameters: Parameters | None) -> dict[str, Any]:
    """The values of parameters, by their names in small letters, as statements that use these names
    need them: no more and no fewer. Raises `InvalidRequest`."""
    listed = not isinstance(parameters, Mapping)
    given: dict[str, Any] = {}
    for name, value in _named(parameters).items():
        if name.casefold() in given:
            raise InvalidRequest(
                f"The parameter {name!r:.80} is given twice.", remedy="$A and $a are one parameter."
            )
        given[name.casefold()] = value
    missing, surplus = sorted(set(used) - set(given)), sorted(set(given) - set(used))
    if listed and (missing or surplus) and set(used) <= {str(n) for n in range(1, len(used) + 1)}:
        raise InvalidRequest(
            f"The text has {len(used)} parameters, and {len(given)} are given.",
            remedy="give one for each parameter.",
        )
    if missing:
        raise InvalidRequest(
            f"The parameter ${missing[0]:.80} has no value.", remedy="give one for each parameter."
        )
    if surplus:
        raise InvalidRequest(
            f"A value is given for the parameter ${surplus[0]:.80}, and no statement uses it.",
            remedy="leave it out, or write it in the text.",
        )
    return given


def _named(parameters: Parameters | None) -> Mapping[str, Any]:
    if isinstance(parameters, Mapping):
        return parameters
    return {str(number): value for number, value in enumerate(parameters or (), 1)}


def chosen(parameters: Parameters | None, used: Sequence[str]) -> dict[str, Any]:
    """Those that a statement uses, by name; the first of a list is called 1. A text of several
    statements has one set of parameters, and DuckDB refuses what a statement doesn't use."""
    given = _named(parameters)
    return {name: given[key] for name in used for key in (name, name.casefold()) if key in given}
