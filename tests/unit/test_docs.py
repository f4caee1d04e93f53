"""The documentation says what is: its links lead somewhere, and it names every setting and
command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from surgetank.cli.app import app
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
        assert field.description in text


def test_every_command_is_documented():
    text = (ROOT / "docs/reference/cli.md").read_text()
    for command in app.registered_commands:
        assert f"surgetank {command.name}" in text
    for group in app.registered_groups:
        assert f"surgetank {group.name}" in text
