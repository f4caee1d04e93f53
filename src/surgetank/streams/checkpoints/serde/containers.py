"""Containers and their subclasses out of stored content, without their constructors.

Stored data says which class it was, but never what is called: a class that is no container of the
kind it was stored as is not touched (whoever can write to the database could name
`subprocess.Popen`), and the factory of a `defaultdict` is one of a few built-in types.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

from surgetank.streams.checkpoints.serde.changes import notice
from surgetank.streams.checkpoints.serde.objects import BASES, hashable, mapping_of, with_attributes
from surgetank.streams.checkpoints.serde.rebuild import complete

CONTAINERS: dict[str, type] = {
    **BASES,
    "deque": collections.deque,
    "defaultdict": collections.defaultdict,
}
OWN_EXTRA = (
    "deque",
    "defaultdict",
)  # what stands beside their content is theirs, not an object's attributes
FACTORIES: dict[str, type] = {
    t.__name__: t
    for t in (
        list,
        dict,
        set,
        frozenset,
        tuple,
        str,
        bytes,
        bytearray,
        int,
        float,
        complex,
        bool,
        object,
    )
}


def collection(kind: Any, label: str, base: str, content: Any, extra: Any) -> Any:
    """A container of the class, which derives from `CONTAINERS[base]`."""
    if base == "deque":
        made = collections.deque.__new__(kind)
        collections.deque.__init__(made, content, extra)
        return made
    if base in ("dict", "defaultdict"):
        mapping = mapping_of(kind)
        made = mapping.__new__(kind)
        for key, value in content:
            mapping.__setitem__(made, hashable(key), value)
        if base == "defaultdict":
            made.default_factory = _factory(label, extra)
            return made
    elif base == "list":
        made = list.__new__(kind)
        list.extend(made, content)
    else:
        maker: Any = BASES[base]
        made = maker.__new__(kind, content)
        if base == "set":
            set.update(made, content)
    made = with_attributes(made, extra)
    return complete(made, label) if extra and dataclasses.is_dataclass(made) else made


def _factory(label: str, stored: Any) -> type | None:
    if stored is None:
        return None
    module, name = stored
    factory = FACTORIES.get(name) if module == "builtins" else None
    if factory is None:
        notice(
            label,
            f"its factory {str(module)[:100]}.{str(name)[:100]} is none that stored data may name; "
            f"it has none.",
        )
    return factory
