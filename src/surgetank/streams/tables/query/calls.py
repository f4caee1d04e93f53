"""SQL as callers see it: on whose behalf statements are run, and what each of them gave.

Several statements run one after the other. The first one that fails ends it: those before it have done what they
did, and the outcome has both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from surgetank.exceptions import SurgetankError
from surgetank.streams.tables.query.cancelling import Cancellation

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlCaller:
    """On whose behalf SQL is run. A `trusted` one is the application itself: what it asks runs in
    its own process, without limits. `defines` may make and drop tables, and flush; `administers`
    sees and changes everybody's rows, and may act as somebody else. Who `reads_only` changes no
    rows. `cancellation` ends what one who is not trusted runs."""

    user: str
    trusted: bool = False
    defines: bool = False
    administers: bool = False
    reads_only: bool = False
    cancellation: Cancellation | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlResult:
    """What one statement gave: rows and the SQL types of their columns, or how many rows it
    changed. `cut` is `rows` or `bytes` where a limit ended the rows before their end. `stale` tells
    that the database is away, and the rows are as it was known last. `number` counts the statements
    from 1."""

    number: int
    kind: str
    seconds: float = 0.0
    rows: pa.Table | None = None
    types: tuple[str, ...] = ()
    affected: int | None = None
    cut: str | None = None
    stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlOutcome:
    """What a text of statements gave. `error` ended it: in the statement `failed`, at `position` in
    the text (in characters), where that is known."""

    results: tuple[SqlResult, ...] = ()
    error: SurgetankError | None = None
    failed: int | None = None
    position: int | None = None

    def done(self) -> tuple[SqlResult, ...]:
        """The results. Raises the error."""
        if self.error is not None:
            raise self.error
        return self.results
