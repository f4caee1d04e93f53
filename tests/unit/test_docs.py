"""The documentation says what is: its links lead somewhere, and it names every setting and
command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from surgetank.cli.app import app
from surgetank.database.pool import OLDEST_SERVER
from surgetank.settings import Settings

ROOT = Path(__file__).parents[2]
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


def test_every_command_is_documented():
    text = (ROOT / "docs/reference/cli.md").read_text()
    for command in app.registered_commands:
        assert f"surgetank {command.name}" in text
    for group in app.registered_groups:
        assert f"surgetank {group.name}" in text


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
