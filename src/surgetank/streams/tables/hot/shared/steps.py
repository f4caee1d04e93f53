"""Doing the steps of the log: each is a call of one of the store's parts, named in
`Steps.KINDS`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ormsgpack

from surgetank.exceptions import BufferUnavailable, LeaseLost, SurgetankError
from surgetank.streams.tables.hot.flushing import Flushing
from surgetank.streams.tables.hot.leases import Leases
from surgetank.streams.tables.hot.parking import Parking
from surgetank.streams.tables.hot.putting import KeyTaken, Putting
from surgetank.streams.tables.hot.shared import forms
from surgetank.streams.tables.hot.shared.log import Entry
from surgetank.streams.tables.hot.shared.replica import ReplicaFile
from surgetank.streams.tables.hot.upkeep import Rewritten, Upkeep
from surgetank.telemetry import log

_NOT_OURS = ("no such table", "no such column", "has no column named")


@dataclass(frozen=True, slots=True)
class Body:
    """What a step says: a kind and what it is given, when and by which replica it was asked for,
    and the chance of all that is drawn."""

    kind: str
    given: Sequence[Any]
    at: float
    seed: int
    replica: str

    def packed(self) -> bytes:
        """As the log has it."""
        return ormsgpack.packb([self.kind, self.given, self.at, self.seed, self.replica])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step gave back, or what it was refused for."""

    result: Any = None
    refusal: Sequence[Any] | None = None


class Steps:
    """The parts of one replica's store, and the steps that are calls of them."""

    def __init__(self, file: ReplicaFile) -> None:
        self._file = file
        self._putting, self.leases, self.flushing = Putting(file), Leases(file), Flushing(file)
        self.parking, self.upkeep = Parking(file), Upkeep(file)
        self._kinds: dict[str, Callable[..., Any]] = {
            "define": file.define,
            "put": self._put,
            "segment": self._segment,
            "lease": self._lease,
            "renew": lambda lease, ttl_s: self.leases.renew(forms.lease_of(lease), ttl_s=ttl_s),
            "release": lambda lease: self.leases.release(forms.lease_of(lease)),
            "fail": lambda lease, held: self.leases.fail(
                forms.lease_of(lease), forms.held_of(held)
            ),
            "retry": self._retry,
            "ack": self._ack,
            "unpark": self.parking.unpark,
            "discard": self.parking.discard_parked,
            "forget": self.upkeep.forget_table,
            "erase": self._erase,
            "expire": self.upkeep.expire,
            "pass": lambda: None,
        }

    def do(self, connection: sqlite3.Connection, entry: Entry) -> tuple[Body | None, Outcome]:
        """Do one step: all of it, or nothing where it is refused; that is the same on every
        replica. What is raised has to do with this machine: the step is to be done again later."""
        try:
            body = Body(*ormsgpack.unpackb(entry.body))
            do = self._kinds[body.kind]
        except (ValueError, TypeError, KeyError):
            if entry.body:
                log.error(
                    "table_step_unknown", number=entry.n, remedy="bring all hosts to one version"
                )
                raise BufferUnavailable(
                    f"The step {entry.n} of the hot rows of tables is of another version of Surgetank.",
                    remedy="bring all hosts to the newest version.",
                ) from None
            return None, Outcome()
        try:
            with self._file.step(connection, at=body.at, seed=body.seed, run=entry.run):
                return body, Outcome(do(*body.given))
        except (KeyTaken, LeaseLost) as error:
            return body, Outcome(refusal=forms.kept_refusal(error))
        except SurgetankError as error:
            if error.http_status >= 500:
                raise
            return body, Outcome(refusal=forms.kept_refusal(error))
        except sqlite3.IntegrityError as error:
            return body, _impossible(entry, error)
        except sqlite3.Error as error:
            if not any(words in str(error) for words in _NOT_OURS):
                raise
            return body, _impossible(entry, error)
        except (ValueError, TypeError, LookupError) as error:
            return body, _impossible(entry, error)

    def _put(self, number: int, rows: Sequence[Any], unless: Sequence[Any]) -> list[Any]:
        accepted = self._putting.put(
            self._file.there(number), forms.rows_of(rows), forms.unless_of(unless)
        )
        return forms.kept_accepted(accepted)

    def _segment(self, number: int, stored: Sequence[Any], unless: Sequence[Any]) -> list[Any]:
        accepted = self._putting.put_segment(
            self._file.there(number), forms.segment_of(stored), forms.unless_of(unless)
        )
        return forms.kept_accepted(accepted)

    def _lease(self, number: int, owner: str, ttl_s: float, force: bool) -> list[Any] | None:
        table = self._file.there(number).table
        lease = self.leases.lease(table, owner=owner, ttl_s=ttl_s, force=force)
        return None if lease is None else forms.kept_lease(lease)

    def _retry(self, number: int | None) -> int:
        table = None if number is None else self._file.there(number).table
        return self.leases.retry_now(table)

    def _ack(
        self, lease: Sequence[Any], through: int, held: dict[str, Any], refused: Sequence[Any]
    ) -> list[Any]:
        acked = self.flushing.ack(
            forms.lease_of(lease),
            through,
            held=forms.helds_of(held),
            refused=forms.refused_of(refused),
        )
        return forms.kept_acked(acked)

    def _erase(self, user: str, rewritten: dict[str, Any]) -> list[Any] | None:
        known = {
            name: None if kept is None else Rewritten(kept[0], kept[1])
            for name, kept in rewritten.items()
        }
        with self._file.write() as writer:
            if any(name not in known for name in self.upkeep.files_with(writer, user)):
                return None  # a segment was accepted meanwhile
        erased = self.upkeep.erase_rows(user, lambda _, segment: known[segment.file])
        with self._file.write() as writer:
            writer.execute("UPDATE hot_replica SET scrubs = 1")
        return [erased]


def _impossible(entry: Entry, error: Exception) -> Outcome:
    log.error(
        "table_step_impossible", number=entry.n, error=f"{type(error).__name__}: {error}"[:300]
    )
    return Outcome(refusal=forms.kept_refusal(error))
