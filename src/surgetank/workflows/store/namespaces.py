"""Namespaces as text that PostgreSQL can look up: each label with a point behind it.

A label has no point in it (LangGraph's rule), so `("a", "b")` is `a.b.`, and all that is below it is
the range from `a.b.` to `a.b/`. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langgraph.store.base import InvalidNamespaceError, MatchCondition

from surgetank.exceptions import InvalidRequest
from surgetank.workflows.store.scope import Namespace

MAX_BYTES = 1024  # of a namespace, and of a key: together they must fit into a page of the index


def path_of(labels: Sequence[str]) -> str:
    """The labels as text. Raises `InvalidNamespaceError` for what LangGraph or PostgreSQL refuses."""
    for label in labels:
        if not isinstance(label, str):
            raise InvalidNamespaceError(
                f"A label of a namespace is text, not {type(label).__name__}: {label!r}."
            )
        if not label or "." in label or "\x00" in label or not storable(label):
            raise InvalidNamespaceError(
                f"A label of a namespace can't be {label!r}: it must not be empty, nor have a point, "
                f"a NUL or half a character in it."
            )
    path = "".join(f"{label}." for label in labels)
    if len(path.encode()) > MAX_BYTES:
        raise InvalidNamespaceError(f"A namespace has at most {MAX_BYTES} bytes.")
    return path


def labels_of(path: str) -> Namespace:
    """The labels again."""
    return tuple(path.split(".")[:-1])


def storable(text: str) -> bool:
    """Whether PostgreSQL can hold a text as it is."""
    return "\x00" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def conditions_of(conditions: Sequence[MatchCondition]) -> list[dict[str, Any]]:
    """What `surgetank.store_labels_match` reads. Raises like `path_of`, `InvalidRequest`."""
    found = []
    for condition in conditions:
        if condition.match_type not in ("prefix", "suffix"):
            raise InvalidRequest(
                f"There is no way {condition.match_type!r} to match a namespace.",
                remedy="use prefix or suffix.",
            )
        path_of(condition.path)
        found.append({"suffix": condition.match_type == "suffix", "path": list(condition.path)})
    return found


def common_prefix(conditions: Sequence[MatchCondition]) -> Namespace:
    """The labels that every match begins with: where the search begins."""
    best: Namespace = ()
    for condition in conditions:
        path = tuple(condition.path)
        literal = path[: path.index("*")] if "*" in path else path
        if condition.match_type == "prefix" and len(literal) > len(best):
            best = literal
    return best
