"""The shapes of tables over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from surgetank.app.caller_tables import Column, default_text, where_refused
from surgetank.app.tables import Table
from surgetank.server.schemas.answers import Page

if TYPE_CHECKING:
    from surgetank.app.caller_tables import BadRow, Inserted, TableFigures

_NOTES: dict[str, Any] = {
    "namespace": "app", "name": "notes", "kind": "USER", "primary_key": ["id"], "access": "private",
    "flush_rows": 1000, "flush_interval_s": 60.0, "ttl_s": None, "schema_version": 1,
    "created_at": "2026-11-28T09:00:00+00:00",
    "columns": [{"name": "id", "type": "BIGINT", "nullable": False, "default": None},
                {"name": "text", "type": "TEXT", "nullable": True, "default": "''"}],
}  # fmt: skip
_FIGURES: dict[str, Any] = {
    "waiting_changes": 12, "waiting_bytes": 640, "users_held": 0, "cold_rows": 51000, "cold_files": 3,
    "cold_bytes": 815000, "snapshot": 41, "stale": False,
}  # fmt: skip


class ShownColumn(BaseModel):
    """A column."""

    name: str
    type: str = Field(description="As in CREATE TABLE.")
    nullable: bool
    default: str | None = Field(description="As in CREATE TABLE.")

    @classmethod
    def of(cls, column: Column) -> Self:
        """A column as it is shown."""
        return cls(
            name=column.name,
            type=column.type.sql,
            nullable=column.nullable,
            default=default_text(column),
        )


class ShownTable(BaseModel):
    """A table."""

    model_config = ConfigDict(json_schema_extra={"examples": [_NOTES]})

    namespace: str
    name: str
    kind: str = Field(description="`USER`, `SHARED` or `STREAM`.")
    columns: list[ShownColumn]
    primary_key: list[str] = Field(description="Empty: a hidden sequence.")
    access: str | None = Field(
        description="What users may do with a SHARED table: `private`, `read` or `write`."
    )
    flush_rows: int | None = Field(
        description="Changes after which it is flushed; null: by the settings."
    )
    flush_interval_s: float | None = Field(
        description="Longest wait of a change before it is flushed; null: by the settings."
    )
    ttl_s: float | None = Field(description="After so many seconds a row of a STREAM table goes.")
    schema_version: int
    created_at: str | None

    @classmethod
    def fields_of(cls, table: Table) -> dict[str, Any]:
        """A table as it is shown."""
        return {
            "namespace": table.namespace,
            "name": table.name,
            "kind": table.kind.value,
            "columns": [ShownColumn.of(column) for column in table.columns],
            "primary_key": list(table.key),
            "access": None if table.by_user else table.access.value,
            "flush_rows": table.policy.rows,
            "flush_interval_s": table.policy.interval_s,
            "ttl_s": table.ttl_s,
            "schema_version": table.schema_version,
            "created_at": table.created_at.isoformat() if table.created_at is not None else None,
        }


class TableList(Page):
    """Tables by name."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tables": [_NOTES], "next": None}]})

    tables: list[ShownTable]


class ShownFigures(BaseModel):
    """How much of a table waits, and how much is in files."""

    waiting_changes: int = Field(description="Inserts, updates and deletes that are not flushed.")
    waiting_bytes: int
    users_held: int = Field(description="Users whose last flush failed.")
    cold_rows: int = Field(description="Rows in files.")
    cold_files: int
    cold_bytes: int
    snapshot: int = Field(description="The newest commit.")
    stale: bool = Field(description="The database can't be reached: this is what was known last.")


class TableDescription(ShownTable):
    """A table, for operators with its figures."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_NOTES, "figures": _FIGURES}]})

    figures: ShownFigures | None = Field(description="Null for who is no operator.")

    @classmethod
    def of(cls, table: Table, figures: TableFigures | None) -> Self:
        """A table as it is shown."""
        shown = (
            None if figures is None else ShownFigures.model_validate(figures, from_attributes=True)
        )
        return cls(**cls.fields_of(table), figures=shown)


class RefusedRow(BaseModel):
    """A row that was not stored."""

    index: int = Field(description="From 0, in what was sent.")
    column: str | None
    reason: str
    remedy: str = ""

    @classmethod
    def of(cls, bad: BadRow) -> Self:
        """A row as it is shown."""
        column = where_refused(bad.path)[1]
        return cls(index=bad.index, column=column, reason=bad.reason, remedy=bad.remedy)


class RowsInserted(BaseModel):
    """What became of the rows that were sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"rows": 2, "updated": 0, "ignored": 0, "repeated": False, "bad_rows": 1,
                 "bad": [{"index": 1, "column": "id", "reason": "a text is no integer", "remedy": ""}]}
            ]
        }
    )  # fmt: skip

    rows: int = Field(description="New ones.")
    updated: int = Field(description="Those whose key was there, with `on_conflict=update`.")
    ignored: int = Field(description="Those whose key was there, with `on_conflict=nothing`.")
    repeated: bool = Field(
        description="The batch of this Idempotency-Key was stored before: nothing was done now."
    )
    bad_rows: int = Field(description="Those that were left out, with `on_bad=skip`.")
    bad: list[RefusedRow] = Field(description="The first 1,000 of them.")

    @classmethod
    def of(cls, done: Inserted) -> Self:
        """An insert as it is shown."""
        return cls(
            rows=done.rows,
            updated=done.updated,
            ignored=done.ignored,
            repeated=done.repeated,
            bad_rows=done.bad_rows,
            bad=[RefusedRow.of(bad) for bad in done.bad],
        )
