"""What `surgetank recover` does: look through a location's files, take over what no buffer has any
more, flush.

A file that this buffer refers to only needs a flush. One that it doesn't know, of its own or of a
buffer that is said to be lost, is verified whole and then taken over: its entries are appended
once, their values stay where they are. Files of other buffers are left alone, because those may
live; damaged files are left alone, always.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from surgetank.buffer.spilling import Elsewhere, Recovered, SpillFile, Spilling
from surgetank.database.pool import Database
from surgetank.exceptions import FallbackDamaged, FallbackUnavailable
from surgetank.fallback.codec import FileHeader, FileReader, SpilledEntry
from surgetank.fallback.store import FallbackStore
from surgetank.sinks.fence import standings

ANY = "all"
_TAKEN_AT_ONCE = 500


class FileState(StrEnum):
    """What a file is to this buffer."""

    REFERRED = "referred"  # the buffer refers to it: a flush empties it
    WRITING = "writing"  # being written just now
    DRAINED = "drained"  # nothing refers to it any more: about to be deleted
    UNKNOWN = "unknown"  # to be taken over
    COPY = "copy"  # of a file that this buffer refers to, but that is not there any more
    FOREIGN = "foreign"  # of another buffer, which may live
    DAMAGED = "damaged"
    RECOVERED = "recovered"  # was taken over by this recovery


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file of the location, and what became of it."""

    name: str
    state: FileState
    entries: int = 0
    bytes: int = 0
    buffer_id: str = ""
    node: str = ""
    created_at: float | None = None
    problem: str = ""
    file_id: str = ""
    recovered: Recovered = field(default_factory=Recovered)


Progress = Callable[[int, int, str], None]
DeletedAt = Callable[[Collection[str]], Mapping[str, float]]
"""When these partitions were deleted, in the database or by what waits in the buffer; others are
left out."""


