"""The constants for front ends: generated from the Python models, and accepted by the TypeScript
compiler that the lock file pins."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NotRequired, get_origin, get_type_hints

import pytest

from surgetank.events.types import PAYLOADS, EventType, Gap
from surgetank.workflows import forwarder

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients/typescript"


def generated(what: str = "text") -> str:
    spec = importlib.util.spec_from_file_location("generate_typescript", CLIENT / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(getattr(module, what)())


def test_the_constants_are_those_of_the_python_models() -> None:
    there = (CLIENT / "src/index.ts").read_text(encoding="utf-8")
    assert there == generated(), "run: python clients/typescript/generate.py"
    banner = (CLIENT / "src/surgetank-banner.js").read_text(encoding="utf-8")
    assert banner == generated("banner"), "run: python clients/typescript/generate.py"


def test_the_package_has_the_version_of_ours() -> None:
    ours = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert ours is not None
    package, lock = (
        json.loads((CLIENT / name).read_text()) for name in ("package.json", "package-lock.json")
    )
    assert {package["version"], lock["version"], lock["packages"][""]["version"]} == {ours[1]}


@pytest.mark.parametrize("folder", [CLIENT, ROOT / "tests/js"])
def test_the_lock_file_pins_contents_and_names_no_registry(folder: Path) -> None:
    text = (folder / "package-lock.json").read_text()
    pinned = [p for name, p in json.loads(text)["packages"].items() if name]
    assert "://" not in text
    assert pinned
    assert all(package["integrity"] for package in pinned)


def test_every_type_of_event_has_a_payload() -> None:
    assert set(PAYLOADS) == set(EventType)


def fields(kind: EventType) -> tuple[set[str], set[str]]:
    """What a payload must have, and what it may."""
    hints = get_type_hints(PAYLOADS[kind], include_extras=True)
    return {n for n, hint in hints.items() if get_origin(hint) is not NotRequired}, set(hints)


@pytest.mark.parametrize("action", [*forwarder._STATUS, *forwarder._CHECKPOINTS])
def test_forwarded_events_have_the_fields_of_their_payload(action: str) -> None:
    detail: dict[str, Any] = {"attempt": 1, "step": "ask", "kind": "free", "checkpoint_id": "c"}
    row = {"id": 1, "thread_id": "t", "workflow_id": "w", "run_id": "r"}
    for given in ({}, detail):
        event = forwarder.event_of(row | {"action": action, "detail": given})
        assert event is not None
        must, may = fields(EventType(event.type))
        assert must <= set(event.data) <= may


def test_a_gap_has_the_fields_of_its_payload() -> None:
    must, _ = fields(EventType.GAP)
    assert set(Gap("t", 1, 2).to_dict()) == must | {"type"}


@pytest.mark.skipif(shutil.which("npm") is None, reason="only Node checks TypeScript")
def test_the_compiler_accepts_the_constants(tmp_path: Path) -> None:
    folder = tmp_path / "client"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    for command in (install, ["npm", "run", "check"]):
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=240
        )
        assert done.returncode == 0, done.stdout + done.stderr
