"""Cursors: the place where a page ended, as text that means nothing to the client."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import orjson

from surgetank.server.http.problems import Problem


def cursor(*position: str | float) -> str:
    """A cursor for a place in an order."""
    return base64.urlsafe_b64encode(orjson.dumps(position)).decode().rstrip("=")


def position(text: str | None, *kinds: type[Any]) -> Sequence[Any] | None:
    """The place behind a cursor, whose parts are of these types. Raises `Problem` 400 for what is
    no cursor of ours."""
    if text is None:
        return None
    try:
        parts = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except (binascii.Error, ValueError, orjson.JSONDecodeError):
        parts = None
    if (
        not isinstance(parts, list)
        or len(parts) != len(kinds)
        or not all(type(p) is k for p, k in zip(parts, kinds, strict=True))
        or any("\x00" in p for p in parts if isinstance(p, str))
    ):
        raise Problem(
            400,
            "bad-cursor",
            "The cursor can't be used.",
            remedy="pass `next` of the page before, unchanged.",
        )
    return parts
