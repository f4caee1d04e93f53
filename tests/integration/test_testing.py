"""What `surgetank.testing` gives to the tests of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.graphs import agent
from support.savers import config, put
from surgetank.exceptions import ConfigurationError
from surgetank.testing import FakeClock, engine


def test_a_graph_runs_and_is_read_without_a_database_and_leaves_nothing() -> None:
    with engine() as tank:
        home = tank.settings.home
        graph = agent(tank.checkpointer())
        graph.invoke({"messages": [("user", "hi")]}, config("t"))
        assert graph.get_state(config("t")).values["messages"]
        tank.emit_log("a line", thread_id="t")
        assert [line.message for line in tank.logs("t")] == ["a line"]
        assert not (home / "postgres").exists(), "no server was made"
        assert tank.status().buffer.entries > 0
    assert not home.exists()


def test_two_engines_at_once_share_nothing() -> None:
    with engine() as one, engine() as other:
        put(one.checkpointer(), "t", {"n": 1})
        assert one.checkpointer().get_tuple(config("t")) is not None
        assert other.checkpointer().get_tuple(config("t")) is None


def test_a_database_of_the_environment_is_not_touched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SURGETANK_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("SURGETANK_HOME", str(tmp_path / "home"))
    with engine() as tank:
        assert tank.settings.database_url is None
        put(tank.checkpointer(), "t", {"n": 1})
    assert not (tmp_path / "home").exists()


def test_the_clock_is_the_test_s() -> None:
    clock = FakeClock()
    with engine(clock=clock) as tank:
        put(tank.checkpointer(), "t", {"n": 1})
        clock.advance(90)
        assert tank.status().lag_s == pytest.approx(90)
        clock.advance(-30)
        assert tank.status().lag_s == pytest.approx(60)


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(ConfigurationError), engine(flush_entrys=1):  # type: ignore[call-arg]
        pass
