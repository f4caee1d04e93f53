"""A value that its column can't have; who knows the row makes an `EntryRejected` of it."""

from __future__ import annotations


class Unfit(ValueError):
    """`reason` is half a sentence (`300 is no boolean`), `remedy` a whole one, or empty."""

    def __init__(self, reason: str, *, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
