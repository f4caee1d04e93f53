"""Numbers of records. An id is the seq of its entry and the record's position in it, so that the
order of ids is the order of acceptance.

All arithmetic on them is here, but for the triggers in `schema.py`, which a released format fixes.
"""

from __future__ import annotations

SLOT_BITS = 16
SLOTS = 1 << SLOT_BITS  # records per entry, at most


def first_id(seq: int) -> int:
    """The id of an entry's first record."""
    return seq << SLOT_BITS


def id_range(first_seq: int, last_seq: int | None = None) -> tuple[int, int]:
    """The ids of the records of these entries: from the first number up to the second, without
    it."""
    last = first_seq if last_seq is None else last_seq
    return first_seq << SLOT_BITS, (last + 1) << SLOT_BITS


def seq_of(id_: int) -> int:
    """The entry that a record belongs to."""
    return id_ >> SLOT_BITS


def position_of(id_: int) -> int:
    """Where a record stands in its entry, from 0."""
    return id_ & (SLOTS - 1)


def shift(old_seq: int, new_seq: int) -> int:
    """What is added to the ids of an entry's records when it gets another seq."""
    return (new_seq - old_seq) << SLOT_BITS


def seq_sql(id_: str) -> str:
    """`seq_of` as an expression of SQL."""
    return f"({id_} >> {SLOT_BITS})"


def position_sql(id_: str) -> str:
    """`position_of` as an expression of SQL."""
    return f"({id_} & {SLOTS - 1})"


def first_id_sql(seq: str) -> str:
    """`first_id` as an expression of SQL."""
    return f"(({seq}) * {SLOTS})"
