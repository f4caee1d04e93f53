"""Clients that send half a request or read no answer: disconnected in time, and nobody else's way
is blocked."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from support.http import ADMIN_TOKEN, Server, running
from support.savers import put
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank.server.live.followers import PAGE_BYTES

LARGE = "x" * 200_000


@pytest.fixture
def server(make_tank: MakeTank) -> Iterator[Server]:
    tank = make_tank(
        admin_token=ADMIN_TOKEN, server_request_timeout=0.5, server_write_timeout=0.5, server_connections=20,
        server_followers=3,
    )  # fmt: skip
    with running(tank) as started:
        yield started


@pytest.fixture
def open_sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def dial(
    server: Server, stack: ExitStack, first: bytes = b"", *, buffer: int | None = None
) -> socket.socket:
    made = stack.enter_context(socket.socket())
    if buffer is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    made.settimeout(20)
    made.connect(server.address)
    made.sendall(first)
    return made


def read_to_end(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while piece := client.recv(1 << 16):
            received += piece
    return received


def request(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {ADMIN_TOKEN}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


# -- half a request


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /health/live HTTP/1.1\r\nHost: x\r\n", b"POST /flush HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1",
     b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"],
    ids=["nothing", "half a head", "half a body", "half a body that no route waits for"],
)  # fmt: skip
def test_a_request_that_does_not_arrive_is_not_waited_for(
    server: Server, open_sockets: ExitStack, begun: bytes
) -> None:
    answer = read_to_end(dial(server, open_sockets, begun))
    assert answer.startswith((b"HTTP/1.1 408", b"HTTP/1.1 200"))


def test_a_head_that_comes_byte_by_byte_does_not_put_the_end_off(
    server: Server, open_sockets: ExitStack
) -> None:
    client = dial(server, open_sockets, b"GET /health/live HTTP/1.1\r\nX: ")
    client.settimeout(0.05)
    with suppress(ConnectionError):
        for _ in range(400):  # 20 s
            client.sendall(b"a")
            with suppress(TimeoutError):
                if client.recv(100).startswith(b"HTTP/1.1 408"):
                    return
    pytest.fail("the server waits for as long as a byte comes now and then")


def test_a_second_request_on_a_connection_has_its_own_time(
    server: Server, open_sockets: ExitStack
) -> None:
    client = dial(server, open_sockets, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    received = b""
    while not received.endswith(b'{"status":"alive"}'):
        received += client.recv(1 << 16)
    client.sendall(b"GET /health/live HT")
    assert read_to_end(client).startswith(b"HTTP/1.1 408")


def test_more_half_open_requests_than_there_are_connections_block_nobody(
    make_tank: MakeTank, open_sockets: ExitStack
) -> None:
    # with the usual time for a request
    tank = make_tank(admin_token=ADMIN_TOKEN, server_connections=20)
    with running(tank) as server:
        half = [dial(server, open_sockets, b"GET /me HTTP/1.1\r\n") for _ in range(30)]
        assert [server.admin.get("/me").status_code for _ in range(5)] == [200] * 5
        assert read_to_end(half[0]).startswith(b"HTTP/1.1 408"), "those that have waited longest go"
        half[-1].sendall(b"Host: x\r\n" + f"Authorization: Bearer {ADMIN_TOKEN}\r\n\r\n".encode())
        assert half[-1].recv(1 << 16).startswith(b"HTTP/1.1 200"), (
            "the newest may still send theirs"
        )


def test_a_request_with_two_lengths_is_refused_and_what_hides_in_it_is_not_answered(
    server: Server, open_sockets: ExitStack
) -> None:
    hidden = request("/me")
    head = b"POST /flush HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    answer = read_to_end(dial(server, open_sockets, head + hidden))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"ambiguous-length" in answer
    assert answer.count(b"HTTP/1.1") == 1


# -- answers that nobody reads


def write_buffers(server: Server) -> list[int]:
    return [
        c.transport.get_write_buffer_size() for c in list(server.uvicorn.server_state.connections)
    ]


def test_event_streams_that_nobody_reads_hold_a_page_each_and_are_ended(
    server: Server, open_sockets: ExitStack
) -> None:
    put(server.tank.checkpointer(), "t", {"x": 1}, user_id="ada")
    for _ in range(100):  # 20 MB
        server.tank.broadcast_run_event("large", thread_id="t", text=LARGE)
    silent = [
        dial(server, open_sockets, request(f"/sse/{what}?after=0"), buffer=4096)
        for what in ("events", "threads/t")
    ]
    most = 0

    def gone() -> bool:
        nonlocal most
        most = max([most, *write_buffers(server)])
        return server.services.hub.subscribers == 0 and most > 0

    wait_until(gone, "the server to give them up")
    assert most <= 2 * PAGE_BYTES + 2 * len(LARGE)
    assert all(len(read_to_end(client)) < 10_000_000 for client in silent)
    assert server.admin.get("/me").status_code == 200


def test_any_answer_that_nobody_reads_is_ended(server: Server, open_sockets: ExitStack) -> None:
    put(server.tank.checkpointer(), "t", {"x": ["y" * 100_000] * 30})
    client = dial(
        server, open_sockets, request("/threads/t/state?value_bytes=4194304"), buffer=4096
    )
    wait_until(lambda: write_buffers(server), "the request to arrive")
    wait_until(lambda: not write_buffers(server), "the connection to go")
    assert 0 < len(read_to_end(client)) < 3_000_000


def test_the_shared_batches_are_bounded_by_bytes(make_tank: MakeTank) -> None:
    with running(make_tank(admin_token=ADMIN_TOKEN)) as server:
        hub = server.services.hub
        with server.admin.stream("GET", "/sse/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            for _ in range(120):  # 24 MB
                server.tank.broadcast_run_event("large", thread_id="t", text=LARGE)
            count = 0
            for line in lines:
                count += line.startswith("event: large")
                if count == 120:
                    break
        assert sum(batch.bytes for batch in hub._batches) <= 16 * 1024 * 1024
        assert max(batch.bytes for batch in hub._batches) <= PAGE_BYTES + 2 * len(LARGE)


def test_a_page_of_events_is_bounded_by_bytes_and_its_next_leads_on(server: Server) -> None:
    for number in range(30):
        server.tank.broadcast_run_event("large", thread_id="t", number=number, text=LARGE)
    seen: list[int] = []
    after = 0
    while True:
        answer = server.admin.get(f"/threads/t/events?limit=1000&after={after}")
        assert len(answer.content) < 2 * 1024 * 1024 + 2 * len(LARGE)
        body = answer.json()
        if not body["events"]:
            break
        seen += [event["number"] for event in body["events"]]
        after = body["next"]
    assert seen == list(range(30))


# -- one caller


def test_one_caller_has_so_many_followers_and_no_more_and_others_have_their_own(
    server: Server, open_sockets: ExitStack
) -> None:
    token, url = server.token("admin", "ada"), server.url.replace("http", "ws")

    def follow(bearer: str = token) -> ExitStack:
        with ExitStack() as stack:
            headers = {"Authorization": f"Bearer {bearer}"}
            stack.enter_context(connect(f"{url}/ws/events", additional_headers=headers)).recv(
                timeout=20
            )
            return open_sockets.enter_context(stack.pop_all())

    mine = [follow() for _ in range(3)]
    with pytest.raises(InvalidStatus) as denied:
        follow()
    assert denied.value.response.status_code == 429
    refused = server.client(token).get("/sse/events")
    assert (refused.status_code, refused.json()["code"]) == (429, "too-many-followers")
    follow(ADMIN_TOKEN)
    mine[0].close()

    def comes_in() -> bool:
        with suppress(InvalidStatus):
            follow()
            return True
        return False

    wait_until(comes_in, "the place to be free again")
