"""Tables, SQL, audit and settings in a browser: the editor as one types in it, and every page for everybody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import MOST_BYTES, TOO_WIDE, Visitor, violations, visiting
from support.http import ADMIN_TOKEN, Server, running
from surgetank.console.app import Console

pytestmark = pytest.mark.browser
HOSTILE = "</td><script>document.title='owned'</script><img src=x onerror=alert(1)>{{7*7}}\" '"
LONG = "SELECT count(*) FROM range(100000) a, range(100000) b, range(100000) c"
PAGES = ("/tables", "/table?namespace=app&name=notes", "/erasures", "/audit", "/settings")
SETTINGS = tuple(
    f"/settings/{name}" for name in ("workers", "storage", "alerts", "tokens", "effective")
)


@pytest.fixture
def server(make_tank: Any) -> Iterator[Server]:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    tank.sql("CREATE NAMESPACE app; CREATE TABLE app.notes (id BIGINT PRIMARY KEY, text TEXT)")
    tank.sql("INSERT INTO app.notes VALUES (1, $1), (2, 'tea')", [HOSTILE], user="ada")
    tank.tables.flush()
    tank.audit.note("exported", HOSTILE, thread_id=HOSTILE, detail={"why": HOSTILE})
    with running(tank, mounts=[Console]) as started:
        started.token("viewer", HOSTILE.replace("\n", ""), label=HOSTILE)
        yield started


def run(visitor: Visitor, text: str) -> None:
    editor = visitor.page.get_by_label("Statements")
    editor.fill(text)
    editor.press("Control+Enter")


@pytest.mark.timeout(240)
def test_sql_is_typed_completed_run_paged_drawn_and_cancelled(
    chromium: Any, tools: Path, server: Server
) -> None:
    axe = (tools / "node_modules/axe-core/axe.min.js").read_text()
    with visiting(chromium, server, viewport={"width": 1280, "height": 800}) as admin:
        admin.log_in()
        page = admin.open("/sql")
        editor = page.get_by_label("Statements")
        editor.press_sequentially("SELECT * FROM app.no")
        expect(page.get_by_role("option", name="app.notes")).to_be_visible()
        editor.press("Tab")
        expect(editor).to_have_value("SELECT * FROM app.notes")
        editor.press_sequentially(" ORDER BY te")
        expect(page.get_by_role("option", name="text", exact=True)).to_be_visible()
        editor.press("Escape")
        expect(page.get_by_role("option")).to_have_count(0)
        run(admin, "SELECT * FROM app.notes ORDER BY id")
        expect(page.get_by_role("cell", name=HOSTILE)).to_be_visible()
        assert page.title() != "owned"
        assert page.locator("main img, main script").count() == 0
        assert violations(admin.page, axe) == []

        run(admin, "SELECT 'w' || i AS w, i AS n FROM range(120) t(i)")
        expect(page.get_by_text("Rows 1 to 50 of 120")).to_be_visible()
        page.get_by_role("link", name="Further rows").click()
        expect(page.get_by_text("Rows 51 to 100 of 120")).to_be_visible()
        page.get_by_role("button", name="Chart").click()
        expect(page.get_by_text("n by w")).to_be_visible()
        expect(page.locator(".chart canvas")).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("link", name="CSV").click()
        assert Path(download.value.path()).read_text().splitlines()[-1] == "w119,119"
        assert violations(admin.page, axe) == []
        assert page.evaluate(TOO_WIDE) == []

        run(admin, "SELECT 1 +")
        expect(page.get_by_role("alert")).to_contain_text("syntax error")
        assert editor.evaluate("e => e.value.slice(e.selectionStart)") == "+"
        run(admin, LONG)
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("alert")).to_contain_text("The statement was cancelled.")

        page.get_by_role("button", name="History").click()
        page.get_by_role("button", name="SELECT * FROM app.notes ORDER BY id").click()
        expect(editor).to_have_value("SELECT * FROM app.notes ORDER BY id")
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/login")
        assert page.evaluate("Object.keys(localStorage).filter(k => k.includes('sql'))") == []


@pytest.mark.timeout(240)  # axe is slow where others work beside it
@pytest.mark.parametrize("pages", [PAGES, SETTINGS], ids=["tables", "settings"])
def test_pages_are_for_everybody_small_and_show_what_is_hostile_as_text(
    chromium: Any, tools: Path, server: Server, pages: tuple[str, ...]
) -> None:
    axe = (tools / "node_modules/axe-core/axe.min.js").read_text()
    with visiting(chromium, server, viewport={"width": 1280, "height": 800}) as admin:
        page = admin.log_in()
        for path in pages:
            admin.bytes_sent.clear()
            admin.open(path)
            assert 0 < sum(admin.bytes_sent.values()) < MOST_BYTES, path
            assert violations(admin.page, axe) == [], path
            assert page.title() != "owned"
            assert page.locator("main img, main script").count() == 0, path
            assert page.evaluate(TOO_WIDE) == [], path
            page.set_viewport_size({"width": 375, "height": 740})
            assert page.evaluate(TOO_WIDE) == [], f"{path} is wider than a telephone"
            page.set_viewport_size({"width": 1280, "height": 800})


def test_a_token_is_made_shown_once_and_ended(chromium: Any, server: Server) -> None:
    with visiting(chromium, server) as admin:
        admin.log_in()
        page = admin.open("/settings/tokens")
        page.get_by_label("For the user").fill("eve")
        page.get_by_role("button", name="Make it").click()
        expect(page.locator(".secret")).to_contain_text("stk_")
        page.locator("summary", has_text="Revoke").first.click()
        page.get_by_role("button", name="End it for good").first.click()
        expect(page.get_by_text("Revoked", exact=True)).to_be_visible()
        assert page.locator(".secret").count() == 0
