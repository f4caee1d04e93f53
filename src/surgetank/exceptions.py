"""The one family of errors. Each says what happened, to which data, and the way out.

Catch `SurgetankError` to catch them all. `remedy` is a sentence for the person who has to act; it
is part of `str(error)`, so that a traceback in a terminal already tells what to do. Each class says
what the server answers (`http_status`, `problem`) and how a command ends (`exit_code`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol


class SurgetankError(Exception):
    """Base of every error that Surgetank raises on purpose.

    Parameters: `what` happened (one sentence, without the remedy) and the `remedy` (one sentence).

    As class data: `http_status` and `problem` (the stable code in the answer) of the HTTP server,
    the `exit_code` of the command line, and `public_message`, which people without technical rights
    read in place of `what` when that may name addresses or paths (empty: they read `what`).
    """

    http_status: ClassVar[int] = 500
    problem: ClassVar[str] = "internal-error"
    exit_code: ClassVar[int] = 1
    public_message: ClassVar[str] = ""

    def __init__(self, what: str, *, remedy: str = "") -> None:
        super().__init__(f"{what} Way out: {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy


class ConfigurationError(SurgetankError):
    """A setting, or what the settings name, can't be used as given."""

    http_status = 503
    problem = "misconfigured"
    exit_code = 2
    public_message = (
        "The server's settings do not allow this. What was accepted is safe in the buffer."
    )


class InvalidRequest(SurgetankError, ValueError):
    """An argument of a call or a command can't be used as given."""

    http_status = 422
    problem = "invalid-request"
    exit_code = 2


class UnknownName(InvalidRequest):
    """A level, a severity, a stream, a graph or an action that there is not."""


class EngineClosed(SurgetankError):
    """The engine was closed, and is not opened again behind its owner's back."""

    http_status = 503
    problem = "closed"


class MissingExtra(ConfigurationError):
    """An optional dependency is needed and not installed."""

    http_status = 501
    problem = "not-installed"
    public_message = ""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed.",
            remedy=f"pip install 'surgetank[{extra}]'",
        )
        self.extra = extra


class GraphNotLoaded(ConfigurationError):
    """A graph that `langgraph.json` names can't be loaded, or what it names is no graph.

    `graph` is its name, `why` the cause. `frames` are the last calls of the project's own code,
    outermost first, where that failed.
    """

    exit_code = 1
    public_message = "This graph can't be run just now: the server could not load it."

    def __init__(self, graph: str, why: str, *, remedy: str, frames: Sequence[str] = ()) -> None:
        at = f" At {', then '.join(frames)}." if frames else ""
        super().__init__(f"The graph {graph!r} can't be loaded: {why}.{at}", remedy=remedy)
        self.graph = graph
        self.why = why
        self.frames = tuple(frames)


class EntryRejected(SurgetankError):
    """One value or one entry that can't be stored as it is; nothing of it was accepted.

    `partition` is the thread (or user) it belongs to, `path` the place of the value inside the data
    (`$.channel_values.messages[3]`), `seq` the entry's number in the buffer when it already had
    one.
    """

    http_status = 422
    problem = "refused"

    def __init__(
        self, *, partition: str, path: str, reason: str, remedy: str = "", seq: int | None = None
    ) -> None:
        entry = f" entry {seq}" if seq is not None else ""
        # Names of the user's stand in it, and an error that can't be printed tells nobody anything.
        path = path[:500].encode(errors="backslashreplace").decode()
        super().__init__(f"Refused {path} of {partition!r}{entry}: {reason}.", remedy=remedy)
        self.partition = partition
        self.path = path
        self.reason = reason
        self.seq = seq


class BufferProblem(SurgetankError):
    """Base of the errors of the hot buffer."""

    http_status = 503
    problem = "buffer-unavailable"
    public_message = "The buffer can't be used just now. What was accepted before is safe."


class BufferFull(BufferProblem):
    """The buffer is at its limit of bytes or entries; the append was not accepted."""


class BufferUnavailable(BufferProblem):
    """The buffer can't be read or written (unwritable folder, full disk, I/O error); nothing was
    accepted."""


