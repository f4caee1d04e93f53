"""What is checked at the door, so that what was accepted arrives: the limits of PostgreSQL, and who
refuses what. Pure.

A row of a btree index holds 2704 bytes; text holds no NUL and no lone surrogate; a jsonb 256 MiB; a
time the years that Python and PostgreSQL both know. All of it is refused by `EntryRejected`, which
names the value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from surgetank.encode.jsonable import name_of
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.exceptions import EntryRejected

MAX_NAME_BYTES = 2048
MAX_PAIR_BYTES = 2600  # a row of a PostgreSQL index has at most 2704 bytes, and some hold two names
MAX_JSON_BYTES = 200 * 1024**2  # PostgreSQL adds headers, and refuses a jsonb of 256 MiB
MAX_NOTES = 64 * 1024
LATEST = 253_402_300_799.0  # the last second of the year 9999
_EXPONENT = re.compile(rb"[eE][+-]?[0-9]+")
_PLAIN = (str, int, bool, type(None))


def thread_name(given: object) -> str:
    """A thread's name as a string. Raises `EntryRejected` for None."""
    # `str` would make it a thread called "None", which everybody without an id would share
    if given is None:
        raise EntryRejected(
            partition="", path="$.configurable.thread_id", reason="no thread id",
            remedy='give one: config={"configurable": {"thread_id": "..."}}.',
        )  # fmt: skip
    return str(given)


def check_names(thread_id: str, names: Sequence[tuple[str, str]]) -> None:
    """Refuse names that neither keys nor PostgreSQL's text can carry: NUL, lone surrogates,
    excessive length.

    `names` are pairs of a path for the error and the name. Raises `EntryRejected`.
    """
    for path, name in names:
        if not isinstance(name, str):
            raise EntryRejected(
                partition=_shown(thread_id), path=path, reason=f"{name_of(name)} instead of str",
                remedy="use a string.",
            )  # fmt: skip
        if name.isascii() and "\x00" not in name and len(name) <= MAX_NAME_BYTES:
            continue
        try:
            size = len(name.encode())
        except UnicodeEncodeError as error:
            raise EntryRejected(
                partition=repr(thread_id), path=path, reason=f"a lone surrogate at position "
                f"{error.start}",
                remedy="use text that can be encoded as UTF-8.",
            ) from error  # fmt: skip
        if "\x00" in name or size > MAX_NAME_BYTES:
            reason = (
                "a NUL character" if "\x00" in name else f"{size} bytes, more than {MAX_NAME_BYTES}"
            )
            raise EntryRejected(
                partition=repr(thread_id),
                path=path,
                reason=reason,
                remedy="use a shorter, printable name.",
            )


def are_plain(*names: str) -> bool:
    """Whether these names are so short and simple that every check lets them pass: those of nearly
    every call are."""
    try:
        joined = "".join(names)
    except TypeError:
        return False
    return len(joined) <= MAX_PAIR_BYTES // 4 and joined.isascii() and "\x00" not in joined


def check_pair(thread_id: str, path: str, *names: str) -> None:
    """Refuse names that are together longer than a row of an index may be. Raises
    `EntryRejected`."""
    if sum(map(len, names)) <= MAX_PAIR_BYTES // 4:  # at most four bytes a character
        return
    size = sum(len(name.encode(errors="replace")) for name in names)
    if size > MAX_PAIR_BYTES:
        raise EntryRejected(
            partition=thread_id, path=path, reason=f"{size} bytes, more than {MAX_PAIR_BYTES}",
            remedy="use shorter names.",
        )  # fmt: skip


def check_all(thread_id: str, path: str, names: Sequence[str]) -> None:
    """`check_names` for many short names at once. `path` is the path of what has them."""
    if all(type(name) is str for name in names):
        joined = "".join(names)
        if len(joined) <= MAX_NAME_BYTES and joined.isascii() and "\x00" not in joined:
            return
    check_names(thread_id, [(f"{path}.{name_or_type(name)}", name) for name in names])


def name_or_type(name: Any) -> str:
    """A name for a path, whatever was given as one."""
    return name if isinstance(name, str) else f"<{name_of(name)}>"


def check_indexed(thread_id: str, path: str, value: Any) -> None:
    """Refuse a value of metadata that PostgreSQL finds by an index on its text (`user_id`,
    `run_id`) and that is too long for one. Raises `EntryRejected`.
    """
    if type(value) is str and len(value) <= MAX_NAME_BYTES // 4:
        return
    text = dumps_jsonb(value)[0]
    # As jsonb shows it: with spaces between, and numbers written out.
    size = len(text) if type(value) in _PLAIN else _written_out(text)
    if isinstance(value, str):
        size = len(value.encode("utf-8", "replace")) + 2 * value.count("\x00")
    if size > MAX_NAME_BYTES:
        raise EntryRejected(
            partition=thread_id, path=path, reason=f"{size} bytes as text, more than "
            f"{MAX_NAME_BYTES}",
            remedy="use a shorter id: checkpoints are found by it.",
        )  # fmt: skip


def _written_out(text: bytes) -> int:
    exponents = sum(min(400, abs(int(e[1:]))) for e in _EXPONENT.findall(text))
    return len(text) + text.count(b",") + text.count(b":") + exponents


def check_json(thread_id: str, path: str, text: bytes) -> None:
    """Refuse JSON that is longer than a jsonb may be. Raises `EntryRejected`."""
    if len(text) > MAX_JSON_BYTES:
        raise EntryRejected(
            partition=thread_id, path=path, reason=f"{len(text)} bytes as JSON, more than "
            f"{MAX_JSON_BYTES}",
            remedy="keep large data in the state's channels, which are stored as they are.",
        )  # fmt: skip


def check_time(partition: str, path: str, at: Any) -> float:
    """A moment in seconds since the epoch. Raises `EntryRejected` for what is none, or lies beyond
    the year 9999."""
    if isinstance(at, bool) or not isinstance(at, (int, float)) or not -LATEST < at < LATEST:
        shown = at if isinstance(at, float) and not math.isfinite(at) else name_of(at)
        raise EntryRejected(
            partition=partition, path=path, reason=f"{shown} is no moment of the years 1 to 9999",
            remedy="give seconds since the epoch.",
        )  # fmt: skip
    return float(at)


def check_mapping(partition: str, path: str, value: Any) -> None:
    """Refuse what has no names and values. Raises `EntryRejected`."""
    if not isinstance(value, Mapping):
        raise EntryRejected(
            partition=partition, path=path, reason=f"{name_of(value)} instead of a mapping",
            remedy="give a dict of names and values.",
        )  # fmt: skip


def check_notes(partition: str, path: str, text: Any) -> None:
    """Refuse notes that are no text or longer than 64 KiB. Raises `EntryRejected`."""
    if not isinstance(text, str) or len(text) > MAX_NOTES:
        size = f"{len(text)} characters" if isinstance(text, str) else name_of(text)
        raise EntryRejected(
            partition=partition, path=path, reason=f"{size} instead of a text of at most "
            f"{MAX_NOTES} characters",
            remedy="write less.",
        )  # fmt: skip


def _shown(name: object) -> str:
    return name if isinstance(name, str) else f"<{name_of(name)}>"
