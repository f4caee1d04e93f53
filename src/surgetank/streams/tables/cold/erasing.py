"""Erasing a user from files: each file with rows of the user is written again without them, and takes the old one's
name in the manifest, for every snapshot. Positions of other deleted rows are counted anew.

It begins with a snapshot: what a flusher took from a hot store before is not committed after it. So files that are in
no manifest yet, and have rows of the user, never come into one, and are unlinked at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from psycopg.types.json import Jsonb

from surgetank.streams.tables.cold.files import Folder, NewFile, conform, field_ids
from surgetank.streams.tables.cold.location import TEMPORARY
from surgetank.streams.tables.cold.manifest import SQL, Locked, Manifest, Stale, described_file
from surgetank.streams.tables.cold.mirror import Mirror
from surgetank.streams.tables.cold.protocol import DataFile, ErasedUser
from surgetank.streams.tables.cold.reading import Positions, Reader, may_have
from surgetank.streams.tables.definition import USER, Table

pc: Any = pyarrow.compute  # its functions are made when it is imported
_ATTEMPTS = 20  # of one file, when others replace it or delete in it


@dataclass(frozen=True, slots=True)
class _Rewritten:
    """A file in its new form (none: no row was left), and its deletions by id (None: none left)."""

    new: NewFile | None
    deletes: dict[int, NewFile | None]
    rows: int
    live: int  # of the rows that went, those that were not deleted

    @property
    def paths(self) -> list[str]:
        """Files that were written."""
        made = [self.new, *self.deletes.values()]
        return [file.path for file in made if file is not None]


class UserErasure:
    """Erases users from the files of a folder."""

    def __init__(
        self,
        manifest: Manifest,
        folder: Folder,
        reader: Reader,
        mirror: Mirror,
        *,
        written_before: float,
        orphans_before: float,
    ) -> None:
        self._manifest = manifest
        self._folder = folder
        self._reader = reader
        self._mirror = mirror
        self._orphans_before = orphans_before  # what is older is being written by no other host
        self._written_before = written_before  # what is older, and has no end, is written by nobody

    def erase(self, tables: Sequence[Table], user: str) -> ErasedUser:
        """Erase a user from tables."""
        rows, files = 0, 0
        for table in tables:
            with self._manifest.locked(table.id, patient=True) as locked:
                snapshot = locked.add_snapshot("altered_table:{}")
                locked.run("begin_erasure", user=user, snapshot=snapshot)
        for table in tables:
            for file, live in self._manifest.files_of(table.id, user):
                if may_have(file, user) and self._reader.has_rows_of(table, file, user):
                    done = self._file(table, file, user, live=live)
                    rows, files = rows + done.rows, files + bool(done.rows)
        being_written = self._unnamed(user)
        with self._manifest.transaction(patient=True) as connection:
            if rows:
                connection.execute(SQL["mark_garbage"])
            left = connection.execute(SQL["left_of_erasures"]).fetchall()
        return ErasedUser(rows, files, (*(path for (path,) in left), *being_written))

    def _unnamed(self, user: str) -> list[str]:
        """Remove the user from files that no manifest names; those that can't be read yet."""
        found, noted = self._folder.found(), self._mirror.writing()
        named = self._manifest.named(list(found)) if found else set()
        pending: list[str] = []
        for path, at in found.items():
            if path in named:
                continue
            try:
                rows = self._folder.read(path)
            except (OSError, pa.ArrowException):
                if at < self._written_before:
                    self._discard([path.removesuffix(TEMPORARY)])
                else:
                    pending.append(path)
                continue
            if USER not in rows.column_names:
                continue
            theirs = pc.equal(rows.column(USER), user)
            if not pc.any(theirs).as_py():
                continue
            if path in noted:  # it never comes into a manifest
                self._discard([path])
            elif self._folder.location.shared and at >= self._orphans_before:
                pending.append(path)  # another host is writing it, and will give it up
            else:  # others' rows may be nowhere else
                self._folder.replace(path, rows.filter(pc.invert(theirs)))
        return pending

    def _discard(self, paths: Sequence[str]) -> None:
        self._folder.unlink(paths)
        self._mirror.ends(paths)

    def _file(self, table: Table, file: DataFile, user: str, *, live: bool) -> _Rewritten:
        for _ in range(_ATTEMPTS):
            deletes = self._manifest.deletes_of(file.id)
            done = self._rewrite(table, file, user, deletes, live=live)
            if not done.rows:
                return done
            try:
                with self._manifest.locked(table.id, patient=True) as locked:
                    self._commit(locked, file, done, [each[0] for each in deletes])
            except Stale:
                self._discard(done.paths)
                found = [
                    each
                    for each in self._manifest.files_of(table.id, user)
                    if each[0].id == file.id
                ]
                if not found:
                    return _Rewritten(None, {}, 0, 0)
                ((file, live),) = found
                continue
            self._mirror.ends(done.paths)
            return done
        raise Stale

    def _rewrite(
        self,
        table: Table,
        file: DataFile,
        user: str,
        deletes: list[tuple[int, str, bool]],
        *,
        live: bool,
    ) -> _Rewritten:
        stored = self._reader.stored(table, file)
        theirs = pc.equal(stored.column(USER), user)
        removed: Positions = np.flatnonzero(theirs.to_numpy(zero_copy_only=False))
        if not len(removed):
            return _Rewritten(None, {}, 0, 0)
        ids = field_ids(stored.schema)
        narrow = replace(
            table,
            columns=tuple(column for column in table.columns if column.id in ids),
            schema_version=file.schema_version,
        )
        kept = stored.filter(pc.invert(theirs))
        new = None
        if kept.num_rows:
            rows = conform(narrow, kept)
            new = self._folder.write(narrow, rows, bucket=file.bucket, buckets=file.buckets)
        written: dict[int, NewFile | None] = {}
        deleted = 0
        for delete_id, path, is_live in deletes:
            before = self._reader.deleted(replace(file, delete_path=path))
            after = np.setdiff1d(before, removed)
            if is_live:
                deleted = len(before) - len(after)
            after = after - np.searchsorted(removed, after)
            written[delete_id] = (
                self._folder.write_deletes(table.id, new.path, after)
                if new is not None and len(after)
                else None
            )
        gone = len(removed) - deleted if live else 0
        return _Rewritten(new, written, len(removed), gone)

    @staticmethod
    def _commit(locked: Locked, file: DataFile, done: _Rewritten, deletes: list[int]) -> None:
        row = locked.one_or_none("take_file", file=file.id)
        now = [each[0] for each in locked.run("deletes_of", file=file.id).fetchall()]
        if row is None or row[0] != file.path or now != deletes:
            raise Stale
        locked.add_snapshot("deleted_from_table:{}")
        size = -file.bytes
        if done.new is None:
            locked.run("remove_files", files=[file.id])
        else:
            locked.run("rewrite_file", file=file.id, new=Jsonb(described_file(done.new)))
            size += done.new.bytes
            for delete_id, new in done.deletes.items():
                if new is None:
                    locked.run("remove_deletes", delete=delete_id)
                else:
                    locked.run(
                        "rewrite_deletes",
                        delete=delete_id,
                        path=new.path,
                        rows=new.rows,
                        bytes=new.bytes,
                        footer=new.footer_bytes,
                    )
        if row[1]:
            locked.add_totals(0, -done.live, size)
