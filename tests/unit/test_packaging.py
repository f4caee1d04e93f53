"""What is uploaded: a complete source distribution, a long description without dead links, extras
that have content."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_tracked_file_is_in_the_source_distribution() -> None:
    import subprocess

    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    included = [
        name.lstrip("/")
        for name in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    ]
    always = ("pyproject.toml", ".gitignore")
    left_out = [
        name
        for name in done.stdout.decode().split("\0")
        if name and name not in always and name.split("/", 1)[0] not in included
    ]
    assert left_out == []
    assert [name for name in included if not (ROOT / name).exists()] == []


def test_the_long_description_has_no_link_that_leads_nowhere_outside_the_repository() -> None:
    text = (ROOT / PROJECT["project"]["readme"]).read_text(encoding="utf-8")
    assert [
        link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")
    ] == []


def test_no_extra_is_empty_and_what_the_long_description_names_is_there() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert [name for name, needs in extras.items() if not needs] == []
    text = (ROOT / PROJECT["project"]["readme"]).read_text(encoding="utf-8").split("Extras:")[1]
    assert set(re.findall(r"`(\w+)`", text)) == set(extras) - {"test", "docs"}
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    for name in set(extras) - {"test", "docs", "all"}:
        package = re.split(r"[><=\[]", extras[name][0])[0].replace("-", "_")
        assert package.split("_")[-1] in sources, f"nothing uses the extra {name!r}"


def test_the_author_is_the_contributors() -> None:
    assert PROJECT["project"]["authors"] == [{"name": "Surgetank contributors"}]
