"""Every setting with its default and its environment variable (`SURGETANK_` and the name in
capitals).

What is passed to `Surgetank(...)` wins over the environment, that over files (setting_sources.py).
Times are seconds, sizes bytes.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from surgetank import buffer_address, setting_sources
from surgetank.durations import UNITS, seconds_of
from surgetank.exceptions import ConfigurationError
from surgetank.oidc_settings import OidcSettings
from surgetank.run_settings import RunSettings
from surgetank.table_settings import TableSettings


def default_root() -> Path:
    """The folder of default homes; that of the embedded database is this one itself."""
    return Path(platformdirs.user_data_dir("surgetank", appauthor=False))


def duration(value: object) -> object:
    """Seconds out of `30d`, `12h`, `90m`, `2w`; anything else is left to pydantic. Raises
    `ValueError`."""
    if isinstance(value, str) and value[-1:] in UNITS:
        return seconds_of(value)
    return value


def _split(value: Any) -> Any:
    """The environment gives a list as one string, separated by white space."""
    return value.split() if isinstance(value, str) else value


Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]


def _folder(value: object) -> object:
    """A home by its name; `~` is the user's. Raises `ValueError` for an address."""
    text = str(value) if isinstance(value, (str, Path)) else ""
    if re.match(r"[a-z][a-z0-9+.-]*:/", text):  # a path has made one slash of two
        raise ValueError("it is an address, not a folder")
    return Path(text).expanduser() if text else value


def _support_url(value: str) -> str:
    """Only what is safe as a link on anybody's page."""
    parts = urlsplit(value)
    is_page = parts.scheme == "https" and bool(parts.hostname)
    is_mail = parts.scheme == "mailto" and "@" in parts.path and not parts.netloc
    if not (is_page or is_mail) or not value.isprintable() or any(c in value for c in " <>\"'`\\"):
        raise ValueError("use https://HOST/... or mailto:NAME@HOST")
    return value


SupportUrl = Annotated[str, Field(max_length=2000), AfterValidator(_support_url)]


