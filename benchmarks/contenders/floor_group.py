"""Floor f: a minimal group commit on aiosqlite, with nothing else around it.

One writer takes all pending rows, commits them in one trip to the connection's thread, and wakes
the waiting tasks.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar
from zlib import crc32

import aiosqlite
import msgspec

from benchmarks.contenders.floor_database import (
    Operation,
    Row,
    checkpoint_of,
    connected,
    end_of,
    end_runs,
    insert_checkpoints,
    insert_runs,
    random_id,
    run_of,
    select_latest_runs,
)
from benchmarks.form import Form, awaited
from benchmarks.page import Page, page
from benchmarks.session import OpenSession, Session, square

__all__ = ("opener",)

T = TypeVar("T")

# Wide enough that a commit always finds the next thousand results waiting.
POOL_WIDTH = 1024
# SQLite binds at most 32,766 values in one statement.
MAX_ROWS = 2048

SELECT_CHECKPOINTS = """
SELECT sequence, task_id, parent_id, kind, payload, checksum FROM checkpoint
WHERE thread_id = ? AND run_id = ? ORDER BY sequence
"""
SELECT_UNFINISHED = """
SELECT run_id, input, fingerprint, status, epoch, checksum FROM run
WHERE thread_id = ? AND status NOT IN ('success', 'cancelled')
"""
TAKE_OVER = "UPDATE run SET owner = ?, status = 'running' WHERE thread_id = ? AND run_id = ?"

encode = msgspec.json.Encoder().encode
decode_number = msgspec.json.Decoder(int).decode
decode_page = msgspec.json.Decoder(Page).decode


class Transaction(str):
    """Several operations in place of one SQL text: one trip to the connection's thread."""

    operations: Sequence[Operation]


class Connection(sqlite3.Connection):
    """A connection that executes a `Transaction` as one transaction."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if not isinstance(sql, Transaction):
            return super().execute(sql, parameters)

        super().execute("BEGIN IMMEDIATE")
        for statement, values in sql.operations:
            super().execute(statement, values).fetchall()
        return super().execute("COMMIT")


class Journal:
    """The pending rows, and the writer that commits them."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.connection = connection
        self.loop = asyncio.get_running_loop()
        self.runs: list[Row] = []
        self.checkpoints: list[Row] = []
        self.ends: list[Row] = []
        self.waiting: list[asyncio.Future[None]] = []
        self.awake = asyncio.Event()

    def put(self, pending: list[Row], row: Row) -> asyncio.Future[None]:
        """Add a row to one of the lists; the future is done when the row is committed."""
        pending.append(row)
        committed: asyncio.Future[None] = self.loop.create_future()
        self.waiting.append(committed)
        self.awake.set()
        return committed

    async def write(self) -> None:
        while True:
            await self.awake.wait()
            self.awake.clear()
            operations = self.operations()
            waiting = self.waiting.copy()
            for pending in (self.runs, self.checkpoints, self.ends, self.waiting):
                pending.clear()
            if len(operations) == 1:
                await self.connection.execute(*operations[0])
            else:
                transaction = Transaction()
                transaction.operations = operations
                await self.connection.execute(transaction)
            for committed in waiting:
                committed.set_result(None)

    def operations(self) -> list[Operation]:
        operations: list[Operation] = []
        if self.runs:
            operations += [
                select_latest_runs([str(thread_id) for thread_id, *_ in self.runs]),
                insert_runs(self.runs),
            ]
        for at in range(0, len(self.checkpoints), MAX_ROWS):
            operations.append(insert_checkpoints(self.checkpoints[at : at + MAX_ROWS]))
        if self.ends:
            operations.append(end_runs(self.ends))
        return operations


