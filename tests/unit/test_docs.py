"""The documentation says what is: its links lead somewhere, and it names every setting and
command."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from starlette.routing import Route, WebSocketRoute

from surgetank import exceptions
from surgetank.app import assembly
from surgetank.cli.app import app
from surgetank.database.pool import OLDEST_SERVER
from surgetank.events.types import EventType
from surgetank.server.routes import ROUTERS
from surgetank.settings import Settings

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "surgetank"
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_setting_is_documented():
    text = (ROOT / "docs/reference/settings.md").read_text()
    for name, field in Settings.model_fields.items():
        assert f"`{name}` | `SURGETANK_{name.upper()}`" in text
        assert str(field.description) in text


def commands(command: Any, name: str = "surgetank") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, groups and what is in them."""
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {word}")


def test_every_command_and_option_is_documented():
    text = (ROOT / "docs/reference/cli.md").read_text()
    for name, command in commands(typer.main.get_command(app)):
        assert f"`{name}" in text
        options = {option for given in command.params for option in given.opts}
        hidden = {"--install-completion", "--show-completion"}
        for option in {o for o in options if o.startswith("--")} - hidden:
            assert f"{option}" in text, f"{name} {option}"


def test_every_route_is_documented_and_no_other():
    text = (ROOT / "docs/reference/http.md").read_text().split("\n## ", 1)[0]
    there = set()
    for route in (route for router in ROUTERS for route in router.routes):
        assert isinstance(route, Route | WebSocketRoute)
        for method in getattr(route, "methods", None) or ("GET",):  # a WebSocket begins as a GET
            there.add(f"{method} {re.sub(r':[a-z]+}', '}', route.path)}")
    assert set(re.findall(r"`([A-Z]+ /[^`]*)`", text)) - {"GET /openapi.json"} == there


def codes_in(path: Path) -> Iterator[str]:
    """The codes of the problems that a module makes."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Name(id="Problem"), args=[_, ast.Constant(value=str(code)), *_]):
                yield code


def test_every_problem_code_is_documented_and_no_other():
    section = (ROOT / "docs/reference/http.md").read_text().split("| status | codes |", 1)[1]
    documented = set(re.findall(r"`([a-z]+(?:-[a-z]+)+|[a-z]+)`", section.split("\n\n", 1)[0]))
    made = {code for path in (SOURCE / "server").rglob("*.py") for code in codes_in(path)}
    made |= {kind.problem for kind in vars(exceptions).values() if hasattr(kind, "problem")}
    framework = {"bad-request", "method-not-allowed"}  # by the status: `problems.of_http`
    assert documented - {"reference"} == made | framework


def test_every_type_of_event_is_documented():
    text = (ROOT / "docs/reference/events.md").read_text()
    assert [kind for kind in EventType if f"`{kind}`" not in text] == []


def test_every_table_is_documented():
    text = (ROOT / "docs/reference/tables.md").read_text()
    made = re.compile(r"CREATE (?:TABLE|VIEW)(?: IF NOT EXISTS)? surgetank\.(\w+)", re.IGNORECASE)
    gone = re.compile(r"DROP (?:TABLE|VIEW)(?: IF EXISTS)? surgetank\.(\w+)", re.IGNORECASE)
    scripts = [path.read_text() for path in sorted(SOURCE.rglob("migrations/*.sql"))]
    last = {name: script for script in scripts for name in made.findall(script)}
    dropped = {n for script in scripts for n in gone.findall(script) if script is not last.get(n)}
    assert sorted(name for name in last if f"`{name}`" not in text and name not in dropped) == []


def test_every_page_is_in_the_navigation_once():
    text = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"^ +- (?:[A-Z]\w*: )?(\S+\.md)$", text, re.MULTILINE)
    pages = {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")}
    assert sorted(listed) == sorted(pages - {"package.md"})  # that one is PyPI's


def test_versions_on_the_page_are_those_of_the_project():
    project = (ROOT / "pyproject.toml").read_text()
    page = (ROOT / "docs/reference/versions.md").read_text()
    assert re.search(r'requires-python = ">=3.11"', project)
    assert "| Python | 3.11 and newer" in page
    assert re.search(r'"langgraph>=1.0", "langgraph-checkpoint>=4.3"', project)
    assert "| LangGraph | 1.0 and newer, `langgraph-checkpoint` 4.3 and newer" in page
    assert f"| PostgreSQL | {OLDEST_SERVER} and newer" in page


def test_every_room_is_in_the_table_of_rooms_and_no_other():
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Where things live", 1)[1]
    cells = re.findall(r"^\| (`.*?) \|", section.split("\n## ", 1)[0], re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`([\w.]+)/?`", cell)}
    there = {
        path.name
        for path in SOURCE.iterdir()
        if (path.is_dir() and path.name != "__pycache__") or path.suffix == ".py"
    }
    assert named == there - {"__init__.py"}


def test_every_thread_is_in_the_table_of_threads_with_the_module_that_makes_it():
    text = (ROOT / "docs/architecture.md").read_text()
    rows = dict(re.findall(r"^\| `(surgetank-[a-z-]+)` \| `([\w/]+\.py)` \|", text, re.MULTILINE))
    docstring = assembly.__doc__ or ""
    for name, module in rows.items():
        assert (SOURCE / module).is_file()
        assert f"`{name}`" in docstring
    # Also the names of what is no thread: a mark that a probe writes and takes back.
    quoted = re.compile(r'"(surgetank-[a-z-]+[a-z])"')
    used = {name for path in SOURCE.rglob("*.py") for name in quoted.findall(path.read_text())}
    assert used - rows.keys() == {"surgetank-ping", "surgetank-probe"}


def test_every_type_of_system_error_is_documented_and_no_other():
    section = (
        (ROOT / "docs/reference/errors.md").read_text().split("## Types of system errors", 1)[1]
    )
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) - {"error_type"}
    source = "\n".join(
        p.read_text()
        for room in ("app", "notify", "workflows")
        for p in (SOURCE / room).rglob("*.py")
    )
    made = {EventType.FLUSH_ERROR.value, EventType.FLUSH_CRITICAL.value}
    made |= set(re.findall(r'error_type="(\w+)"', source))
    made |= set(re.findall(r'"(\w+_went_back)"', source))
    where = set(re.findall(r'self\._tell\("(\w+)", (?:error|lost), ', source))
    made |= {f"{one}_problem" for one in where | set(re.findall(r'where="(\w+)"', source))}
    assert documented == made
