"""How far two values are the same, from a place on or from their ends. Pure.

Both go over what is the same once, by large pieces, and halve the piece that differs: each step is
one `memcmp`, and nothing is copied.
"""

from __future__ import annotations

_PIECE = 256 * 1024
_NEAR = 32  # a difference this near is looked for first


def same_beginning(new: bytes, i: int, old: bytes, j: int) -> int:
    """How many bytes are the same from `i` and from `j` on."""
    view = memoryview(old)
    same, most = 0, min(len(new) - i, len(old) - j)
    while most - same > _PIECE and new.startswith(view[j + same : j + same + _PIECE], i + same):
        same += _PIECE
    if most - same > _PIECE:
        most = same + _PIECE
    elif new.startswith(view[j + same : j + most], i + same):
        return most
    if most - same > _NEAR and not new.startswith(view[j + same : j + same + _NEAR], i + same):
        most = same + _NEAR
    while most - same > 1:
        middle = (same + most) // 2
        if new.startswith(view[j + same : j + middle], i + same):
            same = middle
        else:
            most = middle
    return same


def same_end(new: bytes, i: int, old: bytes, j: int) -> int:
    """How many bytes at the ends are the same, not reaching back over `i` and `j`."""
    view, n, m = memoryview(old), len(new), len(old)
    same, most = 0, min(n - i, m - j)
    while most - same > _PIECE and new.endswith(view[m - same - _PIECE : m - same], 0, n - same):
        same += _PIECE
    if most - same > _PIECE:
        most = same + _PIECE
    elif new.endswith(view[m - most : m - same], 0, n - same):
        return most
    if most - same > _NEAR and not new.endswith(view[m - same - _NEAR : m - same], 0, n - same):
        most = same + _NEAR
    while most - same > 1:
        middle = (same + most) // 2
        if new.endswith(view[m - middle : m - same], 0, n - same):
            same = middle
        else:
            most = middle
    return same