class GroupSession(Session):
    def __init__(self, connection: aiosqlite.Connection, journal: Journal) -> None:
        self.connection = connection
        self.journal = journal

    async def pragmas(self) -> str:
        ((journal,),) = await self.connection.execute_fetchall("PRAGMA journal_mode")
        ((synchronous,),) = await self.connection.execute_fetchall("PRAGMA synchronous")
        return f"{journal}, synchronous {synchronous}"

    async def squares(self, thread_id: str, form: Form, size: int) -> int:
        run_id = random_id()
        await self.begin(thread_id, run_id, size)
        total = sum(await self.squared(thread_id, run_id, form, range(size)))
        await self.end(thread_id, run_id, total)
        return total

    async def squared(self, thread_id: str, run_id: str, form: Form, items: range) -> list[int]:
        put, checkpoints = self.journal.put, self.journal.checkpoints

        async def recorded(number: int) -> int:
            started = time.time()
            payload = encode(await square(number))
            row = checkpoint_of(thread_id, run_id, "square", number, payload, started, encode)
            await put(checkpoints, row)
            return decode_number(payload)

        return await awaited(form, recorded, items, width=POOL_WIDTH)

    async def pages(self, thread_id: str, form: Form, size: int) -> int:
        run_id = random_id()

        async def recorded(number: int) -> Page:
            started = time.time()
            payload = encode(page(number))
            row = checkpoint_of(thread_id, run_id, "page", number, payload, started, encode)
            await self.journal.put(self.journal.checkpoints, row)
            return decode_page(payload)

        await self.begin(thread_id, run_id, size)
        found = await awaited(form, recorded, range(size), width=POOL_WIDTH)
        total = sum(len(one["paragraphs"]) for one in found)
        await self.end(thread_id, run_id, total)
        return total

    async def fill(self, thread_id: str, size: int) -> None:
        run_id = random_id()
        await self.begin(thread_id, run_id, size)
        await self.squared(thread_id, run_id, "map", range(size))

    async def replay(self, thread_id: str, form: Form, size: int) -> float:
        expected = sum(number * number for number in range(size))
        started = perf_counter()
        ((run_id, *_),) = await self.connection.execute_fetchall(SELECT_UNFINISHED, (thread_id,))
        await self.connection.execute(TAKE_OVER, (random_id(), thread_id, run_id))
        payloads = await self.load(thread_id, run_id)
        if form == "chain":
            total = sum(map(decode_number, payloads))
        else:
            total = sum(await replayed(form, decode_number, payloads))
        await self.end(thread_id, run_id, total)
        seconds = perf_counter() - started
        assert total == expected
        return seconds

    async def extend(self, thread_id: str, form: Form, items: range) -> float:
        run_id = "the only one of a thread without workflows"[:32]
        if items.start < 0:
            await self.begin(thread_id, run_id, len(items))
        else:
            await self.load(thread_id, run_id)
        started = perf_counter()
        await self.squared(thread_id, run_id, form, items)
        return perf_counter() - started

    async def load(self, thread_id: str, run_id: str) -> list[bytes]:
        """The recorded payloads of a run, each checked against its checksum, by task id."""
        rows = await self.connection.execute_fetchall(SELECT_CHECKPOINTS, (thread_id, run_id))
        payloads: dict[str, bytes] = {}
        for _, task_id, _, _, payload, checksum in rows:
            if crc32(payload) != checksum:
                raise ValueError(f"{task_id} of {thread_id} is damaged")
            payloads[task_id] = payload
        return list(payloads.values())

    async def begin(self, thread_id: str, run_id: str, size: int) -> None:
        row = run_of(thread_id, run_id, "squares", encode({"size": size}))
        await self.journal.put(self.journal.runs, row)

    async def end(self, thread_id: str, run_id: str, total: int) -> None:
        await self.journal.put(self.journal.ends, end_of(thread_id, run_id, encode(total)))


async def replayed(form: Form, decode: Callable[[bytes], T], payloads: list[bytes]) -> list[T]:
    """The results of coroutines that only decode the rows, awaited in the same form."""

    async def answer(position: int) -> T:
        return decode(payloads[position])

    return await awaited(form, answer, range(len(payloads)), width=POOL_WIDTH)


def opener(synchronous: str) -> OpenSession:
    @asynccontextmanager
    async def open_session(path: Path) -> AsyncGenerator[Session, None]:
        async with connected(path, synchronous, Connection) as connection:
            journal = Journal(connection)
            writer = asyncio.create_task(journal.write())
            try:
                yield GroupSession(connection, journal)
            finally:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)

    return open_session
