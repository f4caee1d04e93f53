"""Files and folders that are there when they are complete: written beside their name, and moved there at last.

Killed at any moment, there is nothing under the name, or what was there before. What a killed process left beside it
is removed by the next one that writes there: as long as somebody writes, it is locked.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from surgetank.exceptions import InvalidRequest


@contextmanager
def file_aside(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """The path to write a file to that will be `target`. Raises `InvalidRequest` for a target that
    is there, without `replace`, or can't be written."""
    with problems(target):
        _check(target, replace=replace, is_folder=False)
        path = _beside(target)
        lock = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
        with problems(target):
            os.fsync(lock)
            _check(target, replace=replace, is_folder=False)
            path.replace(target)
            _sync_folder(target.parent)
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


@contextmanager
def folder_aside(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """The same for a folder, which is there already and empty."""
    with problems(target):
        _check(target, replace=replace, is_folder=True)
        path = _beside(target)
        path.mkdir(mode=0o700)
        lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
        with problems(target):
            for each in sorted(path.rglob("*"), reverse=True):
                _sync_folder(each)
            _sync_folder(path)
            _check(target, replace=replace, is_folder=True)
            before = _beside(target)
            if target.exists():
                target.rename(before)
            path.rename(target)
            _sync_folder(target.parent)
            shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


@contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """A folder for what is needed while the target is written: removed at the end, or by the next one
    that writes there."""
    with problems(target):
        path = _beside(target)
        path.mkdir(mode=0o700)
        lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _check(target: Path, *, replace: bool, is_folder: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{_escaped(target.name)}.partial-*"):
        _remove_unless_used(left)
    if not os.path.lexists(target):
        return
    if target.is_dir() is not is_folder:
        kind = "a folder" if target.is_dir() else "a file"
        raise InvalidRequest(f"{target} is {kind}.", remedy="name another target.")
    if not replace:
        raise InvalidRequest(
            f"{target} is there already.", remedy="name another target, or replace it (--force)."
        )


def _escaped(name: str) -> str:
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)


def _beside(target: Path) -> Path:
    return target.parent / f".{target.name}.partial-{secrets.token_hex(6)}"


def _remove_unless_used(path: Path) -> None:
    with suppress(OSError):
        lock = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        finally:
            os.close(lock)


def _sync_folder(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def problems(target: Path) -> Iterator[None]:
    """Errors of the system as `InvalidRequest` about the target."""
    try:
        yield
    except OSError as error:
        raise InvalidRequest(
            f"{target} can't be written ({error.strerror or error}).", remedy="name another target."
        ) from error
