"""Who may see what: threads and lists, logins, tokens, tickets, outages."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import WebSocket
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from support.access import ROLES, ask, furnish
from support.buffers import FakeClock
from support.http import ADMIN_TOKEN, Server, running
from support.savers import put
from surgetank.server.access.roles import Role
from surgetank.server.dependencies import CurrentCaller, VisibleThread


@pytest.fixture
def server(make_tank) -> Iterator[Server]:
    with running(make_tank(admin_token=ADMIN_TOKEN)) as started:
        yield started


def test_a_viewer_from_before_there_were_users_may_do_what_it_could(server):
    made, secret = server.services.tokens.create("ada", Role.VIEWER, by="test")
    client = server.client(secret)
    with server.tank.parts.database.connection() as connection:  # as a program from before made it
        connection.execute("UPDATE surgetank.api_tokens SET reads_only = DEFAULT")
    assert client.get("/me").json() == {"user": "ada", "role": "user", "token_id": made.id}
    assert client.post("/threads", json={}).status_code == 200
    (users,) = server.tank.sql("SELECT user_name, role FROM system.users")
    assert users.rows.to_pylist() == [{"user_name": "ada", "role": "user"}]


def test_a_foreign_thread_is_answered_just_as_one_that_is_not_there(server):
    furnish(server)
    ada = server.as_role("viewer", "ada")
    answers = []
    for name in ("foreign", "missing"):
        for tail in ("state", "history", "logs", "events"):
            answer = ada.get(f"/threads/{name}/{tail}")
            headers = {
                k: v for k, v in answer.headers.items() if k not in ("date", "content-length")
            }
            answers.append((answer.status_code, answer.text.replace(name, "NAME"), headers, tail))
    assert answers[:4] == answers[4:]


def test_lists_hold_what_the_caller_may_know_of(server):
    furnish(server)
    seen = {
        role: {
            t["thread_id"] for t in server.as_role(role, "ada").get("/threads").json()["threads"]
        }
        for role in ROLES[1:]
    }
    everything = {"own", "foreign", "ownerless"}
    assert seen == {
        "viewer": {"own"},
        "user": {"own"},
        "reviewer": {"own"},
        "operator": everything,
        "admin": everything,
    }
    viewer = server.as_role("viewer", "ada")
    assert [t["thread_id"] for t in viewer.get("/threads?owner=bob").json()["threads"]] == ["own"]
    operator = server.as_role("operator", "ada")
    assert [t["thread_id"] for t in operator.get("/threads?owner=bob").json()["threads"]] == [
        "foreign"
    ]


@pytest.mark.parametrize("flushed", [False, True])
def test_the_first_owner_of_a_thread_stays_its_owner(server, flushed):
    saver = server.tank.checkpointer()
    first = put(saver, "t", {"x": 1}, user_id="ada")
    if flushed:
        assert server.tank.flush().ok
    put(saver, "t", {"x": 2}, parent=first, step=1, user_id="mallory")
    assert server.as_role("viewer", "ada").get("/threads/t/state").json()["values"] == {"x": 2}
    mallory = server.as_role("viewer", "mallory")
    assert mallory.get("/threads/t/state").status_code == 404
    assert mallory.get("/threads").json()["threads"] == []
    assert server.tank.flush().ok
    assert mallory.get("/threads").json()["threads"] == []


def test_a_thread_that_is_made_anew_after_its_deletion_belongs_to_its_new_owner(server):
    saver = server.tank.checkpointer()
    put(saver, "t", {"x": 1}, user_id="ada")
    assert server.tank.flush().ok
    ada, bob = server.as_role("viewer", "ada"), server.as_role("viewer", "bob")
    assert ada.get("/threads/t/state").status_code == 200
    saver.delete_thread("t")
    assert ada.get("/threads/t/state").status_code == 404
    assert ada.get("/threads").json()["threads"] == []
    put(saver, "t", {"x": 2}, user_id="bob")
    assert ada.get("/threads/t/state").status_code == 404
    assert bob.get("/threads/t/state").json()["values"] == {"x": 2}


def test_another_key_can_name_the_owner(make_tank):
    tank = make_tank(admin_token=ADMIN_TOKEN, owner_key="tenant")
    with running(tank) as server:
        put(tank.checkpointer(), "t", {"x": 1}, tenant=7, user_id="ada")
        for _ in range(2):
            assert server.as_role("viewer", "7").get("/threads/t/state").status_code == 200
            assert len(server.as_role("viewer", "7").get("/threads").json()["threads"]) == 1
            assert server.as_role("viewer", "ada").get("/threads/t/state").status_code == 404
            assert tank.flush().ok


# -- tokens


def test_a_token_is_shown_once_and_only_its_hash_is_stored(server):
    made = server.admin.post(
        "/admin/tokens", json={"user": "ada", "role": "viewer", "expires_in": "30d"}
    )
    assert made.status_code == 201
    secret = made.json()["token"]
    assert secret.startswith("stk_")
    assert len(secret) == 47
    listed = server.admin.get("/admin/tokens")
    assert secret not in listed.text
    assert listed.json()["tokens"][0]["user"] == "ada"
    with server.tank.parts.database.connection() as connection:
        (dump,) = connection.execute(
            "SELECT string_agg(t::text, '') FROM surgetank.api_tokens t"
        ).fetchone()
    assert secret not in dump
    assert secret.removeprefix("stk_") not in dump
    me = server.client(secret).get("/me").json()
    assert me == {"user": "ada", "role": "viewer", "token_id": made.json()["id"]}
    assert server.admin.get("/admin/tokens").json()["tokens"][0]["last_used_at"] is not None


def test_a_revoked_token_is_no_good_at_once_here_and_in_a_minute_elsewhere(make_tank):
    clock = FakeClock()
    with running(make_tank(admin_token=ADMIN_TOKEN), clock=clock) as server:
        here, elsewhere = server.as_role("viewer", "ada"), server.as_role("viewer", "bob")
        for client in (here, elsewhere):
            assert client.get("/me").status_code == 200
        assert (
            server.admin.delete(f"/admin/tokens/{here.get('/me').json()['token_id']}").status_code
            == 200
        )
        assert here.get("/me").status_code == 401
        server.services.tokens.revoke(elsewhere.get("/me").json()["token_id"], by="another process")
        clock.advance(59)
        assert elsewhere.get("/me").status_code == 200
        clock.advance(2)
        assert elsewhere.get("/me").status_code == 401


def test_a_token_expires(make_tank):
    clock = FakeClock()
    with running(make_tank(admin_token=ADMIN_TOKEN), clock=clock) as server:
        client = server.client(server.token("viewer", "ada", expires_at=clock() + 10))
        assert client.get("/me").status_code == 200
        clock.advance(11)
        assert client.get("/me").status_code == 401


def test_when_a_token_was_used_is_noted_at_most_once_a_minute(make_tank):
    clock = FakeClock()
    with running(make_tank(admin_token=ADMIN_TOKEN), clock=clock) as server:
        client = server.as_role("viewer", "ada")
        token_id = client.get("/me").json()["token_id"]
        first = server.services.tokens.find(token_id=token_id)
        assert first is not None
        assert first.last_used_at is not None
        clock.advance(61)
        assert client.get("/me").status_code == 200
        again = server.services.tokens.find(token_id=token_id)
        assert again is not None
        # by the database's clock no minute has passed
        assert again.last_used_at == first.last_used_at


@pytest.mark.parametrize(
    "header", ["", "Basic abc", "Bearer", "Bearer stk_" + "x" * 43, f"bearer {ADMIN_TOKEN}x"]
)
def test_what_is_no_good_token_gets_401_with_a_challenge(server, header):
    answer = server.client(**{"Authorization": header} if header else {}).get("/me")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["code"] == "not-authenticated"


def test_a_token_in_the_query_string_is_refused(server):
    answer = server.client().get("/me", params={"token": ADMIN_TOKEN})
    assert answer.status_code == 400
    assert answer.json()["code"] == "secret-in-url"
    assert ADMIN_TOKEN not in answer.text


def test_failed_logins_are_slowed_down_and_good_tokens_go_on(make_tank):
    clock = FakeClock()
    tank = make_tank(admin_token=ADMIN_TOKEN, failed_logins_per_minute=3)
    with running(tank, clock=clock) as server:
        known, fresh = server.as_role("viewer", "ada"), server.as_role("viewer", "bob")
        assert known.get("/me").status_code == 200
        guess = server.client("stk_" + "x" * 43)
        assert [guess.get("/me").status_code for _ in range(5)] == [401, 401, 401, 429, 429]
        refused = guess.get("/me")
        assert refused.headers["retry-after"] == "20"
        assert known.get("/me").status_code == 200
        assert server.admin.get("/me").status_code == 200
        assert fresh.get("/me").status_code == 429
        clock.advance(20)
        assert fresh.get("/me").status_code == 200


def test_of_many_guesses_at_once_no_more_are_tried_than_an_address_has(make_tank):
    with running(
        make_tank(admin_token=ADMIN_TOKEN, failed_logins_per_minute=3), clock=FakeClock()
    ) as server:
        guesses = [server.client(f"stk_{number:043}") for number in range(12)]
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda client: client.get("/me").status_code, guesses))
        assert sorted(answers) == [401] * 3 + [429] * 9


def test_many_good_logins_at_once_are_no_failures(make_tank):
    with running(
        make_tank(admin_token=ADMIN_TOKEN, failed_logins_per_minute=2), clock=FakeClock()
    ) as server:
        clients = [server.as_role("viewer", f"user-{number}") for number in range(12)]
        with ThreadPoolExecutor(12) as pool:
            assert set(pool.map(lambda client: client.get("/me").status_code, clients)) == {200}


def test_secrets_are_in_no_log(live, caplog):
    caplog.set_level(logging.DEBUG)
    server = live
    token = server.token("viewer", "ada")
    for_socket = server.client(token).post("/ws/ticket").json()["ticket"]
    with connect(socket_url(server, f"/ws/test/own?ticket={for_socket}")) as socket:
        socket.recv()
    client = server.client(token)
    ticket = client.post("/ws/ticket").json()["ticket"]
    client.get("/me", params={"secret": "hidden-in-query"})
    server.client().get("/me", params={"ticket": ticket})
    server.client("stk_" + "y" * 43).get("/me")
    server.client().get("/me", params={"token": token})
    server.admin.post("/admin/tokens", json={"user": "a\u0000", "role": token})
    clients = ("httpx", "httpcore", "websockets.client")  # the test's own
    ours = "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith(clients))
    assert "'/me'" in ours
    assert "'/ws/test/own'" in ours
    for secret in (token, ADMIN_TOKEN, ticket, for_socket, "hidden-in-query", "stk_" + "y" * 43):
        assert secret not in ours


# -- tickets


def test_a_ticket_is_good_for_one_connection_within_its_time(make_tank):
    clock = FakeClock()
    with running(make_tank(admin_token=ADMIN_TOKEN), clock=clock) as server:
        client = server.as_role("viewer", "ada")
        ticket = client.post("/ws/ticket").json()["ticket"]
        by_ticket = server.client()
        assert ask(by_ticket, "GET", f"/sse/events?ticket={ticket}", None)[0] == 200
        assert ask(by_ticket, "GET", f"/sse/events?ticket={ticket}", None)[0] == 401
        late = client.post("/ws/ticket").json()["ticket"]
        clock.advance(31)
        assert by_ticket.get("/sse/events", params={"ticket": late}).json()["code"] == "bad-ticket"
        fresh = client.post("/ws/ticket").json()["ticket"]
        # for reading only
        assert by_ticket.post("/ws/ticket", params={"ticket": fresh}).status_code == 401


def test_a_ticket_is_good_for_live_routes_only_and_is_not_used_up_elsewhere(live):
    client = live.as_role("admin", "ada")
    ticket = client.post("/ws/ticket").json()["ticket"]
    for path in (
        "/me",
        "/threads",
        "/threads/own/state",
        "/threads/own/events",
        "/admin/tokens",
        "/threads//sse/own/state",
    ):
        assert live.client().get(path, params={"ticket": ticket}).status_code == 401, path
    with connect(socket_url(live, f"/ws/test/own?ticket={ticket}")) as socket:
        assert socket.recv() == "ada own"


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_ticket_ends_with_its_token(server, where):
    client = server.as_role("viewer", "ada")
    ticket = client.post("/ws/ticket").json()["ticket"]
    token_id = client.get("/me").json()["token_id"]
    if where == "here":
        assert server.admin.delete(f"/admin/tokens/{token_id}").status_code == 200
    else:
        server.services.tokens.revoke(token_id, by="another process")
    assert (
        server.client().get("/sse/events", params={"ticket": ticket}).json()["code"] == "bad-ticket"
    )


def test_an_open_connection_gets_nothing_more_once_its_token_is_revoked(server):
    put(server.tank.checkpointer(), "hers", {"x": 1}, user_id="ada")
    client = server.as_role("viewer", "ada")
    ticket = client.post("/ws/ticket").json()["ticket"]
    token_id = client.get("/me").json()["token_id"]
    with connect(f"{server.url.replace('http', 'ws')}/ws/events?ticket={ticket}") as socket:
        assert "subscribed" in socket.recv()
        server.tank.emit_log("before", thread_id="hers")
        while "before" not in socket.recv(timeout=30):
            pass
        assert server.admin.delete(f"/admin/tokens/{token_id}").status_code == 200
        server.tank.emit_log("after", thread_id="hers")
        more = list(socket)  # until it is closed
        assert not any("after" in str(message) for message in more)


def test_a_ticket_is_stored_nowhere_in_clear(server):
    key = {"Idempotency-Key": "k-1"}
    client = server.as_role("viewer", "ada")
    made = client.post("/ws/ticket", headers=key)
    again = client.post("/ws/ticket", headers=key)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == {"ticket": None, "expires_at": made.json()["expires_at"]}
    with server.tank.parts.database.connection() as connection:
        rows = connection.execute("SELECT body FROM surgetank.idempotency_keys").fetchall()
    assert made.json()["ticket"].encode() not in b"".join(bytes(body) for (body,) in rows)
    assert made.json()["ticket"] not in repr(server.services.tickets._open)


@pytest.fixture
def live(server) -> Server:
    """A server with a WebSocket of a thread, as the parts that push events have."""

    async def greet(socket: WebSocket, thread_id: VisibleThread, who: CurrentCaller) -> None:
        await socket.accept()
        await socket.send_text(f"{who.user} {thread_id}")
        if await socket.receive_text() == "break":
            raise RuntimeError("broken")
        await socket.close()

    server.app.add_api_websocket_route("/ws/test/{thread_id:name}", greet)
    furnish(server)
    return server


def socket_url(server: Server, path: str) -> str:
    return server.url.replace("http", "ws") + path


def test_a_websocket_knows_its_caller_by_header_or_ticket(live):
    token = live.token("viewer", "ada")
    by_header = {"Authorization": f"Bearer {token}"}
    with connect(socket_url(live, "/ws/test/own"), additional_headers=by_header) as socket:
        assert socket.recv() == "ada own"
    ticket = live.client(token).post("/ws/ticket").json()["ticket"]
    with connect(socket_url(live, f"/ws/test/own?ticket={ticket}"), origin=live.url) as socket:
        assert socket.recv() == "ada own"


@pytest.mark.parametrize(
    ("path", "options", "status", "code"),
    [
        ("/ws/test/own", {}, 401, "not-authenticated"),
        ("/ws/test/own?ticket=nonsense", {}, 401, "bad-ticket"),
        ("/ws/test/own?token=secret", {}, 400, "secret-in-url"),
        ("/ws/test/foreign", {"token": True}, 404, "not-found"),
        ("/ws/test/missing", {"token": True}, 404, "not-found"),
        ("/ws/test/own", {"token": True, "origin": "https://evil.example"}, 403, "foreign-origin"),
    ],
)
def test_a_websocket_is_denied_with_a_problem(live, path, options, status, code):
    headers = (
        {"Authorization": f"Bearer {live.token('viewer', 'ada')}"} if options.get("token") else {}
    )
    with (
        pytest.raises(InvalidStatus) as denied,
        connect(socket_url(live, path), additional_headers=headers, origin=options.get("origin")),
    ):
        pass
    answer = denied.value.response
    assert answer.status_code == status
    assert json.loads(answer.body)["code"] == code


def test_a_bug_in_a_websocket_closes_it_with_1011(live):
    headers = {"Authorization": f"Bearer {live.token('viewer', 'ada')}"}
    with connect(socket_url(live, "/ws/test/own"), additional_headers=headers) as socket:
        socket.recv()
        socket.send("break")
        with pytest.raises(ConnectionClosedError) as closed:
            socket.recv(timeout=10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011


def test_an_unknown_websocket_is_denied(server):
    with pytest.raises(InvalidStatus) as denied, connect(socket_url(server, "/ws/nothing")):
        pass
    assert denied.value.response.status_code in (403, 404)


def test_whether_an_open_connection_s_caller_is_still_good_can_be_asked(server):
    made, _ = server.services.tokens.create("ada", Role.VIEWER, by="test")
    assert server.services.login.still_good(made.caller)
    server.services.tokens.revoke(made.id, by="test")
    assert not server.services.login.still_good(made.caller)


def test_the_address_that_a_trusted_proxy_tells_counts_and_no_other(make_tank):
    for trusted, expected in (("127.0.0.1", [401, 429, 401]), ("", [401, 429, 429])):
        tank = make_tank(
            admin_token=ADMIN_TOKEN, failed_logins_per_minute=1, trusted_proxies=trusted
        )
        with running(tank) as server:
            statuses = [
                server.client("stk_" + "x" * 43, **{"X-Forwarded-For": address})
                .get("/me")
                .status_code
                for address in ("203.0.113.1", "203.0.113.1", "203.0.113.2")
            ]
        assert statuses == expected


# -- outages


def test_known_tokens_are_good_for_a_quarter_of_an_hour_of_an_outage(make_tank, private_postgres):
    clock = FakeClock()
    tank = make_tank(admin_token=ADMIN_TOKEN, database_url=private_postgres.url)
    with running(tank, clock=clock) as server:
        known, fresh = server.as_role("viewer", "ada"), server.as_role("viewer", "bob")
        assert known.get("/me").status_code == 200
        private_postgres.kill()
        clock.advance(14 * 60)
        assert known.get("/me").status_code == 200
        assert server.admin.get("/me").status_code == 200
        unknown = fresh.get("/me")
        assert (unknown.status_code, unknown.json()["code"]) == (503, "login-unavailable")
        assert unknown.headers["retry-after"]
        clock.advance(2 * 60)
        assert known.get("/me").status_code == 503


def test_in_an_outage_a_thread_of_unknown_owner_is_seen_by_administrators_only(
    make_tank, private_postgres
):
    clock = FakeClock()
    tank = make_tank(admin_token=ADMIN_TOKEN, database_url=private_postgres.url)
    with running(tank, clock=clock) as server:
        saver = tank.checkpointer()
        for name in ("looked-at", "cold"):
            put(saver, name, {"x": 1}, user_id="ada")
        assert tank.flush().ok
        ada, operator = server.as_role("viewer", "ada"), server.as_role("operator", "ops")
        assert operator.get("/me").status_code == 200
        assert ada.get("/threads/looked-at/state").status_code == 200
        private_postgres.kill()
        put(saver, "hot", {"x": 1}, user_id="ada")
        put(saver, "cold", {"x": 2}, step=1, user_id="ada")
        assert ada.get("/threads/hot/state").json()["values"] == {"x": 1}
        assert ada.get("/threads/cold/state").status_code == 404
        assert operator.get("/threads/cold/state").status_code == 403
        # Hers: the newest state is kept, the rest is only in the database.
        assert ada.get("/threads/looked-at/state").json()["values"] == {"x": 1}
        assert ada.get("/threads/looked-at/history").status_code == 503
        listed = ada.get("/threads").json()
        assert ([t["thread_id"] for t in listed["threads"]], listed["complete"]) == (["hot"], False)
        assert server.admin.get("/threads/cold/state").json()["values"] == {"x": 2}
        clock.advance(16 * 60)
        assert server.admin.get("/threads").json()["complete"] is False


# -- without authentication


def test_without_authentication_only_this_machine_s_own_pages_and_programs_are_served(make_tank):
    with running(make_tank(), no_auth=True) as server:
        assert server.client().get("/me").json() == {
            "user": "local",
            "role": "admin",
            "token_id": None,
        }
        assert server.client(Host="evil.example").get("/me").json()["code"] == "local-only"
        for origin in ("https://evil.example", "null", "http://[", "http://localhost.evil.example"):
            assert server.client(Origin=origin).post("/flush").status_code == 403
        for host in ("", "[", "localhost.evil.example", "127.0.0.1.evil.example:8321"):
            assert server.client(Host=host).get("/me").status_code == 403
        assert server.client(Host="[::1]:8321").get("/me").status_code == 200
        assert server.client(Origin="http://localhost:3000").get("/me").status_code == 200


def test_without_authentication_only_pages_of_this_very_server_change_something(make_tank):
    with running(make_tank(cors_origins="http://localhost:5173"), no_auth=True) as server:
        host = server.url.removeprefix("http://")
        for headers in (
            {"Origin": "http://localhost:3000"}, {"Origin": "http://127.0.0.1"}, {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "cross-site"}, {"Origin": f"http://{host}", "Host": "evil.example"},
        ):  # fmt: skip
            for method, path in (
                ("POST", "/flush"),
                ("DELETE", "/admin/tokens/x"),
                ("POST", "/ws/ticket"),
            ):
                assert server.client(**headers).request(method, path).status_code == 403, (
                    headers,
                    path,
                )
        for headers in (
            {},
            {"Origin": server.url},
            {"Sec-Fetch-Site": "same-origin"},
            {"Origin": "http://localhost:5173"},
        ):
            assert server.client(**headers).post("/flush").status_code == 200, headers
        url = server.url.replace("http", "ws") + "/ws/events"
        with (
            pytest.raises(InvalidStatus) as denied,
            connect(url, origin=Origin("http://localhost:3000")),
        ):
            pass
        assert denied.value.response.status_code == 403
        with connect(url, origin=Origin(server.url)) as socket:
            assert "subscribed" in socket.recv()


# -- browsers


def test_no_foreign_origin_is_allowed_by_default(server):
    answer = server.client(Origin="https://app.example").get("/health/live")
    assert "access-control-allow-origin" not in answer.headers
    preflight = server.client(
        Origin="https://app.example", **{"Access-Control-Request-Method": "GET"}
    )
    assert preflight.options("/me").status_code == 405


def test_allowed_origins_may_use_it(make_tank):
    tank = make_tank(
        admin_token=ADMIN_TOKEN, cors_origins="https://app.example, https://two.example"
    )
    with running(tank) as server:
        answer = server.client(Origin="https://two.example").get("/health/live")
        assert answer.headers["access-control-allow-origin"] == "https://two.example"
        other = server.client(Origin="https://evil.example").get("/health/live")
        assert "access-control-allow-origin" not in other.headers


def test_every_answer_has_security_headers(server):
    for path in ("/health/live", "/me", "/nothing", "/openapi.json"):
        headers = server.client().get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers
