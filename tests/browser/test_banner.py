"""The banner in a chat that is not ours: an application of its own origin, whose backend mints the tickets."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import WebSocketRoute, expect

from support.browser import visiting
from support.http import ADMIN_TOKEN, Server, running
from support.savers import put
from support.waiting import wait_until
from surgetank.console.app import Console
from surgetank.server.serve import listen

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
SUPPORT = "https://help.example/ask"
HOSTILE = (
    "</p><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>`x`"
)


def example() -> Any:
    spec = importlib.util.spec_from_file_location("chat_app", ROOT / "examples/chat/app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def chat(make_tank: Any, private_postgres: Any) -> Iterator[tuple[Server, str]]:
    """A server, and the address of the chat beside it."""
    with listen("127.0.0.1", 0) as bound:
        origin = f"http://127.0.0.1:{bound.getsockname()[1]}"
        tank = make_tank(
            database_url=private_postgres.url, flush_in_process=True, flush_age=0.05, flush_tick=0.05,
            critical_after=3.0, admin_token=ADMIN_TOKEN, support_url=SUPPORT, connect_timeout=1.0,
            cors_origins=origin,
        )  # fmt: skip
        put(tank.checkpointer(), "chat-7", {"x": 1}, user_id="ada")
        assert tank.flush().ok
        with running(tank, mounts=[Console]) as server:
            app = example().make_app(server.url, ADMIN_TOKEN, user="ada", thread="chat-7")
            served = uvicorn.Server(uvicorn.Config(app, log_level="error"))
            thread = threading.Thread(target=served.run, kwargs={"sockets": [bound]})
            thread.start()
            wait_until(lambda: served.started, "the chat")
            try:
                yield server, origin
            finally:
                served.should_exit = True
                thread.join(30)


def test_a_chat_of_ones_own_shows_an_outage_from_its_begin_to_its_end(
    chromium: Any, private_postgres: Any, chat: tuple[Server, str]
) -> None:
    server, origin = chat
    with visiting(chromium, server) as ada:
        ada.allowed = ("asked another origin", "favicon", "404")
        page = ada.page
        page.goto(origin)
        states = "window.seen = []; addEventListener('surgetank-banner', e => seen.push(e.detail))"
        page.evaluate(states)
        banner = page.locator("surgetank-banner details")
        expect(banner).to_be_hidden()
        wait_until(lambda: server.services.hub.subscribers > 0, "the connection")

        private_postgres.kill()
        put(server.tank.checkpointer(), "chat-7", {"x": 2}, user_id="ada")
        expect(banner).to_contain_text("Saving is delayed")
        expect(banner).to_have_class("critical")
        expect(banner).to_contain_text("Saving fails")
        expect(banner.get_by_role("link", name="Contact support")).to_have_attribute(
            "href", SUPPORT
        )
        reference = banner.locator("code").last.inner_text()
        assert server.tank.errors.get(reference).severity == "critical"

        banner.locator("summary").click()
        expect(banner.get_by_text("Contact support")).to_be_hidden()
        page.reload()
        expect(banner).to_contain_text("Saving fails")
        expect(banner.get_by_text("Contact support")).to_be_hidden()
        page.evaluate(states)

        private_postgres.start()
        expect(banner).to_be_hidden()
        assert page.evaluate("seen.at(-1).severity") is None


def test_what_is_hostile_is_text_and_a_broken_connection_comes_back(
    chromium: Any, chat: tuple[Server, str]
) -> None:
    server, origin = chat
    opened: list[str] = []

    def answer(socket: WebSocketRoute) -> None:
        opened.append(socket.url)
        if len(opened) == 1:
            socket.close()
            return
        incident = {
            "type": "checkpoint_flush_critical_error", "message": HOSTILE, "timestamp": HOSTILE,
            "error_details": {"error": HOSTILE, "reference": HOSTILE, "support_url": "javascript:alert(1)"},
        }  # fmt: skip
        socket.send(json.dumps({"type": "subscribed", "after": 0, "incidents": [incident]}))

    with visiting(chromium, server) as ada:
        ada.allowed = ("asked another origin", "favicon", "404")
        page = ada.page
        page.route_web_socket("**/ws/threads/**", answer)
        page.goto(origin)
        banner = page.locator("surgetank-banner details")
        expect(banner).to_contain_text("onerror=")
        assert len(opened) > 1  # it came back
        assert len({url.partition("ticket=")[2] for url in opened}) == len(opened)  # each time anew
        assert page.title() == "Chat"
        assert banner.locator("img, script, a").count() == 0
        hostile = 'a/b "<img src=x onerror=alert(1)>" ..'
        refused = []
        page.on("response", lambda r: refused.append(r.status) if "/ticket" in r.url else None)
        page.evaluate(
            "t => document.querySelector('surgetank-banner').setAttribute('thread', t)", hostile
        )
        wait_until(lambda: page.evaluate("1") and refused, "the chat's backend to refuse")
        assert set(refused) == {404}  # whose thread it is the backend decides
        expect(banner).to_be_hidden()
