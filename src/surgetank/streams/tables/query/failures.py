"""What DuckDB says of a failure, where it is set to give errors as JSON: kind, message and position. Pure."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Literal

import duckdb


@dataclass(frozen=True, slots=True)
class Said:
    """A failure. `position` is in bytes of the text that was run."""

    kind: Literal["refused", "time", "memory"]
    message: str
    position: int | None = None


def said(error: Exception) -> Said:
    """What an error says. Arrow repeats what DuckDB raised with its text."""
    text, position = str(error), None
    name, _, rest = text.partition(": {")
    with contextlib.suppress(ValueError, TypeError, KeyError):
        found = json.loads("{" + rest)
        text = f"{name}: {found['exception_message']}"
        position = int(found["position"]) if "position" in found else None
    message = text.partition("\n\n")[0][:4000]
    if isinstance(error, duckdb.InterruptException) or "maximum execution time" in message:
        return Said("time", message, position)
    if isinstance(error, MemoryError | duckdb.OutOfMemoryException) or "Out of Memory" in message:
        return Said("memory", message.partition("\n")[0] or "no more can be allocated", position)
    if isinstance(error, RecursionError):
        message = "it is nested too deeply"
    return Said("refused", message, position)
