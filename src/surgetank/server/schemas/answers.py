"""The shapes of answers and requests, as OpenAPI tells them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from surgetank.server.access.roles import Role

_THREAD = {
    "thread_id": "chat-7", "owner": "ada", "checkpoint_id": "1f0c5e1a-7c1e-6b50-8004-5a1b2c3d4e5f",
    "updated_at": 1795230000.0, "waiting": True,
}  # fmt: skip
_HEAD = {
    "checkpoint_id": "1f0c5e1a-7c1e-6b50-8004-5a1b2c3d4e5f",
    "checkpoint_ns": "",
    "parent_checkpoint_id": "1f0c5e1a-7c1e-6b50-8003-5a1b2c3d4e5f",
    "created_at": "2026-11-21T09:00:00+00:00",
    "metadata": {"source": "loop", "step": 4, "user_id": "ada"},
    "channels": ["messages", "score"],
}
_JOB: dict[str, Any] = {
    "id": "3f0e9a7d6c5b4a39",
    "stream": "checkpoints",
    "trigger": "manual",
    "status": "completed",
    "partition": None,
    "created_at": 1795230000.0,
    "started_at": 1795230000.0,
    "finished_at": 1795230000.2,
    "attempts": 1,
    "node": "web-1:4711",
    "retry_of": None,
    "warnings": [],
    "result": {
        "entries_flushed": 5,
        "rows_flushed": 15,
        "partitions_processed": 1,
        "partitions_failed": 0,
    },
}
_TOKEN = {
    "id": "9c1f0e2d3b4a",
    "user": "ada",
    "role": "user",
    "label": "laptop",
    "created_at": 1795230000.0,
    "created_by": "admin",
    "expires_at": 1797822000.0,
    "revoked_at": None,
    "revoked_by": None,
    "last_used_at": None,
}
_ME = {"user": "ada", "role": "user", "token_id": "9c1f0e2d3b4a"}
_PARKED = {
    "id": 1,
    "stream": "checkpoints",
    "partition": "chat-7",
    "seq": 41,
    "bytes": 2048,
    "accepted_at": 1795230000.0,
    "parked_at": 1795230001.0,
    "retries": 0,
    "failure": {
        "kind": "rejected",
        "message": "a check constraint refuses it",
        "error_type": "CheckViolation",
        "sqlstate": "23514",
        "remedy": "",
    },
}


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Page(BaseModel):
    """A part of a list."""

    next: str | None = Field(
        None, description="Pass it as `after` for the next page; null at the end."
    )


class Thread(BaseModel):
    """A thread."""

    thread_id: str
    owner: str | None = Field(description="The `user_id` that its first checkpoint names.")
    checkpoint_id: str = Field(description="Its newest checkpoint.")
    updated_at: float | None = Field(description="Seconds since the epoch.")
    waiting: bool = Field(description="Whether something of it is not in the database yet.")


class Threads(Page):
    """Threads, those with the newest checkpoint first."""

    model_config = _example(threads=[_THREAD], complete=True, next=None)

    threads: list[Thread]
    complete: bool = Field(
        description="False while the database is down: then only what waits in the buffer is "
        "listed."
    )


class Checkpoint(BaseModel):
    """A checkpoint without its values."""

    checkpoint_id: str
    checkpoint_ns: str
    parent_checkpoint_id: str | None
    created_at: str
    metadata: Any
    channels: list[str] = Field(description="The channels that have a value.")


class PendingWrite(BaseModel):
    """What a task wrote on top of the checkpoint."""

    task_id: str
    channel: str
    value: Any


class Job(BaseModel):
    """A flush job. Its `result` holds counts, warnings and, asked for one job, errors with stack
    traces."""

    model_config = _example(**_JOB)

    id: str
    stream: str
    trigger: str
    status: str
    partition: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    attempts: int
    node: str
    retry_of: str | None
    warnings: list[str]
    result: dict[str, Any]


class Jobs(Page):
    """Flush jobs, newest first."""

    model_config = _example(jobs=[_JOB], next=None)

    jobs: list[Job]


class FailureBody(BaseModel):
    """Why something failed."""

    kind: str
    message: str
    error_type: str
    sqlstate: str | None
    remedy: str
    stack_trace: str | None = None


class Parked(BaseModel):
    """An entry that the database refused. It is kept, and stays readable by the application."""

    model_config = _example(**_PARKED)

    id: int
    stream: str
    partition: str
    seq: int
    bytes: int
    accepted_at: float
    parked_at: float
    retries: int
    failure: FailureBody


class ParkedList(Page):
    """Parked entries, oldest first."""

    model_config = _example(parked=[_PARKED], next=None)

    parked: list[Parked]


class ParkedRecord(BaseModel):
    """One record of a parked entry, without its value."""

    key: str
    bytes: int


class ParkedDetail(Parked):
    """A parked entry with its records and the stack trace."""

    model_config = _example(**_PARKED, records=[{"key": "c chat-7", "bytes": 2000}])

    records: list[ParkedRecord]


class Picture(BaseModel):
    """The state of saving: what `surgetank status --json` prints, in full."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "at": 1795230000.0,
                    "healthy": True,
                    "lag_s": 0.4,
                    "flushing": True,
                    "parked": 0,
                    "durability": "process",
                    "buffer": {
                        "entries": 5,
                        "bytes": 9120,
                        "max_entries": 5000000,
                        "max_bytes": 4294967296,
                    },
                    "sinks": [{"stream": "checkpoints", "breaker": "closed"}],
                    "failing": [],
                    "notices": [],
                    "problems": [],
                }
            ]
        },
    )

    at: float
    healthy: bool
    lag_s: float = Field(description="Age of the oldest entry that waits, in seconds.")
    flushing: bool = Field(description="Whether this server flushes; otherwise workers do.")
    parked: int
    durability: str
    buffer: dict[str, Any] = Field(
        description="Entries and bytes that wait, by stream, against the limits."
    )
    sinks: list[dict[str, Any]]
    failing: list[dict[str, Any]] = Field(description="Partitions whose last flush failed.")
    notices: list[dict[str, Any]] = Field(description="What users should be told.")
    problems: list[str]


