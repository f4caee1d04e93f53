"""How far two values are the same, from a place on or from their ends. Pure."""

from __future__ import annotations

_NEAR = 32  # a difference this near is looked for first


def same_beginning(new: bytes, i: int, old: bytes, j: int) -> int:
    """How many bytes are the same from `i` and from `j` on, by halving: each step is one
    `memcmp`."""
    view = memoryview(old)
    same, most = 0, min(len(new) - i, len(old) - j)
    if most > _NEAR and not new.startswith(view[j : j + _NEAR], i):
        most = _NEAR
    elif new.startswith(view[j : j + most], i):
        return most
    while most - same > 1:
        middle = (same + most) // 2
        if new.startswith(view[j + same : j + middle], i + same):
            same = middle
        else:
            most = middle
    return same


def same_end(new: bytes, i: int, old: bytes, j: int) -> int:
    """How many bytes at the ends are the same, not reaching back over `i` and `j`."""
    view = memoryview(old)
    same, most = 0, min(len(new) - i, len(old) - j)
    if most > _NEAR and not new.endswith(view[len(old) - _NEAR :]):
        most = _NEAR
    elif new.endswith(view[len(old) - most :]):
        return most
    while most - same > 1:
        middle = (same + most) // 2
        if new.endswith(view[len(old) - middle : len(old) - same], 0, len(new) - same):
            same = middle
        else:
            most = middle
    return same