class Recovery:
    """Looks through one location and takes over. `lost` names buffers that are gone for good, or
    `ANY`.

    `deleted_at` answers for streams whose partitions can be deleted and whose keyed entries may be
    written twice.
    """

    def __init__(
        self,
        buffer: Spilling,
        store: FallbackStore,
        database: Database,
        deleted_at: Mapping[str, DeletedAt],
        *,
        lost: Collection[str] = (),
        progress: Progress = lambda *_: None,
    ) -> None:
        self._buffer = buffer
        self._deleted_at = deleted_at
        self._store = store
        self._database = database
        self._lost = lost
        self._progress = progress

    def reports(self) -> list[FileReport]:
        """All files of the location, each read whole. Changes nothing. Raises
        `FallbackUnavailable`."""
        names = self._store.names()
        reports = []
        for number, name in enumerate(names, start=1):
            self._progress(number, len(names), name)
            reports.append(self._report(name))
        return reports

    def _report(self, name: str) -> FileReport:
        known = {
            file.name: file
            for file in self._buffer.spill_files()
            if file.address == self._store.address
        }
        file = known.get(name)
        if file is not None and file.state == "writing":
            return FileReport(name, FileState.WRITING, created_at=file.created_at)
        if file is not None and file.state == "kept" and file.records == 0:
            return FileReport(name, FileState.DRAINED, bytes=file.bytes, created_at=file.created_at)
        try:
            with self._store.open(name) as (opened, size):
                reader = FileReader(opened, name, size)
                for _ in reader:
                    pass
        except FallbackDamaged as error:
            return FileReport(name, FileState.DAMAGED, problem=error.what)
        header = reader.header
        if file is None and (elsewhere := self._known_elsewhere(header.id)) is not None:
            state = FileState.REFERRED if self._opens(elsewhere) else FileState.COPY
        elif file is not None:  # "recovering": an interrupted recovery, to be gone on with
            state = FileState.REFERRED if file.state == "kept" else FileState.UNKNOWN
        else:
            state = self._state(header)
        return FileReport(
            name=name,
            state=state,
            entries=reader.entries,
            bytes=size,
            buffer_id=header.buffer_id,
            node=header.node,
            created_at=header.created_at,
            file_id=header.id,
        )

    def _known_elsewhere(self, file_id: str) -> SpillFile | None:
        """The file as this buffer refers to it in another location."""
        return next(
            (f for f in self._buffer.spill_files() if f.file_id == file_id and f.records), None
        )

    def _opens(self, file: SpillFile) -> bool:
        try:
            with self._buffer.files.store(file.address).open(file.name):
                return True
        except (FallbackUnavailable, FallbackDamaged):
            return False

    def _state(self, header: FileHeader) -> FileState:
        mine = header.buffer_id == self._buffer.id
        gone = header.buffer_id in self._lost or ANY in self._lost
        return FileState.UNKNOWN if mine or gone else FileState.FOREIGN

    def take_over(self, reports: Sequence[FileReport]) -> list[FileReport]:
        """Take over the files that are to be; the reports with what became of them.

        Can be repeated and interrupted: each entry is appended once. Raises `DatabaseUnavailable`
        (the database knows which threads were deleted meanwhile), `BufferFull`,
        `FallbackUnavailable`.
        """
        done = []
        # A buffer's files in the order in which it wrote them: their names have their numbers.
        for number, report in enumerate(reports, start=1):
            if report.state is FileState.COPY:
                self._buffer.relocate_spill(report.file_id, self._store.address, report.name)
                done.append(replace(report, state=FileState.RECOVERED))
            elif report.state is FileState.UNKNOWN:
                self._progress(number, len(reports), report.name)
                done.append(self._take_over(report))
            else:
                done.append(report)
        return done

    def _take_over(self, report: FileReport) -> FileReport:
        recovered = Recovered()
        try:
            with self._store.open(report.name) as (opened, size):
                reader = FileReader(opened, report.name, size)
                header = reader.header
                number = self._buffer.begin_recovery(header, self._store.address, report.name, size)
                if number is None:
                    return replace(report, state=FileState.REFERRED)
                for entries in _chunks(reader):
                    elsewhere = self._elsewhere(
                        header, {spilled.entry.partition for spilled in entries}
                    )
                    recovered += self._buffer.take_over(number, header, entries, elsewhere)
                self._buffer.end_recovery(number)
        except FallbackDamaged as error:  # since it was looked at
            return replace(report, state=FileState.DAMAGED, problem=error.what, recovered=recovered)
        return replace(report, state=FileState.RECOVERED, recovered=recovered)

    def _elsewhere(self, header: FileHeader, partitions: Collection[str]) -> Elsewhere:
        deleted_at = self._deleted_at.get(header.stream)
        return elsewhere_of(self._database, deleted_at, header.buffer_id, header.stream, partitions)


def elsewhere_of(
    database: Database,
    deleted_at: DeletedAt | None,
    buffer_id: str,
    stream: str,
    partitions: Collection[str],
) -> Elsewhere:
    """What the database, and with `deleted_at` the buffer, knows of another buffer's partitions. Raises
    `DatabaseUnavailable`."""
    with database.asking(patient=True) as connection, connection.cursor() as cursor:
        known = standings(cursor, buffer_id, [(stream, name) for name in partitions])
    written = {
        (name, epoch): mark.seq
        for (_, name), standing in known.items()
        for epoch, mark in standing.items()
    }
    return Elsewhere(
        written, deleted_at(partitions) if deleted_at else {}, keyed=deleted_at is not None
    )


def _chunks(entries: Iterator[SpilledEntry] | FileReader) -> Iterator[list[SpilledEntry]]:
    chunk: list[SpilledEntry] = []
    size = 0
    for spilled in entries:
        chunk.append(spilled)
        size += spilled.entry.size
        if len(chunk) >= _TAKEN_AT_ONCE or size > 8 * 1024**2:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
