"""Runs in the environment of `lake.py`: reads tables through their DuckLake catalogue, as strangers do."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

SCHEMA = "surgetank"


class Readers:
    """Both readers, on one database."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._duckdb: Any = None

    def duckdb(self, statement: str) -> list[list[Any]]:
        """Run a statement on the attached catalogue."""
        if self._duckdb is None:
            self._duckdb = importlib.import_module("duckdb").connect()
            for name in ("ducklake", "postgres_scanner"):
                module = importlib.import_module(f"duckdb_extension_{name}")
                found = next(Path(module.__path__[0]).rglob("*.duckdb_extension"))
                self._duckdb.execute(f"LOAD '{found}'")
            self.attach()
        return [list(row) for row in self._duckdb.execute(statement).fetchall()]

    def attach(self) -> None:
        self._duckdb.execute(
            f"ATTACH 'ducklake:postgres:{self._url}' AS lake (READ_ONLY, METADATA_SCHEMA '{SCHEMA}')"
        )

    def polars(self, table: str) -> list[list[Any]]:
        """All rows of a table (schema.name)."""
        polars_ducklake = importlib.import_module("polars_ducklake")
        create_engine = importlib.import_module("sqlalchemy").create_engine
        engine = create_engine(
            self._url.replace("postgresql://", "postgresql+psycopg://"),
            connect_args={"options": f"-csearch_path={SCHEMA}"},
        )
        schema, name = table.split(".")
        rows = polars_ducklake.scan_ducklake(engine, table=name, schema=schema).collect()
        return [list(row) for row in rows.rows()]

    def again(self, statement: str) -> list[list[Any]]:
        """As `duckdb`, attached again: it sees columns that were added."""
        if self._duckdb is not None:
            self._duckdb.execute("DETACH lake")
            self.attach()
        return self.duckdb(statement)


def main() -> None:
    """Each line is a list of questions, and answered by a line."""
    readers = Readers(sys.argv[1])
    for line in sys.stdin:
        answers: list[Any] = []
        for reader, question in json.loads(line):
            try:
                answers.append(getattr(readers, reader)(question))
            except Exception as error:
                answers.append(f"{type(error).__name__}: {error}")
        print(json.dumps(answers, default=str), flush=True)


if __name__ == "__main__":
    main()
