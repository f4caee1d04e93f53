"""The inbox without a browser: what is listed in which order, what a decision would change, who shall
answer, what was done, and what people decide how often."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from support.console import Page, Person
from support.http import ADMIN_TOKEN, Server, running
from support.questions import ask, working
from surgetank.console.app import Console

HOSTILE = "</title><script>document.title='owned'</script>{{7*7}}\" ' &amp;"


@dataclass
class House:
    """A server whose clock can be moved, with a worker whose graph asks."""

    server: Server
    ahead: list[float]

    def asks(self, thread: str, *, owner: str = "ada", **terms: Any) -> str:
        """The id of a question about a refund."""
        value = {
            "action_requests": [
                {"name": "refund", "args": {"order": "4821", "cents": 3990}},
                {"name": "mail", "args": {"text": "Dear Ada, we are sorry."}},
            ],
            "review_configs": [
                {"action_name": "refund", "allowed_decisions": ["approve", "edit", "reject"]},
                {"action_name": "mail", "allowed_decisions": ["approve", "edit", "reject", "respond"]},
            ],
            "surgetank": terms,
        }  # fmt: skip
        return str(ask(self.server.tank, thread, value, owner=owner).checkpoint_id)

    def guest(self, role: str = "admin", user: str = "admin") -> Person:
        """Somebody at the console."""
        token = ADMIN_TOKEN if role == "admin" else self.server.token(role, user)
        return Person.of(self.server, token)


@pytest.fixture
def house(make_tank: Any) -> Iterator[House]:
    tank, ahead = make_tank(admin_token=ADMIN_TOKEN), [0.0]
    with (
        working(tank, "approve_refund"),
        running(tank, mounts=[Console], clock=lambda: time.time() + ahead[0]) as server,
    ):
        yield House(server, ahead)


LINKS = re.compile(r'href="/console/inbox/([0-9a-f-]{36})"')
EDIT = {
    "decision.0": "edit", "edit.0.0": "2000", "edit.0.1": "4821",
    "decision.1": "edit", "edit.1.0": "Dear Ben, we are sorry.",
}  # fmt: skip


def test_what_expires_first_comes_first_then_what_waits_longest_and_what_is_over_is_no_link(
    house: House,
) -> None:
    old, late = house.asks("old"), house.asks("late", expires_in=7200)
    soon, new = house.asks("soon", expires_in=600), house.asks("new")
    guest = house.guest()
    page = guest.get("/inbox")
    assert LINKS.findall(page.html) == [soon, late, old, new]
    assert "refund, mail" in page.text
    assert page.html.count("badge warning") == 1  # only what ends within the hour is marked
    house.ahead[0] = 700.0
    page = guest.get("/inbox")
    assert "Time is over" in page.text
    assert LINKS.findall(page.html) == [late, old, new]
    page = guest.get(f"/inbox/{soon}")
    assert "The time is over" in page.text
    assert "data-send" not in page.html
    assert "The time is over" in guest.get(f"/inbox/{soon}/now").text
    guest.get(f"/inbox/{late}/now", 204)


def test_pages_of_the_inbox_lead_on_without_gap_or_double(house: House, monkeypatch: Any) -> None:
    monkeypatch.setattr("surgetank.console.inbox._PAGE", 2)
    made = [house.asks(f"t{n}", expires_in=5000 - n if n % 2 else None) for n in range(5)]
    guest = house.guest()

    def listed(state: str) -> list[str]:
        found, path = list[str](), f"/inbox?state={state}"
        while path:
            page = guest.get(path)
            found += LINKS.findall(page.html)
            path = next((link for link in page.links("after=") if "after=" in link), "")
        return found

    assert listed("waiting") == [made[3], made[1], made[0], made[2], made[4]]
    for each in made:
        house.server.tank.approvals.resolve(UUID(each), "approve", actor="ops")
    assert listed("waiting") == []
    assert listed("closed") == made[::-1]
    assert listed("rejected") == []
    guest.get("/inbox?after=nonsense", 400)
    assert "Nobody is asked anything." in guest.get("/inbox?mine=yes").text


def test_the_form_says_what_a_decision_changes_and_what_is_wrong_with_it(house: House) -> None:
    asked = house.asks("t")
    guest, check = house.guest("user", "ada"), f"/inbox/{asked}/check"
    page = guest.post(check, 200, **EDIT)
    assert "refund / cents 3990 2000 mail / text" in page.text
    assert "<del>Ada</del><ins>Ben</ins>" in page.html
    page = guest.post(check, 200, **EDIT | {"edit.0.0": "many"})
    assert "refund: cents: this is not a whole number." in page.text
    page = guest.post(check, 200, **EDIT | {"edit.0.0": "3990", "decision.1": "approve"})
    assert "Nothing is changed yet." in page.text
    page = guest.post(check, 200, **{"decision.0": "ignore", "decision.1": "approve"})
    assert "not allowed for 'refund'" in page.text
    assert house.server.tank.approvals.get(UUID(asked)).status == "pending"

    said = {"decision.1": "reject", "words.1": "no mail", "notes": "as agreed"}
    page = guest.post(f"/inbox/{asked}", 200, **EDIT | said)
    assert "Rejected by ada" in page.text
    # what was changed of one is shown, though the other was rejected
    assert "refund / cents 3990 2000" in page.text
    done = page.text.partition("What was done with it")[2]
    assert done.index("asked") < done.index("ada rejected")
    assert "decided before" in guest.post(f"/inbox/{asked}", 409, **EDIT).text


def test_a_question_is_taken_given_to_a_role_and_left_to_all_again(house: House) -> None:
    asked = house.asks("t")
    ada, rob = house.guest("user", "ada"), house.guest("reviewer", "rob")
    viewer, assign = house.guest("viewer", "vic"), f"/inbox/{asked}/assign"
    rob.get(f"/inbox/{asked}", 404)
    page = ada.post(assign, 200, to="me")
    assert "For you." in page.text
    assert "ada took it" in page.text
    page = ada.post(assign, 422, to="other", assignee="", role="")
    assert "Say who shall answer" in page.text
    ada.post(assign, 422, to="other", role="king")
    page = ada.post(assign, 200, to="other", role="reviewer")
    assert "Somebody else decides this." in page.text
    assert "ada gave it to the role reviewer" in page.text
    # whose role it is sees it, and decides; others don't
    listed = rob.get("/inbox").text
    assert "approve_refund" in listed
    assert "the role reviewer" in listed
    assert "approve_refund" not in viewer.get("/inbox").text
    viewer.get(f"/inbox/{asked}", 404)
    page = rob.get(f"/inbox/{asked}")
    assert "For the role reviewer." in page.text
    assert "data-send" in page.html
    assert rob.post(assign, 200, to="nobody").text.startswith("Inbox")  # no longer his to see
    rob.get(f"/inbox/{asked}", 404)
    assert "For anybody who may decide here." in ada.get(f"/inbox/{asked}/who").text
    ada.post(f"/inbox/{asked}", 200, **{"decision.0": "approve", "decision.1": "approve"})
    ada.post(assign, 409, to="me")


def test_the_api_lists_what_is_assigned_to_a_role_for_who_has_it(house: House) -> None:
    asked = house.asks("t", role="reviewer")
    for role, seen in (("viewer", []), ("user", []), ("reviewer", [asked])):
        answer = house.server.as_role(role, "rob").get("/user-checkpoints").json()
        assert [row["checkpoint_id"] for row in answer["user_checkpoints"]] == seen


def test_the_statistics_count_by_assistant_and_step_what_a_visitor_may_know(house: House) -> None:
    first, second = house.asks("a"), house.asks("b")
    house.asks("c", owner="ben")
    ada, both = house.guest("user", "ada"), {"decision.0": "approve", "decision.1": "approve"}
    ada.post(f"/inbox/{first}", 200, **both)
    page = ada.post(f"/inbox/{second}", 200, **EDIT | {"decision.1": "approve"})
    assert "Edited by ada" in page.text
    page = ada.get("/inbox/statistics")
    assert "2 questions, by assistant and step." in page.text
    assert "1 approved, 1 edited" in page.text
    assert "50 %" in page.text
    assert "3 questions" in house.guest().get("/inbox/statistics?days=7").text
    closed = ada.get("/inbox?state=closed&assistant=agent&step=approve_refund").text
    assert "Only of the assistant agent, the step approve_refund." in closed
    assert "Edited" in closed
    assert "Nothing was decided like this." in ada.get("/inbox?state=closed&step=other").text


def test_what_is_hostile_is_text(house: House) -> None:
    value = {
        "action_requests": [{"name": HOSTILE, "args": {HOSTILE: HOSTILE}, "description": HOSTILE}]
    }
    row = ask(house.server.tank, HOSTILE, value, owner=HOSTILE)
    guest, path = house.guest(), f"/inbox/{row.checkpoint_id}"
    field = {"decision.0": "edit", "edit.0.0": f"{HOSTILE}!"}
    pages: list[Page] = [
        guest.post(f"{path}/assign", 200, to="other", assignee=HOSTILE),
        guest.get("/inbox"), guest.get(path), guest.post(f"{path}/check", 200, **field),
        guest.post(path, 200, **field, notes=HOSTILE), guest.get("/inbox", state="closed"),
        guest.get("/inbox", state="closed", step=HOSTILE), guest.get("/inbox/statistics"),
    ]  # fmt: skip
    for page in pages[:-1]:
        assert "{{7*7}}" in page.text
    for page in pages:
        assert "'owned'</script>" not in page.html
