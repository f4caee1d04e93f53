"""Bodies and answers of assistants and crons, as the Agent Server API has them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from surgetank.server.schemas.agent import Name, Nodes, Strategy, StreamModes

Json = dict[str, Any]
Text = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$")]
Title = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00]+$")]
Schedule = Annotated[
    str,
    StringConstraints(max_length=200),
    Field(description="Minute, hour, day of the month, month, day of the week."),
]
Zone = Annotated[
    str, StringConstraints(max_length=100), Field(description="An IANA time zone; UTC without one.")
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")


class AssistantCreate(_Body):
    """An assistant that is asked for."""

    graph_id: Name = Field(description="A graph of this server.")
    assistant_id: str | None = Field(None, description="A UUID of yours.")
    config: Json | None = None
    context: Json | None = None
    metadata: Json | None = None
    name: Title | None = None
    description: Text | None = None
    if_exists: Literal["raise", "do_nothing"] | None = None


class AssistantPatch(_Body):
    """What changes; metadata are added to."""

    graph_id: Name | None = None
    config: Json | None = None
    context: Json | None = None
    metadata: Json | None = None
    name: Title | None = None
    description: Text | None = None


class VersionsSearch(_Body):
    """Which versions of an assistant are wanted."""

    metadata: Json | None = None
    limit: int = Field(10, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=10_000_000)


class VersionChoice(_Body):
    """The version that is used from now on."""

    version: int = Field(ge=1, le=2**31 - 1)


class AssistantSearch(_Body):
    """Which assistants are wanted."""

    metadata: Json | None = None
    graph_id: str | None = None
    name: str | None = None
    limit: int = Field(10, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=10_000_000)
    sort_by: Literal["assistant_id", "graph_id", "name", "created_at", "updated_at"] | None = None
    sort_order: Literal["asc", "desc"] | None = None
    select: list[str] | None = None


class AssistantPart(BaseModel):
    """An assistant, or those of its fields that were selected."""

    model_config = ConfigDict(extra="allow")
    assistant_id: str | None = None
    graph_id: str | None = None


class AssistantAnswer(BaseModel):
    """A graph with what it is given in each run."""

    model_config = ConfigDict(extra="allow")
    assistant_id: str
    graph_id: str
    name: str
    description: str | None
    config: Json
    context: Json
    metadata: Json
    version: int
    created_at: datetime
    updated_at: datetime


class SchemasAnswer(BaseModel):
    """JSON schemas of a graph."""

    graph_id: str
    input_schema: Json | None
    output_schema: Json | None
    state_schema: Json | None
    config_schema: Json | None
    context_schema: Json | None


class GraphAnswer(BaseModel):
    """Nodes and edges."""

    nodes: list[Json]
    edges: list[Json]


class _CronFields(_Body):
    """What the runs of a cron are given."""

    input: Any = None
    config: Json | None = None
    context: Any = None
    webhook: str | None = Field(None, max_length=8192)
    interrupt_before: Nodes | None = None
    interrupt_after: Nodes | None = None
    stream_mode: StreamModes | None = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    durability: Literal["sync", "async", "exit"] | None = None
    multitask_strategy: Strategy | None = None

    def payload(self) -> Json:
        """The fields that were given."""
        return {
            name: value
            for name in _CronFields.model_fields
            if name in self.model_fields_set and (value := getattr(self, name)) is not None
        }


class CronCreate(_CronFields):
    """A cron that is asked for."""

    assistant_id: Name = Field(description="An assistant's id, or the name of a graph.")
    schedule: Schedule
    timezone: Zone | None = None
    end_time: datetime | None = None
    enabled: bool | None = None
    on_run_completed: Literal["delete", "keep"] | None = Field(
        None, description="Whether the thread of a run goes with it, for crons without a thread."
    )
    metadata: Json | None = None


class CronPatch(_CronFields):
    """What changes of a cron."""

    schedule: Schedule | None = None
    timezone: Zone | None = None
    end_time: datetime | None = None
    enabled: bool | None = None
    on_run_completed: Literal["delete", "keep"] | None = None
    metadata: Json | None = None

    def changes(self) -> Json:
        """By the names of the cron's own fields; `end_time` may be given as null."""
        names = ("schedule", "timezone", "enabled", "on_run_completed", "metadata")
        given = {n: v for n in names if (v := getattr(self, n)) is not None}
        if "end_time" in self.model_fields_set:
            given["end_time"] = self.end_time
        return given | {"payload": self.payload()}


class CronSearch(_Body):
    """Which crons are wanted."""

    assistant_id: Name | None = None
    thread_id: Name | None = None
    enabled: bool | None = None
    metadata: Json | None = None
    limit: int = Field(10, ge=1, le=1000)
    offset: int = Field(0, ge=0, le=10_000_000)
    sort_by: (
        Literal[
            "cron_id", "assistant_id", "thread_id", "created_at", "updated_at", "next_run_date",
            "end_time",
        ]
        | None
    ) = None  # fmt: skip
    sort_order: Literal["asc", "desc"] | None = None
    select: list[str] | None = None


class CronAnswer(BaseModel):
    """A cron. `last_error` says why its last run was refused."""

    model_config = ConfigDict(extra="allow")
    cron_id: str
    assistant_id: str
    thread_id: str | None
    on_run_completed: str
    end_time: datetime | None
    schedule: str
    timezone: str | None
    created_at: datetime
    updated_at: datetime
    payload: Json
    user_id: str | None
    next_run_date: datetime | None
    metadata: Json
    enabled: bool
    last_error: str | None


class CronPart(BaseModel):
    """A cron, or those of its fields that were selected."""

    model_config = ConfigDict(extra="allow")
    cron_id: str | None = None
