"""What users read when something goes wrong: what happened, what is safe, what to do. Pure."""

from __future__ import annotations

from surgetank.durations import shown
from surgetank.events.types import Incident, PublicCause
from surgetank.exceptions import EntryUnreadable
from surgetank.model import (
    LOST_TAIL,
    BufferDepth,
    Damage,
    Failure,
    FailureKind,
    Fork,
    ParkedEntry,
    PartitionOutcome,
)
from surgetank.notify.incidents import Subject, Trouble
from surgetank.streams.errors.groups import flush_reference

SAFE = "Everything is kept in the buffer"
_OF_FILES = frozenset(
    {
        "OSError",
        "PermissionError",
        "FileNotFoundError",
        "NotADirectoryError",
        "ColdStateUnavailable",  # of a flush: a bucket
    }
)


def trouble(found: Trouble) -> str:
    """Trouble as everybody may read it, the user whose thread it concerns first of all."""
    if found.parked is not None:
        return parked(found.parked)
    if found.subject is Subject.SINK:
        what, kept = "Saving", SAFE
    else:
        what = "This conversation" if found.thread_id is not None else found.label
        kept = f"{SAFE} ({found.entries} entries)" if found.entries else SAFE
    if found.failure.kind is FailureKind.FATAL:
        can = "is stopped" if found.subject is Subject.SINK else "can't be saved"
        return (
            f"{what} {can} before an operator has acted. {kept}; you can go on working."
            " Tell your operator: see `surgetank errors`."
        )
    if found.lasting:
        could = "has failed" if found.subject is Subject.SINK else "could not be saved"
        return (
            f"{what} {could} for some time: {_sink(found)} can't take it. {kept} and is saved by"
            f" itself when {_sink(found)} is back. If this lasts, tell your operator."
        )
    return (
        f"Saving is delayed: {_sink(found)} could not take it just now. {kept} and is saved by"
        " itself; you can go on working."
    )


def _sink(found: Trouble) -> str:
    return found.label if found.subject is Subject.SINK else "the database"


def for_operators(found: Trouble, now: float) -> str:
    """Trouble as the status shows it: which part, how much waits, and what to do."""
    if found.parked is not None:
        about = found.label[0].lower() + found.label[1:]
        return (
            f"One entry of {about} was refused by the database and set aside. It is kept and stays"
            f" readable; see `surgetank parked show {found.parked.id}`."
        )
    fatal = found.failure.kind is FailureKind.FATAL
    if found.subject is Subject.SINK:
        whose = f" of {found.affected} {found.unit}{'s' if found.affected != 1 else ''}"
        kept = f"{SAFE} ({found.entries} entries{whose if found.affected else ''})"
        if fatal:
            action = found.failure.remedy or "see the detail, then `surgetank flush`."
            if (found.label, found.failure.error_type) == ("the database", "ConfigurationError"):
                # not the database, but the bucket beside it
                return f"Saving is stopped: {found.failure.message} {kept}. To go on: {action}"
            return f"Saving is stopped: {found.label} refuses it. {kept}. To go on: {action}"
        if found.failure.error_type in _OF_FILES and found.failure.remedy:
            return (
                f"Saving is delayed: a file can't be written. {kept} and is saved by itself when it"
                f" can; you can go on working. To help: {found.failure.remedy}"
            )
        return (
            f"Saving is delayed: {found.label} can't be reached. {kept} and is saved by itself when"
            f" {found.label} is back; you can go on working."
        )
    if fatal:
        what = "can't be saved before an operator has acted"
        action = found.failure.remedy or "see the detail, then `surgetank flush`."
    else:
        what = "is saved later: the database could not take it just now"
        wait = max(0.0, found.next_attempt_at - now)
        action = f"The next attempt follows by itself in {wait:.0f} s."
    return f"{found.label} {what}. {SAFE} ({found.entries} entries). {action}"


def filling(depth: BufferDepth) -> str:
    """A buffer that is nearly full."""
    return f"The buffer is {depth.fullness:.0%} full; at 100 % new writes wait or fail."


DISK_FULL = (
    f"The disk that holds the buffer is full: nothing new is accepted. {SAFE} and is flushed"
    " meanwhile. Free some space on that disk, or move SURGETANK_HOME to a larger one."
)


