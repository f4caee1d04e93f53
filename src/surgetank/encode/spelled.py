"""How a word may stand in stored text, for whoever looks for it to remove it. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

_SHORT = 4


def forms(words: Sequence[str]) -> set[str]:
    """How words may stand in a text or in JSON. Short ones only in quotes: a user called "a" is in
    every sentence."""
    found: set[str] = set()
    for word in words:
        spelled = {word, json.dumps(word)[1:-1], json.dumps(word, ensure_ascii=False)[1:-1]}
        if len(word) < _SHORT:
            spelled = {f"{quote}{form}{quote}" for form in spelled for quote in "'\""}
        found |= spelled
    return found
