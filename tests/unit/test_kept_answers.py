"""What is held back for an `Idempotency-Key` is bounded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from surgetank.server.access.identify import Asked
from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.idempotency import MAX_BODY, Claim
from surgetank.server.http.middleware import Answers


class Kept:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def claim(self, scope: str, key: str, fingerprint: bytes) -> Claim:
        return Claim(scope, key, fingerprint, "c")

    def finish(self, claim: Claim, answer: Any) -> None:
        self.told.append(answer.status)

    def release(self, claim: Claim) -> None:
        self.told.append("released")


async def test_an_answer_that_never_ends_is_passed_on_when_it_is_too_large_to_be_kept() -> None:
    sent: list[Any] = []
    kept = Kept()
    part = b"x" * 1000
    begun_at: list[int] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        head = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for n in range(5000):
            await send({"type": "http.response.body", "body": part, "more_body": True})
            if sent and not begun_at:
                begun_at.append(n)
        raise ConnectionError("the client is gone")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    scope = {
        "type": "http", "method": "POST", "path": "/own", "query_string": b"",
        "headers": [(b"idempotency-key", b"k")],
        "surgetank.asked": Asked(caller=Caller("ada", Role.VIEWER)),
    }  # fmt: skip
    services: Any = SimpleNamespace(kept_answers=kept)
    with pytest.raises(ConnectionError):
        await Answers(endless, services=services)(scope, receive, send)
    assert begun_at == [MAX_BODY // 1000]
    assert len(sent) == 5001
    assert sent[0]["type"] == "http.response.start"
    assert kept.told == [200]