class BufferCorrupt(BufferProblem):
    """The buffer file is damaged, or is not a Surgetank buffer. It is left as it is.

    Where one entry is concerned, `partition`, `seq` and `key` say which; all others can be used.
    """

    def __init__(
        self, what: str, *, remedy: str = "", partition: str | None = None,
        seq: int | None = None, key: bytes | None = None,
    ) -> None:  # fmt: skip
        super().__init__(what, remedy=remedy)
        self.partition = partition
        self.seq = seq
        self.key = key


class FallbackUnavailable(BufferUnavailable):
    """The fallback location can't be reached or written. What was spilled there is not lost, but
    can't be read now."""


class FallbackDamaged(BufferCorrupt):
    """A spilled file is damaged or missing. It is left as it is; other files are not concerned."""


class EntryUnreadable(BufferProblem):
    """The next entry of a partition is damaged, or lies in the fallback location and can't be read;
    those before can.

    `damaged`: it will not get better by waiting. `malformed`: not even its place in the file makes
    sense.
    """

    def __init__(self, partition: str, seq: int, error: BufferProblem) -> None:
        super().__init__(
            f"Entry {seq} of {partition!r} can't be read: {error.what}", remedy=error.remedy
        )
        self.partition = partition
        self.seq = seq
        self.damaged = isinstance(error, BufferCorrupt)
        self.malformed = isinstance(error, BufferCorrupt) and error.partition is None


