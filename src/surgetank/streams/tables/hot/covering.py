"""What is acknowledged already, in SQL: such rows may still be in the journal until the last part of a flush removes
them together, and nobody is shown them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from surgetank.streams.tables.hot.protocol import ORIGIN_SHIFT, Progress


def covered(origin: int, progress: Progress) -> tuple[str, list[Any]]:
    """The condition for rows (or keys) of an origin that `progress` covers, and its values."""
    where, values = "(version > ? AND version <= ?", list[Any]()
    values += [origin << ORIGIN_SHIFT, progress.through]
    if progress.held:
        held = json.dumps(dict(progress.held))
        where += (
            " AND (user NOT IN (SELECT key FROM json_each(?))"
            " OR version <= (SELECT value FROM json_each(?) WHERE key = user))"
        )
        values += [held, held]
    return where + ")", values


def uncovered(progress: Mapping[int, Progress]) -> tuple[str, list[Any]]:
    """The condition for rows that are covered in none of these origins."""
    where, values = "TRUE", list[Any]()
    for origin, reached in progress.items():
        if reached.through:
            condition, more = covered(origin, reached)
            where += f" AND NOT {condition}"
            values += more
    return where, values


def remaining(origin: int, progress: Progress) -> list[tuple[str, list[Any]]]:
    """What `covered` is not, in conditions that have no row in common; each is found without a look
    at what is covered, where nobody is held back."""
    if progress.held:
        where, values = covered(origin, progress)
        return [(f"NOT {where}", values)]
    return [("version > ?", [progress.through]), ("version <= ?", [origin << ORIGIN_SHIFT])]
