"""Scripts are sent without the functions that they do not call."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from surgetank.redis.scripts import Scripts

ROOMS = {
    "surgetank.buffer.redis": ("partition.lua",),
    "surgetank.events": (),
    "surgetank.notify.alerts": (),
    "surgetank.redis": (),
}
PARTS = {"partition.lua", "common.lua", "once.lua"}
FUNCTION = re.compile(r"^local function (\w+)", re.MULTILINE)


def lua_of(room: str) -> list[str]:
    return sorted(
        f.name for f in files(room).iterdir() if f.name.endswith(".lua") and f.name not in PARTS
    )


@pytest.mark.parametrize("room", ROOMS)
def test_each_script_has_the_functions_that_it_calls_and_no_others(room):
    assert lua_of(room)
    for file in lua_of(room):
        sources = [files("surgetank.redis").joinpath("common.lua").read_text()]
        sources += [files(room).joinpath(name).read_text() for name in (*ROOMS[room], file)]
        known = set(FUNCTION.findall("\n".join(sources)))
        scripts = Scripts(room, file, shared=ROOMS[room])
        for name in re.findall(r"^-- name: (\w+)", sources[-1], re.MULTILINE):
            text = scripts[name].text.decode()
            made = FUNCTION.findall(text)
            called = {word for word in re.findall(r"\b\w+\b", text) if word in known}
            for function in made:
                if function != "main":
                    assert len(re.findall(rf"\b{function}\b", text)) > 1, (file, name, function)
            # a word may also be a variable's or a field's name
            unknown = {
                word for word in called - set(made) if re.search(rf"(?<![.\w]){word}\(", text)
            }
            assert not unknown, (file, name, unknown)
            assert not re.search(r"^ *--", text, re.MULTILINE)
