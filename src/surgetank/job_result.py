"""What came of a job, as a person or a script reads it afterwards. Pure.

It is stored as JSON and read by other versions, so that what is not known has to survive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict


class JobError(TypedDict):
    """A partition that failed, in the result of a job."""

    stream: str
    partition: str
    kind: str
    error_type: str
    sqlstate: str | None
    message: str
    remedy: str
    stack_trace: str
    attempts: int
    next_attempt_at: float | None


class ReplacedValue(TypedDict):
    """A `Replacement` in the result of a job. `original` is None when it was erased."""

    path: str
    reason: str
    original: str | None


class PartitionResult(TypedDict):
    """What became of one partition, in the result of a job."""

    partition: str
    entries: int
    rows: int
    bytes: int
    parked: int
    failed: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class JobResult(Mapping[str, Any]):
    """What came of a job: of a flush, or of a pass of retention.

    It is a mapping too, which is its JSON form: `result["rows_flushed"]`, `result.get("message")`. A
    field that is None is not in it: a flush prunes no threads, and a job that runs has only a
    heartbeat. Tuples are lists there. What another version wrote, under a name or of a kind that
    this one doesn't know, is in `more`, and in the mapping like everything else.
    """

    entries_flushed: int | None = None
    rows_flushed: int | None = None
    bytes: int | None = None
    partitions_processed: int | None = None
    partitions_failed: int | None = None
    entries_parked: int | None = None
    entries_skipped: int | None = None  # an interrupted flush had written them
    notes: tuple[str, ...] | None = None  # no trouble, but worth a word
    values_replaced: int | None = None
    replacements: tuple[ReplacedValue, ...] | None = None  # the first ones
    errors: tuple[JobError, ...] | None = None  # the first ones
    partitions: tuple[PartitionResult, ...] | None = (
        None  # the first ones, those with trouble first
    )
    warnings: tuple[str, ...] | None = None  # one per partition; empty for a job that failed
    message: str | None = None  # why it failed
    seconds: float | None = None
    stopped: bool | None = None  # it was told to stop
    heartbeat_problem: str | None = None
    heartbeat_at: float | None = None  # while it runs
    threads_pruned: int | None = None
    checkpoints_deleted: int | None = None
    threads_deleted: int | None = None
    freed_bytes_estimate: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> JobResult:
        """The result with this JSON form. Raises `TypeError` for what is no mapping."""
        if not isinstance(found, Mapping):
            raise TypeError(f"a result is a mapping, not {type(found).__name__}")
        known = {name: v for name, v in found.items() if name in _FITS and _FITS[name](v)}
        more = {name: v for name, v in found.items() if name not in known}
        frozen: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in known.items()
        }
        return cls(**frozen, more=more)

    def __getitem__(self, name: str) -> Any:
        value = self.more.get(name) if name in self.more else self._field(name)
        if value is None and name not in self.more:
            raise KeyError(name)
        return list(value) if isinstance(value, tuple) else value

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in _FITS if self._field(name) is not None)
        yield from self.more

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"JobResult({dict(self)})"

    def _field(self, name: str) -> Any:
        return getattr(self, name) if name in _FITS else None


def _is_count(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)


def _is_objects(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, dict) for v in value)


_FIT_OF: Mapping[str, Callable[[Any], bool]] = {
    "int | None": _is_count,
    "float | None": _is_number,
    "str | None": _is_text,
    "bool | None": _is_flag,
    "tuple[str, ...] | None": _is_texts,
    "tuple[ReplacedValue, ...] | None": _is_objects,
    "tuple[JobError, ...] | None": _is_objects,
    "tuple[PartitionResult, ...] | None": _is_objects,
}
# What each field can hold, in the order of the JSON form.
_FITS = {f.name: _FIT_OF[str(f.type)] for f in fields(JobResult) if f.name != "more"}
