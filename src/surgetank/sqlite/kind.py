"""What kind of SQLite file a file is, and how one of an older format becomes one of this format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of SQLite file: how it is known, what a new one gets, and what brings one of format n
    to n + 1."""

    what: str
    application_id: int
    version: int
    schema: str
    upgrades: Mapping[int, str] = field(default_factory=dict)

    def path_from(self, version: int) -> list[str] | None:
        """The statements that bring a file of that format to this one, step by step; None when
        there is no way."""
        steps = range(version, self.version)
        return (
            [self.upgrades[step] for step in steps]
            if all(step in self.upgrades for step in steps)
            else None
        )
