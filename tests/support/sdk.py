"""LangGraph's own Python client on a server of the tests; each of its answers is compared with the
OpenAPI document."""

from __future__ import annotations

from typing import Any

import httpx
from langgraph_sdk import get_client

from support.http import ADMIN_TOKEN, Server
from support.openapi import Answers


def client_for(server: Server, token: str | None = ADMIN_TOKEN, **options: Any) -> Any:
    """A client, to be closed by `aclose`."""
    client = get_client(url=server.url, api_key=token, **options)
    answers = Answers(server.app.openapi())

    async def compare(response: httpx.Response) -> None:
        if "json" not in response.headers.get("content-type", ""):
            return
        await response.aread()
        request = response.request
        answers.check(request.method, str(request.url), response.status_code, response.content)

    client.http.client.event_hooks["response"].append(compare)
    return client
