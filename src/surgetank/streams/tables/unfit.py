"""A value that its column can't have; who knows the row makes an `EntryRejected` of it."""

from __future__ import annotations

from typing import Any


class Unfit(ValueError):
    """`reason` is half a sentence (`300 is no boolean`), `remedy` a whole one, or empty."""

    def __init__(self, reason: str, *, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def plain(given: Any) -> Any:
    """What Python has for a scalar of numpy; everything else as it is."""
    of_numpy = type(given).__module__ == "numpy" and hasattr(given, "item")
    return given.item() if of_numpy else given


def kind(given: Any) -> str:
    """What it is, for a reason."""
    return f"a value of type {type(given).__name__[:80]}"


def shown(given: Any) -> str:
    """The value, for a reason; the beginning of a long one."""
    try:
        text = repr(given)
    except Exception:  # noqa: BLE001 - whatever the object does: it is refused, not shown
        return kind(given)
    return text if len(text) <= 60 else f"{text[:60]}..."
