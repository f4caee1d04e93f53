"""Every page as people meet it: usable by everybody, light, quick, and showing what is hostile as
text."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
from playwright.sync_api import expect

from support.browser import MOST_BYTES, TOO_WIDE, Visitor, violations, visiting
from support.console import Person
from support.http import ADMIN_TOKEN, Server, running
from support.questions import ask, working
from support.savers import put
from support.waiting import wait_until
from surgetank.console.app import Console
from surgetank.console.assets import FOLDER

pytestmark = pytest.mark.browser
HOSTILE = (
    "</title><script>document.title='owned'</script><img src=x onerror=alert(1)>{{7*7}}\" ' &amp;"
)


@pytest.fixture
def server(make_tank: Any) -> Iterator[Server]:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    with running(tank, mounts=[Console]) as started:
        yield started


@pytest.fixture
def hostile(server: Server) -> Server:
    """A server whose data is out to harm who looks at it."""
    tank = server.tank
    put(tank.checkpointer(), HOSTILE, {"x": 1}, user_id=HOSTILE)
    tank.emit_log(HOSTILE, thread_id=HOSTILE, level="error")
    tank.log_system_error(HOSTILE, HOSTILE, thread_id=HOSTILE, context={HOSTILE: HOSTILE})
    tank.flush()
    _park(tank)
    return server


def _park(tank: Any) -> None:
    """One entry that the database refuses."""
    from surgetank.model import Record

    tank.parts.buffer.append("thread_logs", HOSTILE, (Record(b"l", b"no line"),))
    tank.flush("thread_logs")
    assert tank.parked()


def paths(server: Server, asked: UUID) -> dict[str, str]:
    tank = server.tank
    thread = f"/thread?{urlencode({'id': HOSTILE})}"
    newest = tank.threads.stored().read(HOSTILE)
    assert newest is not None
    return {
        "overview": "/overview", "threads": "/threads", "thread": thread, "jobs": "/jobs",
        "threads of a name": f"/threads?{urlencode({'q': HOSTILE, 'owner': HOSTILE, 'state': 'any'})}",
        "state": f"/thread/checkpoint?{urlencode({'id': HOSTILE, 'at': newest.checkpoint_id})}",
        "start": f"/thread/start?{urlencode({'id': HOSTILE, 'assistant': HOSTILE})}",
        "job": f"/jobs/{tank.jobs()[0].id}", "parked": "/parked",
        "parked entry": f"/parked/{tank.parked()[0].id}", "errors": "/errors?state=all",
        "error": f"/errors/{tank.errors.find().errors[0].id}", "problem": "/nothing",
        "inbox": "/inbox", "question": f"/inbox/{asked}", "decisions": "/inbox/statistics",
        "health": "/jobs/health", "error statistics": "/errors/statistics",
    }  # fmt: skip


def _ask(tank: Any) -> UUID:
    """A question whose words are out for harm, with a form, in a conversation of its own."""
    action = {
        "name": HOSTILE,
        "args": {HOSTILE: HOSTILE, "more": [HOSTILE]},
        "description": HOSTILE,
    }
    with working(tank, HOSTILE):
        row = ask(tank, f"{HOSTILE}?", {"action_requests": [action]}, owner=HOSTILE)
    tank.flush()
    return row.checkpoint_id


def _open(visitor: Visitor, path: str) -> int:
    """Open a page; how many bytes came for it, compressed as they came."""
    visitor.bytes_sent.clear()
    visitor.open(path)
    return sum(n for url, n in visitor.bytes_sent.items() if "vendor/editor" not in url)


@pytest.mark.timeout(300)  # axe is slow where others work beside it
def test_every_page_is_for_everybody_small_and_shows_what_is_hostile_as_text(
    chromium: Any, tools: Path, hostile: Server
) -> None:
    axe = (tools / "node_modules/axe-core/axe.min.js").read_text()
    pages = paths(hostile, _ask(hostile.tank))
    with visiting(chromium, hostile, viewport={"width": 1280, "height": 800}) as admin:
        admin.allowed = ("404",)
        admin.open("/login")
        assert violations(admin.page, axe) == []
        admin.log_in()
        for name, path in pages.items():
            sent = _open(admin, path)
            assert 0 < sent < MOST_BYTES, (name, sent)
            assert violations(admin.page, axe) == [], name
            assert admin.page.title() != "owned"
            assert admin.page.locator("main img, main script").count() == 0, name
            assert admin.page.evaluate(TOO_WIDE) == [], name
            admin.page.set_viewport_size({"width": 375, "height": 740})
            wide = admin.page.evaluate(TOO_WIDE)
            assert wide == [], f"{name} is wider than a telephone: {wide}"
            admin.page.set_viewport_size({"width": 1280, "height": 800})
        page = admin.open(pages["thread"])
        expect(page.locator("h1")).to_have_text(HOSTILE)
        expect(page.locator("[data-log-lines] li span").first).to_have_text(HOSTILE)


@pytest.mark.timeout(240)
def test_every_page_is_there_in_an_outage_says_so_and_shows_what_the_buffer_knows(
    chromium: Any, tools: Path, make_tank: Any, private_postgres: Any
) -> None:
    axe = (tools / "node_modules/axe-core/axe.min.js").read_text()
    tank = make_tank(
        database_url=private_postgres.url, flush_in_process=True, flush_age=0.05, flush_tick=0.05,
        critical_after=0.5, admin_token=ADMIN_TOKEN, support_url="https://help.example/",
        connect_timeout=1.0,
    )  # fmt: skip
    saver = tank.checkpointer()
    put(saver, "t", {"x": 1}, user_id="ada")
    old = saver.get_tuple({"configurable": {"thread_id": "t"}}).config["configurable"]
    tank.emit_log("a line of before", thread_id="t")
    tank.log_system_error("kind", "It broke", thread_id="t")
    with working(tank, "may_i"):
        asked = ask(tank, "asks", "Shall I?").checkpoint_id
    assert tank.flush().ok
    error, job = tank.errors.find().errors[0].id, tank.jobs()[0].id
    state = urlencode({"id": "t", "at": old["checkpoint_id"]})
    away = "The database is away."
    with running(tank, mounts=[Console]) as server, visiting(chromium, server) as admin:
        admin.allowed = ("503",)  # of the parts of a page that ask again
        admin.log_in()
        eve = Person.of(server, server.token("user", "eve"))
        private_postgres.kill()
        put(saver, "t", {"x": 2}, user_id="ada")
        wait_until(lambda: any(i.severity == "critical" for i in tank.incidents()), "a red banner")
        for path, *said in (
            ("/overview", "the database can't be reached", "They can't be counted"),
            ("/threads", "The database is away: only threads that were used lately", "In the buffer"),
            ("/threads?state=failed", "The database is away: only threads that were used lately"),
            ("/thread?id=t", "Not saved yet.", "1 entry waits", "Runs can't be listed",
             "Those that wait in the buffer are shown", "begins", "a line of before"),
            (f"/thread/checkpoint?{state}", away, "What of this conversation can be shown"),
            ("/inbox", away, "may_i", "asks"), ("/inbox?state=closed", away, "may_i"),
            (f"/inbox/{asked}", away, "may_i"), ("/inbox/statistics", away),
            ("/jobs", "checkpoints"), ("/jobs/health", "checkpoints"), (f"/jobs/{job}", "Completed"),
            ("/parked", "Nothing is set aside"),
            ("/errors?state=all", "The database can't be asked: only what happened lately"),
            ("/errors/statistics", "The database can't be asked"), (f"/errors/{error}", away),
            ("/tables", "Tables"), ("/erasures", "The database can't be asked just now"), ("/sql", "SQL"),
            ("/audit", away), ("/settings", "can't be reached"),
            ("/settings/workers", "The database, which has the list, can't be asked"),
            ("/settings/storage", "The database can't be asked: only the buffer is shown"),
            ("/settings/alerts", "The database can't be asked just now"), ("/settings/tokens", away),
            ("/settings/effective", "database_url"),
        ):  # fmt: skip
            answer = admin.page.goto(f"{server.url}/console{path}")
            assert answer is not None
            assert answer.status == 200, path
            main = admin.page.locator("main")
            for words in said:
                expect(main).to_contain_text(words)
            expect(admin.page.locator("#banners details.critical").first).to_be_visible()
            if path in ("/overview", "/thread?id=t", "/inbox", "/jobs", "/errors?state=all"):
                assert violations(admin.page, axe) == [], path
        page = eve.client.get("/inbox", headers={"Accept": "text/html"})
        assert (page.status_code, away in page.text) == (200, True)
        assert "may_i" not in page.text  # it is asked in a conversation of somebody else
        assert server.admin.get("/audit/export").status_code == 503  # and no half of a file
        admin.page.goto(f"{server.url}/console/audit")
        private_postgres.start()
        expect(admin.page.get_by_role("button", name="Show")).to_be_visible()  # by itself


def test_errors_are_resolved_snoozed_and_opened_again(chromium: Any, server: Server) -> None:
    tank = server.tank
    for n in range(3):
        tank.log_system_error(f"kind_{n}", f"It broke {n}", thread_id="t")
    with visiting(chromium, server) as admin:
        admin.log_in()
        page = admin.open("/errors")
        page.get_by_role("link", name="kind_0").click()
        page.get_by_label("Notes").fill("the disk was full")
        page.get_by_role("button", name="Mark as resolved").click()
        expect(page.get_by_text("Resolved", exact=True).first).to_be_visible()
        expect(page.get_by_text("admin resolved it: the disk was full")).to_be_visible()
        page.get_by_role("button", name="Open it again").click()
        expect(page.get_by_text("Open", exact=True)).to_be_visible()
        page.get_by_role("button", name="Snooze").click()
        expect(page.get_by_text("no alerts until then")).to_be_visible()
        page = admin.open("/errors")
        page.get_by_label("Choose all").check()
        page.get_by_role("button", name="Resolve the chosen").click()
        expect(page.get_by_text("3 were resolved.")).to_be_visible()
        expect(page.get_by_text("No errors here.")).to_be_visible()
        tank.log_system_error("kind_1", "It broke 1", thread_id="t")
        page.get_by_label("Show", exact=True).select_option("open")
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_text("Came back")).to_be_visible()


def test_what_was_set_aside_is_tried_again_and_jobs_tell_what_became_of_it(
    chromium: Any, hostile: Server
) -> None:
    with visiting(chromium, hostile) as operator:
        operator.log_in(hostile.token("operator", "op"))
        page = operator.page
        assert page.get_by_role("link", name="Errors").count() == 0
        expect(
            page.get_by_role("heading", name="All is saved but 1 entry was refused")
        ).to_be_visible()
        page.get_by_role("link", name="refused by the database").click()
        page.get_by_role("link", name="Entry 1").click()
        page.get_by_role("button", name="Try it again").click()
        expect(page.get_by_text("retry")).to_be_visible()
        expect(page.get_by_text("(parked entries)")).to_be_visible()
        page.get_by_role("link", name="Flush jobs").first.click()
        page.get_by_label("Outcome").select_option("completed")
        page.get_by_role("button", name="Show").click()
        assert page.get_by_role("row").count() > 1


def test_light_or_dark_is_chosen_and_kept_and_the_keyboard_reaches_everything(
    chromium: Any, server: Server
) -> None:
    with visiting(chromium, server, color_scheme="dark") as admin:
        admin.log_in()
        page = admin.open("/overview")
        shade = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(shade)
        page.get_by_role("button", name="Light or dark").click()
        light = page.evaluate(shade)
        assert light != dark
        page.reload()
        assert page.evaluate(shade) == light
        seen = []
        for _ in range(40):
            page.keyboard.press("Tab")
            seen.append(page.evaluate("document.activeElement.textContent.trim()"))
        for name in (
            "Skip to the page",
            "Overview",
            "Errors",
            "Dark",
            "Log out",
            "Save what waits now",
        ):
            assert name in seen, seen


def test_our_scripts_are_typed(tools: Path) -> None:
    shutil.copytree(FOLDER, tools / "static", ignore=shutil.ignore_patterns("vendor"))
    done = subprocess.run(
        ["npx", "tsc", "-p", "."], cwd=tools, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
