"""A SQLite file rewritten so that no byte of what was deleted is left in it or in its WAL.

Deleting a row leaves its bytes in the page, and the WAL has them too. The file is rewritten
(VACUUM), then the WAL is moved into it and cut to nothing. That needs a moment without readers of
older states; it is tried for a while.
"""

from __future__ import annotations

import time
from pathlib import Path

from surgetank.sqlite import file
from surgetank.sqlite.kind import Kind

_PATIENCE_S = 10.0


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
