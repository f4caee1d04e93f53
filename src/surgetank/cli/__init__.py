"""The command `surgetank`."""

from __future__ import annotations

from surgetank.cli.app import main

__all__ = ["main"]
