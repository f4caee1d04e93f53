"""What users read when something goes wrong: what happened, what is safe, what to do. Pure."""

from __future__ import annotations

from surgetank.events.types import Incident, PublicCause
from surgetank.exceptions import EntryUnreadable
from surgetank.model import (
    Damage,
    Failure,
    FailureKind,
    Fork,
    ParkedEntry,
    PartitionOutcome,
    PartitionState,
)
from surgetank.streams.errors.groups import flush_reference

SAFE = "Everything is kept in the buffer"


def trouble(
    thread: str | None, label: str, failure: Failure, state: PartitionState | None, *, lasting: bool
) -> str:
    """A partition that can't be flushed."""
    what = "This conversation" if thread is not None else label
    waiting = f" ({state.entries} entries)" if state is not None and state.entries else ""
    if failure.kind is FailureKind.FATAL:
        return (
            f"{what} can't be saved before an operator has acted. {SAFE}{waiting}; you can go on "
            f"working."
            " Tell your operator: see `surgetank errors`."
        )
    if lasting:
        return (
            f"{what} could not be saved for some time: the database can't take it. {SAFE}{waiting} "
            f"and is saved by"
            " itself when the database is back. If this lasts, tell your operator."
        )
    return (
        f"Saving is delayed: the database could not take it just now. {SAFE}{waiting} and is saved "
        f"by itself; you can"
        " go on working."
    )


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


def recovered(incident: Incident, label: str, lasted_s: float) -> str:
    """The end of an incident."""
    what = "Saving has caught up" if incident.thread_id is not None else f"{label} is saved again"
    return f"{what}: everything that waited is in the database (after {_span(lasted_s)})."


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
