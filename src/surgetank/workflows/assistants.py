"""Assistants that clients made: a graph with what it is given in each run, in versions.

The default assistant of each graph is not here: it comes with the graph, and can't be changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.acting import acting_from
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.exceptions import Conflict, NotFound, QuotaExceeded

SQL = queries("workflows/assistants.sql")
SORTED_BY = ("assistant_id", "graph_id", "name", "created_at", "updated_at")


@dataclass(frozen=True, slots=True)
class Assistant:
    """An assistant as it is used now, or (`Assistants.versions`) one of its versions."""

    assistant_id: uuid.UUID
    graph_id: str
    version: int
    name: str
    description: str | None
    config: Mapping[str, Any]
    context: Mapping[str, Any]
    metadata: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    owner: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Assistant:
        """From a row of the tables."""
        known = {name: row[name] for name in cls.__slots__ if name in row}
        return cls(**{"updated_at": row["created_at"], **known})

    def given(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What a run is given: the assistant's configuration and context, under those of the
        run."""
        merged = dict(kwargs)
        config = dict(kwargs.get("config") or {})
        if self.config:
            configurable = {
                **(self.config.get("configurable") or {}), **(config.get("configurable") or {}),
            }  # fmt: skip
            config = {**self.config, **config}
            if configurable:
                config["configurable"] = configurable
            merged["config"] = config
        context = kwargs.get("context")
        if self.context and (context is None or isinstance(context, Mapping)):
            merged["context"] = {**self.context, **(context or {})}
        return merged


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantFilter:
    """Which assistants are wanted; None stands for all. An `owner` sees those of nobody too."""

    owner: str | None = None
    graph_id: str | None = None
    name: str | None = None
    metadata: Mapping[str, Any] | None = None

    def arguments(self) -> dict[str, Any]:
        """As the queries take it."""
        return {
            "owner": self.owner, "graph_id": self.graph_id, "name": self.name,
            "metadata": _jsonb(self.metadata) if self.metadata else None,
        }  # fmt: skip


class Assistants:
    """The assistants of a database. Everything raises `DatabaseUnavailable`.

    `most`: how many one owner may have; None: any number. `node` says in the audit where something
    was done.
    """

    def __init__(self, database: Database, *, most: int | None = None, node: str = "") -> None:
        self._database = database
        self._most = most
        self._node = node

    def create(
        self, graph_id: str, *, owner: str | None, actor: str, assistant_id: uuid.UUID | None = None,
        name: str | None = None, description: str | None = None, config: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None, metadata: Mapping[str, Any] | None = None,
    ) -> Assistant:  # fmt: skip
        """Make one. Raises `Conflict` when the id is taken, `QuotaExceeded`."""
        rows = self._rows(
            "create",
            assistant_id=assistant_id or uuid.uuid4(), owner=owner, graph_id=graph_id,
            name=name or "Untitled", description=description, config=_jsonb(config or {}),
            context=_jsonb(context or {}), metadata=_jsonb(metadata or {}), most=self._most,
            **self._acting(actor),
        )  # fmt: skip
        if not rows:
            raise Conflict(
                f"The assistant {assistant_id} is there already.",
                remedy='use another id, or if_exists="do_nothing".',
            )
        if rows[0]["assistant_id"] is None:
            raise QuotaExceeded(
                f"You have {self._most} assistants already.", remedy="delete some of them."
            )
        return Assistant.of(rows[0])

    def find(self, assistant_id: uuid.UUID) -> Assistant | None:
        """One by its id."""
        rows = self._rows("get", assistant_id=assistant_id)
        return Assistant.of(rows[0]) if rows else None

    def change(
        self, assistant_id: uuid.UUID, *, actor: str, graph_id: str | None = None,
        name: str | None = None, description: str | None = None, config: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None, metadata: Mapping[str, Any] | None = None,
    ) -> Assistant:  # fmt: skip
        """Change one, which makes a version that is used from now on. Metadata are added to; None
        leaves what there is. Raises `NotFound`."""
        rows = self._rows(
            "change",
            assistant_id=assistant_id, graph_id=graph_id, name=name, description=description,
            config=_jsonb(config) if config is not None else None,
            context=_jsonb(context) if context is not None else None,
            metadata=_jsonb(metadata) if metadata is not None else None, **self._acting(actor),
        )  # fmt: skip
        return self._one(rows, assistant_id)

    def use_version(self, assistant_id: uuid.UUID, version: int, *, actor: str) -> Assistant:
        """Use an earlier version again, or the newest. Raises `NotFound`."""
        rows = self._rows(
            "use_version", assistant_id=assistant_id, version=version, **self._acting(actor)
        )
        return self._one(rows, assistant_id, version)

    def versions(
        self, assistant_id: uuid.UUID, *, metadata: Mapping[str, Any] | None = None, limit: int = 10,
        offset: int = 0,
    ) -> list[Assistant]:  # fmt: skip
        """Its versions, the newest first."""
        wanted = _jsonb(metadata) if metadata else None
        page = {"metadata": wanted, "limit": limit, "offset": offset}
        return [
            Assistant.of(row) for row in self._rows("versions", assistant_id=assistant_id, **page)
        ]

    def delete(self, assistant_id: uuid.UUID, *, actor: str) -> bool:
        """Delete one with its versions; whether there was one. Its runs stay."""
        return bool(self._rows("delete", assistant_id=assistant_id, **self._acting(actor)))

    def search(
        self, wanted: AssistantFilter, *, sort_by: str = "created_at", ascending: bool = False,
        limit: int = 10,
    ) -> list[Assistant]:  # fmt: skip
        """The first ones of those wanted."""
        page = {"sort_by": sort_by, "ascending": ascending, "limit": limit}
        return [Assistant.of(row) for row in self._rows("search", **wanted.arguments(), **page)]

    def count(self, wanted: AssistantFilter) -> int:
        """How many there are."""
        return int(self._rows("count", **wanted.arguments())[0]["assistants"])

    def _one(
        self, rows: list[dict[str, Any]], assistant_id: uuid.UUID, version: int | None = None
    ) -> Assistant:
        if not rows:
            of = f" with a version {version}" if version is not None else ""
            raise NotFound(
                f"There is no assistant {assistant_id}{of}.", remedy="list the assistants."
            )
        return Assistant.of(rows[0])

    def _acting(self, actor: str) -> dict[str, Any]:
        return {"actor": actor, "origin": acting_from.get() or self._node}

    def _rows(self, query: str, **arguments: Any) -> list[dict[str, Any]]:
        with (
            self._database.reading() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return cursor.execute(SQL[query], arguments).fetchall()


def _jsonb(value: Mapping[str, Any]) -> Jsonb:
    return Jsonb(dict(value), dumps=lambda v: dumps_jsonb(v)[0])
