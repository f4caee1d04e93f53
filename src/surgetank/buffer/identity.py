"""Which buffer it is: every role that hands numbers to a sink says whose they are."""

from __future__ import annotations

from typing import Protocol


class Identified(Protocol):
    """A buffer that can be told from all others."""

    @property
    def id(self) -> str:
        """Identity of the buffer's contents: made once, kept with them."""
        ...

    @property
    def name(self) -> str:
        """Where it is, for people: the path of a file, a URL without its password."""
        ...

    @property
    def over_network(self) -> bool:
        """Whether each call may wait for a network: event loops then make it on a thread."""
        ...

    @property
    def durability(self) -> str:
        """What an accepted entry survives: `process` (kill -9), `power` (a power cut as well) or
        `replicated` (the loss of its server)."""
        ...