class Settings(RunSettings, TableSettings, OidcSettings):
    """All settings. Immutable."""

    model_config = SettingsConfigDict(
        env_prefix="SURGETANK_", frozen=True, extra="forbid", env_ignore_empty=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What was given, then the environment, then the files of the current folder."""
        if setting_sources.is_isolated():
            return (init_settings,)
        files = setting_sources.from_files(cls.model_fields)
        values = {name: value for name, (value, _) in files.items()}
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=values)

    home: Annotated[Path, BeforeValidator(_folder)] = Field(
        default_factory=default_root,
        description="Folder of the buffer and of the embedded database.",
    )
    database_url: SecretStr | None = Field(
        None, description="PostgreSQL URL; without one, PostgreSQL is embedded."
    )
    buffer_url: SecretStr | None = Field(
        None,
        description="Buffer: sqlite:///path, or redis://host:6379/0 for several hosts; default a "
        "file in `home`.",
    )

    durability: Literal["process", "power", "replicated"] = Field(
        "process",
        description="What an accepted write survives: kill -9 (process), a power cut too (power), or "
        "the loss of the Redis server (replicated).",
    )
    buffer_max_bytes: int = Field(
        4 * 1024**3, gt=0, description="Most bytes that may wait in the buffer."
    )
    buffer_max_entries: int = Field(
        5_000_000, gt=0, description="Most entries that may wait in the buffer."
    )
    disk_reserve: int = Field(
        16 * 1024**2,
        ge=0,
        description="Bytes of the buffer's disk set aside, to flush with when it is full; 0: the "
        "disk isn't watched.",
    )
    buffer_when_full: Literal["block", "reject"] = Field(
        "block", description="Wait for space, or refuse at once."
    )
    buffer_block_timeout: float = Field(30.0, ge=0, description="Longest wait for space.")
    keep_acknowledged: float = Field(
        60.0,
        ge=0,
        description="How long entries stay in the buffer after they were saved, for a database "
        "that loses its last"
        " minute.",
    )
    keep_acknowledged_bytes: int = Field(
        64 * 1024**2,
        ge=0,
        description="Most bytes of entries that stay in the buffer after they were saved.",
    )
    fallback_url: SecretStr | None = Field(
        None,
        description="Where entries are spilled to: a folder, s3://..., or a URL of fsspec; none: nothing is "
        "spilled.",
    )
    fallback_after: float = Field(
        3600.0, gt=0, description="What has waited so long because saving fails is spilled."
    )
    fallback_fill: float = Field(
        0.8,
        gt=0,
        le=1,
        description="From this share of `buffer_max_bytes` on, entries are spilled.",
    )
    unknown_threads: Literal["accept", "refuse"] = Field(
        "accept",
        description="What becomes of a thread that this buffer never saw while the database is "
        "away: it is taken for"
        " new (accept), or using it raises ColdStateUnavailable (refuse).",
    )
    recent_max_bytes: int = Field(
        512 * 1024**2,
        ge=0,
        description="Most bytes for copies of recently used threads, readable while the database "
        "is away; 0: none.",
    )
    recent_max_age: Annotated[float, BeforeValidator(duration)] = Field(
        7 * 86_400.0,
        gt=0,
        description="How long a copy that nobody uses stays; seconds, or like 7d, 12h.",
    )
    max_value_bytes: int = Field(
        256 * 1024**2, gt=0, le=1_000_000_000, description="Largest single channel value or write."
    )

    flush_in_process: bool = Field(
        default=True, description="Flush on a thread of this process; false: only workers do."
    )
    flush_entries: int = Field(
        1000, gt=0, description="A partition with so many entries is flushed."
    )
    flush_bytes: int = Field(
        4 * 1024**2, gt=0, description="A partition with so many bytes is flushed."
    )
    flush_age: float = Field(
        1.0, ge=0, description="A partition whose oldest entry is this old is flushed."
    )
    tenant_key: str | None = Field(
        None,
        description="The key of a config or its metadata that names the tenant; tenants take turns.",
    )
    flush_batch_entries: int = Field(2000, gt=0, description="Most entries in one transaction.")
    flush_batch_bytes: int = Field(
        8 * 1024**2, gt=0, description="About how many bytes in one transaction."
    )
    flush_cache_bytes: int = Field(
        48 * 1024**2,
        ge=0,
        description="Newest values remembered between flushes, to patch the next ones against.",
    )
    flush_tick: float = Field(
        0.2, gt=0, description="How often the background flush looks what is due."
    )
    lease_ttl: float = Field(15.0, gt=0, description="How long a silent worker keeps a partition.")
    retry_base: float = Field(
        0.5, gt=0, description="Wait after the first failure; doubled each time."
    )
    retry_max: float = Field(60.0, gt=0, description="Longest wait between attempts.")
    breaker_max: float = Field(
        5.0, gt=0, description="Longest wait between probes of a database that is down."
    )
    critical_after: float = Field(
        60.0, ge=0, description="A soft failure that lasts longer is critical."
    )
    events_kept: int = Field(200_000, gt=0, description="How many run events are kept for replay.")
    events_max_age: float = Field(
        86_400.0, gt=0, description="How long run events are kept for replay."
    )
    logs_keep: float = Field(
        0.0, ge=0, description="How long lines of thread logs stay in the database; 0: for ever."
    )
    errors_keep: float = Field(
        90 * 86_400.0,
        ge=0,
        description="How long resolved errors stay in the database; 0: for ever.",
    )
    debug_originals: bool = Field(
        default=False, description="Debug mode: keep what projections replaced, for administrators."
    )
    debug_originals_max_age: float = Field(
        86_400.0, gt=0, description="How long debug mode keeps what projections replaced."
    )
    owner_key: str = Field(
        "user_id",
        min_length=1,
        description="The key of a run's `configurable` that names the user it belongs to.",
    )
    support_url: SupportUrl | None = Field(
        None, description="Where users who see a red banner get help: mailto:... or https://..."
    )
    alert_urls: Secrets = Field(
        (),
        description="Where alerts go: apprise URLs, separated by spaces. Secret. None: no alerts.",
    )
    alert_every: float = Field(10.0, gt=0, description="How often the alert rules are looked at.")
    alert_throttle: float = Field(
        3600.0, ge=0, le=604_800.0, description="The same alert isn't sent again within this time."
    )
    alert_failing_after: float = Field(
        300.0, ge=0, description="A partition that fails for longer is alerted."
    )
    alert_buffer_share: float = Field(
        0.7, gt=0, le=1, description="A buffer that is fuller is alerted."
    )
    alert_thread_errors: int = Field(
        3, ge=2, description="A thread with so many unresolved errors is alerted."
    )
    alert_digest_hour: int | None = Field(
        None, ge=0, le=23, description="Hour of the daily digest, in local time. None: no digest."
    )
    alert_retry_base: float = Field(
        2.0,
        gt=0,
        description="Wait after an alert's first failed delivery; doubled each time, at most 300.",
    )
    alert_give_up_after: float = Field(
        21_600.0, ge=0, description="An alert that can't be delivered for this long is given up."
    )
    log_format: Literal["console", "json"] = Field(
        "console",
        description="Lines of the program's own log: key=value for people (console), or JSON "
        "objects.",
    )
    jobs_kept: int = Field(10_000, gt=0, description="How many flush jobs are remembered.")

    retain_age: Annotated[float | None, BeforeValidator(duration)] = Field(
        None,
        ge=0,
        description="Checkpoints older than this are deleted; seconds, or like 30d, 12h, 90m.",
    )
    retain_keep: int | None = Field(
        None, ge=1, description="Only so many of the newest checkpoints of each namespace stay."
    )
    retain_bytes: int | None = Field(
        None,
        ge=0,
        description="About how many bytes a thread may have in the database; the oldest go first.",
    )
    retain_interval: float = Field(
        3600.0, gt=0, description="How often all threads are looked through, if any limit is set."
    )

    connect_timeout: float = Field(
        3.0, gt=0, description="Longest wait for a database connection (for each host of the URL)."
    )
    read_timeout: float = Field(
        5.0,
        gt=0,
        description="Longest silence of the database while a caller waits for what it reads.",
    )
    statement_timeout: float = Field(
        30.0,
        gt=0,
        description="Longest statement of a flush or another work in the background; a second more "
        "for each MB that is "
        "written.",
    )
    database_password_file: Path | None = Field(
        None, description="File with the database's password; read again for every connection."
    )
    database_password_command: SecretStr | None = Field(
        None,
        description="Command that prints the database's password; run again when the server "
        "refuses it. No shell.",
    )
    database_connections: int = Field(
        8, gt=0, description="Most database connections of this process."
    )
    shutdown_timeout: float = Field(10.0, ge=0, description="When closing ends, whatever is left.")
    flush_on_close: bool = Field(
        default=True, description="Try to drain the buffer when the engine closes."
    )
    admin_token: SecretStr | None = Field(
        None,
        min_length=20,
        description="A token with the role admin that works without the database.",
    )
    server_host: str = Field("127.0.0.1", description="Address that `surgetank serve` listens on.")
    server_port: int = Field(
        8321, ge=0, le=65535, description="Port that `surgetank serve` listens on."
    )
    server_threads: int = Field(
        16, gt=0, description="Most requests that may wait for buffer or database at once."
    )
    server_connections: int = Field(
        1000, gt=0, description="Most open connections; more are answered with 503."
    )
    server_followers: int = Field(
        200, gt=0, description="Most WebSockets and event streams that one caller may have open."
    )
    server_request_timeout: float = Field(
        15.0,
        gt=0,
        description="How long the head of a request may take to arrive, and then its body.",
    )
    server_write_timeout: float = Field(
        30.0,
        gt=0,
        description="A client that reads nothing of its answer for so long is disconnected.",
    )
    server_max_body: int = Field(1024**2, gt=0, description="Largest body of a request.")
    cors_origins: str = Field(
        "", description="Origins whose pages may use the server, comma separated; none by default."
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses whose X-Forwarded-For is believed, comma separated; none by "
        "default.",
    )
    failed_logins_per_minute: int = Field(
        10, gt=0, description="Failed logins that one address has."
    )
    node: str = Field(
        default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}", description="Name in jobs."
    )

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of `cors_origins`."""
        return tuple(
            origin.strip().rstrip("/") for origin in self.cors_origins.split(",") if origin.strip()
        )

    @property
    def buffer_path(self) -> Path:
        """The buffer's file."""
        if self.buffer_url is None or self.buffer_is_shared:
            return self.home / "buffer.db"
        return buffer_address.path_of(self.buffer_url.get_secret_value())

    @property
    def buffer_name(self) -> str:
        """Where the buffer is, for people."""
        if self.buffer_url is not None and self.buffer_is_shared:
            return buffer_address.without_password(self.buffer_url.get_secret_value())
        return str(self.buffer_path)

    @property
    def buffer_exists(self) -> bool:
        """Whether somebody has made the buffer. One on a server is made by whoever asks."""
        return self.buffer_is_shared or self.buffer_path.exists()

    @property
    def buffer_is_shared(self) -> bool:
        """Whether the buffer is on a server. What it can't hold is in files of the home."""
        url = self.buffer_url
        return url is not None and buffer_address.is_shared(url.get_secret_value())


def load_settings(**given: Any) -> Settings:
    """Settings from the arguments that are not None, then the environment, then files, then the
    defaults.

    Raises `ConfigurationError` naming the setting that is wrong, or that there is not.
    """
    if not setting_sources.is_isolated():
        setting_sources.check_environment(Settings.model_fields)
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        remedy = _known(name) if first["type"] == "extra_forbidden" else _how_to_set(name)
        # Not `from error`: that one shows what was given, a password perhaps, in every traceback.
        raise ConfigurationError(
            f"The setting {name!r} can't be used: {first['msg']}.", remedy=remedy
        ) from None


def origins(**given: Any) -> dict[str, str]:
    """Where each setting comes from: "argument", the variable's name, the file's, or "default"."""
    variables, files = (
        setting_sources.environment(),
        setting_sources.from_files(Settings.model_fields),
    )
    return {
        name: "argument"
        if given.get(name) is not None
        else variables.get(name) or (files[name][1] if name in files else "default")
        for name in Settings.model_fields
    }


def _known(name: str) -> str:
    guess = setting_sources.closest(name, Settings.model_fields)
    known = f"known settings: {', '.join(sorted(Settings.model_fields))}"
    return f"did you mean {guess!r}? {known}" if guess else known


def _how_to_set(name: str) -> str:
    if name == "home":
        return "a home is a folder; an address is given as Surgetank(database_url=...) or SURGETANK_DATABASE_URL."
    return f"give {name}=... to Surgetank, or set SURGETANK_{name.upper()}."
