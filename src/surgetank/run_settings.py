"""The settings of runs, approvals and what belongs to them; the others are in `settings.py`.

Times are seconds, sizes bytes.
"""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings


class RunSettings(BaseSettings):
    """Settings of runs. A part of `Settings`."""

    runs_at_once: int = Field(
        50, gt=0, le=10_000, description="Most runs that one worker of runs has under way."
    )
    runs_at_once_per_assistant: int | None = Field(
        None, gt=0, description="Most runs of one assistant under way, over all workers."
    )
    run_timeout: float | None = Field(
        None, gt=0, description="Longest time of a run that brings no limit of its own."
    )
    run_lease: float = Field(
        30.0, gt=0, description="How long a silent worker of runs keeps its runs."
    )
    database_listen_url: SecretStr | None = Field(
        None,
        description="The database without PgBouncer, where workers LISTEN for runs; by default the "
        "database itself.",
    )
    streams_max_age: float = Field(
        3600.0,
        gt=0,
        description="How long what an ended run sent is kept for readers who come back.",
    )
    streams_max_bytes: int = Field(
        1024 * 1024 * 1024, gt=0, description="Most bytes that are kept of what ended runs sent."
    )
