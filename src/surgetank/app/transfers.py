"""`tank.transfers`: moving in from LangGraph's own savers, and out again.

Each checkpoint is verified value by value, and a move that was interrupted is continued by the same
call. See `streams/checkpoints/transfer/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from surgetank.app.assembly import Parts
from surgetank.app.threads import Threads
from surgetank.app.user_export import UserExport, UserExporter
from surgetank.exceptions import MissingExtra
from surgetank.model import FlushJob
from surgetank.settings import Settings
from surgetank.streams.checkpoints.transfer.report import Report

if TYPE_CHECKING:
    from surgetank.streams.checkpoints.transfer.journal import Journal
    from surgetank.streams.checkpoints.transfer.moving import OurStore


class TransferOptions(TypedDict, total=False):
    """How threads are moved. `threads`: only these. `on_error`: "stop" at a checkpoint that can't
    be moved, or "skip" it. `dry_run`: read and check everything, write nothing. `replace`: threads
    that are in both are deleted in the target first. `progress` is called with the report, the
    number of the thread and how many there are.
    """

    threads: Sequence[str]
    on_error: Literal["stop", "skip"]
    dry_run: bool
    replace: bool
    progress: Callable[[Report, int, int], None]


@dataclass(frozen=True, slots=True)
class Transfer:
    """A move that is ready to begin. `report` grows while `run` moves, and is right at any moment,
    also when the move stopped."""

    report: Report
    run: Callable[[], Report]


class Transfers:
    """Imports and exports of one engine. `parts` opens it, which happens after the other side was
    found usable."""

    def __init__(
        self,
        parts: Callable[[], Parts],
        flush: Callable[[], FlushJob],
        settings: Settings,
        *,
        other_saver: bool = False,
    ) -> None:
        self._parts = parts
        self._other_saver = other_saver
        self._flush = flush
        self._settings = settings

    def import_from(self, source: str, **options: Unpack[TransferOptions]) -> Report:
        """Import threads from LangGraph's PostgresSaver or SqliteSaver, whose database is `source`:
        a `postgresql://` URL, `sqlite:///path`, or the path of a SQLite file. It is only read.

        Raises `InvalidRequest` for a source that can't be used, `TransferStopped` for a checkpoint
        that can't be moved or a flush that failed, `DatabaseUnavailable`, `MissingExtra`.
        """
        with self.importing(source, **options) as transfer:
            return transfer.run()

    def export_to(
        self,
        target: str,
        *,
        merge: bool = False,
        lossy: bool = False,
        **options: Unpack[TransferOptions],
    ) -> Report:
        """Export threads to a database of LangGraph's PostgresSaver or SqliteSaver.

        A target that has threads already is refused without `merge` (add to them) or `replace`;
        what LangGraph's serializer alters (tuples ...) is refused without `lossy`, and listed with
        it. Raises like `import_from`, and `ThreadNotFound`.
        """
        with self.exporting(target, merge=merge, lossy=lossy, **options) as transfer:
            return transfer.run()

    @contextmanager
    def importing(self, source: str, **options: Unpack[TransferOptions]) -> Iterator[Transfer]:
        """`import_from` in two steps, for who wants the report of a move that stopped."""
        with _langgraph():
            from surgetank.streams.checkpoints.transfer.moving import Wishes  # noqa: PLC0415 - needs the extra
            from surgetank.streams.checkpoints.transfer.official import open_official  # noqa: PLC0415 - needs the extra
            from surgetank.streams.checkpoints.transfer.transfer import Importer  # noqa: PLC0415 - needs the extra

        wishes = Wishes(**options)
        with closing(open_official(source)) as tables:
            ours = self._ours()
            with self._journal("import", source) as journal:
                mover = Importer(tables, ours, self._parts().database.address, wishes, journal)
                yield Transfer(mover.report, mover.run)

    @contextmanager
    def exporting(
        self,
        target: str,
        *,
        merge: bool = False,
        lossy: bool = False,
        **options: Unpack[TransferOptions],
    ) -> Iterator[Transfer]:
        """`export_to` in two steps, for who wants the report of a move that stopped."""
        with _langgraph():
            from surgetank.streams.checkpoints.transfer.moving import Wishes  # noqa: PLC0415 - needs the extra
            from surgetank.streams.checkpoints.transfer.official_target import OfficialTarget  # noqa: PLC0415 - needs the extra
            from surgetank.streams.checkpoints.transfer.transfer import Exporter  # noqa: PLC0415 - needs the extra

        wishes = Wishes(**options)
        Threads(self._parts()).require(*wishes.threads)
        ours = self._ours()
        with (
            closing(OfficialTarget(target, lossy=lossy, dry_run=wishes.dry_run)) as there,
            self._journal("export", target) as journal,
        ):
            mover = Exporter(ours, there, self._parts().database.address, wishes, journal)
            yield Transfer(mover.report, lambda: mover.run(merge=merge))

    def export_user(
        self,
        user: str,
        target: Path | str,
        *,
        replace: bool = False,
        progress: Callable[[str, int], None] | None = None,
    ) -> UserExport:
        """Write all data of a user, what `erase_user` would remove, into one archive (ZIP), which
        is there when it is complete. `progress` is called with a member and its lines.

        Raises `NotFound` for a user of whom nothing is known, `InvalidRequest` for a target that is
        there, without `replace`, or can't be written; `DatabaseUnavailable`, `EntryRejected`.
        """
        parts = self._parts()
        exporter = UserExporter(
            parts, Threads(parts).stored, self._flush, other_saver=self._other_saver
        )
        return exporter.export(user, Path(target), replace=replace, progress=progress)

    def _ours(self) -> OurStore:
        from surgetank.streams.checkpoints.transfer.moving import OurStore  # noqa: PLC0415 - needs the extra

        parts = self._parts()
        parts.database.prepare()
        return OurStore(parts.buffer, parts.database, self._flush)

    def _journal(self, kind: str, other: str) -> Journal:
        from surgetank.streams.checkpoints.transfer.journal import Journal  # noqa: PLC0415 - beside the others

        embedded = self._settings.database_url is None
        return Journal(
            self._settings.home / "transfers",
            kind,
            "embedded" if embedded else self._parts().database.address,
            other,
        )


@contextmanager
def _langgraph() -> Iterator[None]:
    """Says which extra is missing. Raises `MissingExtra`."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("surgetank"):
            raise
        raise MissingExtra("langgraph", "langgraph", "Importing and exporting") from error