class LeaseLost(BufferProblem):
    """Another worker holds the partition now; this one may no longer acknowledge or postpone it.

    `seen`: the newer tokens of partitions, when it was the sink that refused.
    """

    def __init__(
        self, what: str, *, remedy: str = "", seen: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(what, remedy=remedy)
        self.seen = dict(seen or {})


class SinkError(SurgetankError):
    """Base of the errors of a durable store."""


class DatabaseUnavailable(SinkError):
    """PostgreSQL can't be reached. What was accepted is safe in the buffer."""

    http_status = 503
    problem = "database-unavailable"
    public_message = (
        "The database can't be reached, and this needs it. What was accepted is safe in the buffer."
    )


class DatabaseRefused(DatabaseUnavailable):
    """PostgreSQL answers, and will not be used like this (wrong password, a missing database,
    schema or right).

    For whoever wants to read or write it is an outage like any other; it ends when an operator has
    acted.
    """

    exit_code = 2


class WrongDatabase(DatabaseRefused):
    """The database is not the one that the buffer belongs to, or its schema is gone. Nothing is
    written into it."""


class SchemaTooNew(DatabaseRefused):
    """The database was migrated by a newer Surgetank, which this one can't work beside."""


class ColdStateUnavailable(SinkError):
    """A read needs data that is only in the database, and the database can't be reached."""

    http_status = 503
    problem = "database-unavailable"


class StateCorrupt(SinkError):
    """Stored state can't be put together again (a value that is missing, a failed checksum, a class
    that is gone).

    `thread_id` is the thread and `channel` the channel of its state, where they are known; nothing
    is returned in place of what is damaged.
    """

    def __init__(
        self, what: str, *, remedy: str = "", thread_id: str | None = None,
        channel: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(what, remedy=remedy)
        self.thread_id = thread_id
        self.channel = channel

    def of(self, thread_id: str, channel: str | None = None) -> StateCorrupt:
        """The same error with the thread (and channel) that it is about, for whoever knows them."""
        where = f"Thread {thread_id!r}" + (f", channel {channel!r}" if channel is not None else "")
        return type(self)(
            f"{where}: {self.what}", remedy=self.remedy, thread_id=thread_id, channel=channel
        )


class Reason(Protocol):
    """What `NotSaved` says of a failure; `surgetank.model.Failure` is one."""

    @property
    def message(self) -> str:
        """What happened."""
        ...

    @property
    def error_type(self) -> str:
        """The class of the exception."""
        ...

    @property
    def sqlstate(self) -> str | None:
        """PostgreSQL's code, if it was PostgreSQL that refused."""
        ...


class NotSaved(SinkError):
    """What was accepted of a thread is not in the database, or not all of it. None of it is lost.

    `waiting` entries have not been flushed yet; `parked` are the ids of those that the database
    refused. `failure` is why (a `surgetank.model.Failure`, or None where nobody tried yet), `since`
    when that began, in seconds since the epoch.
    """

    def __init__(
        self,
        what: str,
        *,
        thread_id: str,
        waiting: int = 0,
        parked: tuple[int, ...] = (),
        failure: Reason | None = None,
        since: float | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(what, remedy=remedy)
        self.thread_id = thread_id
        self.waiting = waiting
        self.parked = parked
        self.failure = failure
        self.since = since


class NotFound(SurgetankError):
    """What was named does not exist."""

    http_status = 404
    problem = "not-found"
    exit_code = 2


class ThreadNotFound(NotFound):
    """Nothing is known of a thread, neither in the buffer nor in the database."""


class JobNotFound(NotFound):
    """No flush job has this id."""


class ParkedNotFound(NotFound):
    """No parked entry has this id."""


class ErrorNotFound(NotFound):
    """No system error has this id."""


class Conflict(SurgetankError):
    """What was named exists, and is not in a state that allows the action."""

    http_status = 409
    problem = "conflict"


class JobNotRetryable(Conflict):
    """A job that no flush can repeat: a retention job, or one of a stream that this version doesn't
    have."""

    exit_code = 2


class InvalidTransition(Conflict):
    """A run or a workflow can't take this step from where it stands."""

    def __init__(self, what: str, before: str, after: str, allowed: Sequence[str]) -> None:
        ways = (
            f"from {before} it can become {' or '.join(allowed)}"
            if allowed
            else (f"{before} is an end")
        )
        super().__init__(
            f"{what} is {before} and can't become {after}: {ways}.",
            remedy="look at its state, which may have changed meanwhile.",
        )


class RunNotFound(NotFound):
    """No run has this id."""


class GraphChanged(Conflict):
    """The nodes that a thread waits for are not in its graph any more."""


class ThreadBusy(Conflict):
    """A thread has a run that is not over, and the new one was not to wait for it."""


class WorkflowNotFound(NotFound):
    """There is no such workflow."""


class CheckpointNotFound(NotFound):
    """There is no such question to people."""


class CheckpointAnswered(Conflict):
    """A question to people was decided, has expired, or needs somebody else."""


class DecisionRefused(InvalidRequest):
    """A decision that the interrupt does not allow. Nothing was written."""

    problem = "decision-refused"


class QuotaExceeded(SurgetankError):
    """A user, or all users together, have as many runs as they may."""

    http_status = 429
    problem = "quota-exceeded"


class WebhookRefused(InvalidRequest):
    """A webhook's URL can't be used, or leads where none may be sent."""


class WebhookNotFound(NotFound):
    """No delivery of a webhook has this id."""


class WebhookDelivered(Conflict):
    """A webhook was delivered already, and is not sent again."""


class NamespaceForbidden(SurgetankError):
    """A namespace of the store that is another user's."""

    http_status = 403
    problem = "namespace-forbidden"


class VectorSearchUnavailable(ConfigurationError):
    """A search by meaning where the database has no pgvector. All else of the store works."""

    http_status = 501
    problem = "no-vector-search"
    public_message = ""


class ErrorStateConflict(Conflict):
    """A system error is not in the state that the action needs (already resolved, not resolved)."""


class BrokenRow(SurgetankError):
    """A checkpoint that can't be moved: its row is damaged, or the other side can't hold it.

    `place` is thread, namespace and checkpoint id.
    """

    def __init__(self, checkpoint: tuple[str, str, str], reason: str, *, remedy: str = "") -> None:
        thread_id, ns, checkpoint_id = checkpoint
        within = f" in {ns!r}" if ns else ""
        super().__init__(
            f"Checkpoint {checkpoint_id} of {thread_id!r}{within}: {reason}.", remedy=remedy
        )
        self.checkpoint = checkpoint
        self.reason = reason


class TransferStopped(SurgetankError):
    """An import or export stopped at something that can't be moved. Started again, it goes on from
    there."""


class TokenNotFound(NotFound):
    """No token of the server has this id."""
