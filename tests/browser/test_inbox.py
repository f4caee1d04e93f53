"""Questions to people, decided in a browser."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from support.browser import visiting
from support.http import ADMIN_TOKEN, running
from support.questions import ask, working
from support.waiting import wait_until
from surgetank.console.app import Console

pytestmark = pytest.mark.browser
MAIL: dict[str, Any] = {
    "action_requests": [
        {"name": "send_mail", "args": {"to": "ada@example.com", "copies": 2, "text": "Dear Ada,\n<b>hi</b>"}},
        {"name": "delete_account", "args": {"user": "ada"}},
    ],
    "review_configs": [
        {"action_name": "send_mail", "allowed_decisions": ["approve", "edit", "reject"]},
        {"action_name": "delete_account", "allowed_decisions": ["approve", "reject"]},
    ],
}  # fmt: skip
SCHEMA: dict[str, Any] = {
    "type": "object", "required": ["refund", "why"], "additionalProperties": False,
    "properties": {
        "refund": {"type": "integer", "title": "Refund in euros", "maximum": 50},
        "why": {"type": "string", "title": "Reason"},
    },
}  # fmt: skip


def answer_of(tank: Any, thread: str) -> Any:
    def found() -> Any:
        state = tank.checkpointer().get_tuple({"configurable": {"thread_id": thread}})
        return state and state.checkpoint["channel_values"].get("answer")

    return wait_until(found, "the answer to arrive in the graph")


def test_questions_are_decided_in_the_inbox_once_and_everybody_sees_it(
    chromium: Any, make_tank: Any
) -> None:
    tank = make_tank(admin_token=ADMIN_TOKEN)
    with working(tank), running(tank, mounts=[Console]) as server:
        batch = ask(tank, "mail", MAIL)
        form = ask(tank, "refund", {"question": "How much?"}, schema=SCHEMA)
        ada, viewer = server.token("user", "ada"), server.token("viewer", "ada")
        with visiting(chromium, server) as user, visiting(chromium, server) as admin:
            user.allowed = admin.allowed = ("422", "409")
            other = admin.log_in()
            admin.open(f"/inbox/{batch.checkpoint_id}")
            page = user.log_in(ada)
            page.get_by_role("link", name="Inbox").click()
            keys = page.get_by_role("button", name="Keys")
            expect(keys).to_be_visible()  # now they are listened to
            page.keyboard.press("?")
            expect(page.get_by_role("dialog")).to_contain_text("the next one, the one before")
            page.keyboard.press("Escape")
            page.keyboard.press("j")
            page.keyboard.press("j")
            page.keyboard.press("k")
            page.keyboard.press("Enter")  # the first row has the focus
            expect(page.get_by_text("<b>hi</b>").first).to_be_visible()
            mail = page.get_by_role("group", name="send_mail")
            expect(mail.get_by_label("copies")).to_be_hidden()
            expect(keys).to_be_visible()
            page.keyboard.press("e")
            copies = mail.get_by_label("copies")
            expect(copies).to_be_visible()
            copies.fill("")
            copies.press_sequentially("rare")  # these are no keys now, but what is typed
            check = page.locator("#check")
            expect(check).to_contain_text("copies: this is not a whole number")
            page.get_by_role("group", name="delete_account").get_by_label("Approve").focus()
            page.keyboard.press("r")
            page.keyboard.type("not without asking her")
            page.get_by_label("Notes for the record").fill("one copy is enough")
            page.get_by_role("button", name="Send the decision").click()
            expect(page.get_by_role("alert")).to_contain_text("copies: this is not a whole number")
            copies.fill("1")  # what else was typed is still there
            expect(check).to_contain_text("send_mail / copies")
            expect(check.locator("del")).to_have_text("2")
            page.keyboard.press("Control+Enter")
            expect(page.get_by_text("Rejected by ada")).to_be_visible()
            expect(page.get_by_text("one copy is enough")).to_be_visible()
            mailed, deleted = answer_of(tank, "mail")["decisions"]
            assert mailed["edited_action"] == {
                "name": "send_mail", "args": {**MAIL["action_requests"][0]["args"], "copies": 1},
            }  # fmt: skip
            assert deleted == {"type": "reject", "message": "not without asking her"}

            expect(other.get_by_text("Rejected by ada")).to_be_visible()  # nobody loaded it again
            assert other.get_by_role("button", name="Send the decision").count() == 0
            listed = admin.open("/inbox").get_by_role("row").filter(has_text="ask_first")
            expect(listed).to_have_count(1)

            page = user.open(f"/inbox/{form.checkpoint_id}")
            page.get_by_label("Refund in euros").fill("70")
            page.get_by_label("Reason").fill("late")
            page.get_by_role("button", name="Send the decision").click()
            expect(page.get_by_role("alert")).to_contain_text("doesn't match")
            page.get_by_label("Refund in euros").fill("20")
            page.get_by_role("button", name="Send the decision").click()
            expect(page.get_by_text("Responded by ada")).to_be_visible()
            expect(listed).to_have_count(0)
            assert answer_of(tank, "refund") == {"refund": 20, "why": "late"}

            # what is done but not saved is not called done
            page = user.open("/thread?id=refund")
            expect(page.get_by_text("Completed, not saved yet")).to_be_visible()
            assert page.get_by_text("Completed", exact=True).count() == 0
            tank.flush()
            expect(page.get_by_text("Completed", exact=True)).to_be_visible(timeout=15_000)
        with visiting(chromium, server) as reader:
            seen = ask(tank, "plain", "Shall I go on?")
            reader.log_in(viewer)
            page = reader.open(f"/inbox/{seen.checkpoint_id}")
            expect(page.get_by_text("Shall I go on?").first).to_be_visible()
            expect(page.get_by_text("Somebody else decides this.")).to_be_visible()
            assert page.get_by_role("button", name="Send the decision").count() == 0
