"""Bodies and answers of the Agent Server API (docs/reference/agent-server.md). Fields that are not
here are accepted and not used, as in LangGraph's server."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from surgetank.workflows.lifetime import MAX_MINUTES, ThreadTtl, TtlStrategy
from surgetank.workflows.runs import STREAM_MODES

Name = Annotated[str, StringConstraints(min_length=1, max_length=2048, pattern=r"^[^\x00]+$")]
Json = dict[str, Any]
Strategy = Literal["reject", "enqueue", "interrupt", "rollback"]
RunStatus = Literal["pending", "running", "success", "error", "timeout", "interrupted"]
ThreadStatus = Literal["idle", "busy", "interrupted", "error"]
_MODES = sorted(STREAM_MODES)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _known_modes(value: Any) -> Any:
    named = _listed(value)
    unknown = [m for m in named if m not in _MODES] if isinstance(named, list) else []
    if unknown:
        raise ValueError(f"there is no stream mode {unknown[0]!r}; use {', '.join(_MODES)}")
    return named


StreamModes = Annotated[list[str], BeforeValidator(_known_modes)]
Nodes = Annotated[list[str] | Literal["*"], Field(description="Names of nodes, or `*` for all.")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class CommandBody(_Body):
    """What a graph is told instead of an input."""

    resume: Any = Field(None, description="An answer, or answers by the ids of interrupts.")
    update: Any = Field(None, description="Values to write into the state.")
    goto: Any = Field(None, description="A node, `{node, input}`, or a list of them.")


class CheckpointBody(_Body):
    """Names a checkpoint."""

    thread_id: str | None = None
    checkpoint_ns: str | None = None
    checkpoint_id: str | None = None
    checkpoint_map: Json | None = None


class RunCreate(_Body):
    """A run that is asked for."""

    assistant_id: Name = Field(description="An assistant's id, or the name of a graph.")
    input: Any = None
    command: CommandBody | None = None
    config: Json | None = None
    context: Any = None
    metadata: Json | None = None
    checkpoint: CheckpointBody | None = None
    checkpoint_id: str | None = None
    stream_mode: StreamModes | None = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    interrupt_before: Nodes | None = None
    interrupt_after: Nodes | None = None
    multitask_strategy: Strategy | None = None
    if_not_exists: Literal["reject", "create"] | None = None
    after_seconds: float | None = Field(None, ge=0, le=366 * 86_400)
    on_disconnect: Literal["cancel", "continue"] | None = None
    on_completion: Literal["delete", "keep"] | None = None
    durability: Literal["sync", "async", "exit"] | None = None
    webhook: str | None = Field(None, max_length=8192)
    strict_resume: bool | None = None
    priority: int = Field(0, ge=-1000, le=1000, description="Higher ones of a thread go first.")
    retries: int = Field(0, ge=0, le=100, description="How often a failed run is tried again.")
    timeout_s: float | None = Field(None, gt=0, description="Longest time of an attempt.")
    run_id: str | None = Field(None, description="An id of yours: sent again, it is the same run.")


Channel = Annotated[
    str,
    StringConstraints(
        pattern=r"^(values|updates|messages|tools|lifecycle|input|checkpoints|tasks|custom(:.+)?)$",
        max_length=200,
    ),
]
_Segment = Annotated[str, StringConstraints(max_length=1000)]
_Namespace = Annotated[list[_Segment], Field(max_length=32)]


class ProtocolCommand(_Body):
    """A command of the event streaming protocol."""

    id: int = Field(ge=0, le=2**53)
    method: str = Field(max_length=200)
    params: Json | None = None


class SubscribeBody(_Body):
    """Which events of a thread are wanted."""

    channels: list[Channel] = Field(min_length=1, max_length=64)
    namespaces: list[_Namespace] | None = Field(
        None, max_length=64, description="Only these graphs within graphs, and what is in them."
    )
    depth: int | None = Field(None, ge=0, le=1000, description="How deep below the namespaces.")
    since: int | None = Field(
        None, ge=0, le=2**53, description="The `seq` of the last event that was seen."
    )


class TtlBody(_Body):
    """How long a thread lives from what is last done with it, and what becomes of it then."""

    ttl: float = Field(gt=0, le=MAX_MINUTES, allow_inf_nan=False, description="Minutes.")
    strategy: TtlStrategy = "delete"

    def lifetime(self) -> ThreadTtl:
        """As the engine has it."""
        return ThreadTtl(self.ttl, self.strategy)


def _in_words(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"ttl": value} if is_number else value


Ttl = Annotated[
    TtlBody, BeforeValidator(_in_words), Field(description="Minutes, or with a strategy.")
]


class ThreadCreate(_Body):
    """A thread that is asked for."""

    thread_id: Name | None = None
    metadata: Json | None = None
    if_exists: Literal["raise", "do_nothing"] | None = None
    supersteps: list[Json] | None = None
    ttl: Ttl | None = None


class ThreadPatch(_Body):
    """What is added to a thread."""

    metadata: Json | None = None
    ttl: Ttl | None = None


class ThreadSearch(_Body):
    """Which threads are wanted."""

    ids: list[Name] | None = Field(None, max_length=1000)
    metadata: Json | None = None
    values: Json | None = None
    status: ThreadStatus | None = None
    limit: int = Field(10, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=10_000_000)
    sort_by: (
        Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"] | None
    ) = None
    sort_order: Literal["asc", "desc"] | None = None
    select: list[str] | None = None
    extract: dict[str, str] | None = None


class ThreadPrune(_Body):
    """Which threads lose what."""

    thread_ids: list[Name] = Field(max_length=1000)
    strategy: Literal["delete", "keep_latest"] = "delete"


class ThreadRepairBody(_Body):
    """Whether a thread is let go of, or only looked at."""

    dry_run: bool = True
    forget: bool = False


class FindingAnswer(BaseModel):
    """One thing that holds a thread."""

    model_config = ConfigDict(from_attributes=True)
    kind: str
    what: str
    remedy: str


class RepairAnswer(BaseModel):
    """What holds a thread, and whether it was let go."""

    model_config = ConfigDict(from_attributes=True)
    thread_id: str
    status: str
    findings: list[FindingAnswer]
    done: bool


class StateUpdate(_Body):
    """Values that are written into a thread's state by hand."""

    values: Any = None
    as_node: str | None = None
    checkpoint: CheckpointBody | None = None
    checkpoint_id: str | None = None


