"""Threads and runs in a browser: started from a form, followed as they go, looked at step by step, gone on with
from an older state; and a log that comes faster than anybody reads."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from support.agents import agents
from support.browser import rewrite, violations, visiting
from support.gateway import gateway
from support.http import ADMIN_TOKEN, running
from support.savers import put
from support.waiting import wait_until
from surgetank.console.app import Console

pytestmark = pytest.mark.browser
THREAD = "refund <b>4821</b> & '/../'"
WRITER = 'it is "broken" <img src=x onerror=alert(1)> {{7*7}}'
# As fast as events come: lines of the log, in batches, and what of them the page draws at once.
FLOOD = """async ([first, many, each, pause]) => {
  const lines = document.querySelector("[data-log-lines]");
  let most = 0;
  const watch = new MutationObserver((records) => {
    most = Math.max(most, records.reduce((sum, record) => sum + record.addedNodes.length, 0));
  });
  watch.observe(lines, { childList: true, subtree: true });
  for (let n = 0; n < many;) {
    for (let k = 0; k < each && n < many; k++, n++) {
      const level = n % 1000 === 7 ? "error" : "info";
      const detail = { type: "log", log_seq: first + n, timestamp: new Date().toISOString(), level, message: `line ${n} <b>of many</b>` };
      document.dispatchEvent(new CustomEvent("surgetank-event", { detail }));
    }
    await new Promise((done) => setTimeout(done, pause));
  }
  for (const log = document.getElementById("log"); !lines.lastElementChild?.textContent.includes(`line ${many - 1} `);)
    await new Promise((done) => requestAnimationFrame(done));
  watch.disconnect();
  return [most, lines.querySelectorAll("li").length];
}"""  # noqa: E501 - a script of the page


@pytest.fixture
def scene(make_tank: Any, tmp_path: Any) -> Iterator[Any]:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    with (
        agents(tank, tmp_path / "project") as graphs,
        running(tank, graphs=graphs, mounts=[Console]) as server,
    ):
        yield server


def test_a_run_is_started_followed_compared_forked_and_replayed(
    chromium: Any, scene: Any, tools: Any
) -> None:
    ada = scene.token("user", "ada <i>")
    axe = (tools / "node_modules/axe-core/axe.min.js").read_text()
    with visiting(chromium, scene) as user:
        user.allowed = ("422",)
        page = user.log_in(ada)
        page.get_by_role("link", name="Start a run").click()
        page.get_by_label("Message").fill(WRITER)
        page.get_by_label("Amount").fill("a lot")
        page.get_by_label("Pause").fill("0.2")
        page.get_by_label("Thread").fill(THREAD)
        page.get_by_role("button", name="Start the run").click()
        expect(page.get_by_role("alert")).to_contain_text("Amount: this is not a number")
        expect(page.get_by_label("Message")).to_have_value(WRITER)  # what was typed is still there
        page.get_by_label("Amount").fill("12.5")
        page.get_by_role("button", name="Start the run").click()

        # it is followed, word by word, and ends
        talk = page.get_by_role("region", name="Messages")
        expect(talk).to_contain_text("Dear Ada")
        expect(talk).to_contain_text(WRITER)
        expect(talk).to_contain_text("Your money is on its way.")
        now = page.locator("#now")
        expect(now.get_by_text(re.compile("^Completed"))).to_be_visible()
        steps = page.locator(".timeline li")
        expect(steps).to_have_count(10)  # those of the subgraph are among them
        expect(steps.filter(has_text="in payment")).to_have_count(4)
        expect(steps.filter(has_text="reply").locator(".n")).to_contain_text("s")
        scene.tank.flush()
        expect(now.get_by_text("Completed", exact=True)).to_be_visible()
        assert violations(page, axe) == []

        # the state at a checkpoint, and what differs
        steps.get_by_role("link", name="reply").click()
        expect(page.get_by_text("Assistant: Dear Ada, we are sorry.")).to_be_visible()
        expect(page.get_by_text("The graph has come to its end here")).to_be_visible()
        editor = page.get_by_role("textbox", name="Values")
        expect(editor.locator(".cm-changedLine, .cm-insertedLine").first).to_be_visible()
        page.get_by_label("Compare with").select_option(label="1: read_order")
        page.get_by_role("button", name="Compare").click()
        expect(page.locator(".changes")).to_contain_text("tone")
        assert violations(page, axe) == []

        # a fork from a step before, refused at first
        page.get_by_role("link", name="the state before").click()
        expect(page.get_by_role("heading", name="State after approve")).to_be_visible()
        page.get_by_label("tone").fill("short")
        rewrite(page, "More values", "[1]")
        page.get_by_role("button", name="Fork").click()
        expect(page.get_by_role("alert")).to_contain_text("this is no JSON object")
        expect(page.get_by_label("tone")).to_have_value("short")
        rewrite(page, "More values", '{"order": "77"}')
        page.get_by_role("button", name="Fork").click()
        expect(now.get_by_text(re.compile("^Completed"))).to_be_visible()
        values = state_of(scene)
        assert (values["tone"], values["order"], len(values["messages"])) == ("short", "77", 3)

        # the thread has both runs; from an older step of the first it is run again
        page.get_by_role("link", name=THREAD, exact=True).click()
        expect(page.locator("#now tbody tr")).to_have_count(2)
        expect(page.locator("section.steps")).to_have_count(3)  # a change by hand is nobody's run
        page.locator("section.steps").last.get_by_role("link", name="read_order").click()
        page.get_by_role("button", name="Replay from here").click()
        expect(now.get_by_text(re.compile("^Completed"))).to_be_visible()
        assert state_of(scene)["order"] == "4821"

        # one that fails says where and why, as text
        page = user.open("/thread/start")
        page.get_by_label("Message").fill("again")
        page.get_by_label("Fail (not needed)").select_option("yes")
        page.get_by_label("Thread").fill("broken")
        page.get_by_role("button", name="Start the run").click()
        expect(now.get_by_text("Failed")).to_be_visible(timeout=30_000)
        expect(page.get_by_text("payment failed")).to_be_visible()
        expect(
            page.get_by_text("<b>the payment service</b> refused the order").first
        ).to_be_visible()

    # the list: by state, by a part of the name, by a run's id
    with visiting(chromium, scene) as admin:
        admin.log_in()
        page = admin.open("/threads")
        expect(page.locator("#list tbody tr")).to_have_count(2)
        page.get_by_label("State").select_option("failed")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("#list tbody tr")).to_have_count(1)
        expect(page.locator("#list")).to_contain_text("broken")
        page.get_by_label("State").select_option("any")
        page.get_by_label("Name").fill("<B>48")
        page.get_by_role("button", name="Show").click()
        row = page.locator("#list tbody tr")
        expect(row).to_have_count(1)
        expect(row).to_contain_text("ada <i>")
        expect(row).to_contain_text("Idle")
        scene.tank.threads.rows.delete("broken", actor="test")
        page.get_by_label("Name").fill(str(scene.tank.runs.of_thread(THREAD)[0].run_id))
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_role("heading", name="Run")).to_be_visible()
        put(scene.tank.checkpointer(), "by a program", {"x": 1}, user_id="eve")
        page = admin.open("/threads")
        expect(page.locator("#list tbody tr")).to_have_count(3)
        put(scene.tank.checkpointer(), "another", {"x": 1}, user_id="eve")
        expect(page.locator("#list tbody tr")).to_have_count(4)  # nobody loaded it again


def state_of(scene: Any) -> Any:
    found = scene.tank.checkpointer().get_tuple({"configurable": {"thread_id": THREAD}})
    return found.checkpoint["channel_values"]


def test_a_log_that_floods_in_is_counted_bounded_filtered_and_downloaded(
    chromium: Any, make_tank: Any
) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    with running(tank, mounts=[Console]) as server, visiting(chromium, server) as admin:
        admin.log_in()
        emit(tank, 0, 50)
        page = admin.open("/thread?id=t")
        log, lines = page.locator("#log"), page.locator("[data-log-lines] li")
        expect(lines).to_have_count(50)
        emit(tank, 50, 850)  # by eight threads, while the page follows
        expect(log).to_have_attribute("data-lines", "850")
        said = lines.locator("span").all_text_contents()
        assert said == [line.message for line in all_lines(tank)]  # in order, whoever wrote first

        most, drawn = page.evaluate(FLOOD, [1000, 3000, 50, 10])  # 5,000 in a second
        assert most <= 120  # no frame draws all that came
        assert 2000 <= drawn < 2100
        expect(log).to_have_attribute("data-lines", "3850")
        expect(page.get_by_text("3,850 lines here")).to_be_visible()

        page.get_by_label("Level").select_option("3")  # of all that came, not of what is drawn
        expect(lines).to_have_count(3)
        page.get_by_label("Level").select_option("0")
        page.get_by_label("With text").fill("LINE 12 <B>")
        expect(lines).to_have_count(1)
        page.get_by_label("With text").fill("")
        expect(lines).to_have_count(2000)
        page.get_by_role("button", name="Older lines").click()
        expect(lines).to_have_count(2200)

        page.get_by_role("button", name="Pause").click()
        page.evaluate(
            "document.dispatchEvent(new CustomEvent('surgetank-event', {detail: {type: 'log', log_seq: 50000,"
            "timestamp: '2026-01-01T00:00:00Z', level: 'info', message: 'the newest'}}))"
        )
        page.get_by_role("button", name="Go on (1 new)").click()
        expect(lines.last).to_contain_text("the newest")

        before = [each.message.split(" ")[1] for each in all_lines(tank)]
        with page.expect_download() as given:
            page.get_by_role("link", name="Download").click()
        text = given.value.path().read_text(encoding="utf-8")
        got = [line.rsplit("real ", 1)[1] for line in text.splitlines()]
        # more may have been written meanwhile
        assert before == got[: len(before)]
        assert got == [each.message.split(" ")[1] for each in all_lines(tank)][: len(got)]


def test_the_log_goes_on_through_a_503_without_gap_or_double(chromium: Any, make_tank: Any) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    with (
        running(tank, mounts=[Console]) as server,
        gateway(server.address) as front,
        visiting(chromium, server, base=front.url) as admin,
    ):
        admin.allowed = ("503", "net::ERR_", "WebSocket connection", "Failed to fetch")
        emit(tank, 0, 20)
        admin.log_in()
        page = admin.open("/thread?id=t")
        lines = page.locator("[data-log-lines] li")
        emit(tank, 20, 40)
        expect(lines).to_have_count(40)
        front.close_for_now()
        emit(tank, 40, 60)
        gone = page.get_by_text("The server can't be reached")
        expect(gone).to_be_visible()
        assert front.refused
        assert lines.count() == 40
        front.open_again()
        expect(lines).to_have_count(60)
        expect(gone).to_be_hidden()
        emit(tank, 60, 80)
        expect(lines).to_have_count(80)
        assert lines.locator("span").all_text_contents() == [
            each.message for each in all_lines(tank)
        ]


def emit(tank: Any, first: int, last: int) -> None:
    def some(start: int) -> None:
        for n in range(start, last, 8):
            tank.emit_log(f"real {n}", thread_id="t")

    threads = [threading.Thread(target=some, args=(first + k,)) for k in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    wait_until(lambda: len(all_lines(tank)) >= last, "the lines")


def all_lines(tank: Any) -> Any:
    return tank.logs("t", limit=5000).lines
