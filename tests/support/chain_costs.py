"""What reading each stored version costs, against the bound that `encode/differences/patch.py`
states."""

from __future__ import annotations

from surgetank import Surgetank
from surgetank.encode.differences import patch
from surgetank.encode.differences.patch import Blob


def stored_paths(tank: Surgetank) -> list[list[Blob]]:
    """Every stored version with the path of its bases, from the whole one to itself."""
    with tank.parts.database.connection() as connection, connection.cursor(binary=True) as cursor:
        rows = cursor.execute(
            "SELECT ns_pk, channel, n, base_n, position, codec, raw_bytes, data FROM "
            "surgetank.checkpoint_blobs"
        ).fetchall()
    blobs = {(r[0], r[1], r[2]): Blob(r[2], r[3], r[4], r[5], r[6], bytes(r[7])) for r in rows}
    paths = []
    for (ns_pk, channel, _), blob in blobs.items():
        path = [blob]
        while (base := path[0].base_n) is not None:
            path.insert(0, blobs[ns_pk, channel, base])
        paths.append(path)
    return paths


def check_chain_costs(tank: Surgetank) -> int:
    """Assert the bound for every stored version; returns the largest number of patches on a
    path."""
    most = 0
    for path in stored_paths(tank):
        patches = [blob for blob in path if blob.base_n is not None]
        most = max(most, len(patches))
        assert len(patches) == len(path) - 1 <= patch.MAX_PATCHES
        assert path[0].base_n is None
        wanted = path[-1]
        values = patch.decode_all(path, {blob.n for blob in path})
        assert all(len(values[blob.n]) == blob.raw_bytes for blob in path)
        if patches:
            weight = sum(len(blob.data) for blob in patches)
            whole = len(patch.compress(values[wanted.n])[1])
            assert weight < max(wanted.raw_bytes, whole), (weight, wanted.raw_bytes, whole)
            decoded = sum(blob.raw_bytes for blob in path)
            assert decoded <= max(patch.MAX_DECODED * wanted.raw_bytes, patch.FREE)
    return most
