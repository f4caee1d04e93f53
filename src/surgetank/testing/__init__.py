"""For tests of programs that use Surgetank: an engine without a database, an outage, a clock that a
test moves.

    from surgetank.testing import engine

    def test_the_graph_remembers():
        with engine() as tank:
            graph = builder.compile(checkpointer=tank.checkpointer())
            graph.invoke({"messages": ["hello"]}, {"configurable": {"thread_id": "t"}})
            assert graph.get_state({"configurable": {"thread_id": "t"}}).values["messages"]

What is accepted stays in the buffer, in a temporary folder, and is read from there. Nothing is
flushed and no server is started, so that such a test takes milliseconds. It is also what an
application sees while its database is away.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from surgetank.app.surgetank import Surgetank
from surgetank.setting_sources import isolated

if TYPE_CHECKING:
    from typing import Unpack

    from surgetank.setting_names import SettingNames

__all__ = ["FakeClock", "engine"]


class FakeClock:
    """A clock that a test moves: `Surgetank(clock=clock)`. Seconds since the epoch."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass; negative seconds set the clock back."""
        self.now += seconds


@contextmanager
def engine(
    *, clock: Callable[[], float] = time.time, **settings: Unpack[SettingNames]
) -> Iterator[Surgetank]:
    """An open engine of a test's own, with a buffer and without a database.

    `settings` are those of `Surgetank`, without `home` and `database_url`; those of the environment
    and of files are not used. Raises what `Surgetank` raises.
    """
    with tempfile.TemporaryDirectory(prefix="surgetank-test-") as folder:
        given: SettingNames = {
            "flush_in_process": False,
            "flush_on_close": False,
            "disk_reserve": 0,
            **settings,
        }
        with isolated():
            tank = Surgetank(Path(folder) / "home", start_database=False, clock=clock, **given)
        with tank:
            yield tank
