"""`tank.store()`: what graphs and clients keep beside threads, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgetank.exceptions import MissingExtra
from surgetank.workflows.store.scope import Scope

if TYPE_CHECKING:
    from langgraph.store.base import IndexConfig, TTLConfig

    from surgetank.app.assembly import Parts
    from surgetank.workflows.store.store import SurgetankStore
else:
    SurgetankStore = Any  # for annotations that are read at run time, without the extra

__all__ = ["StoreOptions", "SurgetankStore", "invalid_namespace", "open_store", "store_for"]


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


def store_for(store: SurgetankStore, scope: str, user: str, *, admin: bool) -> SurgetankStore:
    """The part of a store that a caller reaches: administrators all of it, others what the setting
    `store_scope` says."""
    if admin or scope == "shared":
        return store
    return store.within(Scope.below(user) if scope == "user" else Scope.naming(user))


def invalid_namespace() -> type[ValueError]:
    """LangGraph's error for a namespace that can't be one."""
    from langgraph.store.base import InvalidNamespaceError  # noqa: PLC0415 - needs the extra

    return InvalidNamespaceError
