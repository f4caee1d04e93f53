"""The settings of tables and SQL; the others are in `settings.py`.

Times are seconds, sizes bytes.
"""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings


class TableSettings(BaseSettings):
    """Settings of tables and SQL. A part of `Settings`."""

    sql_time_limit: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Longest time of a query of a caller who is not trusted; its process is killed 0.5 s later.",
    )
    sql_memory: int = Field(
        768 * 1024**2,
        ge=64 * 1024**2,
        description="Most memory that a query of a caller who is not trusted may take, beyond what its process has.",
    )
    sql_rows: int = Field(100_000, gt=0, description="Most rows in the answer of such a query.")
    sql_bytes: int = Field(
        32 * 1024**2,
        ge=1024,
        le=128 * 1024**2,
        description="Most bytes in the answer of such a query.",
    )
    sql_processes: int | None = Field(
        None,
        gt=0,
        le=256,
        description="Most such queries at once, each in a process. None: as many as cores.",
    )
    sql_waiting: int = Field(
        64,
        gt=0,
        le=10_000,
        description="Most such queries that wait for their turn; more are refused with 429.",
    )
    sql_live_queries: int = Field(
        20,
        gt=0,
        le=10_000,
        description="Most live queries that one user may have open in a process; more are refused with 429.",
    )
    tables_hot_max_bytes: int = Field(
        1024**3,
        ge=1024**2,
        description="Most bytes of table rows that wait to be flushed, with their segments; inserts are refused then.",
    )
    tables_row_max_bytes: int = Field(
        16 * 1024**2,
        ge=1024,
        le=256 * 1024**2,
        description="Largest row of a table; a larger one is refused at insert.",
    )
    tables_flush_rows: int = Field(
        10_000,
        gt=0,
        description="A table without a FLUSH_POLICY is flushed when so many changes wait.",
    )
    tables_flush_interval: float = Field(
        60.0,
        gt=0,
        description="Such a table is also flushed when its oldest change has waited for so long.",
    )
    tables_max_body: int = Field(
        16 * 1024**2,
        ge=1024**2,
        le=256 * 1024**2,
        description="Largest body of rows (NDJSON, Arrow) that a server takes for a table; JSON: server_max_body.",
    )
    tables_url: SecretStr | None = Field(
        None,
        description="Where files of tables are stored: s3://BUCKET/PREFIX, shared by all hosts that name it; none: a "
        "folder of the home.",
    )
    tables_cache_bytes: int = Field(
        4 * 1024**3,
        ge=1024**2,
        description="About how many bytes of such files are kept on this machine, for reading.",
    )
