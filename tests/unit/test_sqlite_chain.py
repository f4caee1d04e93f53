"""What a process remembers of the families it writes is bounded, and never more than one value a
family."""

from __future__ import annotations

import gc
import weakref

from surgetank.buffer.sqlite.chain import Link, Memory


def link(id_: int, size: int) -> Link:
    return Link(id_, 1, b"k", b"x" * size, 0, 0)


def family(name: str) -> tuple[str, str, bytes]:
    return ("s", "p", name.encode())


def test_only_the_newest_value_of_a_family_is_remembered() -> None:
    memory = Memory()
    memory.keep({family("a"): link(1, 10)})
    memory.keep({family("a"): link(2, 20)})

    assert memory.newest(family("a")) == link(2, 20)
    assert memory.recall(2) == b"x" * 20
    assert memory.recall(1) is None
    assert memory.newest(family("b")) is None


def test_over_the_limit_the_families_that_were_not_written_lately_are_forgotten() -> None:
    memory = Memory(limit=100)
    for id_, name in enumerate("abc", start=1):
        memory.keep({family(name): link(id_, 30)})
    memory.keep({family("a"): link(4, 30)})
    memory.keep({family("d"): link(5, 30)})

    assert memory.newest(family("b")) is None
    assert memory.recall(2) is None
    assert [memory.recall(n) is not None for n in (3, 4, 5)] == [True, True, True]


def test_a_value_larger_than_the_limit_is_not_remembered_and_replaces_what_was() -> None:
    memory = Memory(limit=100)
    memory.keep({family("a"): link(1, 90)})
    memory.keep({family("a"): link(2, 101)})

    assert memory.newest(family("a")) is None
    assert memory.recall(1) is None
    memory.keep({family("b"): link(3, 100)})
    assert memory.recall(3) == b"x" * 100


def test_what_is_remembered_goes_with_its_buffer_and_waits_for_no_collector() -> None:
    memory = Memory()
    memory.keep({family("a"): link(1, 10)})
    gone = weakref.ref(memory)
    gc.disable()
    try:
        del memory
        assert gone() is None
    finally:
        gc.enable()
