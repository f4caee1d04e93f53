"""Live events as a client has them: over a WebSocket, and as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from websockets.sync.client import connect

from support.http import Server


def socket(server: Server, path: str, token: str) -> Any:
    """A WebSocket of a caller."""
    return connect(
        server.url.replace("http", "ws") + path,
        additional_headers={"Authorization": f"Bearer {token}"},
    )


def receive(ws: Any, count: int) -> list[dict[str, Any]]:
    """The next `count` events; several may come in one message."""
    events: list[dict[str, Any]] = []
    while len(events) < count:
        events += [json.loads(line) for line in ws.recv(timeout=20).split("\n")]
    return events


def sse(lines: Iterator[str], count: int) -> list[tuple[int, dict[str, Any]]]:
    """The next `count` server-sent events with their ids."""
    found: list[tuple[int, dict[str, Any]]] = []
    number, data = 0, ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            number = int(value)
        elif name == "data":
            data = value
        elif not line and data:  # the end of one
            found.append((number, json.loads(data)))
            data = ""
            if len(found) == count:
                return found
    return found
