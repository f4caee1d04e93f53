"""What of the store a caller may reach, and where a user's own part is. Pure, and without
LangGraph: an erasure needs it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from surgetank.exceptions import NamespaceForbidden

_ROOT = "user:"
Namespace = tuple[str, ...]


def range_of(path: str) -> dict[str, str | None]:
    """The bounds of all paths at or below this one, for queries."""
    return {"low": path, "high": f"{path[:-1]}/" if path else None}


def label_of(user: str) -> str:
    """A user's name as a label: the same text, unless it has a point or a percent sign in it."""
    return user.replace("%", "%25").replace(".", "%2E")


@dataclass(frozen=True, slots=True)
class Scope:
    """What may be reached: everything, what is below `root`, or what has `label` in its namespace.

    Who uses a scope does not see its root: their `("notes",)` is `(*root, "notes")`.
    """

    root: Namespace = ()
    label: str | None = None

    @classmethod
    def below(cls, user: str) -> Scope:
        """Only what is below the user's own root."""
        return cls(root=(_ROOT + label_of(user),))

    @classmethod
    def naming(cls, user: str) -> Scope:
        """Only namespaces that have the user's name as one of their labels."""
        return cls(label=label_of(user))

    def inward(self, labels: Sequence[str], *, of_item: bool = True) -> Namespace:
        """The namespace as it is stored. `of_item`: it is that of an item, not the beginning of one.
        Raises `NamespaceForbidden`."""
        namespace = tuple(labels)
        if of_item and self.label is not None and self.label not in namespace:
            raise NamespaceForbidden(
                "This namespace is not yours.",
                remedy=f"use one that has {self.label!r} as one of its labels.",
            )
        return (*self.root, *namespace)

    def outward(self, namespace: Namespace) -> Namespace:
        """The namespace as the caller knows it."""
        return namespace[len(self.root) :]

    @property
    def bounds(self) -> dict[str, str | None]:
        """For queries: the label, as it stands in a path."""
        return {"label": f".{self.label}." if self.label is not None else None}