class StateQuery(_Body):
    """Which state is wanted."""

    checkpoint: CheckpointBody | None = None
    subgraphs: bool = False


class HistoryQuery(_Body):
    """Which states are wanted."""

    limit: int = Field(10, ge=1, le=1000)
    before: CheckpointBody | str | None = None
    metadata: Json | None = None
    checkpoint: CheckpointBody | None = None


class RunsCancel(_Body):
    """Which runs are to end."""

    thread_id: Name | None = None
    run_ids: list[str] | None = Field(None, max_length=1000)
    status: Literal["pending", "running", "all"] | None = None


class TtlAnswer(BaseModel):
    """How long a thread lives. `expires_at` is null when all of its states but the newest are gone,
    and nothing was done with it since."""

    strategy: TtlStrategy
    ttl_minutes: float
    expires_at: datetime | None


class ThreadAnswer(BaseModel):
    """A thread."""

    model_config = ConfigDict(extra="allow")
    thread_id: str
    created_at: datetime
    updated_at: datetime
    state_updated_at: datetime
    metadata: Json
    config: Json
    status: ThreadStatus
    values: Any = None
    interrupts: dict[str, list[Json]]
    error: Any = None
    ttl: TtlAnswer | None = Field(None, description="Of a thread that doesn't live for ever.")


class ThreadPart(BaseModel):
    """A thread, or those of its fields that were selected."""

    model_config = ConfigDict(extra="allow")
    thread_id: str
    status: ThreadStatus | None = None


class RunPart(BaseModel):
    """A run, or those of its fields that were selected."""

    model_config = ConfigDict(extra="allow")
    run_id: str | None = None
    status: RunStatus | None = None


class RunAnswer(BaseModel):
    """A run."""

    model_config = ConfigDict(extra="allow")
    run_id: str
    thread_id: str
    assistant_id: str
    status: RunStatus
    metadata: Json
    kwargs: Json
    multitask_strategy: Strategy
    created_at: datetime
    updated_at: datetime
    cancel_reason: str | None = None


class StateAnswer(BaseModel):
    """A state of a thread."""

    model_config = ConfigDict(extra="allow")
    values: Any
    next: list[str]
    tasks: list[Json]
    checkpoint: Json
    parent_checkpoint: Json | None
    metadata: Json
    created_at: str | None
    interrupts: list[Json]


class CheckpointAnswer(BaseModel):
    """Where a state is that was written by hand."""

    model_config = ConfigDict(extra="allow")
    checkpoint: Json


class PrunedAnswer(BaseModel):
    """How many threads were pruned."""

    pruned_count: int


class InfoAnswer(BaseModel):
    """What this server is."""

    model_config = ConfigDict(extra="allow")
    version: str
    flags: dict[str, bool]


class OkAnswer(BaseModel):
    """It answers."""

    ok: bool


class CommandAnswer(BaseModel):
    """What became of a command."""

    model_config = ConfigDict(extra="allow")
    type: Literal["success", "error"]
    id: int | None
