"""The user of a project, as its handlers and graphs get it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class ProjectUser:
    """A user as handlers and graphs get it: what the project's `authenticate` said, by attribute and
    by key."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        self._said = dict(said)

    @property
    def identity(self) -> str:
        """The user's name."""
        return str(self._said["identity"])

    @property
    def display_name(self) -> str:
        """The user's name for people."""
        return str(self._said.get("display_name") or self.identity)

    @property
    def is_authenticated(self) -> bool:
        """Always true: nobody else comes this far."""
        return True

    @property
    def permissions(self) -> list[str]:
        """What `authenticate` said that the user may do."""
        return list(self._said.get("permissions") or ())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._said:
            raise AttributeError(name)
        return self._said[name]

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key) if key in ("display_name", "permissions") else self._said[key]

    def get(self, key: str, default: Any = None) -> Any:
        """As of a mapping."""
        try:
            return self[key]
        except KeyError:
            return default

    def __contains__(self, key: object) -> bool:
        return key in self._said

    def __iter__(self) -> Iterator[str]:
        return iter(self._said)
