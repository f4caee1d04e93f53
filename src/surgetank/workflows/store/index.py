"""The vectors of items: which of their texts are embedded, and what a search compares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from langgraph.store.base import (
    IndexConfig,
    PutOp,
    ensure_embeddings,
    get_text_at_path,
    tokenize_path,
)

from surgetank.exceptions import ConfigurationError

# pgvector's operators; the score is larger for what is nearer.
DISTANCES = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}
_MAX_DIMS = 16_000
_LARGEST = 3.4e38
_KNOWN = {"dims", "embed", "fields", "distance_type", "ann_index_config"}


class Index:
    """How items are embedded: an `IndexConfig` of LangGraph's, with PostgresStore's
    `distance_type`. Raises `ConfigurationError`.

    An `ann_index_config` is taken and not needed: a search compares all vectors of its namespace.
    """

    def __init__(self, config: IndexConfig) -> None:
        given = cast("Mapping[str, Any]", config)
        if unknown := sorted(set(given) - _KNOWN):
            raise _wrong(f"it has no {unknown[0]!r}", f"it has {', '.join(sorted(_KNOWN))}")
        self.dims: int = given.get("dims", 0)
        if not isinstance(self.dims, int) or not 0 < self.dims <= _MAX_DIMS:
            raise _wrong("`dims` is missing or no number that pgvector has", f"1 to {_MAX_DIMS}")
        self.distance: str = given.get("distance_type", "cosine")
        if self.distance not in DISTANCES:
            raise _wrong(f"there is no distance {self.distance!r}", f"use {', '.join(DISTANCES)}")
        fields = given.get("fields") or ["$"]
        self.fields = [fields] if isinstance(fields, str) else list(fields)
        try:
            self.embeddings = ensure_embeddings(given.get("embed"))
        except ValueError as error:
            raise _wrong(str(error), "give `embed` a function or LangChain embeddings") from error

    def texts_of(self, op: PutOp) -> list[str]:
        """The texts of an item that are embedded."""
        if op.value is None or op.index is False:
            return []
        return [
            text
            for field in (self.fields if op.index is None else op.index)
            for text in get_text_at_path(dict(op.value), _tokens(field))
        ]

    def vector(self, numbers: Sequence[float]) -> str:
        """A vector as PostgreSQL reads it, without its brackets. Raises `ConfigurationError`."""
        if len(numbers) != self.dims:
            raise _wrong(
                f"the model gave a vector of {len(numbers)} numbers, not of {self.dims}",
                "set `dims` to what the model gives",
            )
        floats = [float(number) for number in numbers]
        if not all(math.isfinite(number) and abs(number) < _LARGEST for number in floats):
            raise _wrong("the model gave a vector that is not finite", "look at the model")
        return ",".join(map(repr, floats))

    def score(self, distance: float) -> float:
        """LangGraph's score: larger is nearer."""
        return 1.0 - distance if self.distance == "cosine" else -distance


def _tokens(field: str) -> list[str] | Literal["$"]:
    return "$" if field == "$" else tokenize_path(field)


def _wrong(what: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"The index of the store can't be used: {what}.", remedy=f"{remedy}.")
