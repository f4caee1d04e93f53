"""One suite for every location of spill files: what `FallbackStore` promises, sentence by sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from surgetank.exceptions import FallbackDamaged, FallbackUnavailable
from surgetank.fallback.store import MARK, FallbackStore, open_store

# A further kind joins the suite by a function that gives the URL of an empty location.
KINDS: dict[str, Callable[[Path], str]] = {
    "folder": lambda path: str(path / "spill"),
    "file URL": lambda path: f"file://{path}/spill",
    "fsspec": lambda path: f"memory://{path.name}/spill",
}


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return KINDS[request.param](tmp_path)


@pytest.fixture
def store(url: str) -> FallbackStore:
    return open_store(url)


def remove(url: str, name: str) -> None:
    fs, root = fsspec.core.url_to_fs(url)
    fs.rm(f"{root}/{name}")


def test_a_store_gives_back_lists_and_deletes_what_was_written(store):
    store.prepare()
    store.prepare()
    store.check()
    assert store.names() == []
    store.write("b/2.spill", [b"two"])
    store.write("b/1.spill", iter([b"on", b"e"]))
    assert store.names() == ["b/1.spill", "b/2.spill"]
    assert store.read("b/1.spill", 1, 100) == b"ne"
    with store.open("b/2.spill") as (file, size):
        assert (file.read(100), size) == (b"two", 3)
    store.delete("b/1.spill")
    store.delete("b/1.spill")
    assert store.names() == ["b/2.spill"]


def test_a_missing_file_is_damage_in_a_location_that_is_there(store, url):
    store.prepare()
    store.write("b/1.spill", [b"one"])
    store.delete("b/1.spill")
    with pytest.raises(FallbackDamaged, match=r"b/1\.spill is missing"):
        store.read("b/1.spill", 0, 1)


def test_a_location_without_its_mark_is_not_written_to_nor_believed(store, url):
    store.prepare()
    store.write("b/1.spill", [b"one"])
    remove(url, MARK)
    for use in (store.check, store.prepare, store.names, lambda: store.read("b/2.spill", 0, 1)):
        with pytest.raises(FallbackUnavailable, match="mark"):
            use()


def test_what_a_failed_write_left_can_be_deleted(store):
    def pieces():
        yield b"half"
        raise OSError(28, "No space left on device")

    store.prepare()
    with pytest.raises(FallbackUnavailable, match="No space left"):
        store.write("b/1.spill", pieces())
    store.delete("b/1.spill")
    assert store.names() == []


def test_reading_ends_where_the_file_does_and_begins_where_it_is_asked_to(store):
    store.prepare()
    store.write("b/1.spill", [b"0123456789"])
    assert store.read("b/1.spill", 0, 3) == b"012"
    assert store.read("b/1.spill", 8, 10) == b"89"
    with store.open("b/1.spill") as (file, size):
        assert (size, file.read(4), file.read(100)) == (10, b"0123", b"456789")


def test_a_file_that_is_written_again_is_the_new_one_and_nothing_of_the_old(store):
    store.prepare()
    store.write("b/1.spill", [b"long and old"])
    store.write("b/1.spill", [b"new"])
    assert store.read("b/1.spill", 0, 100) == b"new"
    assert store.names() == ["b/1.spill"]


def test_nothing_is_believed_missing_from_a_location_that_was_never_prepared(store):
    for use in (store.check, store.names):
        with pytest.raises(FallbackUnavailable):
            use()


def test_another_object_on_the_same_location_sees_what_was_written(store, url):
    store.prepare()
    store.write("b/1.spill", [b"one"])
    other = open_store(url)
    other.prepare()
    assert other.names() == ["b/1.spill"]
    assert other.address == store.address
    other.delete("b/1.spill")
    assert store.names() == []


def test_a_large_file_in_many_pieces_comes_back(store):
    def pieces() -> Iterator[bytes]:
        for number in range(64):
            yield bytes([number]) * 65_536

    store.prepare()
    store.write("b/1.spill", pieces())
    for number in (0, 31, 63):
        assert store.read("b/1.spill", number * 65_536, 65_536) == bytes([number]) * 65_536


def test_files_of_others_are_not_listed(store, url):
    store.prepare()
    fs, root = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{root}/notes.txt", b"mine")
    store.write("b/1.spill", [b"one"])
    assert store.names() == ["b/1.spill"]
