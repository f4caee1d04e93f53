"""`tank.notifications`: whom news reach in this process, and how often that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgetank.notify.notifier import Notifier


class Notifications:
    """The channels of the notifier, counted since the engine was opened."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    @property
    def channels(self) -> Sequence[str]:
        """Names of the channels, in the order in which they are served."""
        return tuple(self._notifier.channels)

    def deliveries(self) -> Mapping[tuple[str, bool], int]:
        """How often news were given to a channel, by its name and whether it took them."""
        return self._notifier.deliveries
