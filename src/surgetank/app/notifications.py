"""`tank.notifications`: whom news reach in this process, and how often that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgetank.notify.channels import Telling


class Notifications:
    """The channels of the notifier, counted since the engine was opened."""

    def __init__(self, telling: Telling) -> None:
        self._telling = telling

    @property
    def channels(self) -> Sequence[str]:
        """Names of the channels, in the order in which they are served."""
        return tuple(self._telling.channels)

    def deliveries(self) -> Mapping[tuple[str, bool], int]:
        """How often news were given to a channel, by its name and whether it took them."""
        return self._telling.deliveries
