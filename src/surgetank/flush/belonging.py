"""To which database a buffer belongs: nothing of it is written into another one.

Before it met its database, a buffer belongs to an address; from then on to the id in the schema,
wherever that is reached. A database with the same id and other evidence is a copy or was moved: the
buffer goes with it, and the progress check says whether it lacks anything. The judgement is pure;
`Belonging` asks the buffer and acts.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from surgetank.buffer.binding import Bindable, Binding
from surgetank.buffer.coordination import Backlog
from surgetank.database.identity import Identity
from surgetank.exceptions import WrongDatabase


class Bond(StrEnum):
    """What a database is to a buffer."""

    NEW = "new"  # the buffer belongs to none yet
    SAME = "same"
    MOVED = "moved"  # the same id, other evidence
    ELSEWHERE = "elsewhere"  # what waits was accepted for another address
    OTHER = "other"
    GONE = "gone"  # its schema is not there any more


def judge_bond(
    binding: Binding | None, found: Identity, destination: str, *, waiting: bool
) -> Bond:
    """What the database is to a buffer with this binding. `waiting`: whether anything waits in
    it."""
    if binding is None:
        return Bond.NEW
    if binding.database_id is None:
        return Bond.ELSEWHERE if waiting and binding.address != destination else Bond.NEW
    if found.database_id is None:
        return Bond.OTHER if found.has_schema else Bond.GONE
    if found.database_id != binding.database_id:
        return Bond.OTHER
    same_system = (
        None in (found.system_id, binding.system_id) or found.system_id == binding.system_id
    )
    return Bond.SAME if same_system and found.oid == binding.database_oid else Bond.MOVED


class Belongs(Bindable, Backlog, Protocol):
    """A buffer that knows its database, and whether anything waits for it."""


class Belonging:
    """The bond between one buffer and the database at `destination`. `on_moved` is told when it was
    bound again."""

    def __init__(
        self, buffer: Belongs, destination: str, *, on_moved: Callable[[Binding, Binding], None]
    ) -> None:
        self.destination = destination
        self.problem: WrongDatabase | None = None
        self.adopting = False
        self._buffer = buffer
        self._on_moved = on_moved

    def admit(self, found: Identity) -> None:
        """Let a new connection be used. Raises `WrongDatabase`."""
        binding = self._buffer.binding()
        waiting = (
            binding is not None and binding.database_id is None and self._buffer.depth().entries > 0
        )
        bond = judge_bond(binding, found, self.destination, waiting=waiting)
        self.problem = None
        if bond in (Bond.ELSEWHERE, Bond.OTHER, Bond.GONE) and not self.adopting:
            assert binding is not None
            self.problem = _refusal(bond, binding, self.destination)
            raise self.problem

    def claim(self, found: Identity) -> str | None:
        """Belong to this database from now on; returns its id. Raises `WrongDatabase`."""
        self.admit(found)
        binding = self._buffer.binding()
        now = Binding(self.destination, found.database_id, found.system_id, found.oid)
        if found.database_id is not None and binding != now:
            self._buffer.bind(now)
            moved = binding is not None and binding.database_id is not None
            if binding is not None and moved and binding[2:] != now[2:]:
                self._on_moved(binding, now)
        return found.database_id

    def adopt(self, found: Identity) -> Binding:
        """Belong to this database whatever was before; nothing of the buffer is expected to be in
        it."""
        now = Binding(self.destination, found.database_id, found.system_id, found.oid)
        self._buffer.bind(now, forget_marks=True)
        self.problem = None
        return now


def _refusal(bond: Bond, binding: Binding, destination: str) -> WrongDatabase:
    ways = (
        "give the address of the right database, or another SURGETANK_HOME for this one; "
        "`surgetank adopt` makes the"
        " buffer belong to this database, and saves into it what waits."
    )
    if bond is Bond.GONE:
        return WrongDatabase(
            f"The database {destination} has no Surgetank schema, and this buffer belongs to one "
            f"that has (id"
            f" {binding.database_id}). Nothing was written.",
            remedy=f"restore the database, or {ways}",
        )
    if bond is Bond.ELSEWHERE:
        return WrongDatabase(
            f"What waits in this buffer was accepted for {binding.address}, which is not "
            f"{destination}."
            " Nothing was written.",
            remedy=ways,
        )
    return WrongDatabase(
        f"The database {destination} is not the one that this buffer belongs to (id "
        f"{binding.database_id}, last at"
        f" {binding.address}). Nothing was written.",
        remedy=ways,
    )
