"""A run's state is written under its fence, so that a worker that was taken for dead can't write into a
thread that another one goes on with.
"""

from __future__ import annotations

from surgetank.streams.checkpoints.fencing import FENCE_KEY, Fence
from surgetank.streams.checkpoints.saver import SurgetankSaver
from surgetank.workflows.runs import Run


def fence_of(run: Run) -> dict[str, Fence]:
    """What the `configurable` of a run carries, over all that clients gave."""
    return {FENCE_KEY: (run.thread_id, run.fence)}


async def take_thread(saver: object, run: Run) -> None:
    """Refuse from now on what older runs and workers write into the run's thread. To be called before
    its state is read: what they wrote until now is seen then, and nothing comes after. Only our own
    saver knows fences.

    Raises `LeaseLost` when the thread was claimed by somebody else since.
    """
    if isinstance(saver, SurgetankSaver):
        await saver.araise_fence(run.thread_id, run.fence)
