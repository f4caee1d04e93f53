"""What docs/architecture.md says of the way of a checkpoint and of a failure is what happens."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import surgetank
from support.postgres import PostgresServer
from support.savers import put
from surgetank import Surgetank

SOURCE = Path(surgetank.__file__).parent
PAGE = SOURCE.parents[1] / "docs" / "architecture.md"


def listed(heading: str) -> list[str]:
    """The files of a numbered list, in order."""
    text = PAGE.read_text(encoding="utf-8")
    section = text.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\d+\. `([\w/]+\.py)`", section, re.MULTILINE)


def entered(act: Callable[[], object]) -> set[str]:
    """The files of the package whose code runs meanwhile, in any thread."""
    seen: set[str] = set()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(SOURCE)):
            seen.add(str(Path(frame.f_code.co_filename).relative_to(SOURCE)))

    before = sys.getprofile()
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    return seen


def test_a_checkpoint_goes_from_put_to_copy_through_the_files_that_are_listed(
    tank: Surgetank,
) -> None:
    files = listed("A checkpoint's way")
    assert 15 <= len(files) <= 25
    saver = tank.checkpointer()
    put(saver, "t", {"items": ["before"] * 200})

    def act() -> None:
        put(saver, "t", {"items": ["before"] * 200 + ["after"]}, step=1)
        assert tank.flush().ok

    assert set(files) - entered(act) == set()


def test_a_failure_goes_from_the_sink_to_the_banner_through_the_files_that_are_listed(
    make_tank: Any, private_postgres: PostgresServer
) -> None:
    files = listed("A failure's way")
    assert len(files) <= 10
    tank = make_tank(database_url=private_postgres.url)
    put(tank.checkpointer(), "t", {"n": 1})
    assert tank.flush().ok
    private_postgres.stop()

    def act() -> None:
        put(tank.checkpointer(), "t", {"n": 2})
        tank.flush()

    missing = set(files) - entered(act)
    # the last step is the server's, which is not running here
    assert missing <= {"server/live/followers.py"}
    assert all((SOURCE / file).is_file() for file in files)
    assert tank.events.incidents()
