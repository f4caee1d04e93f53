"""What is removed with time: snapshots that nobody may ask for, files that nothing names, and what interrupted
flushes left behind.

What an interrupted flush left is known by its name, which is noted before the file is written and forgotten before
its rows are acknowledged. A file that is in no manifest and was not noted may be all that there is of its rows (the
database was set back to a backup): it is never unlinked, and told of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from surgetank.streams.tables.cold.files import Folder
from surgetank.streams.tables.cold.location import TEMPORARY
from surgetank.streams.tables.cold.manifest import SQL, Manifest
from surgetank.streams.tables.cold.mirror import Mirror


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long things are kept, in seconds: snapshots that are not the newest; files that nothing
    names any more, for who is reading them; files that were never named, for who is writing them;
    and what became of commits."""

    snapshots_s: float = 7 * 86400.0
    grace_s: float = 900.0
    orphans_s: float = 86400.0
    jobs_s: float = 90 * 86400.0


KEEPING = Keeping()


def sweep(
    manifest: Manifest,
    folder: Folder,
    mirror: Mirror,
    keeping: Keeping,
    clock: Callable[[], float],
) -> int:
    """Remove what is over. Returns how many files were unlinked."""
    with manifest.transaction(patient=True) as connection:
        row = connection.execute(SQL["horizon"], {"kept_s": keeping.snapshots_s}).fetchone()
        horizon = {"horizon": row[0] if row else 0}
        while True:
            found = connection.execute(SQL["expired_files"], horizon).fetchall()
            if not found:
                break
            connection.execute(SQL["remove_files"], {"files": [each[0] for each in found]})
        connection.execute(SQL["expire_deletes"], horizon)
        connection.execute(SQL["expire_snapshots"], horizon)
        connection.execute(SQL["expire_jobs"], {"kept_s": keeping.jobs_s})
    unlinked = 0
    with manifest.transaction(patient=True) as connection:
        rows = connection.execute(SQL["garbage"], {"grace_s": keeping.grace_s}).fetchall()
        paths = [row[0] for row in rows]
        unlinked += folder.unlink(paths)
        connection.execute(SQL["forget_garbage"], {"paths": paths})
    folder.location.tidy(manifest.named)
    return unlinked + _orphans(manifest, folder, mirror, clock() - keeping.orphans_s)


def _orphans(manifest: Manifest, folder: Folder, mirror: Mirror, before: float) -> int:
    """Unlink files that were begun before and are named nowhere."""
    old = [path for path, at in mirror.writing().items() if at < before]
    if not old:
        return 0
    named = manifest.named(old)
    gone = folder.unlink([path for path in old if path not in named])
    mirror.ends(old)
    return gone


def strays(manifest: Manifest, folder: Folder, mirror: Mirror, before: float) -> list[str]:
    """Files that were written before, are named nowhere and were not left by an interruption."""
    noted = mirror.writing()
    old = [
        path
        for path, at in folder.found().items()
        if at < before and path.removesuffix(TEMPORARY) not in noted
    ]
    named = manifest.named(old) if old else set()
    return sorted(path for path in old if path not in named)
