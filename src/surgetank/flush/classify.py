"""What a failure means: try again, isolate the data, or wait for an operator. Pure.

The kinds are those of `FailureKind`. PostgreSQL's errors are told apart by SQLSTATE class
(PostgreSQL manual, appendix A); everything else by type. What nobody foresaw counts as rejected:
the entry that provokes it is isolated and parked with its stack trace, and its neighbours go
through.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from surgetank.exceptions import (
    BufferProblem,
    ColdStateUnavailable,
    ConfigurationError,
    DatabaseRefused,
    DatabaseUnavailable,
    EntryRejected,
    EntryUnreadable,
    SinkError,
    StateCorrupt,
    SurgetankError,
)
from surgetank.flush.sqlstates import Scope, meaning_of
from surgetank.job_result import JobError, JobResult, PartitionResult, ReplacedValue
from surgetank.model import Failure, FailureKind, JobStatus, PartitionOutcome

_OF_ONE_PARTITION = {
    "LeaseLost",
    "StillWaiting",
    "StateCorrupt",
    "EntryUnreadable",
    "MemoryError",
    "SinkError",
}
_REPLACEMENTS_SHOWN = 50
_MESSAGES_SHOWN = 50
_PARTITIONS_SHOWN = 50
_ALIKE_SHOWN = 3  # partitions that failed alike and are named


def classify(error: BaseException) -> Failure:
    """The failure that `error` is, with its stack trace, SQLSTATE and remedy."""
    sqlstate = _sqlstate(error)
    return Failure(
        kind=_kind(error, sqlstate),
        message=_one_line(error),
        error_type=type(error).__name__,
        sqlstate=sqlstate,
        remedy=error.remedy if isinstance(error, SurgetankError) else _remedy(error, sqlstate),
        stack_trace="".join(traceback.format_exception(error))[-20_000:],
    )


def scope_of(error: BaseException) -> Scope:
    """Whom a failure is about, as far as the error can tell."""
    if isinstance(error, EntryRejected):
        return Scope.ENTRY
    if isinstance(error, (StateCorrupt, EntryUnreadable, MemoryError)):
        return Scope.PARTITION  # one thread's data, or its size
    if isinstance(error, (DatabaseUnavailable, BufferProblem, ConfigurationError)):
        return Scope.SINK
    sqlstate = _sqlstate(error)
    if sqlstate is not None:
        return meaning_of(sqlstate).scope
    if isinstance(error, SinkError) and not isinstance(error, ColdStateUnavailable):
        return Scope.PARTITION
    return Scope.ENTRY if _kind(error, None) is FailureKind.REJECTED else Scope.SINK


def is_of_the_sink(failure: Failure) -> bool:
    """Whether a recorded failure is about the sink as a whole."""
    if failure.sqlstate is not None:
        fatal = failure.kind is FailureKind.FATAL
        return meaning_of(failure.sqlstate).scope in (
            (Scope.SINK, Scope.UNCLEAR) if fatal else (Scope.SINK,)
        )
    return failure.kind is not FailureKind.REJECTED and failure.error_type not in _OF_ONE_PARTITION


def refused_everything(refused: Failure, trial: Failure) -> Failure:
    """The failure of a sink that took nothing: `refused` is what it said of the data, `trial` what
    it said when it was tried without any. It is never the data's.
    """
    said = (
        trial
        if trial.sqlstate is None or meaning_of(trial.sqlstate).scope is Scope.SINK
        else refused
    )
    if said.kind is not FailureKind.REJECTED:
        return said
    remedy = "the database refuses every row: look for the trigger, constraint or limit that the message names, then"
    return replace(said, kind=FailureKind.FATAL, remedy=f"{remedy} `surgetank flush`.")


def _sqlstate(error: BaseException) -> str | None:
    seen: BaseException | None = error
    while seen is not None:
        state = getattr(seen, "sqlstate", None)
        if isinstance(state, str):
            return state
        seen = seen.__cause__
    return None


def _kind(error: BaseException, sqlstate: str | None) -> FailureKind:
    if isinstance(error, EntryRejected):
        return FailureKind.REJECTED
    if isinstance(error, (ConfigurationError, DatabaseRefused)):
        return FailureKind.FATAL
    if isinstance(error, (DatabaseUnavailable, BufferProblem)):
        return FailureKind.TRANSIENT
    if sqlstate is not None:
        return meaning_of(sqlstate).kind
    # OSError: connection, timeout, full disk
    if isinstance(error, (OSError, MemoryError, SinkError)):
        return FailureKind.TRANSIENT
    drivers = {c.__name__ for c in type(error).__mro__ if c.__module__.startswith("psycopg")}
    if drivers & {"OperationalError", "InterfaceError", "PoolTimeout", "PoolClosed"}:
        return FailureKind.TRANSIENT
    return FailureKind.REJECTED


def _remedy(error: BaseException, sqlstate: str | None) -> str:
    if sqlstate is None:
        if isinstance(error, OSError) and error.filename is not None:
            return "free space there, or make it writable; it is tried again by itself."
        return ""
    if sqlstate == "42501":
        return (
            "grant the database user the right that the message names, then `surgetank jobs retry`."
        )
    if sqlstate.startswith("42"):
        return "run `surgetank migrate`; the message names what is missing."
    if sqlstate == "53100":
        return "free space on the database's disk; the flush is tried again by itself."
    if sqlstate == "53300":
        return "raise max_connections or put PgBouncer before the database; it is tried again by itself."
    if sqlstate == "57014":
        return "look for locks and load (pg_stat_activity), or raise SURGETANK_STATEMENT_TIMEOUT."
    return ""


def _one_line(error: BaseException) -> str:
    text = error.what if isinstance(error, SurgetankError) else str(error)
    return " ".join(text.split())[:2000] or type(error).__name__


def combine(outcomes: Sequence[PartitionOutcome]) -> tuple[JobStatus, JobResult]:
    """A job's status and result from what became of its partitions.

    No partition failed: completed. Some failed or entries were parked: completed, with one warning
    per partition. Every partition that had data failed, or nothing was saved and something was
    parked: failed.
    """
    failed = [o for o in outcomes if o.failure is not None]
    troubled = [o for o in outcomes if o.failure is not None or o.parked]
    messages = _shorten(_messages(troubled))
    saved_nothing = bool(troubled) and not any(o.entries for o in outcomes)
    all_failed = bool(outcomes) and len(failed) == len(outcomes)
    status = JobStatus.FAILED if all_failed or saved_nothing else JobStatus.COMPLETED
    replaced = [r for o in outcomes for r in o.replaced][:_REPLACEMENTS_SHOWN]
    errors = _errors(troubled)
    result = JobResult(
        entries_flushed=sum(o.entries for o in outcomes),
        rows_flushed=sum(o.rows for o in outcomes),
        bytes=sum(o.bytes for o in outcomes),
        partitions_processed=len(outcomes),
        partitions_failed=len(failed),
        entries_parked=sum(o.parked for o in outcomes),
        entries_skipped=sum(o.skipped for o in outcomes),
        notes=_shorten(note for o in outcomes for note in _notes(o)),
        values_replaced=sum(o.values_replaced for o in outcomes),
        replacements=tuple(
            ReplacedValue(path=r.path, reason=r.reason, original=r.original) for r in replaced
        ),
        errors=tuple(errors),
        partitions=tuple(_partitions(outcomes)),
        warnings=messages if status is JobStatus.COMPLETED else (),
        message="; ".join(messages) if status is JobStatus.FAILED else None,
    )
    return status, result


def _partitions(outcomes: Sequence[PartitionOutcome]) -> Iterable[PartitionResult]:
    """The first ones, those with trouble before the others."""
    for o in sorted(outcomes, key=lambda o: o.failure is None and not o.parked)[:_PARTITIONS_SHOWN]:
        yield PartitionResult(
            partition=o.partition, entries=o.entries, rows=o.rows, bytes=o.bytes, parked=o.parked,
            failed=o.failure is not None,
        )  # fmt: skip


def _messages(outcomes: Sequence[PartitionOutcome]) -> Iterable[str]:
    """One for each partition with trouble; many that failed alike have one together."""
    alike: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome.failure is not None:
            said = f"{outcome.failure.kind.value}: {outcome.failure.message}"
            alike.setdefault((outcome.stream, said), []).append(outcome.partition)
    for outcome in outcomes:
        name = f"{outcome.stream}/{outcome.partition}"
        if outcome.parked:
            reasons = dict.fromkeys(p.failure.message for p in outcome.parked_entries[:5])
            noun = "entry was" if outcome.parked == 1 else "entries were"
            yield f"{name}: {outcome.parked} {noun} parked: {'; '.join(reasons)}"
        if outcome.failure is None:
            continue
        said = f"{outcome.failure.kind.value}: {outcome.failure.message}"
        names = alike.get((outcome.stream, said), [])
        if 0 < len(names) <= _ALIKE_SHOWN:
            yield f"{name}: {said}"
        elif names:
            some = ", ".join(names[:_ALIKE_SHOWN])
            more = f"{some} and {len(names) - _ALIKE_SHOWN} more"
            yield f"{outcome.stream}: {len(names)} partitions ({more}): {said}"
            names.clear()


def _notes(outcome: PartitionOutcome) -> Iterable[str]:
    """What is no trouble, but must not go without a word: entries that left the buffer and wrote
    nothing."""
    name = f"{outcome.stream}/{outcome.partition}"
    if outcome.skipped:
        yield f"{name}: {outcome.skipped} entries were in the database already; an interrupted flush had written them"
    elif outcome.entries and not outcome.rows:
        yield (
            f"{name}: {outcome.entries} entries wrote no rows: what they belong to was deleted, or "
            f"was there already"
        )


def _errors(outcomes: Sequence[PartitionOutcome]) -> list[JobError]:
    """The first ones. A stack trace that many have is given a few times."""
    failed = [o for o in outcomes if o.failure is not None][:_MESSAGES_SHOWN]
    seen: Counter[str] = Counter()
    errors = []
    for outcome in failed:
        assert outcome.failure is not None
        error = _error(outcome, outcome.failure)
        seen[error["stack_trace"]] += 1
        if seen[error["stack_trace"]] > _ALIKE_SHOWN:
            error["stack_trace"] = ""
        errors.append(error)
    return errors


def _error(outcome: PartitionOutcome, failure: Failure) -> JobError:
    return JobError(
        stream=outcome.stream,
        partition=outcome.partition,
        kind=failure.kind.value,
        error_type=failure.error_type,
        sqlstate=failure.sqlstate,
        message=failure.message,
        remedy=failure.remedy,
        stack_trace=failure.stack_trace,
        attempts=outcome.attempts,
        next_attempt_at=outcome.next_attempt_at,
    )


def _shorten(messages: Iterable[str]) -> tuple[str, ...]:
    everything = tuple(messages)
    if len(everything) <= _MESSAGES_SHOWN:
        return everything
    return (*everything[:_MESSAGES_SHOWN], f"... and {len(everything) - _MESSAGES_SHOWN} more")
