"""What a stream is: one frozen value. Adding a stream is a folder and one line in
`streams/installed.py`.

`flush`, `spilling` and `notify` know no stream by name: what they have to know of one stands here.

    USERS = Stream(name="users", subject="user", make_sink=lambda at: UserSink(at.database))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import NamedTuple

from surgetank.buffer.log import Log
from surgetank.buffer.protocol import Buffer
from surgetank.database.pool import Database
from surgetank.flush.policy import StreamPolicy
from surgetank.model import Entry
from surgetank.settings import Settings
from surgetank.sinks.protocol import Sink

THREAD = "thread"
DATABASE = "database"  # the sink that streams share
# a subject begins the keys of incidents, and these are the beginnings of others
_RESERVED = ("sink", "refused", "parked", "fallback", "time", "fork", "stream")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Backends:
    """What a sink may be made of."""

    database: Database
    buffer: Buffer
    settings: Settings
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One kind of data, from the buffer to its sink.

    - `name` is stored in the buffer: it never changes.
    - `subject`: what a partition is called for people ("thread", "user"). Streams with one subject share their
      partitions, and trouble with one partition is one incident. With `by_partition=False` a partition means nothing to
      people (the fingerprint of an error), and trouble is told once, of the stream.
    - `entries`: what its entries are called for people.
    - `make_sink` makes its sink; None for a stream that has a buffer and a flusher of its own (tables). `in_database`
      says that it writes into Surgetank's database, under its fence.
    - `policy`: when it is flushed; None means by the settings.
    - `urgent`: its few entries must be seen whatever is away: a full buffer accepts them, and they are not spilled.
    - `migrations` is a folder of `NNNN_name.sql`; one number orders those of all streams.
    - `on_unpark` is called with the buffer, a partition and those of its parked entries that have
      just been put back, to append what happened to them while they were parked.
    - `relations`: the tables and views, in the schema `surgetank`, that it owns.
    """

    name: str
    subject: str
    make_sink: Callable[[Backends], Sink] | None
    entries: str = "entries"
    by_partition: bool = True
    in_database: bool = True
    policy: StreamPolicy | None = None
    urgent: bool = False
    inline_keys: frozenset[bytes] = frozenset()
    migrations: Traversable | None = None
    relations: tuple[str, ...] = ()
    on_unpark: Callable[[Log, str, Sequence[Entry]], None] | None = None

    def __post_init__(self) -> None:
        for word in (self.name, self.subject):
            if not _NAME.fullmatch(word):
                raise ValueError(f"a stream's name and subject are lower-case words, not {word!r}")
        if self.subject in _RESERVED or self.name == DATABASE:
            raise ValueError(f"{self.name}: {self.subject!r} is a word of Surgetank's own")


class Concern(NamedTuple):
    """What trouble with a partition is about: the key of its incident, the thread if it is one, and
    words for it."""

    key: str
    thread_id: str | None
    label: str


class Streams(Mapping[str, Stream]):
    """The streams of an engine, by name and in the order in which they are flushed.

    The buffer may hold entries of a stream that this program doesn't know (a later version's):
    `concern` and `sharing` answer for these too.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = {stream.name: stream for stream in streams}
        if len(self._streams) != len(streams):
            raise ValueError("two streams have one name")

    def __getitem__(self, name: str) -> Stream:
        return self._streams[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._streams)

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def of_threads(self) -> tuple[str, ...]:
        """Names of the streams whose partitions are threads."""
        return tuple(name for name, stream in self._streams.items() if stream.subject == THREAD)

    def by_partition(self, name: str) -> bool:
        """Whether people are told of each partition, not of the stream."""
        stream = self.get(name)
        return stream is not None and stream.by_partition

    def thread_of(self, name: str, partition: str) -> str | None:
        """The thread that a partition is, if it is one."""
        return partition if name in self.of_threads else None

    def sharing(self, name: str) -> tuple[str, ...]:
        """Names of the streams that share their partitions with this one, itself among them."""
        if not self.by_partition(name):
            return (name,)
        subject = self._streams[name].subject
        return tuple(other for other, stream in self._streams.items() if stream.subject == subject)

    def sink_of(self, name: str) -> str:
        """What it waits for: streams that are flushed into the database wait for one sink."""
        stream = self.get(name)
        return DATABASE if stream is not None and stream.in_database else name

    def label_of_sink(self, name: str) -> str:
        """What people call the sink of a stream."""
        return "the database" if self.sink_of(name) == DATABASE else f"the sink of {name}"

    def concern(self, name: str, partition: str) -> Concern:
        """What trouble with this partition is about."""
        if not self.by_partition(name):
            return Concern(f"stream:{name}", None, f"The stream {name!r}")
        subject = self._streams[name].subject
        return Concern(
            f"{subject}:{partition}",
            self.thread_of(name, partition),
            f"The {subject} {partition!r}",
        )


def migrations_of(streams: Iterable[Stream]) -> list[Traversable]:
    """The folders of migrations that streams bring along."""
    return [stream.migrations for stream in streams if stream.migrations is not None]
