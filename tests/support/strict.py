"""Allowlists as a graph gives them: with LANGGRAPH_STRICT_MSGPACK=true only what is on them is
built."""

from __future__ import annotations

import sys
from typing import Any


def classes_of(module: str) -> list[tuple[str, str]]:
    """The classes that a test module defines, as LangGraph's allowlists name them."""
    found = [
        v
        for v in vars(sys.modules[module]).values()
        if isinstance(v, type) and v.__module__ == module
    ]
    return [(kind.__module__, kind.__name__) for kind in found]


def widened(serde: Any, *modules: str, more: list[tuple[str, str]] | None = None) -> Any:
    """A serializer, or a saver, with the classes of these modules on its allowlist."""
    names = [name for module in modules for name in classes_of(module)] + (more or [])
    widen = getattr(serde, "with_allowlist", None) or serde.with_msgpack_allowlist
    return widen(names)
