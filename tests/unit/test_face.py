"""Commands, routes and metrics use the objects of a `Surgetank`, and nothing of what an engine
consists of."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from surgetank.app.assembly import Parts

SOURCE = Path(__file__).parents[2] / "src" / "surgetank"
ROOMS = ("cli", "server", "observability")


def reaches(tree: ast.Module) -> list[int]:
    """The lines on which an engine's parts, or a private name of something else, are used."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (
            node.attr in ("parts", "_parts")
            or (
                isinstance(node.value, ast.Name) and node.value.id == "tank" and node.attr[0] == "_"
            )
        )
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_nobody_reaches_through_the_engine(room: str) -> None:
    found = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in sorted((SOURCE / room).rglob("*.py"))
        for line in reaches(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_the_parts_are_imported_by_nobody_above_the_engine() -> None:
    name = Parts.__module__
    found = [
        str(path.relative_to(SOURCE))
        for room in ROOMS
        for path in (SOURCE / room).rglob("*.py")
        if name in path.read_text(encoding="utf-8")
    ]
    assert found == []


def test_what_would_be_found_is_found() -> None:
    assert sorted(reaches(ast.parse("tank.parts.buffer.depth()\nservices.tank._parts\ntank._flush()"))) == [
        1, 2, 3,
    ]  # fmt: skip
