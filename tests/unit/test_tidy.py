"""The source is tidy: what nobody uses is gone, what is named exists, and words keep their meaning.

The idea is TigerBeetle's `tidy.zig`: a test that reads the source.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "surgetank"
# docs/glossary.md says what to say instead.
BANNED = frozenset(
    (
        "desk", "desks", "chore", "chores", "told", "settle", "settled", "settles", "grave", "graves", "buried",
        "place", "places", "look", "looks", "whole", "works", "turns",
    )
)  # fmt: skip
MAX_FILE = 450
MAX_LINE = 100
MAX_POSITIONAL = 5
# Applied migrations are never edited; the changelog tells of what there was.
FROZEN = re.compile(r"database/migrations/|^CHANGELOG\.md$|^tests/fixtures/")
# A name of a file in text. Names with a placeholder or of files that a program makes are none.
FILE_NAME = re.compile(
    r"(?<![\w/.<{*-])((?:[\w-]+/)*[\w-]+\.(?:py|sql|md|toml|yml|txt))\b(?![(\w])"
)
MADE_BY_USERS = frozenset(
    (
        "surgetank.toml", "chat.py", "app.py", "langgraph.json", "main.py", "NNNN_name.sql", "my_graph.py", "page.md",
        "fill.py", "example.py", "docker-compose.yml", "prometheus.yml", "langgraph/checkpoint/serde/jsonplus.py",
        "database/migrations/NNNN_name.sql",
    )
)  # fmt: skip


@cache
def tracked() -> tuple[str, ...]:
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("not a checkout of git")
    return tuple(name for name in done.stdout.splitlines() if (ROOT / name).is_file())


def texts(*endings: str) -> Iterator[tuple[str, str]]:
    for name in tracked():
        if name.endswith(endings or (".py", ".sql", ".md", ".toml", ".yml", ".txt")):
            yield name, (ROOT / name).read_text(encoding="utf-8")


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def words_of(name: str) -> set[str]:
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def names_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """What a module gives a name to."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
            case ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name


def test_no_file_has_the_markers_of_a_conflict() -> None:
    marker = re.compile(r"^(<{7}|>{7}|\|{7}) |^={7}$", re.MULTILINE)
    assert [name for name, text in texts() if marker.search(text)] == []


def test_every_query_is_used() -> None:
    used = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    begun = tuple(re.findall(r'f"(\w+_)\{', used))  # names that are put together
    unused = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (*SOURCE.rglob("*.sql"), *SOURCE.rglob("*.lua"))
        if "migrations" not in path.parts
        for name in re.findall(r"^-- name: (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if f'"{name}"' not in used and not name.startswith(begun)
    ]
    assert unused == []


def test_every_module_is_imported() -> None:
    imported: set[str] = set()
    for _, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                imported.add(node.value)  # by name: `__init__` and the command line load lazily
    unused = []
    for path, _ in modules():
        name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        if path.stem not in ("__init__", "__main__") and name not in imported:
            unused.append(name)
    assert unused == []


def test_no_identifier_is_a_banned_word() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path, tree in modules()
        for line, name in names_in(tree)
        if words_of(name) & BANNED
    ]
    found += [str(path) for path in SOURCE.rglob("*.py") if words_of(path.stem) & BANNED]
    assert found == []


def test_files_that_text_names_exist() -> None:
    known = set(tracked())
    ends = {name.rsplit("/", 1)[-1] for name in known}
    missing = []
    for name, text in texts(".py", ".sql", ".md"):
        if FROZEN.search(name):
            continue
        for line in _prose(name, text):
            for found in FILE_NAME.findall(line):
                there = any(
                    known_name.endswith(f"/{found}") or known_name == found for known_name in known
                )
                if not there and found not in MADE_BY_USERS and (found not in ends):
                    missing.append(f"{name}: {found}")
    assert missing == []


def _prose(name: str, text: str) -> Iterator[str]:
    """The comments and docstrings of a program, the lines of a document outside of its blocks."""
    if name.endswith(".md"):
        yield from re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL).splitlines()
    elif name.startswith("src/"):
        if name.endswith(".sql"):
            yield from (line for line in text.splitlines() if line.lstrip().startswith("--"))
            return
        yield from (line.split("#", 1)[1] for line in text.splitlines() if "# " in line)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from (ast.get_docstring(node) or "").splitlines()


def test_nothing_refers_to_documents_outside_of_the_repository() -> None:
    outside = re.compile(
        r"\b(DESIGN|STYLE)\.md\b|\bshared/|\bfacts/[\w-]+\.md|\bissue (number )?\d+\b",
        re.IGNORECASE,
    )
    found = [
        f"{name}: {match[0]}"
        for name, text in texts(".py", ".sql", ".md")
        if not FROZEN.search(name) and name != "tests/unit/test_tidy.py"
        for match in outside.finditer(text)
    ]
    assert found == []


def test_no_file_is_long() -> None:
    long = {
        name: count
        for name, text in texts(".py")
        if name.startswith("src/") and (count := text.count("\n")) > MAX_FILE
    }
    assert long == {}


def test_few_lines_are_wide() -> None:
    for folder in ("src/", "tests/", "bench/"):
        lines = [
            line
            for name, text in texts(".py")
            if name.startswith(folder)
            for line in text.splitlines()
        ]
        wide = sum(len(line) > MAX_LINE for line in lines)
        assert wide < 0.01 * len(lines), f"{wide} of {len(lines)} in {folder}"


def test_no_constructor_is_called_with_many_positions() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.func.id}"
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and re.match(r"_?[A-Z][a-z]", node.func.id)
        and sum(not isinstance(argument, ast.Starred) for argument in node.args) > MAX_POSITIONAL
    ]
    assert found == []
