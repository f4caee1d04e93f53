"""The parameters of a query on their way to the child: JSON, with a name for each type that JSON doesn't have. Pure."""

from __future__ import annotations

import base64
import datetime as dt
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
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


def chosen(parameters: Parameters | None, used: Sequence[str]) -> dict[str, Any]:
    """Those that a statement uses, by name; the first of a list is called 1. A text of several
    statements has one set of parameters, and DuckDB refuses what a statement doesn't use."""
    given = (
        parameters
        if isinstance(parameters, Mapping)
        else {str(number): value for number, value in enumerate(parameters or (), 1)}
    )
    return {name: given[name] for name in used if name in given}
