"""`SurgetankStore`: LangGraph's store (`BaseStore`) on PostgreSQL, for any thread and any process.

A batch with puts is one transaction. Batches that share a key take turns: each key has one of 256
advisory locks, which are taken in one order. (Locks of rows would not do: which rows there are
changes between two statements.) What was read is made to live longer last of all, and waits for
nobody. So two batches never wait for each other. Who writes last wins. What has expired is not
there, whether it was deleted yet or not.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import Any

from langgraph.store.base import (
    BaseStore,
    IndexConfig,
    Item,
    Op,
    PutOp,
    Result,
    SearchItem,
    TTLConfig,
)
from psycopg import Connection, sql
from psycopg.rows import dict_row

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.exceptions import DatabaseRefused, InvalidRequest, VectorSearchUnavailable
from surgetank.offloop import is_large, off_loop
from surgetank.workflows.store.index import DISTANCES, Index
from surgetank.workflows.store.namespaces import labels_of, storable
from surgetank.workflows.store.plan import Address, Plan, Planner, Put, Search, checked
from surgetank.workflows.store.scope import Namespace, Scope
from surgetank.workflows.store.values import decode

SQL = queries("workflows/store/store.sql")
_SWEPT = 1000  # rows in one transaction
_LARGE = 1024 * 1024
_LOCKS = 731915206  # the room of the advisory locks
Vectors = Mapping[str, str]


class SurgetankStore(BaseStore):
    """Items in namespaces, as LangGraph's `PostgresStore` has them. Made by `tank.store()`.

        with Surgetank() as tank:
            graph = builder.compile(checkpointer=tank.checkpointer(), store=tank.store())

    What is put comes back as it was put, as far as JSON has it: dicts with text as keys, lists,
    texts, numbers (NaN and infinity too), booleans, None. All else is refused.

    Methods raise `DatabaseUnavailable`, LangGraph's `InvalidNamespaceError`, `EntryRejected` for
    what can't be stored, `InvalidRequest`, and `VectorSearchUnavailable` for a `query` where
    pgvector is missing.
    """

    supports_ttl = True

    def __init__(
        self,
        database: Database,
        *,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        max_bytes: int = 16 * 1024 * 1024,
        scope: Scope | None = None,
        answer_bytes: int | None = None,
    ) -> None:
        self._database = database
        self._given = index, ttl, max_bytes
        self._scope = scope or Scope()
        self._answer_bytes = answer_bytes
        self._index = Index(index) if index else None
        self.ttl_config = checked(ttl)
        self._planner = Planner(self._scope, self._index, max_bytes=max_bytes)
        self._vector_schema: str | None = None

    def within(self, scope: Scope, *, answer_bytes: int | None = None) -> SurgetankStore:
        """The same store for a caller who may not reach everything. A search whose values have more
        than `answer_bytes` together is refused."""
        index, ttl, max_bytes = self._given
        return SurgetankStore(
            self._database,
            index=index,
            ttl=ttl,
            max_bytes=max_bytes,
            scope=scope,
            answer_bytes=answer_bytes,
        )

    @staticmethod
    def of_user(user: str) -> Namespace:
        """Where the server keeps what a user's own requests put: for graphs that read it.

        >>> SurgetankStore.of_user("ada")
        ('user:ada',)
        """
        return Scope.below(user).root

    # -- LangGraph's protocol

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations; their results, in their order. All of them, or none."""
        plan = self._planner.plan(ops)
        texts, asked = plan.texts, plan.queries
        vectors: dict[str, str] = {}
        near: dict[str, str] = {}
        if self._index is not None:
            model = self._index.embeddings
            vectors = self._vectors(texts, model.embed_documents(texts) if texts else [])
            near = self._vectors(asked, [model.embed_query(text) for text in asked])
        return self._run(plan, vectors, near)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """`batch` for event loops: the database is waited for on another thread."""
        asked_for = list(ops)
        large = is_large([op.value for op in asked_for if isinstance(op, PutOp)])
        plan = (
            await off_loop(self._planner.plan, asked_for)
            if large
            else self._planner.plan(asked_for)
        )
        texts, asked = plan.texts, plan.queries
        vectors: dict[str, str] = {}
        near: dict[str, str] = {}
        if self._index is not None:
            model = self._index.embeddings
            vectors = self._vectors(texts, await model.aembed_documents(texts) if texts else [])
            found = await asyncio.gather(*(model.aembed_query(text) for text in asked))
            near = self._vectors(asked, found)
        # Not `off_loop`, whose few threads are for the buffer: a database may keep one waiting.
        return await asyncio.to_thread(self._run, plan, vectors, near)

    def sweep_ttl(self) -> int:
        """Delete what has expired, in pieces; how many items went. The engine does it every ten
        minutes by itself."""
        swept = 0
        while True:
            with self._database.reading() as connection:
                gone = max(0, connection.execute(SQL["sweep"], {"limit": _SWEPT}).rowcount)
            swept += gone
            if gone < _SWEPT:
                return swept

    # -- carrying out a plan

    def _vectors(self, texts: Sequence[str], found: Sequence[Sequence[float]]) -> dict[str, str]:
        assert self._index is not None
        return {t: self._index.vector(v) for t, v in zip(texts, found, strict=True)}

    def _run(self, plan: Plan, vectors: Vectors, near: Vectors) -> list[Result]:
        try:
            return self._carry_out(plan, vectors, near)
        except DatabaseRefused:
            self._vector_schema = None  # pgvector may have been moved or removed
            raise

    def _carry_out(self, plan: Plan, vectors: Vectors, near: Vectors) -> list[Result]:
        results: list[Result] = [None] * plan.size
        schema = self._pgvector() if near else ""
        # One put is one statement, and needs no transaction around it.
        large = plan.written_bytes > _LARGE
        using = (
            self._database.asking(patient=large)
            if len(plan.puts) > 1 or vectors or large
            else self._database.reading()
        )
        with using as connection:
            read = _Reading(connection, self._scope, self._index, schema)
            read.most_bytes = self._answer_bytes
            if plan.gets:
                read.gets(plan, results)
            for at, search in plan.searches:
                results[at] = read.search(search, near)
            for at, arguments in plan.lists:
                results[at] = read.namespaces(arguments)
            if plan.puts:
                self._write(connection, plan.puts, vectors)
            if read.ageing:
                connection.execute(SQL["refresh"], _columns(sorted(read.ageing)))
        return results

    def _write(
        self, connection: Connection[Any], puts: Mapping[Address, Put | None], vectors: Vectors
    ) -> None:
        if len(puts) > 1:  # one row alone is in nobody's way
            numbers = sorted({_number(address) for address in puts})
            connection.execute(SQL["lock"], {"room": _LOCKS, "numbers": numbers})
        gone = [address for address, put in puts.items() if put is None]
        if gone:
            connection.execute(SQL["delete"], _columns(gone))
        kept = {address: put for address, put in puts.items() if put is not None}
        if not kept:
            return
        connection.execute(
            SQL["put"],
            {
                **_columns(kept),
                "values": [put.exact for put in kept.values()],
                "projections": [put.projection for put in kept.values()],
                "ttls": [put.ttl_s for put in kept.values()],
            },
        )
        rows = [
            (address, at, vectors[text])
            for address, put in kept.items()
            for at, text in enumerate(put.texts)
        ]
        if rows:
            connection.execute(
                SQL["put_vectors"],
                {
                    **_columns([address for address, _, _ in rows]),
                    "positions": [at for _, at, _ in rows],
                    "embeddings": [f"{{{vector}}}" for _, _, vector in rows],
                },
            )

    def _pgvector(self) -> str:
        """The schema of pgvector, which is installed if it can be. Raises
        `VectorSearchUnavailable`."""
        if self._vector_schema is None:
            self._vector_schema = self._find_pgvector()
            if self._vector_schema is None:
                refused: DatabaseRefused | None = None
                try:
                    with self._database.asking() as connection:
                        connection.execute(SQL["install_vector"])
                except DatabaseRefused as error:
                    refused = error
                self._vector_schema = self._find_pgvector()  # perhaps by somebody else, just now
                if self._vector_schema is None:
                    raise VectorSearchUnavailable(
                        "The database has no pgvector, which a search by a query needs.",
                        remedy="let an administrator of the database install pgvector and run "
                        "CREATE EXTENSION vector, or use the embedded one; all but `query` works "
                        "without it.",
                    ) from refused
        return self._vector_schema

    def _find_pgvector(self) -> str | None:
        with self._database.reading() as connection:
            row = connection.execute(SQL["vector_schema"]).fetchone()
        return str(row[0]) if row is not None else None


