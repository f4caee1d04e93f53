"""Each route of the console with what nobody would write: it is refused or taken as text, and is never a bug of
the server's."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Any
from urllib.parse import quote

from fastapi.routing import iter_route_contexts

from support.console import browser, log_in
from support.http import ADMIN_TOKEN, running
from support.questions import ask, working
from support.savers import put
from surgetank import Surgetank
from surgetank.console.app import ROUTERS, Console
from surgetank.model import Record

NASTY = (
    b"\x00", b"//[", b"a\xed\xa0\x80", b"9" * 400, b"-1", b"1e400", b"[" * 4000, b"' OR 1=1 --", b"\r\nX: y",
    b"0001-01-01", b"9999-12-31T23:59:59+14:00", b"WzFlOTk5LCJhIiwxXQ", b"bnVsbA",
)  # fmt: skip
# Names of fields that are read in a way that the source of a module doesn't show.
ALSO = {"id", "at", "after", "until", "value"}
TWICE = {"again"}  # without it nobody is erased, which takes long


def routes() -> Iterator[tuple[str, str, set[str]]]:
    """Method, path, and the names of parameters and fields that its module reads."""
    for router in ROUTERS:
        for context in iter_route_contexts(router.routes):
            source = inspect.getsource(inspect.getmodule(context.endpoint))  # type: ignore[arg-type]
            names = set(re.findall(r'(?:get\(|query_params, |query, )"([a-z_]+)"', source)) | ALSO
            names |= {each.alias for each in context.original_route.dependant.query_params}  # type: ignore[attr-defined]
            for method in context.methods or ():
                if context.path != "/logout":
                    yield method, str(context.path), names


def fill(tank: Surgetank) -> dict[str, str]:
    """Something of all that a path can name."""
    state = put(tank.checkpointer(), "chat", {"x": 1}, user_id="ada")["configurable"]
    tank.parts.buffer.append("thread_logs", "chat", (Record(b"l", b"no line"),))
    job = tank.flush("thread_logs")
    tank.flush()
    with working(tank):
        question = ask(tank, "asked", {"question": "Really?"})
    return {
        "job_id": job.id, "error_id": tank.log_system_error("odd", "it failed"), "parked_id": "1",
        "checkpoint_id": str(question.checkpoint_id), "form": "csv", "token_id": "none",
        "at": state["checkpoint_id"],
    }  # fmt: skip


def test_nothing_that_is_sent_is_a_bug_of_the_server(make_tank: Any) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    known = fill(tank)
    failed = list[tuple[Any, ...]]()
    with running(tank, mounts=[Console]) as server:
        client, secret = log_in(server, ADMIN_TOKEN)
        headers = {"X-CSRF-Token": secret, "Content-Type": "application/x-www-form-urlencoded"}
        place = f"?id=chat&at={known['at']}"

        def send(method: str, path: str, fields: Mapping[str, bytes]) -> None:
            sent = "&".join(f"{name}={quote(value)}" for name, value in fields.items())
            at = f"{path}{place}"
            answer = (
                client.get(f"{at}&{sent}") if method == "GET"
                else client.post(at, content=sent, headers=headers)
            )  # fmt: skip
            if answer.status_code >= 500:
                failed.append((method, path, fields, answer.status_code))

        turn = cycle(NASTY)
        for method, path, names in routes():
            filled = re.sub(r"\{(\w+)\}", lambda found: known[found[1]], path)
            if method == "GET":  # one after the other: the first that is refused hides the others
                for name in sorted(names):
                    send(method, filled, {name: next(turn)})
            else:
                for _ in range(3):
                    send(method, filled, dict.fromkeys(names - TWICE, next(turn)))
            if "{" in path:
                send(method, re.sub(r"\{\w+\}", quote(next(turn), safe=""), path), {})
        assert failed == []
        assert browser(server).get("/login", params={"next": "//["}).status_code == 200
