"""The Python reference renders every public name, whatever is found on an engine, and all that their
calls take and return."""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import surgetank
import surgetank.testing
from surgetank import SurgetankError
from surgetank.app.assembly import Parts
from surgetank.app.nouns import Nouns
from surgetank.buffer.protocol import Buffer
from surgetank.buffer.spilling import Spilling
from surgetank.events.protocol import EventLog
from surgetank.notify.alerts.book import AlertBook
from surgetank.notify.news import Channel
from surgetank.sinks.protocol import Sink
from surgetank.streams.stream import Stream

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
RENDERED = re.findall(
    r"^::: (\S+)", "\n".join(page.read_text() for page in REFERENCE.glob("*.md")), re.MULTILINE
)
PROTOCOLS = [Buffer, Spilling, Sink, Channel, Stream, EventLog, AlertBook]
# Not the business of an application or of an implementation, though a public call names it.
INTERNAL = {
    "surgetank.app.assembly.Parts",  # what an open engine consists of
    "surgetank.console.forms.FormRefused",  # shown in the form that it is about
    "surgetank.fallback.files.SpillFiles",
    "surgetank.settings.Settings",  # docs/reference/settings.md is its page
    "surgetank.streams.checkpoints.serde.forms.ValueRefused",  # callers get `EntryRejected`
    "surgetank.streams.tables.hot.protocol.ErasedSince",  # a `Conflict`, after which a statement reads again
    "surgetank.streams.tables.query.process.StatementRefused",  # an `InvalidRequest` with its position
    "surgetank.streams.tables.sql.parsing.Misread",  # an `InvalidRequest` with the statement's number
    "surgetank.streams.tables.sql.tokens.Unexpected",  # likewise, with its position
    "surgetank.streams.tables.sql.rights.NotAllowed",  # a `NamespaceForbidden` of another problem code
}
IN_DATABASE = "surgetank.database.pool.Database"  # rendered with some of its members


def found(name: str) -> object:
    """The module, or the member of a module, that a directive names."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, member = name.rpartition(".")
        return getattr(importlib.import_module(module), member)


def named(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def is_rendered(thing: Any) -> bool:
    return named(thing) in RENDERED or thing.__module__ in RENDERED


def types_in(hint: object) -> Iterator[type]:
    """The classes of ours that an annotation names, however deep."""
    if inspect.isclass(hint) and hint.__module__.startswith("surgetank"):
        yield hint
    for inner in hint if isinstance(hint, list) else typing.get_args(hint):
        yield from types_in(inner)


def hints_of(thing: Any) -> list[object]:
    try:
        return list(typing.get_type_hints(thing).values())
    except NameError:  # names that are only imported for the type checker
        return []


def callables_of(kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class that are ours."""
    for name in dir(kind):
        if name.startswith("_") and name != "__call__":
            continue
        member = inspect.getattr_static(kind, name)
        if isinstance(member, property):
            member = member.fget
        elif isinstance(member, classmethod | staticmethod):
            member = member.__func__
        if inspect.isfunction(member) and member.__module__.startswith("surgetank"):
            yield name, member


def types_in_all(member: Any) -> Iterator[type]:
    for hint in hints_of(member):
        yield from types_in(hint)


def on_an_engine() -> set[type]:
    """The classes of the objects that are found on a `Surgetank`, and of what its calls name."""
    return {kind for _, member in callables_of(Nouns) for kind in types_in_all(member)}


def test_every_directive_names_something_once() -> None:
    assert [name for name in RENDERED if RENDERED.count(name) > 1] == []
    for name in RENDERED:
        assert found(name) is not None


@pytest.mark.parametrize("module", [surgetank, surgetank.testing], ids=lambda m: m.__name__)
def test_every_exported_name_is_rendered(module: Any) -> None:
    missing = [name for name in module.__all__ if not is_rendered(getattr(module, name))]
    assert missing == []


def test_every_error_is_rendered() -> None:
    def below(kind: type[SurgetankError]) -> Iterator[type[SurgetankError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    ours = [kind for kind in below(SurgetankError) if kind.__module__.startswith("surgetank")]
    assert [named(k) for k in ours if not is_rendered(k) and named(k) not in INTERNAL] == []


def test_every_object_on_an_engine_is_rendered() -> None:
    missing = {named(kind) for kind in on_an_engine() if not is_rendered(kind)}
    assert missing == {named(Parts)}


def test_what_rendered_calls_take_and_return_is_rendered() -> None:
    missing: dict[str, str] = {}
    for name in RENDERED:
        thing = found(name)
        if name == IN_DATABASE:
            continue
        if inspect.isclass(thing):
            uses = [(name, thing), *((f"{name}.{part}", m) for part, m in callables_of(thing))]
        else:
            uses = [(name, thing)] if inspect.isfunction(thing) else []
        for place, used in uses:
            for kind in types_in_all(used):
                if not is_rendered(kind) and named(kind) not in INTERNAL:
                    missing.setdefault(named(kind), place)
    assert missing == {}


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.__name__)
def test_every_protocol_and_each_of_its_roles_is_rendered(protocol: type) -> None:
    roles = [kind for kind in protocol.__mro__ if kind.__module__.startswith("surgetank")]
    assert [named(role) for role in roles if not is_rendered(role)] == []


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.__name__)
def test_a_protocol_says_what_each_of_its_methods_promises(protocol: type) -> None:
    assert protocol.__doc__
    assert [name for name, member in callables_of(protocol) if not member.__doc__] == []


def test_the_engine_and_its_objects_say_what_each_of_their_methods_does() -> None:
    silent = [
        f"{kind.__name__}.{name}"
        for kind in {surgetank.Surgetank, *on_an_engine()} - {Parts}
        for name, member in callables_of(kind)
        if not member.__doc__ and "<" not in member.__qualname__
    ]
    assert silent == []
