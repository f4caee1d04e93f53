"""Lua scripts in `.lua` files beside the code. A script begins with a line `-- name: append (grows)`; what
stands before the first one belongs to all of its file.

A server whose memory is full refuses what `(grows)`. All else goes on, so that what waits can leave it.

A script is atomic, and all its keys are in one slot. Scripts are sent by their digest; a server that
does not have one (it was restarted) is sent the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)( \(grows\))?\n", re.MULTILINE)
# A function at the top of a file, on one line or up to its `end`.
_COMMENT = re.compile(r"^ *--.*\n", re.MULTILINE)
_FUNCTION = re.compile(
    r"^local function (\w+)\((?:.* end\n|.*\n(?:(?: .*)?\n)*?end\n)", re.MULTILINE
)
_ALSO_WHEN_FULL = """-- A full server refuses what needs memory, unless the script has changed something before.
if LANE ~= '' then call('DEL', T .. 'none') end
"""


@dataclass(frozen=True, slots=True)
class Script:
    """One script, and the digest by which a server knows it."""

    name: str
    text: bytes
    digest: bytes

    def __repr__(self) -> str:
        return f"<Script {self.name}>"


class Scripts:
    """The scripts of a `.lua` file. `shared` files beside it stand before each of them."""

    def __init__(self, package: str, file: str, *, shared: Sequence[str] = ()) -> None:
        before, after = (_read("surgetank.redis", name) for name in ("common.lua", "once.lua"))
        own, *named = _NAME.split(_read(package, file))
        own = "\n".join([*(_read(package, name) for name in shared), own])
        self._scripts: dict[str, Script] = {}
        for name, grows, body in zip(named[::3], named[1::3], named[2::3], strict=True):
            first = "" if grows else _ALSO_WHEN_FULL
            rest = f"local function main()\n{first}{body}end\n{after}"
            above, rest = (_COMMENT.sub("", part) for part in (f"{before}\n{own}\n", rest))
            text = (_needed(above, rest) + rest).encode()
            digest = sha1(text, usedforsecurity=False).hexdigest().encode()
            self._scripts[name] = Script(name, text, digest)

    def __getitem__(self, name: str) -> Script:
        return self._scripts[name]


def _needed(text: str, rest: str) -> str:
    """The text without functions that neither it nor the rest names: a server makes all of a script's
    functions anew each time."""
    for function in reversed(list(_FUNCTION.finditer(text))):
        after = text[function.end() :]
        if re.search(rf"\b{function[1]}\b", after + rest) is None:
            text = text[: function.start()] + after
    return text


def _read(package: str, file: str) -> str:
    return files(package).joinpath(file).read_text(encoding="utf-8")
