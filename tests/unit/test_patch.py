"""Patch chains: every version can be read, at a bounded cost, whatever the values are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgetank.encode.differences import patch, splice
from surgetank.encode.differences.patch import Blob, Tip
from surgetank.exceptions import StateCorrupt

values = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda seed, size: random.Random(seed).randbytes(size),
        st.integers(0, 9),
        st.integers(0, 5000),
    ),
    st.builds(
        lambda word, count: word * count, st.binary(min_size=1, max_size=20), st.integers(0, 300)
    ),
)


def chain(versions: list[bytes]) -> list[Blob]:
    tip: Tip | None = None
    blobs = []
    for n, value in enumerate(versions, start=1):
        blob, tip = patch.extend(tip, n, value)
        blobs.append(blob)
    return blobs


def path(blobs: list[Blob], n: int) -> list[Blob]:
    by_n = {b.n: b for b in blobs}
    steps = [by_n[n]]
    while steps[-1].base_n is not None:
        steps.append(by_n[steps[-1].base_n])
    return steps[::-1]


def growing(count: int, size: int = 400) -> list[bytes]:
    source, value, versions = random.Random(7), b"", []
    for _ in range(count):
        value += source.randbytes(size).hex().encode()
        versions.append(value)
    return versions


@given(st.lists(values, max_size=25))
@settings(max_examples=150, deadline=None)
def test_every_version_of_any_history_is_read_back(versions):
    blobs = chain(versions)
    assert patch.decode_all(blobs, {b.n for b in blobs}) == dict(enumerate(versions, start=1))
    for blob in blobs:
        assert patch.decode_path(path(blobs, blob.n)).raw == versions[blob.n - 1]


@given(st.lists(values, min_size=1, max_size=12), values)
@settings(max_examples=80, deadline=None)
def test_a_chain_that_was_read_back_goes_on(versions, later):
    blobs = chain(versions)
    tip = patch.decode_path(path(blobs, len(blobs)))
    blob, _ = patch.extend(tip, len(blobs) + 1, later)
    assert patch.decode_all([*blobs, blob], {blob.n})[blob.n] == later


def test_storage_grows_with_what_changed_and_reading_is_bounded():
    versions = growing(600)
    blobs = chain(versions)
    stored, whole = (
        sum(len(b.data) for b in blobs),
        sum(len(patch.compress(v)[1]) for v in versions[::20]) * 20,
    )
    assert stored * 30 < whole
    assert max(len(path(blobs, b.n)) for b in blobs) <= 22
    assert sum(b.base_n is None for b in blobs) <= 4


def edits() -> st.SearchStrategy[list[bytes]]:
    """Histories of a list of items: appended to, edited and cut at any place, with a length in
    front."""
    items = st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 3), st.binary(max_size=200)), max_size=30
    )

    def play(steps: list[tuple[int, int, bytes]]) -> list[bytes]:
        state = [bytes([i]) * 40 for i in range(30)]
        versions = []
        for place, kind, item in steps:
            at = place % (len(state) + 1)
            state[at : at + kind] = [item] * (kind != 2)
            versions.append(len(state).to_bytes(2, "big") + b"|".join(state))
        return versions

    return items.map(play)


@given(edits())
@settings(max_examples=150, deadline=None)
def test_every_version_of_an_edited_list_is_read_back(versions):
    blobs = chain(versions)
    for blob in blobs:
        assert patch.decode_path(path(blobs, blob.n)).raw == versions[blob.n - 1]


@given(values, values)
@settings(max_examples=200, deadline=None)
def test_any_value_is_cut_out_of_any_other(older, value):
    found = splice.find(older, value)
    if found is not None:
        again, middle = splice.unpack(found.pack(found.middle(value)))
        assert again.join(older, middle) == value


def test_an_item_appended_to_a_long_list_costs_what_the_item_costs():
    blobs = chain(growing(8, size=4000))
    assert blobs[-1].codec == patch.SPLICE
    assert len(blobs[-1].data) < 5000


def test_values_without_anything_in_common_are_stored_whole():
    source = random.Random(1)
    blobs = chain([source.randbytes(5000) for _ in range(20)])
    assert all(b.base_n is None for b in blobs)


def test_encrypted_values_are_neither_patched_nor_compressed():
    blob, tip = patch.extend(None, 1, b"x" * 5000, patchable=False)
    assert (blob.data, tip) == (b"x" * 5000, None)


def test_damage_is_found_and_named():
    blobs = chain(growing(10))
    with pytest.raises(StateCorrupt, match="missing"):
        patch.decode_all(blobs[1:], {10})
    with pytest.raises(StateCorrupt, match="missing"):
        patch.decode_path(path(blobs, 10)[1:])
    broken = Blob(1, None, 0, patch.FULL, blobs[0].raw_bytes, blobs[0].data[:-6] + b"\x00" * 6)
    with pytest.raises(StateCorrupt, match="decompress"):
        patch.decode_path([broken])
    spliced = blobs[9]
    assert spliced.codec == patch.SPLICE
    for damaged in (spliced.data[:-1] + bytes([spliced.data[-1] ^ 1]), spliced.data[:5], b""):
        with pytest.raises(StateCorrupt, match="decompress"):
            patch.decompress(patch.SPLICE, damaged, growing(10)[8])
    with pytest.raises(StateCorrupt, match="decompress"):
        patch.decompress(patch.SPLICE, spliced.data, b"another value")


def test_reading_a_value_that_shrank_does_not_decode_what_it_once_was():
    source = random.Random(1)
    tail = source.randbytes(3000)
    large = [source.randbytes(200_000) + tail for _ in range(2)]
    versions = [
        large[0],
        large[0] + b"more" * 9,
        tail,
        tail + b"again" * 9,
        *(tail + bytes([n]) * n for n in range(60)),
    ]
    blobs = chain(versions)
    for blob in blobs:
        steps = path(blobs, blob.n)
        assert sum(b.raw_bytes for b in steps) <= max(
            patch.MAX_DECODED * blob.raw_bytes, patch.FREE
        )
    assert blobs[1].base_n == 1
    assert blobs[3].base_n == 3
    assert blobs[2].base_n is None


def test_a_patch_that_would_weigh_too_much_is_not_made_again():
    source = random.Random(2)
    base, other = source.randbytes(5000), source.randbytes(5000)
    blobs = chain([base])
    assert patch.remake(blobs, base, base + b"x" * 100) is not None
    assert patch.remake(blobs, base, other) is None
