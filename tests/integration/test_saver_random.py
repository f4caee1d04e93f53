"""Random histories against a model in memory: whatever is put, deleted, pruned, retained, copied
and flushed in whatever order, every remaining checkpoint is readable and equal, at a bounded cost.
A failure names its seed."""

from __future__ import annotations

import random

import pytest

from support.chain_costs import check_chain_costs, stored_paths
from support.history import History
from support.savers import ids, listed, put
from surgetank.encode.differences import patch


@pytest.mark.parametrize("seed", range(16))
def test_a_random_history_is_remembered_exactly(make_tank, seed):
    history = History(make_tank(flush_batch_entries=random.Random(seed).choice((1, 3, 2000))), seed)
    for _ in range(140):
        history.step()
    history.check_all()
    history.flush()
    history.check_all()
    history.check_rows()


@pytest.mark.parametrize("seed", range(2))
def test_long_chains_stay_cheap_to_read_however_they_are_thinned(tank, seed):
    chance, saver = random.Random(seed), tank.checkpointer()
    texts, text, parent = {}, "", None
    for step in range(1300):  # several chains: one ends at 512 versions
        text = (text if chance.random() > 0.005 else text[-100:]) + chance.randbytes(30).hex()
        parent = put(
            saver,
            "t",
            {"text": text},
            parent=parent,
            step=step,
            run_id=f"run-{chance.randrange(9)}",
        )
        texts[ids([parent])[0]] = text
        if step % 260 == 259:
            assert tank.flush().ok
            saver.delete_for_runs([f"run-{chance.randrange(9)}"])  # holes everywhere
            tank.retain(keep=chance.randrange(300, 900))
            assert tank.flush().ok
            assert check_chain_costs(tank) > 7
    assert max(path[-1].position for path in stored_paths(tank)) <= patch.MAX_POSITION
    found = listed(saver, "t")
    assert len(found) >= 250
    for seen in found:
        assert (
            seen.checkpoint["channel_values"]["text"]
            == texts[seen.config["configurable"]["checkpoint_id"]]
        )
