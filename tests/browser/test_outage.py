"""The story that this project grew from, seen in browsers: saving fails, people see it at once and
as long as it lasts, and see it end."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import visiting
from support.http import ADMIN_TOKEN, running
from support.savers import put
from support.servers import free_port
from support.waiting import wait_until
from surgetank.console.app import Console

pytestmark = pytest.mark.browser
THREAD = "chat <b>7</b> & '/../' \"x\""
SOON_S = 4.0  # `bench --only console` measures it; this machine runs other tests beside it
# When a banner of each kind is first there, by the clock that events have, too.
WATCH = """window.seen = {};
new MutationObserver(() => {
  for (const kind of ["warning", "critical"])
    if (document.querySelector(`#banners details.${kind}`)) window.seen[kind] ??= Date.now();
}).observe(document.getElementById("banners"), { childList: true });"""
SUPPORT = "https://help.example/ask"


class Heard:
    """What a page heard of saving over its live connection, and when it asked for its banners."""

    def __init__(self, page: Any) -> None:
        self.what: list[str] = []
        page.on("websocket", lambda socket: socket.on("framereceived", self._heard))
        page.on("request", self._asked)

    def _heard(self, frame: Any) -> None:
        for line in str(frame).splitlines():
            kind = json.loads(line)["type"]
            if kind.startswith("checkpoint_flush"):
                self.what.append(kind)

    def _asked(self, request: Any) -> None:
        if "/console/banners" in request.url:
            self.what.append("banners")


def test_an_outage_is_seen_at_once_survives_a_reload_and_is_seen_to_end(
    chromium: Any, make_tank: Any, private_postgres: Any
) -> None:
    tank = make_tank(
        database_url=private_postgres.url, flush_in_process=True, flush_age=0.05, flush_tick=0.05,
        critical_after=3.0, admin_token=ADMIN_TOKEN, support_url=SUPPORT, connect_timeout=1.0,
    )  # fmt: skip
    saver = tank.checkpointer()
    put(saver, THREAD, {"x": 1}, user_id="ada")
    assert tank.flush().ok
    tank.wait_saved(THREAD)
    with running(tank, mounts=[Console]) as server:
        ada = server.token("viewer", "ada")
        with visiting(chromium, server) as user, visiting(chromium, server) as admin:
            page = user.log_in(ada)
            heard = Heard(page)
            page.get_by_role("link", name=THREAD).click()
            expect(page.get_by_role("heading", name="Saved.")).to_be_visible()
            expect(page.get_by_role("heading", name=THREAD, exact=True)).to_be_visible()
            overview = admin.log_in()
            expect(overview.get_by_role("heading", name="All saved.")).to_be_visible()

            page.evaluate(WATCH)
            heard.what.clear()
            private_postgres.kill()
            put(saver, THREAD, {"x": 2}, user_id="ada")
            banner = page.locator("#banners details")
            expect(banner).to_contain_text("Saving is delayed")
            assert "warning" in (banner.get_attribute("class") or "")
            expect(page.get_by_role("heading", name="Not saved yet.")).to_be_visible()
            expect(
                overview.get_by_role(
                    "heading", name=re.compile("^Saving is delayed by .* can't be reached")
                )
            ).to_be_visible()

            expect(banner).to_have_class(re.compile("critical"))  # it lasts
            # The server said so, each time, before the page asked for its banners: it doesn't poll.
            first = heard.what.index
            assert first("checkpoint_flush_error") < first("banners")
            assert "banners" in heard.what[first("checkpoint_flush_critical_error") :]
            assert 2 * heard.what.count("banners") <= len(heard.what)
            _, events = tank.events.thread_events(None)  # of the sink
            recorded = {e.type: 1000 * e.at for e in reversed(events)}
            seen = page.evaluate("window.seen")
            took = [
                seen["warning"] - recorded["checkpoint_flush_error"],
                seen["critical"] - recorded["checkpoint_flush_critical_error"],
            ]
            assert min(took) < 1000, took
            assert max(took) < 1000 * SOON_S, took
            expect(banner.get_by_role("link", name="Contact support")).to_have_attribute(
                "href", SUPPORT
            )
            reference = banner.locator("code").inner_text()
            assert tank.errors.get(reference).severity == "critical"
            assert (
                "server closed" not in banner.inner_text()
            )  # what the database said is not for users
            expect(overview.locator("#banners .detail").first).to_be_visible()

            page.reload()
            expect(banner).to_have_class(re.compile("critical"))
            banner.locator("summary").click()  # folded it is there all the same
            expect(banner.get_by_text("Contact support")).to_be_hidden()
            page.reload()
            expect(banner.locator("summary")).to_contain_text("Saving fails")
            expect(banner.get_by_text("Contact support")).to_be_hidden()
            assert banner.get_by_role("button").count() == 0  # nothing that would send it away

            private_postgres.start()
            expect(page.locator("#banners details")).to_have_count(0)
            expect(page.get_by_role("heading", name="Saved.", exact=True)).to_be_visible()
            expect(overview.get_by_role("heading", name="All saved.")).to_be_visible()
            expect(page.get_by_text("The oldest lines can't be read")).to_have_count(0)


def test_a_server_that_is_gone_is_said_to_be_and_found_again_without_gap_or_double(
    chromium: Any, make_tank: Any
) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    port = free_port()

    def log(first: int, last: int) -> None:
        for n in range(first, last):
            tank.emit_log(f"line {n} <img src=x onerror=alert(1)>", thread_id="t")

    log(0, 300)
    with running(tank, mounts=[Console], port=port) as server, visiting(chromium, server) as admin:
        admin.allowed = ("net::ERR_", "WebSocket connection", "Failed to fetch")
        admin.log_in()
        page = admin.open("/thread?id=t")
        lines = page.locator("[data-log-lines] li")
        expect(lines).to_have_count(200)
        page.get_by_role("button", name="Older lines").click()
        expect(lines).to_have_count(300)
        log(300, 320)
        expect(lines).to_have_count(320)
        server.uvicorn.should_exit = True
        gone = page.get_by_text("The server can't be reached")
        expect(gone).to_be_visible()
        log(320, 1400)
        wait_until(lambda: _ended(server), "the server to end")
        with running(tank, mounts=[Console], port=port):
            expect(lines).to_have_count(1400)
            expect(gone).to_be_hidden()
            log(1400, 1410)
            expect(lines).to_have_count(1410)
            said = lines.locator("span").all_text_contents()
            assert said == [f"line {n} <img src=x onerror=alert(1)>" for n in range(1410)]


def _ended(server: Any) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(server.address) != 0
