"""The settings as keywords of `Surgetank(...)`, for editors and type checkers. What each means is
in `settings.py`.

A test keeps both equal. None is as if the setting was not given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

from pydantic import SecretStr


class SettingNames(TypedDict, total=False):
    """Every setting but `home`, `database_url` and `buffer_url`, which are arguments of their
    own."""

    durability: Literal["process", "power", "replicated"] | None
    buffer_max_bytes: int | None
    buffer_max_entries: int | None
    disk_reserve: int | None
    buffer_when_full: Literal["block", "reject"] | None
    buffer_block_timeout: float | None
    keep_acknowledged: float | None
    keep_acknowledged_bytes: int | None
    fallback_url: str | SecretStr | None
    fallback_after: float | None
    fallback_fill: float | None
    unknown_threads: Literal["accept", "refuse"] | None
    recent_max_bytes: int | None
    recent_max_age: float | str | None
    max_value_bytes: int | None
    flush_in_process: bool | None
    flush_entries: int | None
    flush_bytes: int | None
    flush_age: float | None
    tenant_key: str | None
    flush_batch_entries: int | None
    flush_batch_bytes: int | None
    flush_cache_bytes: int | None
    flush_tick: float | None
    lease_ttl: float | None
    retry_base: float | None
    retry_max: float | None
    breaker_max: float | None
    critical_after: float | None
    events_kept: int | None
    events_max_age: float | None
    runs_at_once: int | None
    runs_at_once_per_assistant: int | None
    runs_waiting_per_user: int | None
    runs_running_per_user: int | None
    runs_per_minute_per_user: int | None
    assistants_per_user: int | None
    crons_per_user: int | None
    runs_keep: float | None
    stateless_keep: float | None
    audit_keep: float | None
    run_timeout: float | None
    run_function_wait: float | None
    run_lease: float | None
    database_listen_url: str | None
    approval_escalate_after: float | None
    streams_max_age: float | None
    streams_max_bytes: int | None
    otel: bool | None
    webhook_secret: str | Sequence[str] | None
    webhook_allow: str | Sequence[str] | None
    webhook_timeout: float | None
    webhook_attempts: int | None
    webhooks_keep: float | None
    store_scope: Literal["user", "named", "shared"] | None
    store_max_bytes: int | None
    sql_time_limit: float | None
    sql_memory: int | None
    sql_rows: int | None
    sql_bytes: int | None
    sql_processes: int | None
    sql_waiting: int | None
    sql_live_queries: int | None
    tables_hot_max_bytes: int | None
    tables_row_max_bytes: int | None
    tables_flush_rows: int | None
    tables_flush_interval: float | None
    tables_max_body: int | None
    tables_url: str | SecretStr | None
    tables_cache_bytes: int | None
    logs_keep: float | None
    errors_keep: float | None
    debug_originals: bool | None
    debug_originals_max_age: float | None
    owner_key: str | None
    support_url: str | None
    alert_urls: str | Sequence[str] | None
    alert_every: float | None
    alert_throttle: float | None
    alert_failing_after: float | None
    alert_buffer_share: float | None
    alert_thread_errors: int | None
    alert_digest_hour: int | None
    alert_retry_base: float | None
    alert_give_up_after: float | None
    log_format: Literal["console", "json"] | None
    jobs_kept: int | None
    retain_age: float | str | None
    retain_keep: int | None
    retain_bytes: int | None
    retain_interval: float | None
    connect_timeout: float | None
    read_timeout: float | None
    statement_timeout: float | None
    database_password_file: str | Path | None
    database_password_command: str | SecretStr | None
    database_connections: int | None
    shutdown_timeout: float | None
    flush_on_close: bool | None
    admin_token: str | SecretStr | None
    server_host: str | None
    server_port: int | None
    server_threads: int | None
    server_connections: int | None
    server_followers: int | None
    server_request_timeout: float | None
    server_write_timeout: float | None
    server_max_body: int | None
    cors_origins: str | None
    oidc_issuer: str | None
    oidc_client_id: str | None
    oidc_client_secret: str | SecretStr | None
    oidc_scopes: str | None
    oidc_user_claim: str | None
    oidc_role_claim: str | None
    oidc_roles: str | None
    oidc_default_role: Literal["viewer", "user", "reviewer", "operator"] | None
    oidc_session: float | None
    trusted_proxies: str | None
    failed_logins_per_minute: int | None
    node: str | None
