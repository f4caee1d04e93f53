"""One suite for every location of spill files: what `FallbackStore` promises, sentence by
sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from support.objects import ObjectStore
from support.s3_server import S3Server
from surgetank import objects
from surgetank.exceptions import FallbackDamaged, FallbackUnavailable, LeaseLost
from surgetank.fallback.store import MARK, FallbackStore, address_of, open_store

FILE = "b/1.spill"
Use = Callable[[FallbackStore], object]


def opened(store: FallbackStore) -> bytes:
    with store.open(FILE) as (file, size):
        return file.read(size)


# What is done with a location, by name.
USES: dict[str, Use] = {
    "prepare": lambda store: store.prepare(),
    "check": lambda store: store.check(),
    "write": lambda store: store.write(FILE, [b"one"]),
    "read": lambda store: store.read(FILE, 0, 1),
    "open": opened,
    "names": lambda store: store.names(),
    "delete": lambda store: store.delete(FILE),
}
READING = ("read", "open")


def rename(path: Path) -> None:
    (path / "spill").rename(path / "away")


def forget_all(path: Path) -> None:
    fsspec.filesystem("memory").rm(f"/{path.name}", recursive=True)


def break_down(path: Path) -> None:
    ObjectStore.away.add(path.name)


@dataclass(frozen=True)
class Kind:
    """A kind of location: the URL of a new one, how it goes away, and whether that can be told from
    a location that was never there (a store without folders is there when it answers)."""

    url: Callable[[Path], str]
    take_away: Callable[[Path], None]
    is_down: bool = False
    needs: str = ""


# A further kind joins the suite by a line here.
KINDS: dict[str, Kind] = {
    "folder": Kind(lambda path: str(path / "spill"), rename),
    "file URL": Kind(lambda path: f"file://{path}/spill", rename),
    "fsspec on files": Kind(lambda path: f"local://{path}/spill", rename),
    "fsspec in memory": Kind(lambda path: f"memory://{path.name}/spill", forget_all),
    "fsspec on objects": Kind(lambda path: f"objects://{path.name}/spill", break_down, is_down=True),
    "bucket": Kind(lambda _: "", break_down, is_down=True, needs="s3_server"),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kind:
    found = KINDS[request.param]
    if found.needs:
        server: S3Server = request.getfixturevalue(found.needs)
        bucket = server.make_bucket()
        monkeypatch.setattr(objects, "RETRIES", 0)
        found = replace(
            found,
            url=lambda _: server.url("spill", bucket=bucket),
            take_away=lambda _: server.fail(bucket),
        )
    return found


@pytest.fixture
def come_back(kind: Kind, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """What takes a location that was taken away back."""

    def back(url: str) -> None:
        ObjectStore.away.clear()
        if kind.needs:
            request.getfixturevalue(kind.needs).mend(url.split("/")[2])

    return back


@pytest.fixture
def url(kind: Kind, tmp_path: Path) -> Iterator[str]:
    yield kind.url(tmp_path)
    ObjectStore.away.clear()
    ObjectStore.objects.clear()


@pytest.fixture
def store(url: str) -> FallbackStore:
    """A location that was prepared."""
    store = open_store(url)
    store.prepare()
    return store


def remove(url: str, name: str) -> None:
    if objects.is_object_url(url):
        objects.ObjectStore(url).delete([name])
        return
    fs, root = fsspec.core.url_to_fs(url)
    fs.rm_file(f"{root}/{name}")


def put(url: str, name: str, data: bytes) -> None:
    if objects.is_object_url(url):
        objects.ObjectStore(url).put(name, data)
        return
    fs, root = fsspec.core.url_to_fs(url)
    fs.pipe_file(f"{root}/{name}", data)


def holds(url: str) -> list[str]:
    """All files of a location but its mark, whatever they are called."""
    if objects.is_object_url(url):
        return [name for name in objects.ObjectStore(url).found() if name != MARK]
    fs, root = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return [path for path in fs.find(root) if not path.endswith(MARK)]


# -- the location and its mark


def test_a_new_location_is_made_with_its_mark_and_a_second_time_changes_nothing(url: str) -> None:
    store = open_store(url)
    with pytest.raises(FallbackUnavailable):
        store.check()
    store.prepare()
    store.check()
    store.write(FILE, [b"one"])
    store.prepare()
    assert (store.names(), store.read(FILE, 0, 9)) == ([FILE], b"one")


def test_nothing_is_believed_missing_from_a_location_that_was_never_prepared(url: str) -> None:
    store = open_store(url)
    for use in ("check", "names", "read", "open", "delete"):
        with pytest.raises(FallbackUnavailable):
            USES[use](store)


def test_a_location_without_its_mark_is_not_marked_again_nor_believed(
    store: FallbackStore, url: str
) -> None:
    store.write("b/2.spill", [b"two"])
    remove(url, MARK)
    for use in ("prepare", "check", "names", "read", "open", "delete"):
        with pytest.raises(FallbackUnavailable, match="mark"):
            USES[use](store)


def test_files_of_others_do_not_keep_a_location_from_being_prepared(url: str) -> None:
    open_store(url).prepare()
    remove(url, MARK)
    put(url, "notes.txt", b"mine")
    store = open_store(url)
    store.prepare()
    assert store.names() == []


def test_a_location_that_went_away_is_unavailable_and_comes_back_as_it_was(
    store: FallbackStore,
    kind: Kind,
    url: str,
    come_back: Callable[[str], None],
    tmp_path: Path,
) -> None:
    store.write(FILE, [b"one"])
    kind.take_away(tmp_path)
    uses = USES if kind.is_down else USES.keys() - {"prepare", "write"}  # it may be a new one
    for use in uses:
        with pytest.raises(FallbackUnavailable, match="Way out: ") as told:
            USES[use](store)
        assert store.address in str(told.value)
    come_back(url)
    if (tmp_path / "away").exists():
        (tmp_path / "away").rename(tmp_path / "spill")
        assert store.names() == [FILE]


# -- writing


def test_what_was_written_is_there_for_everybody_when_writing_returns(
    store: FallbackStore, url: str
) -> None:
    store.write("b/2.spill", [b"two"])
    store.write(FILE, iter([b"on", b"", b"e"]))
    for reader in (store, open_store(url)):
        reader.prepare()
        assert reader.names() == [FILE, "b/2.spill"]
        assert (reader.read(FILE, 0, 9), reader.read("b/2.spill", 0, 9)) == (b"one", b"two")
        assert reader.address == store.address


def test_a_large_file_in_many_pieces_comes_back(store: FallbackStore) -> None:
    size = 65_536
    store.write(FILE, (bytes([number]) * size for number in range(64)))
    for number in (0, 31, 63):
        assert store.read(FILE, number * size, size) == bytes([number]) * size
    with store.open(FILE) as (file, total):
        assert total == 64 * size
        assert b"".join(iter(lambda: file.read(100_000), b"")) == b"".join(
            bytes([number]) * size for number in range(64)
        )


FAILURES: dict[str, tuple[Exception, type[Exception], str]] = {
    "no space": (OSError(28, "No space left on device"), FallbackUnavailable, "No space left"),
    "lease lost": (LeaseLost("gone", remedy="none"), LeaseLost, "gone"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_write_that_fails_half_way_says_why_and_leaves_nothing(
    store: FallbackStore, url: str, failure: str
) -> None:
    error, told, reason = FAILURES[failure]

    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise error

    with pytest.raises(told, match=reason):
        store.write(FILE, pieces())
    assert (store.names(), holds(url)) == ([], [])
    with pytest.raises(FallbackDamaged):
        store.read(FILE, 0, 1)
    store.write(FILE, [b"one"])
    assert store.read(FILE, 0, 9) == b"one", "and may be tried again"


def test_a_file_that_is_written_again_is_the_new_one_and_nothing_of_the_old(
    store: FallbackStore,
) -> None:
    store.write(FILE, [b"long and old"])
    store.write(FILE, [b"new"])
    assert (store.read(FILE, 0, 100), store.names()) == (b"new", [FILE])


# -- reading


def test_reading_begins_where_it_is_asked_to_and_ends_where_the_file_does(
    store: FallbackStore,
) -> None:
    store.write(FILE, [b"0123456789"])
    asked = {(0, 3): b"012", (4, 1): b"4", (8, 10): b"89", (0, 100): b"0123456789", (3, 0): b""}
    assert {at: store.read(FILE, *at) for at in asked} == asked
    assert [store.read(FILE, offset, 5) for offset in (10, 1000)] == [b"", b""]


def test_an_open_file_is_read_from_its_beginning_and_tells_its_size(store: FallbackStore) -> None:
    store.write(FILE, [b"0123456789"])
    for _ in range(2):
        with store.open(FILE) as (file, size):
            assert (size, file.read(4), file.read(100), file.read(1)) == (
                10, b"0123", b"456789", b"",
            )  # fmt: skip


@pytest.mark.parametrize("use", READING)
def test_a_file_that_is_gone_is_damage_and_is_named(
    store: FallbackStore, url: str, use: str
) -> None:
    store.write(FILE, [b"one"])
    remove(url, FILE)  # behind its back
    with pytest.raises(FallbackDamaged, match=r"b/1\.spill is missing"):
        USES[use](store)


def test_an_error_of_what_is_done_with_an_open_file_stays_what_it_is(store: FallbackStore) -> None:
    store.write(FILE, [b"one"])
    error = OSError(28, "of another disk")
    with pytest.raises(OSError, match="of another disk") as caught, store.open(FILE):
        raise error
    assert caught.value is error


# -- listing and deleting


def test_spill_files_are_listed_in_order_and_those_of_others_are_not(
    store: FallbackStore, url: str
) -> None:
    names = [f"{folder}/{number:010}.spill" for folder in "ab" for number in (2, 10, 11)]
    for name in reversed(names):
        store.write(name, [b"x"])
    put(url, "notes.txt", b"mine")
    assert store.names() == names


def test_files_that_another_process_writes_and_deletes_are_seen(
    store: FallbackStore, url: str
) -> None:
    other = open_store(url)
    assert (store.names(), other.names()) == ([], [])
    other.write(FILE, [b"one"])
    assert store.names() == [FILE]
    other.delete(FILE)
    assert store.names() == []


def test_a_deleted_file_is_gone_and_deleting_it_again_is_no_error(
    store: FallbackStore, url: str
) -> None:
    store.write(FILE, [b"one"])
    store.write("b/2.spill", [b"two"])
    store.delete(FILE)
    store.delete(FILE)
    store.delete("c/never.spill")
    assert (store.names(), len(holds(url))) == (["b/2.spill"], 1)


# -- addresses


SECRETS = {
    "sftp://me:s3cret@host:22/a": "sftp://me:***@host:22/a",
    "s3://bucket/a?key=me&secret=s3cret": "s3://bucket/a?key=***&secret=***",
    "abfs://box/a?sas_token=s3cret&x=1": "abfs://box/a?sas_token=***&x=1",
}


def test_an_address_shows_no_secrets() -> None:
    assert {url: address_of(url) for url in SECRETS} == SECRETS
    assert address_of("s3://bucket/a") == "s3://bucket/a"


def test_no_error_shows_a_secret_of_its_url(tmp_path: Path) -> None:
    store = open_store(f"objects://me:s3cret@{tmp_path.name}/spill")
    for use in USES.keys() - {"prepare", "write"}:
        with pytest.raises(FallbackUnavailable) as told:
            USES[use](store)
        assert "s3cret" not in f"{store.address} {told.value}"


def test_an_address_opens_the_same_location(
    store: FallbackStore, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(FILE, [b"one"])
    if kind.needs:  # credentials that an address doesn't show come from the environment
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    again: Any = open_store(store.address)
    assert (again.address, again.names()) == (store.address, [FILE])
