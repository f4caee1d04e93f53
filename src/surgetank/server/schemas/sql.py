"""The shapes of SQL's requests and answers, and of tables."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MOST_TEXT = 256 * 1024


class RunStatements(BaseModel):
    """Statements to run, one after the other."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"sql": "SELECT * FROM app.notes WHERE stars > $1", "parameters": [3]},
            ]
        },
    )

    sql: str = Field(
        min_length=1,
        max_length=MOST_TEXT,
        description="One statement, or several separated by `;`.",
    )
    parameters: list[Any] | dict[str, Any] | None = Field(
        None,
        description="What `$1`, `?` (a list) or `$name` (an object) stand for, in all statements.",
    )
    limit: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Most rows of each statement; at most those of the setting.",
    )


class ResultColumn(BaseModel):
    """A column of a result."""

    name: str
    type: str = Field(description="The SQL type, as DuckDB calls it.")


class StatementResult(BaseModel):
    """What one statement gave."""

    statement: int = Field(description="Which one, from 1.")
    kind: str = Field(description="Its first words.", examples=["SELECT"])
    columns: list[ResultColumn] = []
    rows: list[list[Any]] | None = Field(
        None,
        description="Values in the order of the columns. Decimals, times and bytes (base64) are text.",
    )
    affected: int | None = Field(None, description="How many rows it changed.")
    cut: str | None = Field(
        None, description="`rows` or `bytes`: the limit that ended the rows before their end."
    )
    stale: bool = Field(
        default=False,
        description="The database can't be reached, and rows in files are as they were known last.",
    )
    seconds: float = 0.0


class StatementResults(BaseModel):
    """What the statements gave, in order."""

    results: list[StatementResult]
