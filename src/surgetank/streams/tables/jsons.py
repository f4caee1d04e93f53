"""JSON as a column keeps it: one text for equal values (compact, keys sorted), and refusal of what JSON has
not. Pure.

orjson writes NaN as null and has integers of 64 bits only, so both are looked for.
"""

from __future__ import annotations

import json
import math
from typing import Any

import orjson

from surgetank.streams.tables.unfit import Unfit

MOST_DEPTH = 200  # what PostgreSQL, orjson and DuckDB all carry
_OPTIONS = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_REMEDY = "use sanitize_for_json(value) if it may lose this."


def canonical(value: Any) -> str:
    """The text. Raises `Unfit`."""
    try:
        raw = orjson.dumps(value, option=_OPTIONS)
    except TypeError as error:
        if "64-bit" not in str(error):
            if "Recursion limit" in str(error):
                raise _too_deep() from None
            raise Unfit(f"no JSON: {error}", remedy=_REMEDY) from None
        _check(value, MOST_DEPTH)
        return _with_long_numbers(value)
    # Seen in the text first: nearly nothing has to be walked.
    if b"null" in raw or raw.count(b"[") + raw.count(b"{") > MOST_DEPTH:
        _check(value, MOST_DEPTH)
    return raw.decode()


def _with_long_numbers(value: Any) -> str:
    try:
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
        )
    except (TypeError, ValueError) as error:
        raise Unfit(f"no JSON: {error}", remedy=_REMEDY) from None


def _check(value: Any, depth: int) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Unfit(f"JSON has no {value!r}", remedy=_REMEDY)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unfit("no JSON: a text with a lone surrogate", remedy=_REMEDY) from None
    elif isinstance(value, (dict, list, tuple)):
        if depth == 0:
            raise _too_deep()
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise Unfit(f"no JSON: a key of type {type(key).__name__}", remedy=_REMEDY)
                _check(key, depth)
            value = value.values()
        for item in value:
            _check(item, depth - 1)


def _too_deep() -> Unfit:
    return Unfit(
        f"JSON nested more than {MOST_DEPTH} deep", remedy="nest it less, or store it as TEXT."
    )
