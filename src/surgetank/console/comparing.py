"""What differs between two states, in words where there are some: a message is who says what. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from surgetank.console import talk

_LONGEST = 400


@dataclass(frozen=True, slots=True)
class Change:
    """One place. None on a side: there was, or is, nothing."""

    path: str
    before: str | None
    after: str | None


def changes(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Where they differ, in order. What was added to the end of a list is one change for each item."""
    if type(before) is type(after) and before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            at = f"{path}/{key}" if path else str(key)
            if key not in after:
                yield Change(at, words(before[key]), None)
            elif key not in before:
                yield Change(at, None, words(after[key]))
            else:
                yield from changes(before[key], after[key], at)
    elif isinstance(before, list) and isinstance(after, list):
        for number, (old, new) in enumerate(zip(before, after, strict=False)):
            yield from changes(old, new, f"{path}/{number}")
        yield from (
            Change(f"{path}/{number}", words(before[number]), None)
            for number in range(len(after), len(before))
        )
        yield from (
            Change(f"{path}/{number}", None, words(after[number]))
            for number in range(len(before), len(after))
        )
    else:
        yield Change(path or "all of it", words(before), words(after))


def words(value: Any) -> str:
    """A value in one line, cut short."""
    if isinstance(value, str):
        text = value
    elif value is None:
        text = "nothing"
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, Mapping) and "content" in value and ("type" in value or "role" in value):
        (message,), _ = talk.messages_of([value])
        called = "; ".join(f"calls {name} with {args}" for name, args in message.calls)
        text = f"{message.who}: {' '.join(filter(None, (message.text, called)))}"
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
