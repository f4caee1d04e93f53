"""`tank.store()`: what graphs and clients keep beside threads, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgetank.exceptions import ConfigurationError, GraphNotLoaded, MissingExtra
from surgetank.workflows.graphs import importing
from surgetank.workflows.graphs.config import GraphsConfig
from surgetank.workflows.store.scope import Scope

if TYPE_CHECKING:
    from langgraph.store.base import IndexConfig, TTLConfig

    from surgetank.app.assembly import Parts
    from surgetank.workflows.store.store import SurgetankStore
else:
    SurgetankStore = Any  # for annotations that are read at run time, without the extra

__all__ = [
    "StoreOptions",
    "SurgetankStore",
    "invalid_namespace",
    "open_store",
    "options_of",
    "store_for",
]


ANSWER_BYTES = 32 * 1024 * 1024  # of a search over HTTP


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What `tank.store()` without arguments is made with."""

    index: IndexConfig | None = None
    ttl: TTLConfig | None = None


def open_store(
    parts: Parts, index: IndexConfig | None = None, ttl: TTLConfig | None = None
) -> SurgetankStore:
    """The store of an open engine. Raises `MissingExtra`, `ConfigurationError`."""
    try:
        from surgetank.workflows.store.store import SurgetankStore as Made  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("surgetank"):
            raise
        raise MissingExtra("langgraph", "langgraph", "The store") from error
    return Made(parts.database, index=index, ttl=ttl, max_bytes=parts.settings.store_max_bytes)


def options_of(config: GraphsConfig) -> StoreOptions:
    """What the `store` of a `langgraph.json` asks for. A function of the project that it names is
    imported. Raises `ConfigurationError`."""
    index: Any = config.store.get("index")
    ttl: Any = config.store.get("ttl")
    if index is not None and config.embed is not None:
        try:
            index = {**index, "embed": importing.find(config, config.embed, "store.index.embed")}
        except (Exception, SystemExit) as error:
            why = (
                error.why
                if isinstance(error, GraphNotLoaded)
                else f"{type(error).__name__}: {error}"
            )
            raise ConfigurationError(
                f"{config.path}: 'store.index.embed' can't be loaded: {why}.",
                remedy="name a function that takes a list of texts and gives a list of vectors.",
            ) from error
    return StoreOptions(index, ttl)


def store_for(store: SurgetankStore, scope: str, user: str, *, admin: bool) -> SurgetankStore:
    """The part of a store that a caller reaches: administrators all of it, others what the setting
    `store_scope` says."""
    part = Scope()
    if not admin and scope != "shared":
        part = Scope.below(user) if scope == "user" else Scope.naming(user)
    return store.within(part, answer_bytes=ANSWER_BYTES)


def invalid_namespace() -> type[ValueError]:
    """LangGraph's error for a namespace that can't be one."""
    from langgraph.store.base import InvalidNamespaceError  # noqa: PLC0415 - needs the extra

    return InvalidNamespaceError
