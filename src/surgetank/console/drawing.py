"""What a chart of a result shows: which column goes along, and which are drawn. Pure, but for reading Arrow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from surgetank.app import rendering

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_POINTS = 5000
_MOST_SERIES = 6
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL",
            "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT")  # fmt: skip


def is_number(kind: str) -> bool:
    """Whether a column of this SQL type has numbers."""
    return kind.partition("(")[0] in _NUMBERS


def _is_moment(kind: str) -> bool:
    return kind == "DATE" or (kind.startswith("TIMESTAMP") and not kind.endswith("]"))


def chart_of(table: pa.Table, types: Sequence[str]) -> dict[str, Any] | None:
    """`along`: `time` (seconds), `number`, `rows` or `words` (then `labels` has them); `x`, and the `series` with their
    names. A moment goes along before words, words before a number. None without a column of numbers."""
    numbers = [at for at, kind in enumerate(types) if is_number(kind)]
    if not numbers:
        return None
    moments = [at for at, kind in enumerate(types) if _is_moment(kind)]
    words = [at for at in range(len(types)) if at not in numbers and at not in moments]
    first = table.slice(0, _MOST_POINTS)
    values = [rendering.values_of(first.column(at)) for at in range(len(types))]
    labels: list[str] = []
    if moments:
        at, along = moments[0], "time"
        x = [_seconds(value) for value in values[at]]
    elif words:
        at, along = words[0], "words"
        labels = [rendering.shown(rendering.plain(value))[:60] for value in values[at]]
        x = list(map(float, range(len(labels))))
    elif len(numbers) > 1:
        at, along = numbers[0], "number"
        x = [_number(value) for value in values[at]]
    else:
        at, along = -1, "rows"
        x = list(map(float, range(1, first.num_rows + 1)))
    drawn = [number for number in numbers if number != at][:_MOST_SERIES]
    order = sorted((i for i, value in enumerate(x) if value is not None), key=lambda i: x[i] or 0.0)
    return {
        "along": along,
        "name": table.column_names[at] if at >= 0 else "row",
        "labels": labels,
        "x": [x[i] for i in order],
        "series": [
            {"name": table.column_names[each], "values": [_number(values[each][i]) for i in order]}
            for each in drawn
        ],
        "more": table.num_rows > _MOST_POINTS,
    }


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float | Decimal):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _seconds(value: Any) -> float | None:
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).timestamp()
    return datetime.combine(value, time(), UTC).timestamp() if isinstance(value, date) else None
