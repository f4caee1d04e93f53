"""One browser for the tests of a module, and the tools of npm that look at pages and scripts.

It is closed at the end of each module: as long as it is open, Playwright's event loop is the running one of the
process, and other tests could run none.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from support.browser import find_chromium, running_browser

TOOLS = Path(__file__).with_name("tools")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser. Skips where none is installed."""
    program = find_chromium()
    if program is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with running_browser(program) as browser:
        yield browser


@pytest.fixture(scope="session")
def tools(tmp_path_factory: Any) -> Path:
    """A folder with axe-core and the TypeScript compiler, as the lock file pins them: one for all
    workers of a run."""
    if shutil.which("npm") is None:
        pytest.skip("only npm has axe-core and the TypeScript compiler")
    own: Path = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder, done = shared / "browser-tools", shared / "browser-tools.done"
    with (shared / "browser-tools.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _install(folder)
            done.touch()
    return folder


def _install(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
    shutil.copytree(TOOLS, folder, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(
        install, cwd=folder, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