def spilled(entries: int, locations: str) -> str:
    """Entries that lie outside the buffer."""
    return (
        f"{entries} entries lie in the fallback location {locations}. Nothing is lost: they are"
        " read from there and saved by themselves when the database takes them. Keep the location."
    )


def fallback_unusable(locations: str, *, holds_some: bool) -> str:
    """A fallback location that can't be used."""
    what = "what lies there can't be read now" if holds_some else "nothing could be spilled there"
    return f"The fallback location {locations} can't be used: {what}."


FORK_REMEDY = (
    "send all runs of a thread to one process (sticky routing), or let the processes share one "
    "buffer; then look which"
    " branch is to go on."
)


def forked(fork: Fork) -> str:
    """Two buffers on one thread."""
    return (
        f"Two buffers write to the thread {fork.thread_id!r}: {fork.buffer} put the checkpoint "
        f"{fork.checkpoint_id}"
        f" without knowing of {fork.head}, which {fork.other_buffer} had written. Both branches "
        f"are kept and listed;"
        " a run goes on from the newer one."
    )


def cause(kind: FailureKind) -> str:
    """Why something could not be saved, for everybody: nothing of what the database said."""
    return {
        FailureKind.TRANSIENT: "The database could not take it.",
        FailureKind.REJECTED: "The database refused a part of it.",
        FailureKind.FATAL: "The database is not set up to take it.",
    }[kind]


def public(failure: Failure) -> PublicCause:
    """What everybody may read of a failure."""
    reference = flush_reference(failure.kind.value, failure.error_type, failure.sqlstate)
    return PublicCause(cause(failure.kind), reference)


def quoting(message: str, failure: Failure) -> str:
    """The message with what its reader should quote."""
    return f"{message} Quote the reference {public(failure).reference}."


def parked(entry: ParkedEntry) -> str:
    """An entry that the sink refused, or that was damaged in the buffer."""
    if entry.failure.error_type == EntryUnreadable.__name__:
        return (
            "A part of what was to be saved is damaged on the disk that holds the buffer, and was "
            "set aside; everything"
            f" else is saved. Tell your operator: `surgetank parked show {entry.id}` says what is "
            f"affected."
        )
    return (
        "One entry was refused by the database and set aside; everything else is saved. It is kept "
        "and stays readable."
        f" Tell your operator: `surgetank parked show {entry.id}` says why."
    )


def damaged(damage: Damage) -> str:
    """Something accepted that the buffer can't give back."""
    if not damage.partition:
        if damage.what.startswith(LOST_TAIL):
            return f"What was accepted last is lost: {damage.what}."
        return f"The buffer's file is damaged: {damage.what}."
    return f"The buffer's file is damaged, and a part of {damage.stream}/{damage.partition} is lost: {damage.what}."


def replaced(outcome: PartitionOutcome) -> str:
    """Values that a JSON projection can't carry."""
    n = outcome.values_replaced
    some = "; ".join(f"{r.path}: {r.reason}" for r in outcome.replaced[:3])
    return (
        f"{n} value{'s' if n != 1 else ''} can't stand in JSON and {'were' if n != 1 else 'was'} "
        f"replaced in the"
        f" projection for SQL ({some}{' ...' if n > 3 else ''}). The saved state itself keeps them "
        f"as they are."
    )


def buffer_lost(what: str) -> str:
    """The server of the buffer does not answer."""
    return f"{what} Nothing is accepted until it is back; everything goes on by itself then."


BUFFER_AWAY = (
    "The buffer does not answer. Nothing new is accepted, and what waits or fails is not known until it is back. "
    "What was accepted before stays there."
)


def buffer_back(lasted_s: float) -> str:
    """The server of the buffer answers again."""
    return f"The buffer answers again (after {shown(lasted_s)}). Everything goes on."


def recovered(incident: Incident, label: str, lasted_s: float) -> str:
    """The end of an incident."""
    caught_up = incident.thread_id is not None or incident.is_of_sink
    what = "Saving has caught up" if caught_up else f"{label} is saved again"
    return f"{what}: everything that waited is in the database (after {shown(lasted_s)})."


def parked_over(lasted_s: float) -> str:
    """The end of an entry that was set aside: it was put back, or somebody discarded it."""
    return f"Nothing of this is set aside any more (after {shown(lasted_s)})."
