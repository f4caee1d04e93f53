"""A saver with an engine of its own; behind `SurgetankSaver.from_conn_string`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from surgetank.app.surgetank import Surgetank
from surgetank.setting_names import SettingNames

if TYPE_CHECKING:
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from surgetank.streams.checkpoints.saver import SurgetankSaver


class OpenSaver:
    """The context manager: opens the engine, gives its saver, closes the engine."""

    def __init__(
        self,
        serde: SerializerProtocol | None,
        database_url: str,
        buffer_url: str | None,
        home: str | Path | None,
        **settings: Unpack[SettingNames],
    ) -> None:
        self._tank = Surgetank(home, database_url=database_url, buffer_url=buffer_url, **settings)
        self._serde = serde

    def __enter__(self) -> SurgetankSaver:
        return self._tank.open().checkpointer(serde=self._serde)

    def __exit__(self, *exc: object) -> None:
        self._tank.close()

    async def __aenter__(self) -> SurgetankSaver:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self._tank.close)
