"""Spill files and their locations: what was written comes back, what was changed is refused by
name."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from surgetank.exceptions import ConfigurationError, FallbackDamaged, FallbackUnavailable
from surgetank.fallback.codec import FileHeader, FileReader, FileWriter, SpilledEntry, ValueRef
from surgetank.fallback.files import SpillFiles
from surgetank.fallback.store import open_store
from surgetank.model import Entry, Record

HEADER = FileHeader("f" * 32, "b" * 32, 7, "s", "node", 12.5)
ENTRIES = [
    Entry("s", "p", 1, (Record(b"k\x00\xff", b"value"), Record(b"", b"")), 1.25),
    Entry("s", "q \u00e4", 2, (Record(b"k", b"text " * 5000),), 2.5, replayed=True),
    Entry("s", "p", 4, (Record(b"k", os.urandom(3 * 1024**2)), Record(b"l", b"x" * 65)), 3.0),
]


def written(entries: list[Entry] = ENTRIES) -> tuple[bytes, list[SpilledEntry]]:
    writer = FileWriter(HEADER)
    pieces, placed = list(writer.start), []
    for entry in entries:
        parts, places = writer.entry(entry)
        pieces += parts
        placed.append(SpilledEntry(entry, places))
    pieces += writer.end()
    data = b"".join(pieces)
    assert len(data) == writer.offset
    return data, placed


def read(data: bytes) -> tuple[FileHeader, list[SpilledEntry]]:
    reader = FileReader(io.BytesIO(data), "the-file", len(data))
    return reader.header, list(reader)


def test_a_file_comes_back_as_it_was_written_and_says_where_each_value_lies():
    data, placed = written()
    header, found = read(data)
    assert (header, found) == (HEADER, placed)
    for spilled in found:
        for record, place in zip(spilled.entry.records, spilled.refs, strict=True):
            assert place.value(data[place.offset : place.offset + place.length]) == record.value
            assert ValueRef.unpack(place.pack()) == place


def test_values_that_compress_are_stored_compressed():
    data, _ = written(ENTRIES[1:2])
    assert len(data) < len(ENTRIES[1].records[0].value) / 10


def test_any_changed_byte_is_found():
    data, _ = written(ENTRIES[:2])
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x10
        with pytest.raises(FallbackDamaged, match="the-file"):
            read(bytes(changed))


def test_any_missing_end_is_found_and_so_is_a_longer_one():
    data, _ = written(ENTRIES[:2])
    for length in range(len(data)):
        with pytest.raises(FallbackDamaged, match="the-file"):
            read(data[:length])
    with pytest.raises(FallbackDamaged, match="follow"):
        read(data + b"x")


# -- locations


@pytest.fixture(params=["folder", "file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://{tmp_path.name}/spill"
    return f"file://{tmp_path}/spill" if request.param == "file" else str(tmp_path / "spill")


def test_a_folder_never_shows_a_file_that_is_not_complete(tmp_path):
    store = open_store(str(tmp_path / "spill"))
    store.prepare()
    shown = []

    def pieces():
        yield b"half"
        shown.append(store.names())
        raise OSError(5, "Input/output error")

    with pytest.raises(FallbackUnavailable, match="Input/output"):
        store.write("b/1.spill", pieces())
    assert (shown, store.names(), list((tmp_path / "spill" / "b").iterdir())) == ([[]], [], [])


def test_a_folder_that_is_away_is_unavailable_and_is_not_made_anew(tmp_path):
    store = open_store(str(tmp_path / "mount"))
    with pytest.raises(FallbackUnavailable, match="no such folder"):
        store.check()
    with pytest.raises(FallbackUnavailable):
        store.write("b/1.spill", [b"x"])
    assert not (tmp_path / "mount").exists()


def test_an_unknown_scheme_is_refused_with_a_way_out():
    with pytest.raises(ConfigurationError, match="nonsense"):
        open_store("nonsense://there")


# -- values


def test_values_are_read_from_their_places_and_their_neighbours_with_them(url):
    data, placed = written()
    files = SpillFiles(url)
    files.store().prepare()
    files.store().write("b/1.spill", [data])
    address = files.address
    assert address is not None
    for spilled in placed:
        for record, place in zip(spilled.entry.records, spilled.refs, strict=True):
            assert files.value(address, "b/1.spill", place) == record.value
    files.store().delete("b/1.spill")
    first = placed[0]
    # remembered
    assert files.value(address, "b/1.spill", first.refs[0]) == first.entry.records[0].value


def test_a_value_that_was_changed_is_never_returned(url):
    data, placed = written(ENTRIES[:2])
    place = placed[1].refs[0]
    changed = bytearray(data)
    changed[place.offset + 3] ^= 1
    files = SpillFiles(url)
    files.store().prepare()
    files.store().write("b/1.spill", [bytes(changed)])
    assert files.address is not None
    with pytest.raises(FallbackDamaged, match=r"b/1\.spill"):
        files.value(files.address, "b/1.spill", place)
    files.store().write("b/1.spill", [data])  # an undamaged copy was put in its place
    assert files.value(files.address, "b/1.spill", place) == ENTRIES[1].records[0].value
