"""A SQLite file rewritten so that no byte of what was deleted is left in it or in its WAL.

Deleting a row leaves its bytes in the page, and the WAL has them too. The file is rewritten
(VACUUM), then the WAL is moved into it and cut to nothing. That needs a moment without readers of
older states; it is tried for a while.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from surgetank.sqlite import file
from surgetank.sqlite.kind import Kind

_PATIENCE_S = 10.0
_SHORT = 4


def scrub(path: Path, *, kind: Kind, patience_s: float = _PATIENCE_S) -> bool:
    """Rewrite the file and empty its WAL; False when readers or writers were always in the way."""
    until = time.monotonic() + patience_s
    connection = file.connect(path, durability="power", kind=kind)
    try:
        with file.named_errors(path):
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("VACUUM")
            connection.execute("PRAGMA busy_timeout = 200")
            while True:
                busy, frames, moved = connection.execute(
                    "PRAGMA wal_checkpoint(TRUNCATE)"
                ).fetchone()
                if not busy and frames == moved:
                    return True
                if time.monotonic() > until:
                    return False
                time.sleep(0.05)
    finally:
        connection.close()


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
