"""The package as it is shipped: complete, typed, light to import, without addresses of registries
or machines."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import distribution, packages_distributions
from importlib.resources import files
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import surgetank

ROOT = Path(__file__).parents[2]


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name]


def test_the_public_face_is_there_and_documented():
    for name in surgetank.__all__:
        assert getattr(surgetank, name).__doc__, name
    with pytest.raises(AttributeError):
        _ = surgetank.nonsense


def test_what_is_no_python_is_shipped_too():
    package = files("surgetank")
    assert (package / "py.typed").is_file()
    assert (package / "database" / "migrations" / "0001_checkpoints.sql").is_file()
    assert (package / "streams" / "checkpoints" / "cold" / "flush.sql").is_file()


def test_importing_the_package_loads_neither_database_nor_langgraph():
    script = "import surgetank, sys; print([m for m in ('psycopg', 'langgraph', 'typer', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def shipped_with(name: str, extras: Iterable[str] = ()) -> set[str]:
    """The distributions that pip installs with one, itself among them."""
    found: set[str] = {canonicalize_name(name)}
    for text in distribution(name).requires or ():
        needed = Requirement(text)
        asked = (
            any(needed.marker.evaluate({"extra": e}) for e in ("", *extras))
            if needed.marker
            else True
        )
        if asked and canonicalize_name(needed.name) not in found:
            found |= shipped_with(needed.name, needed.extras)
    return found


def test_the_commands_are_there_without_any_extra():
    base = shipped_with("surgetank")
    others = sorted(
        module
        for module, of in packages_distributions().items()
        if not base & {canonicalize_name(each) for each in of} and module != "surgetank"
    )
    assert "fastapi" in others
    assert "langgraph" in others
    script = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {others!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from surgetank.cli.app import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "inbox" in done.stdout


def test_no_tracked_file_names_a_registry_or_a_machine_s_path():
    pattern = re.compile(
        rb"files\.pythonhosted|pypi\.org|registry\.npmjs|/root/|/home/[a-z]+/|--(extra-)?index-url"
    )
    for path in tracked():
        if path.is_file() and path != Path(__file__):
            found = pattern.search(path.read_bytes())
            assert found is None, f"{path}: {found}"


def test_nothing_unpickles():
    for path in (ROOT / "src").rglob("*.py"):
        assert not re.search(
            r"^\s*(import|from) (pickle|marshal|shelve)", path.read_text(), re.MULTILINE
        ), path


def test_the_package_says_its_version():
    import surgetank

    assert surgetank.__version__.split(".")[0].isdecimal()


async def test_code_of_the_official_savers_may_call_setup():
    from surgetank import SurgetankSaver

    saver = SurgetankSaver.__new__(SurgetankSaver)
    saver.setup()
    await saver.asetup()
