"""`docs/how-to/fastapi.md`, run as it is written there."""

from __future__ import annotations

import re
import types
from pathlib import Path

import httpx
import pytest

from support.http import ADMIN_TOKEN

PAGE = Path(__file__).parents[2] / "docs/how-to/fastapi.md"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str) -> types.ModuleType:
    monkeypatch.setenv("SURGETANK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SURGETANK_DATABASE_URL", database_url)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    code = "\n".join(blocks)
    module = types.ModuleType("recipe")
    monkeypatch.setitem(__import__("sys").modules, "recipe", module)
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), module.__dict__)
    return module


async def test_the_server_s_routes_can_be_mounted_and_keep_their_authentication(
    recipe: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SURGETANK_ADMIN_TOKEN", ADMIN_TOKEN)
    app = recipe.app_with_routes
    async with recipe.lifespan_with_routes(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://recipe") as client:
            assert (await client.get("/surgetank/health/ready")).json()["status"] == "ready"
            assert (await client.get("/surgetank/threads")).status_code == 401
            refused = await client.get("/surgetank/threads", params={"token": "x"})
            assert refused.json()["code"] == "secret-in-url"
            headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
            listed = await client.get("/surgetank/threads", headers=headers)
            assert listed.json()["threads"] == []
            key = {"Idempotency-Key": "once"}
            tickets = [
                (await client.post("/surgetank/ws/ticket", headers=headers | key)).status_code
                for _ in range(2)
            ]
            assert tickets[0] == tickets[1] < 300
            assert (await client.get("/threads")).status_code == 404


async def test_a_conversation_goes_on_after_the_application_was_restarted(
    recipe: types.ModuleType,
) -> None:
    answers = []
    for text in ("hello", "again"):
        async with recipe.lifespan(recipe.app):
            transport = httpx.ASGITransport(app=recipe.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://recipe") as client:
                answers.append((await client.post("/chat/1", params={"text": text})).json())
    assert answers == [
        ["hello", "you said hello"],
        ["hello", "you said hello", "again", "you said again"],
    ]