class FlushRequest(BaseModel):
    """What to flush; nothing named: all that waits."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{}, {"stream": "checkpoints", "partition": "chat-7"}]},
    )

    stream: str | None = Field(None, min_length=1, max_length=100, pattern=r"^[a-z0-9_.:-]+$")
    partition: str | None = Field(None, min_length=1, max_length=2048, pattern=r"^[^\x00]+$")


class JobRetry(BaseModel):
    """How a job is repeated."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"failed_only": True}]}
    )

    failed_only: bool = Field(
        default=False, description="Only the threads and tables that failed in it."
    )


class FlushMatching(BaseModel):
    """What of all that waits is flushed: `text` is a part of the name of a thread or table."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "chat-", "failing": True}]}
    )

    stream: str | None = Field(None, min_length=1, max_length=100, pattern=r"^[a-z0-9_.:-]+$")
    text: str = Field("", max_length=2048, pattern=r"^[^\x00]*$")
    failing: bool = Field(default=False, description="Only what failed the last time.")


class FlushedJobs(BaseModel):
    """A job for each stream of which something was flushed; none where nothing of the kind waits."""

    model_config = _example(jobs=[_JOB])

    jobs: list[Job]


class ParkedChosen(BaseModel):
    """Parked entries by their numbers."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"ids": [3, 4]}]})

    ids: list[Annotated[int, Field(ge=-(2**62), le=2**62)]] = Field(min_length=1, max_length=1000)


class ParkedRetried(BaseModel):
    """The flush job; None when none of them was there any more."""

    model_config = _example(job=_JOB)

    job: Job | None


class ParkedDiscarded(BaseModel):
    """The numbers of those that were there, and are gone."""

    model_config = _example(discarded=[3, 4])

    discarded: list[int]


class TokenInfo(BaseModel):
    """What is known of a token; never the token itself."""

    model_config = _example(**_TOKEN)

    id: str
    user: str
    role: Role
    label: str
    created_at: float
    created_by: str
    expires_at: float | None
    revoked_at: float | None
    revoked_by: str | None
    last_used_at: float | None = Field(description="Exact to about a minute.")


class Tokens(Page):
    """Tokens, newest first; expired and revoked ones included."""

    model_config = _example(tokens=[_TOKEN], next=None)

    tokens: list[TokenInfo]


class NewToken(BaseModel):
    """The token to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"user": "ada", "role": "user", "expires_in": "30d"}]},
    )

    user: str = Field(
        min_length=1,
        max_length=200,
        description="Who comes with it: compared with owners of threads.",
    )
    role: Role
    expires_in: str | None = Field(
        None, max_length=20, description="For how long: 30d, 12h, 45m, 2w. Null: for ever."
    )
    label: str = Field("", max_length=200, description="What it is for.")


class CreatedToken(TokenInfo):
    """A new token. It is shown this once only."""

    model_config = _example(**_TOKEN, token="stk_" + "x" * 43)

    token: str | None = Field(
        description="The secret. Null in an answer that was kept for an Idempotency-Key."
    )


class TicketFor(BaseModel):
    """On whose behalf an application asks for a ticket, and for which thread."""

    model_config = _example(user="ada", thread_id="chat-7")

    user: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")
    thread_id: str = Field(min_length=1, max_length=2048, pattern=r"^[^\x00]+$")


class Ticket(BaseModel):
    """A one-time ticket."""

    model_config = _example(ticket="kY3...", expires_at=1795230030.0)

    ticket: str | None = Field(
        description="For `?ticket=` of one WebSocket or event stream, within 30 seconds."
    )
    expires_at: float


class Me(BaseModel):
    """Who the token belongs to."""

    model_config = _example(**_ME)

    user: str
    role: Role
    token_id: str | None


class Erased(BaseModel):
    """What became of erasing a user."""

    model_config = _example(
        state="completed", threads=4, removed={"tokens": 1, "texts of errors": 2}, unfinished=[],
        out_of_reach=[("backups, snapshots and copies of the home folder and of the fallback "
        "location")],
    )  # fmt: skip

    state: Literal["completed", "running"]
    threads: int
    removed: dict[str, int] = Field(description="How many of each kind went.")
    unfinished: list[str] = Field(description="What keeps it from being completed; ask again.")
    out_of_reach: list[str] = Field(description="What can't be removed from here.")


class Live(BaseModel):
    """The server answers."""

    model_config = _example(status="alive")

    status: Literal["alive"]


class Component(BaseModel):
    """One part of the service."""

    status: Literal["ok", "degraded", "down"]
    detail: str = Field(description="What that means for users.")


class Ready(BaseModel):
    """Whether requests can be served, and what is degraded."""

    model_config = _example(
        status="degraded",
        components={"buffer": {"status": "ok", "detail": "accepts and serves"},
                    "database": {"status": "down", "detail": "can't be reached; hot data is "
                    "served, writes wait"}},
    )  # fmt: skip

    status: Literal["ready", "degraded", "unavailable"]
    components: dict[str, Component]
