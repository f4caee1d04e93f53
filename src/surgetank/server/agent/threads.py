"""What is done to a thread by several routes."""

from __future__ import annotations

from surgetank.server.access.roles import Caller
from surgetank.server.services import Services


def delete_thread_of(services: Services, who: Caller, thread_id: str) -> None:
    """Rows first: what is under way refuses it. Checkpoints, events and lines go with a flush.

    Raises `ThreadBusy`.
    """
    services.tank.threads.rows.delete(thread_id, actor=who.user)
    services.tank.checkpointer().delete_thread(thread_id)
    services.owners.forget_thread(thread_id)
