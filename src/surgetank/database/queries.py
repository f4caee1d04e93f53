"""Named SQL: each file under `queries/` holds queries headed by `-- name: ...` and a line that says what for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import LiteralString

_HEAD = "-- name:"


@cache
def queries(name: str) -> Mapping[str, LiteralString]:
    """The queries of `queries/<name>.sql` by their names. Raises `ValueError` for a file that names one twice."""
    text = (files("surgetank.database") / "queries" / f"{name}.sql").read_text(encoding="utf-8")
    found: dict[str, LiteralString] = {}
    for part in text.split(_HEAD)[1:]:
        title, _, body = part.partition("\n")
        title = title.strip()
        if title in found:
            raise ValueError(f"{name}.sql names the query {title!r} twice")
        lines = [line for line in body.splitlines() if not line.startswith("--")]
        # Only this package's own files are read: no text of a user's ever becomes part of a query.
        found[title] = "\n".join(lines).strip()  # pyright: ignore[reportArgumentType]
    return MappingProxyType(found)
