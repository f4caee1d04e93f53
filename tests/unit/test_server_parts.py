"""The server's parts by themselves: what is bounded, what is ordered, what is read out of ids and
texts."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import Any, cast

import pytest
from langgraph.checkpoint.base.id import uuid6
from pydantic import ValidationError

from support.buffers import FakeClock
from surgetank.encode.sanitize import encode_clean
from surgetank.exceptions import BufferUnavailable, DatabaseUnavailable, InvalidRequest
from surgetank.server.access.failures import FailedLogins
from surgetank.server.access.roles import Caller, Role
from surgetank.server.access.tickets import Tickets
from surgetank.server.access.tokens import is_token_shaped, parse_span
from surgetank.server.http.outage import PatientDatabase
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import Problem
from surgetank.server.live import followers, lines
from surgetank.server.schemas.agent import RunCreate
from surgetank.server.serve import is_loopback, listen
from surgetank.server.shown import Shown, moment_of


def test_roles_are_ordered():
    order = [Role.VIEWER, Role.USER, Role.REVIEWER, Role.OPERATOR, Role.ADMIN]
    for has, role in enumerate(order):
        assert [role.covers(needed) for needed in order] == [has >= n for n in range(5)]


def test_failed_logins_take_bounded_memory_and_are_forgiven_with_time():
    clock = FakeClock()
    failures = FailedLogins(2, clock)
    for number in range(20_000):
        failures.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(failures._alone._left) == 10_000
    for _ in range(5):
        failures.failed("192.0.2.1")
    assert failures.wait_s("192.0.2.1") == pytest.approx(120)
    clock.advance(120)
    assert failures.wait_s("192.0.2.1") == 0
    clock.advance(-3600)  # a clock that is set back gives nothing away and blocks nobody for longer
    assert failures.wait_s("192.0.2.1") <= 120


def test_an_ipv6_client_is_its_network():
    failures = FailedLogins(1, FakeClock())
    failures.failed("2001:db8:1:2::1")
    assert failures.wait_s("2001:db8:1:2:ffff::9") > 0
    assert failures.wait_s("2001:db8:1:3::1") == 0
    assert failures.wait_s("::ffff:192.0.2.1") == 0


def test_tickets_take_bounded_memory():
    tickets = Tickets(FakeClock())
    first, _ = tickets.issue(Caller("ada", Role.VIEWER))
    for _ in range(10_000):
        last, _ = tickets.issue(Caller("bob", Role.VIEWER))
    assert tickets.redeem(first) is None
    assert tickets.redeem(last) == Caller("bob", Role.VIEWER)
    assert tickets.redeem(last) is None


def test_a_database_that_is_down_is_asked_once_in_a_while():
    asked = 0

    class Down:
        address = "nowhere"

        @contextmanager
        def asking(self):
            nonlocal asked
            asked += 1
            raise DatabaseUnavailable("down", remedy="wait")
            yield

    clock = FakeClock()
    patient = PatientDatabase(cast("Any", Down()), pause_s=1, clock=clock)
    for _ in range(5):
        with pytest.raises(DatabaseUnavailable, match=r"down.*wait"), patient.connection():
            pass
    assert asked == 1
    clock.advance(1.1)
    with pytest.raises(DatabaseUnavailable), patient.connection():
        pass
    assert asked == 2


def test_a_checkpoint_s_id_tells_when_it_was_made():
    before = time.time()
    told = moment_of(str(uuid6(clock_seq=-1)))
    assert told is not None
    assert before - 1 < told < time.time() + 1
    assert moment_of("1f0c5e1a-7c1e-4b50-8004-5a1b2c3d4e5f") is None
    assert moment_of("my-own-id") is None


def test_all_values_of_an_answer_together_are_bounded():
    shown = Shown(value_bytes=1000, left=2500)
    values = [shown.plain(f"$[{n}]", "x" * 900) for n in range(10)]
    assert sum(isinstance(v, str) for v in values) == 2
    assert values[5] == {"$omitted": "too large", "$bytes": 902}
    assert len(shown.omitted) == 8
    many = Shown(value_bytes=64)
    for number in range(1000):
        many.plain(f"$[{number}]", "x" * 100 + "\x00")
    assert len(many.omitted) == 100
    assert len(many.replaced) == 100


def test_what_is_shown_is_json_whatever_the_bytes_are():
    shown = Shown(value_bytes=1000)
    for type_, data in (
        ("msgpack", b"\xc1\xff"),
        ("pickle", b"x"),
        ("json", b"{"),
        ("bytes", b"\x00\xff"),
        ("null", b""),
    ):
        assert encode_clean(shown.value("$", type_, data))


def test_answers_are_not_held_back_by_nagle():
    with listen("127.0.0.1", 0) as listening:
        # what asyncio looks at before it sets TCP_NODELAY
        assert listening.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("", False), ("192.0.2.1", False), ("example.org", False), ("localhost.example.org", False)],
)  # fmt: skip
def test_only_loopback_is_loopback(host, expected):
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("45m", 2700), ("2 w", 1_209_600)]
)
def test_spans_are_read(text, seconds):
    assert parse_span(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "d", "-1d", "0d", "1y", "999999999w", "1.5h", "\u0663d"]
)
def test_spans_that_make_no_sense_are_refused(text):
    with pytest.raises(InvalidRequest):
        parse_span(text)


def test_what_can_be_no_token_is_known_without_a_database():
    assert is_token_shaped("stk_" + "x" * 43)
    for text in ("", "stk_", "stk_" + "x" * 42, "abc_" + "x" * 43, "stk_" + "\u00e9" * 43):
        assert not is_token_shaped(text)


@pytest.mark.parametrize(
    "text",
    ["", "!", "e30", cursor("a"), cursor("a", 1.5, "b"), cursor("a\x00", 1), "x" * 4000, "\u00e9"],
)
def test_a_cursor_that_is_not_ours_is_refused(text):
    assert position(cursor("a", 1), str, int) == ["a", 1]
    with pytest.raises(Problem) as refused:
        position(text, str, int)
    assert refused.value.code == "bad-cursor"


def test_the_server_needs_no_langgraph():
    script = (
        "import sys; sys.modules['langgraph'] = None; sys.modules['langchain_core'] = None\n"
        "import surgetank.server.app, surgetank.cli.app; print('fine')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_the_token_commands_need_no_web_framework():
    script = (
        "import sys; sys.modules['fastapi'] = None; sys.modules['uvicorn'] = None; "
        "sys.modules['starlette'] = None\n"
        "import surgetank.cli.app; print('fine')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "fine", done.stderr


async def test_a_page_of_events_is_filtered_by_what_is_known_although_others_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
):
    """What a follower knew of a thread was forgotten for another thread of the same page."""
    monkeypatch.setattr(followers, "_REMEMBERED", 2)

    class Everybodys:
        def readable(self, caller: Caller, threads: set[str]) -> set[str]:
            return threads

    follower = followers.Follower(
        cast("Any", None), cast("Any", Everybodys()), Caller("ada", Role.VIEWER, "1"),
        thread_id=None, still_good=lambda _: True, counted=lambda _: None,
    )  # fmt: skip

    def line(thread: str) -> lines.Line:
        return lines.Line(1, 1, "x", thread, b"{}")

    assert len(await follower._readable([line("a"), line("b")])) == 2
    assert len(await follower._readable([line("a"), line("b"), line("c"), line("d")])) == 4


class Away:
    """What servers keep together, while that can't be reached."""

    def __getattr__(self, name: str) -> Any:
        raise BufferUnavailable("It is away.")


def test_without_the_others_a_server_counts_alone_and_its_tickets_are_good_at_itself() -> None:
    failures = FailedLogins(2, FakeClock(), cast("Any", Away()))
    for _ in range(2):
        with failures.attempt("192.0.2.1") as failed:
            failed()
    with pytest.raises(Problem), failures.attempt("192.0.2.1"):
        pass
    assert failures.wait_s("192.0.2.1") > 0
    tickets = Tickets(FakeClock(), cast("Any", Away()))
    ticket, _ = tickets.issue(Caller("ada", Role.VIEWER))
    assert tickets.redeem(ticket) == Caller("ada", Role.VIEWER)
    tickets.forget_user("ada")
    with pytest.raises(Problem) as refused:
        tickets.redeem(ticket)
    assert refused.value.status == 503


@pytest.mark.parametrize("modes", [[{}], [["values"]], [None], "nothing", 3])
def test_a_stream_mode_that_is_none_is_refused_whatever_it_is(modes):
    with pytest.raises(ValidationError, match="stream_mode"):
        RunCreate.model_validate({"assistant_id": "agent", "stream_mode": modes})
