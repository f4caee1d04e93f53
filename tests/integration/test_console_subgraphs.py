"""States of subgraphs: shown with what differs, and gone on from as long as the thread is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.agents import agents, run_on
from support.console import Person
from support.http import ADMIN_TOKEN, running
from support.waiting import wait_until
from surgetank.console.app import Console


def test_a_subgraph_that_failed_is_mended_and_goes_on_and_one_that_was_left_says_why_not(
    make_tank: Any, tmp_path: Path
) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    with (
        agents(tank, tmp_path / "project") as graphs,
        running(tank, graphs=graphs, mounts=[Console]) as server,
    ):
        given = {"messages": [{"role": "user", "content": "hello"}], "order": "1", "fail": True}
        run_on(server.as_role("user", "ada"), "chat", given)
        ada = Person.of(server, server.token("user", "ada"))
        history = [
            raw
            for raw in tank.threads.stored().history("chat", None, channels=())
            if raw.checkpoint_ns
        ]
        newest, oldest = history[0], history[-2]  # before `check`, which failed; before `look_up`
        at = {"id": "chat", "ns": newest.checkpoint_ns}

        def page(raw: Any) -> Any:
            return ada.get("/thread/checkpoint", at=raw.checkpoint_id, **at)

        def post(what: str, raw: Any, code: int, **fields: Any) -> Any:
            query = f"id=chat&ns={newest.checkpoint_ns}&at={raw.checkpoint_id}"
            return ada.post(f"/thread/{what}?{query}", code, **fields)

        seen = page(newest)
        assert "of the subgraph payment" in seen.text
        assert "Runs check again" in seen.text
        assert "Runs look_up again" in page(oldest).text

        def over() -> bool:
            return all(run.ended_at for run in tank.runs.of_thread("chat", limit=10))

        post("replay", oldest, 200)
        wait_until(over, "the run to fail again: nothing has changed")
        found = list(tank.threads.stored().history("chat", newest.checkpoint_ns, channels=()))
        assert len(found) == len(history) + 2, "a copy, and the step after it"
        post("fork", found[0], 200, go_on="yes", more='{"fail": false}')
        wait_until(over, "the run to go on")
        state = server.as_role("user", "ada").get("/threads/chat/state").json()
        assert state["next"] == []
        assert state["values"]["messages"][-1]["content"].startswith("Dear Ada")

        left = page(newest)
        assert "not in this subgraph now" in left.text
        assert "Replay from here" not in left.text
        assert "not in this subgraph now" in post("replay", newest, 422).text
        assert "not in this subgraph now" in post("fork", newest, 422, more="{}").text
