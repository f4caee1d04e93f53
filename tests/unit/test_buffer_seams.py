"""A second kind of buffer is an addition: only `app/backends.py` knows which one it has, and all others
name the roles that they need.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import surgetank
from surgetank.buffer.protocol import Buffer
from surgetank.buffer.spilling import Spilling
from surgetank.buffer.sqlite.buffer import SQLiteBuffer

SOURCE = Path(surgetank.__file__).parent
KNOWS_THE_KIND = ("buffer/", "sqlite/", "app/backends.py")
KIND = re.compile(
    r"\bSQLite(Buffer|Log\b|Leases|Spilling)|surgetank\.buffer\.sqlite|buffer\.(path|file)\b"
)
TAKES_ALL = {"streams/stream.py"}  # hands a buffer on to streams that are not known yet


def above_the_buffer() -> Iterator[tuple[str, str]]:
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith(KNOWS_THE_KIND):
            yield name, path.read_text()


def test_nobody_above_the_buffer_knows_its_kind_or_asks_for_its_path() -> None:
    sources = dict(above_the_buffer())
    assert "flush/job.py" in sources
    found = [
        f"{name}: {line.strip()}"
        for name, text in sources.items()
        for line in text.splitlines()
        if KIND.search(line)
    ]
    assert found == []


# other concrete classes that one module alone chooses between, with where they are made of each other
CHOSEN = {
    "SQLiteEventLog": ("events/",),
    "SQLiteAlertBook": ("notify/alerts/",),
    "EmbeddedPostgres": ("database/",),
    "EmbeddedDatabase": ("database/",),
    "SaverCold": ("streams/checkpoints/any_saver/",),
    "ColdReader": ("streams/",),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_one_module_of_the_application_names_concrete_classes(name: str) -> None:
    found = [
        path
        for path, text in above_the_buffer()
        if not path.startswith(CHOSEN[name]) and re.search(rf"\b{name}\b", text)
    ]
    assert found == []


def test_who_uses_a_buffer_takes_the_roles_that_it_needs() -> None:
    whole = {name for name, text in above_the_buffer() if "buffer.protocol import" in text}
    assert whole <= TAKES_ALL


@pytest.mark.parametrize("role", [*Buffer.__mro__[1:], Spilling])
def test_the_sqlite_buffer_has_the_methods_of_each_role(tmp_path: Path, role: type) -> None:
    buffer = SQLiteBuffer(tmp_path / "buffer.db")
    names = [name for name in vars(role) if not name.startswith("_")]
    assert [name for name in names if not hasattr(buffer, name)] == []
    buffer.close()
