"""A map that forgets: the entries that were set or used longest ago go when it becomes too large."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedMap(MutableMapping[K, V], Generic[K, V]):
    """A dict of at most `most` entries, whose values weigh at most `most_weight` together.

    `weigh` gives the weight of a value when it is set. A value that alone weighs too much is not
    kept. `on_evict` is told of each entry that went because of a limit. Reading does not count as
    use: `use` does. Not for several threads: whoever shares it has a lock.

        recent = BoundedMap[str, bytes](most_weight=1_000_000, weigh=len)
        recent["a"] = b"..."
        value = recent.use("a")
    """

    def __init__(
        self,
        most: int | None = None,
        *,
        most_weight: int | None = None,
        weigh: Callable[[V], int] | None = None,
        on_evict: Callable[[K, V], None] | None = None,
    ) -> None:
        self._most = most
        self._most_weight = most_weight
        self._weigh = weigh
        self._on_evict = on_evict
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.weight = 0

    def __getitem__(self, key: K) -> V:
        return self._entries[key][0]

    def __setitem__(self, key: K, value: V) -> None:
        weight = self._weigh(value) if self._weigh is not None else 0
        entries = self._entries
        old = entries.pop(key, None)
        if old is not None:
            self.weight -= old[1]
        if self._most_weight is not None and weight > self._most_weight:
            if self._on_evict is not None:
                self._on_evict(key, value)
            return  # the others stay
        entries[key] = (value, weight)
        self.weight += weight
        while (self._most is not None and len(entries) > self._most) or (
            self._most_weight is not None and self.weight > self._most_weight
        ):
            gone, (lost, freed) = entries.popitem(last=False)
            self.weight -= freed
            if self._on_evict is not None:
                self._on_evict(gone, lost)

    def __delitem__(self, key: K) -> None:
        _, weight = self._entries.pop(key)
        self.weight -= weight

    def __iter__(self) -> Iterator[K]:
        """Keys, those that would go first in front."""
        return iter(self._entries)

    def __reversed__(self) -> Iterator[K]:
        return reversed(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def use(self, key: K) -> V | None:
        """The value, which is now the last to go; None when it is not there."""
        found = self._entries.get(key)
        if found is None:
            return None
        self._entries.move_to_end(key)
        return found[0]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.weight = 0
