"""A chat of your own beside Surgetank, with its banner: the backend talks to the server with a token of an
administrator, and mints tickets for the thread of the user who is logged in here.

    surgetank dev -c examples/agent/langgraph.json --allow-origin http://127.0.0.1:8000
    SURGETANK_URL=http://127.0.0.1:2024 python examples/chat/app.py      # then open http://127.0.0.1:8000
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse

PAGE = Path(__file__).with_name("page.html")


def make_app(server: str, token: str, *, user: str = "ada", thread: str | None = None) -> FastAPI:
    """The chat of one person; yours knows who is logged in and which threads are theirs."""
    app = FastAPI()
    mine = thread or str(uuid.uuid4())
    client = httpx.AsyncClient(
        base_url=server, headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=60
    )

    @app.get("/")
    async def page() -> HTMLResponse:
        """The page; only the address of the server and the name of the thread are put into it."""
        text = PAGE.read_text(encoding="utf-8")
        return HTMLResponse(text.replace("SERVER", server).replace("THREAD", mine))

    @app.post("/ticket")
    async def ticket(thread: str) -> dict[str, Any]:
        """A ticket for the page's banner: for this user, and for a thread of theirs only."""
        if thread != mine:
            raise HTTPException(404)
        wanted = {"user": user, "thread_id": thread}
        answer = await client.post("/ws/ticket", json=wanted)
        if answer.status_code != 201:
            raise HTTPException(503)
        return {"ticket": answer.json()["ticket"]}

    @app.post("/say")
    async def say(message: dict[str, str]) -> dict[str, str]:
        """One question to the agent, and its answer."""
        asked = {"messages": [{"role": "user", "content": message["text"]}]}
        run = {
            "assistant_id": "agent",
            "input": asked,
            "if_not_exists": "create",
            "config": {"configurable": {"user_id": user}},
        }
        answer = await client.post(f"/threads/{mine}/runs/wait", json=run)
        if answer.status_code != 200:
            raise HTTPException(503, answer.json().get("detail", ""))
        return {"text": str(answer.json()["messages"][-1]["content"])}

    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(
        make_app(
            os.environ.get("SURGETANK_URL", "http://127.0.0.1:2024"),
            os.environ.get("SURGETANK_TOKEN", ""),
        ),
        port=8000,
    )
