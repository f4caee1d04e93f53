"""`docs/how-to/fastapi.md`, run as it is written there."""

from __future__ import annotations

import re
import types
from pathlib import Path

import httpx
import pytest

PAGE = Path(__file__).parents[2] / "docs/how-to/fastapi.md"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str) -> types.ModuleType:
    monkeypatch.setenv("SURGETANK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SURGETANK_DATABASE_URL", database_url)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    module = types.ModuleType("recipe")
    monkeypatch.setitem(__import__("sys").modules, "recipe", module)
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), module.__dict__)
    return module


async def test_a_conversation_goes_on_after_the_application_was_restarted(recipe: types.ModuleType) -> None:
    answers = []
    for text in ("hello", "again"):
        async with recipe.lifespan(recipe.app):
            transport = httpx.ASGITransport(app=recipe.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://recipe") as client:
                answers.append((await client.post("/chat/1", params={"text": text})).json())
    assert answers == [["hello", "you said hello"], ["hello", "you said hello", "again", "you said again"]]
