"""The sink's own entry: it touches every table that checkpoints are written to, and is rolled
back."""

from __future__ import annotations

from surgetank.model import Record
from surgetank.sinks.probe import probe_name, probe_slice
from surgetank.sinks.protocol import Slice
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.cold.rows import SMALL_BYTES
from surgetank.streams.checkpoints.envelope import CheckpointRecord, WriteRecord

_ID = "1ef00000-0000-6000-8000-000000000000"


def probe() -> Slice:
    """A checkpoint with a value and a pending write: a row for every table that checkpoints are
    written to."""
    structure = envelope.structure_of({"v": 4, "id": _ID, "channel_versions": {"probe": "1"}})
    record = CheckpointRecord(
        parent_id=None,
        structure=structure,
        present=("probe",),
        metadata_type="null",
        metadata=b"",
        metadata_json=b"{}",
        scalars_json=b"{}",
    )
    return probe_slice(
        envelope.STREAM,
        probe_name(),
        Record(envelope.checkpoint_key("", _ID), record.pack()),
        # Large enough for a row of its own at every level of the storage format.
        envelope.blob_record("", "probe", "1", envelope.pack_blob("bytes", bytes(2 * SMALL_BYTES))),
        Record(
            envelope.write_key("", _ID, "probe", 0), WriteRecord("probe", "", "null", b"").pack()
        ),
    )
