"""Stores for the suites: ours, and LangGraph's own two as the reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from langchain_core.embeddings import Embeddings
from langgraph.store.base import BaseStore, IndexConfig, TTLConfig
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import PostgresStore

from surgetank import Surgetank

KINDS = ("surgetank", "memory", "langgraph-postgres")


class Letters(Embeddings):
    """A text by how often it has each letter: alike texts are near each other. `dims` numbers."""

    dims = 27

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        counts = [0.0] * self.dims
        for letter in text.lower():
            at = ord(letter) - ord("a")
            counts[at if 0 <= at < 26 else 26] += 1.0
        length = math.sqrt(sum(count * count for count in counts)) or 1.0
        return [count / length for count in counts]


def index_of(**more: Any) -> IndexConfig:
    """An index over letters."""
    made: Any = {"dims": Letters.dims, "embed": Letters(), **more}
    return made


@contextmanager
def opened(
    kind: str, tank: Surgetank, index: IndexConfig | None = None, ttl: TTLConfig | None = None
) -> Iterator[BaseStore]:
    """A store of this kind; those in PostgreSQL share the engine's database, not their tables."""
    if kind == "memory":
        yield InMemoryStore(index=index)
    elif kind == "surgetank":
        yield tank.store(index=index, ttl=ttl)
    else:
        address = tank.settings.database_url
        assert address is not None
        options: Any = {"index": index, "ttl": ttl}
        made: AbstractContextManager[PostgresStore] = PostgresStore.from_conn_string(
            address.get_secret_value(), **options
        )
        with made as store:
            store.setup()
            yield store
