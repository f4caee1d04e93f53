"""Names in paths: `{thread_id:name}` takes whatever a thread or user may be called, slashes and line
breaks among it. Starlette's own `path` stops at a line break.
"""

from __future__ import annotations

import re
from typing import ClassVar

from starlette.convertors import Convertor, register_url_convertor

_ROWS = re.compile(r"/tables/[^/]+/[^/]+/rows")


class NameConvertor(Convertor[str]):
    """Any text."""

    regex: ClassVar[str] = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


def accept_names() -> None:
    """Make `:name` known. Called before routes are declared."""
    register_url_convertor("name", NameConvertor())


def takes_rows(path: str) -> bool:
    """Whether rows of a table are sent there, which may be many."""
    return _ROWS.fullmatch(path) is not None
