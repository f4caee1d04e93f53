"""Copies of files of a bucket: bounded, shared by processes, whole or not there, whatever was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO
from unittest import mock

import pytest

from surgetank.streams.tables.cold import cache as module
from surgetank.streams.tables.cold.cache import FileCache

KILLED = """
import os, signal, sys
from pathlib import Path
from surgetank.streams.tables.cold.cache import FileCache
def fetch(name, file):
    file.write(b"half"); file.flush()
    print("half", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
FileCache(Path(sys.argv[1]), 1000, fetch).open("1/a")
"""


class Bucket:
    def __init__(self) -> None:
        self.fetched: list[str] = []

    def fetch(self, name: str, file: BinaryIO) -> None:
        self.fetched.append(name)
        file.write(name.encode() * (100 // len(name)))


def contents(cache: FileCache, name: str) -> bytes:
    with cache.open(name) as file:
        return bytes(file.read())


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "files").rglob("*") if path.is_file())


def test_a_file_is_fetched_once_and_those_used_least_go_first(tmp_path: Path) -> None:
    bucket = Bucket()
    cache = FileCache(tmp_path, 1000, bucket.fetch)
    names = [f"1/{number:02}" for number in range(8)]
    for at, name in enumerate(names):
        assert contents(cache, name) == name.encode() * 25
        os.utime(tmp_path / "files" / name, (at, at))
    assert contents(cache, names[0]), "it was used just now"
    for number in range(20, 24):
        contents(cache, f"1/{number}")
    assert size_of(tmp_path) <= 1000
    assert names[0] in cache.names()
    assert names[1] not in cache.names()
    before = len(bucket.fetched)
    contents(cache, names[0])
    assert len(bucket.fetched) == before


def test_two_processes_share_the_copies_and_keep_to_the_bound(tmp_path: Path) -> None:
    buckets = Bucket(), Bucket()
    caches = [FileCache(tmp_path, 1000, bucket.fetch) for bucket in buckets]
    for number in range(60):
        assert contents(caches[number % 2], f"1/{number:02}")
        assert size_of(tmp_path) <= 1000
    contents(caches[0], "1/59")
    assert buckets[0].fetched[-1] != "1/59", "the other one had fetched it"


def test_a_copy_that_is_open_or_held_can_be_read_after_it_was_removed(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1000, Bucket().fetch)
    with cache.open("1/aa") as file, cache.held(["1/aa", "1/bb"]) as held:
        cache.forget(["1/aa", "1/bb"])
        assert cache.names() == []
        assert file.read() == b"1/aa" * 25
        assert [path.read_bytes()[:4] for path in held.values()] == [b"1/aa", b"1/bb"]
    assert list((tmp_path / "aside").iterdir()) == []


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(name: str, file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyError(name)

    with pytest.raises(KeyError):
        FileCache(tmp_path, 1000, fail).open("1/aa")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_a_killed_process_had_fetched_by_half_is_never_read_and_goes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, check=False, timeout=60
    )
    assert (done.stdout, done.returncode) == (b"half\n", -9)
    cache = FileCache(tmp_path, 1000, Bucket().fetch)
    assert len(list((tmp_path / "aside").iterdir())) == 2, "the half, and its lock"
    with cache.held(["1/aa"]), mock.patch.object(module, "_OLD_S", -60.0):
        cache.tidy()
        assert len(list((tmp_path / "aside").iterdir())) == 2, "what is held stays"
    assert list((tmp_path / "aside").iterdir()) == []
    assert contents(cache, "1/aa") == b"1/aa" * 25
