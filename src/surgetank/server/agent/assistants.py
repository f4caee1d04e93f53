"""Which assistant is meant: the default one of a graph, or one that somebody made."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from surgetank.server.access.narrowing import contains
from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.problems import Problem, not_found
from surgetank.server.services import Services
from surgetank.workflows.assistants import Assistant
from surgetank.workflows.graphs.config import assistant_id


@dataclass(frozen=True, slots=True)
class Chosen:
    """An assistant that a caller may use, and whether a client made it."""

    assistant: Assistant
    made: bool

    @property
    def id(self) -> str:
        """Its id as text."""
        return str(self.assistant.assistant_id)

    @property
    def graph_id(self) -> str:
        """The graph that it runs."""
        return self.assistant.graph_id

    def given(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What a run is given, with what the assistant has."""
        return self.assistant.given(kwargs)


def defaults(services: Services) -> list[Assistant]:
    """The default assistant of each graph; as old as the file that names it was at the start."""
    graphs = services.graphs
    if graphs is None:
        return []
    at = datetime.fromtimestamp(services.graphs_at, UTC)
    described = {name: source.description for name, source in graphs.config.graphs.items()}
    return [
        Assistant(
            assistant_id=assistant_id(name), graph_id=name, version=1, name=name,
            description=described.get(name), config={}, context={}, metadata={"created_by": "system"},
            created_at=at, updated_at=at,
        )
        for name in graphs.names
    ]  # fmt: skip


def chosen(services: Services, who: Caller, named: str) -> Chosen:
    """The assistant with an id, or of a graph. May ask the database. Raises `Problem` 422 for one
    that is not here, or whose graph is not."""
    id_ = _uuid(named)
    for each in defaults(services):
        if named == each.graph_id or id_ == each.assistant_id:
            return Chosen(each, made=False)
    names = services.graphs.names if services.graphs is not None else ()
    known = ", ".join(names) or "none: start the server with --config langgraph.json"
    found = services.tank.assistants.find(id_) if id_ is not None else None
    if found is None or not may_use(who, found):
        raise Problem(
            422, "unknown-assistant", f"There is no assistant {named[:200]!r}.",
            remedy=f"graphs: {known}.",
        )  # fmt: skip
    if found.graph_id not in names:
        raise Problem(
            422, "unknown-assistant",
            f"The graph {found.graph_id[:200]!r} of this assistant is not here.",
            remedy=f"graphs: {known}.",
        )  # fmt: skip
    return Chosen(found, made=True)


def looked_up(services: Services, who: Caller, named: str, *, filtered: bool = True) -> Chosen:
    """An assistant that is read, or not `filtered` one whose graph is used. Raises `Problem`
    404."""
    try:
        found = chosen(services, who, named)
    except Problem as problem:
        raise not_found("assistant", named, remedy=problem.remedy) from problem
    if filtered and not _let_through(who, found.assistant):
        raise not_found("assistant", named, remedy="search for assistants.")
    return found


def _let_through(who: Caller, assistant: Assistant) -> bool:
    return contains(assistant.metadata, who.filters.get("assistants", {}))


def made_by_clients(services: Services, who: Caller, named: str) -> Assistant:
    """An assistant that is changed, whether its graph is here or not. Raises `Problem` 404, and 409
    for the default one of a graph."""
    id_ = _uuid(named)
    for each in defaults(services):
        if named == each.graph_id or id_ == each.assistant_id:
            raise Problem(
                409, "conflict", f"The assistant {named[:200]!r} comes with its graph.",
                remedy="make one of your own for this graph: POST /assistants.",
            )  # fmt: skip
    found = services.tank.assistants.find(id_) if id_ is not None else None
    if found is None or not may_use(who, found):
        raise not_found("assistant", named, remedy="search for assistants.")
    return found


def may_use(who: Caller, assistant: Assistant) -> bool:
    """What is nobody's is everybody's, where the project's handlers don't narrow it."""
    mine = who.role is Role.ADMIN or assistant.owner in (None, who.user)
    return mine and _let_through(who, assistant)


def assistant_json(assistant: Assistant) -> dict[str, Any]:
    """An assistant as clients know it."""
    return {
        "assistant_id": str(assistant.assistant_id), "graph_id": assistant.graph_id,
        "name": assistant.name, "description": assistant.description,
        "config": dict(assistant.config), "context": dict(assistant.context),
        "metadata": dict(assistant.metadata), "version": assistant.version,
        "created_at": assistant.created_at.isoformat(),
        "updated_at": assistant.updated_at.isoformat(),
    }  # fmt: skip


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
