"""Filters of a search, as what PostgreSQL reads. Pure.

They are LangGraph's: `{"color": "red"}`, `{"score": {"$gt": 3}}`, and for objects
`{"author": {"name": "Ada"}}`, which asks for a part of them. What compares numbers and texts becomes
a path of SQL/JSON, which is some ten times faster than `surgetank.store_value_matches`; that one
knows the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from surgetank.encode.sanitize import dumps_jsonb
from surgetank.exceptions import InvalidRequest
from surgetank.workflows.store.values import encode

# By LangGraph's name; `!=` says nothing of values of different kinds.
_COMPARISONS = {"$eq": "==", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte")
_MOST = 100
_MAX_BYTES = 64 * 1024


def filter_of(asked: Mapping[str, Any] | None) -> dict[str, str | None]:
    """Arguments of a query: a `path` with its `values`, and a `filter` of further conditions, each
    None where there is nothing to ask. Raises `InvalidRequest`, `EntryRejected`."""
    if not asked:
        return {"path": None, "values": None, "filter": None}
    encode("the filter", asked, max_bytes=_MAX_BYTES)
    conditions = list(_conditions(asked, []))
    if len(conditions) > _MOST:
        raise InvalidRequest(
            f"A filter has at most {_MOST} conditions, not {len(conditions)}.",
            remedy="leave some out.",
        )
    _text(conditions)  # names are looked at as well
    quick = [condition for condition in conditions if _is_quick(condition)]
    rest = [condition for condition in conditions if not _is_quick(condition)]
    tests = [
        f"{_step(condition['path'])} {_COMPARISONS[condition['op']]} $v{at}"
        for at, condition in enumerate(quick)
    ]
    return {
        "path": "strict " + " && ".join(f"({test})" for test in tests) if tests else None,
        "values": _text({f"v{at}": condition["value"] for at, condition in enumerate(quick)}),
        "filter": _text(rest) if rest else None,
    }


def _is_quick(condition: Mapping[str, Any]) -> bool:
    op, value = condition["op"], condition.get("value")
    if op == "$eq":
        return value is None or isinstance(value, str | int | float)
    # Of booleans PostgreSQL has an order, and filters have none.
    return op in _COMPARISONS and isinstance(value, str | int | float) and type(value) is not bool


def _step(path: list[str]) -> str:
    """The place in a value; each name is quoted as JSON quotes it, in ASCII."""
    return "$" + "".join(f".{json.dumps(name)}" for name in path)


def _text(asked: Any) -> str:
    text, replaced = dumps_jsonb(asked)
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
