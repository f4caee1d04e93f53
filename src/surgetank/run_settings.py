"""The settings of runs, approvals and what belongs to them; the others are in `settings.py`.

Times are seconds, sizes bytes.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode

_TARGET = re.compile(r"[A-Za-z0-9._:/-]+")


def _split(value: Any) -> Any:
    """The environment gives a list as one string, separated by white space."""
    return value.split() if isinstance(value, str) else value


def _targets(value: tuple[str, ...]) -> tuple[str, ...]:
    """Hosts, addresses, networks. Raises `ValueError`."""
    for each in value:
        if "/" in each:
            ipaddress.ip_network(each, strict=False)
        elif not _TARGET.fullmatch(each):
            raise ValueError("use host names, addresses, or networks like 10.1.0.0/16")
    return value


Targets = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_targets)]
WebhookSecrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]


class RunSettings(BaseSettings):
    """Settings of runs. A part of `Settings`."""

    runs_at_once: int = Field(
        50, gt=0, le=10_000, description="Most runs that one worker of runs has under way."
    )
    runs_at_once_per_assistant: int | None = Field(
        None, gt=0, description="Most runs of one assistant under way, over all workers."
    )
    runs_waiting_per_user: int | None = Field(
        10_000, ge=0, description="Most runs of one user that wait. None or 0: any number."
    )
    runs_running_per_user: int | None = Field(
        None,
        ge=0,
        description="Most runs of one user under way; others wait. None or 0: any number.",
    )
    runs_per_minute_per_user: int | None = Field(
        None, ge=0, description="Most runs that one user begins in a minute. None or 0: any number."
    )
    assistants_per_user: int | None = Field(
        1000, ge=1, description="Most assistants that one user may make. None: any number."
    )
    crons_per_user: int | None = Field(
        100, ge=1, description="Most crons that one user may make. None: any number."
    )
    runs_keep: float = Field(
        90 * 86_400.0,
        ge=0,
        description="How long workflows that have ended are kept, with their runs. 0: for ever.",
    )
    stateless_keep: float = Field(
        7 * 86_400.0,
        ge=0,
        description="How long runs without a thread are kept. 0: for ever.",
    )
    audit_keep: float = Field(
        400 * 86_400.0,
        ge=0,
        description="How long rows of the audit are kept, a day at least. 0: for ever.",
    )
    run_timeout: float | None = Field(
        None, gt=0, description="Longest time of a run that brings no limit of its own."
    )
    run_function_wait: float = Field(
        60.0,
        ge=0,
        description="How long a run that is cancelled, fails or takes too long waits for nodes that are plain "
        "functions, which nothing can end.",
    )
    run_lease: float = Field(
        30.0, gt=0, description="How long a silent worker of runs keeps its runs."
    )
    database_listen_url: SecretStr | None = Field(
        None,
        description="The database without PgBouncer, where workers LISTEN for runs; by default the "
        "database itself.",
    )
    approval_escalate_after: float | None = Field(
        None, gt=0, description="A question to people that waits longer is told to operators."
    )
    streams_max_age: float = Field(
        3600.0,
        gt=0,
        description="How long what an ended run sent is kept for readers who come back.",
    )
    streams_max_bytes: int = Field(
        1024 * 1024 * 1024, gt=0, description="Most bytes that are kept of what ended runs sent."
    )
    otel: bool = Field(
        default=False,
        description="Make OpenTelemetry spans of requests, runs, nodes, puts, flush jobs and "
        "webhooks.",
    )
    webhook_secret: WebhookSecrets = Field(
        (),
        description="Key that webhooks are signed with: whsec_ and base64, or any text; two while "
        "it is changed, separated by spaces. Secret. None: they are not signed.",
    )
    webhook_allow: Targets = Field(
        (),
        description="Hosts, addresses and networks that webhooks may be sent to although they are "
        "not public, separated by spaces.",
    )
    webhook_timeout: float = Field(
        10.0, gt=0, le=60, description="Longest time of one attempt to send a webhook."
    )
    webhook_attempts: int = Field(
        10, gt=0, le=100, description="After so many attempts a webhook has failed."
    )
    webhooks_keep: float = Field(
        7 * 86_400.0,
        gt=0,
        description="How long the log has webhooks that were delivered or have failed.",
    )
    store_scope: Literal["user", "named", "shared"] = Field(
        "user",
        description="What of the store callers who are no administrators reach: a part of their own "
        "(user), namespaces that have their name as a label (named), or everything (shared).",
    )
    store_max_bytes: int = Field(
        16 * 1024**2,
        gt=0,
        le=100 * 1024**2,
        description="Largest value of an item of the store, as JSON.",
    )
