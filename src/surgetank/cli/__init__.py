"""The command `surgetank`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command. Ctrl-C ends it alike wherever it comes: one line, exit code 130."""
    try:
        from surgetank.cli.app import main as run  # noqa: PLC0415 - Ctrl-C may come while it is loaded

        run()
    except KeyboardInterrupt:
        sys.stderr.write("surgetank: stopped by Ctrl-C\n")
        sys.exit(130)
