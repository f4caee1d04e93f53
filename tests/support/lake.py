"""An environment with other readers of tables: DuckDB's ducklake and postgres extensions from wheels, and
polars-ducklake. It is made once for each machine, beside the product's own DuckDB, for which there is no
such wheel."""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_WHEELS = (
    "duckdb==1.5.5",
    "duckdb-extension-ducklake==1.5.5",
    "duckdb-extension-postgres-scanner==1.5.5",
    "polars-ducklake==0.2.1",
    "psycopg[binary]>=3.2",
    "pytz",
)
_READER = Path(__file__).with_name("lake_reader.py")


def environment() -> Path:
    """The interpreter of the environment. Skips where its wheels can't be had."""
    name = hashlib.sha256(" ".join((sys.version, *_WHEELS)).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"surgetank-lake-{name}"
    folder.mkdir(exist_ok=True)
    python = folder / "venv" / "bin" / "python"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
            pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            done = subprocess.run(
                [*pip, *_WHEELS], capture_output=True, text=True, check=False, timeout=280
            )
            if done.returncode:
                pytest.skip(f"the wheels of other readers can't be had: {done.stderr[-300:]}")
            (folder / "made").touch()
    return python


def ask(url: str, *questions: tuple[str, str]) -> list[Any]:
    """What the readers say: ("duckdb", a statement) or ("polars", a table). An answer is rows, or
    the text of the error."""
    with asking(url) as asked:
        return asked(*questions)


@contextmanager
def asking(url: str) -> Iterator[Callable[..., list[Any]]]:
    """`ask` of one process, as often as is wanted."""
    with subprocess.Popen(
        [environment(), _READER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        given, said = reader.stdin, reader.stdout

        def asked(*questions: tuple[str, str]) -> list[Any]:
            print(json.dumps(questions), file=given, flush=True)
            answers: list[Any] = json.loads(said.readline())
            return answers

        yield asked
        given.close()