class _Reading:
    """The reads of one batch. `ageing`: what was read and is to live longer for it."""

    def __init__(
        self, connection: Connection[Any], scope: Scope, index: Index | None, vector_schema: str
    ) -> None:
        self._connection = connection
        self._scope = scope
        self._index = index
        self._schema = vector_schema
        self.most_bytes: int | None = None
        self.ageing: set[Address] = set()

    def gets(self, plan: Plan, results: list[Result]) -> None:
        """All items that are asked for by name, in one query."""
        asked = [get for get in plan.gets if storable(get[1][1])]
        for row in self._rows(SQL["get"], _columns([address for _, address, _ in asked])):
            at, address, refresh = asked[row["n"] - 1]
            results[at] = Item(**self._fields(row))
            self._age(row, address, refresh=refresh)

    def search(self, search: Search, near: Vectors) -> list[SearchItem]:
        """What a search finds."""
        query: Any = SQL["search"]
        arguments = {**search.arguments, "most_bytes": self.most_bytes}
        if search.query is not None and self._index is not None:
            # Names of our own and of the catalogue only.
            query = sql.SQL(SQL["search_vectors"]).format(
                vector=sql.Identifier(self._schema),
                operator=sql.SQL(DISTANCES[self._index.distance]),  # pyright: ignore[reportArgumentType]
            )
            vector = f"[{near[search.query]}]"
            arguments = {**arguments, "query": vector, "dims": self._index.dims}
        found = []
        for row in self._rows(query, arguments):
            if row["value"] is None:
                raise InvalidRequest(
                    f"The items have more than {self.most_bytes} bytes together.",
                    remedy="ask for fewer at once, by `limit`.",
                )
            distance = row["distance"]
            score = None if distance is None or self._index is None else self._index.score(distance)
            found.append(SearchItem(**self._fields(row), score=score))
            self._age(row, (row["path"], row["key"]), refresh=search.refresh)
        return found

    def namespaces(self, arguments: Mapping[str, Any]) -> list[Namespace]:
        """The namespaces that match."""
        return [tuple(row["namespace"]) for row in self._rows(SQL["namespaces"], arguments)]

    def _age(self, row: Mapping[str, Any], address: Address, *, refresh: bool) -> None:
        if refresh and row["ages"]:
            self.ageing.add(address)

    def _fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "namespace": self._scope.outward(labels_of(row["path"])),
            "key": row["key"],
            "value": decode(row["value"]),
            "created_at": row["created_at"].astimezone(UTC),
            "updated_at": row["updated_at"].astimezone(UTC),
        }

    def _rows(self, query: Any, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, arguments).fetchall()


def _number(address: Address) -> int:
    """The lock of an address."""
    return zlib.crc32("\0".join(address).encode()) % 256


def _columns(addresses: Iterable[Address]) -> dict[str, list[str]]:
    """Addresses as arrays, for `unnest`."""
    found = list(addresses)
    return {"paths": [path for path, _ in found], "keys": [key for _, key in found]}
