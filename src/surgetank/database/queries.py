"""Named SQL, in files beside the code that uses it: queries headed by `-- name: ...` and a line
that says what for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import LiteralString

_HEAD = "-- name:"


@cache
def queries(path: str) -> Mapping[str, LiteralString]:
    """The queries of a file of the package (`streams/logs/logs.sql`), by their names.

    Raises `ValueError` for a file that names one twice.
    """
    text = (files("surgetank") / path).read_text(encoding="utf-8")
    found: dict[str, LiteralString] = {}
    for part in text.split(_HEAD)[1:]:
        title, _, body = part.partition("\n")
        title = title.strip()
        if title in found:
            raise ValueError(f"{path} names the query {title!r} twice")
        lines = [line for line in body.splitlines() if not line.startswith("--")]
        # Only this package's own files are read: no text of a user's ever becomes part of a query.
        found[title] = "\n".join(lines).strip()  # pyright: ignore[reportArgumentType]
    return MappingProxyType(found)
