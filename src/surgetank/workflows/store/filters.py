"""Filters of a search, as the list of conditions that `surgetank.store_value_matches` reads. Pure.

They are LangGraph's: `{"color": "red"}`, `{"score": {"$gt": 3}}`, and for objects
`{"author": {"name": "Ada"}}`, which asks for a part of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from surgetank.encode.sanitize import dumps_jsonb
from surgetank.exceptions import InvalidRequest
from surgetank.workflows.store.values import encode

OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte")
_MOST = 100
_MAX_BYTES = 64 * 1024


def filter_of(asked: Mapping[str, Any] | None) -> str | None:
    """The filter as JSON; None without one. Raises `InvalidRequest`, `EntryRejected`."""
    if not asked:
        return None
    encode("the filter", asked, max_bytes=_MAX_BYTES)
    conditions = list(_conditions(asked, []))
    if len(conditions) > _MOST:
        raise InvalidRequest(
            f"A filter has at most {_MOST} conditions, not {len(conditions)}.",
            remedy="leave some out.",
        )
    text, replaced = dumps_jsonb(conditions)
    if replaced:
        raise InvalidRequest(
            f"A filter can't ask for this: {replaced[0].reason}.",
            remedy="ask for what JSON can hold.",
        )
    return text.decode()


def _conditions(asked: Mapping[str, Any], path: list[str]) -> Iterator[dict[str, Any]]:
    for key, wanted in asked.items():
        at = [*path, key]
        if not isinstance(wanted, Mapping):
            yield {"path": at, "op": "$eq", "value": wanted}
        elif any(name.startswith("$") for name in wanted):
            for name, value in wanted.items():
                if name not in OPERATORS:
                    raise InvalidRequest(
                        f"There is no operator {name!r}.", remedy=f"use {', '.join(OPERATORS)}."
                    )
                yield {"path": at, "op": name, "value": value}
        elif wanted:
            yield from _conditions(wanted, at)
        else:
            yield {"path": at, "op": "$object"}
