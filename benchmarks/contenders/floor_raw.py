"""Floor b: raw aiosqlite, one insert and one commit a task, awaited."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import aiosqlite
import msgspec

from benchmarks.contenders.floor_database import (
    checkpoint_of,
    connected,
    continue_run,
    end_of,
    end_runs,
    insert_checkpoints,
    insert_runs,
    pause_run,
    random_id,
    run_of,
    select_latest_runs,
)
from benchmarks.form import Form, awaited
from benchmarks.page import Page, page
from benchmarks.session import OpenSession, Session, square

__all__ = ("opener",)

POOL_WIDTH = 16

SELECT_RECORDED = """
SELECT task_id, kind, payload, checksum FROM checkpoint WHERE thread_id = ? AND run_id = ?
"""

encode = msgspec.json.Encoder().encode
decode_number = msgspec.json.Decoder(int).decode
decode_page = msgspec.json.Decoder(Page).decode


class RawSession(Session):
    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.connection = connection

    async def pragmas(self) -> str:
        ((journal,),) = await self.connection.execute_fetchall("PRAGMA journal_mode")
        ((synchronous,),) = await self.connection.execute_fetchall("PRAGMA synchronous")
        return f"{journal}, synchronous {synchronous}"

    async def squares(self, thread_id: str, form: Form, size: int) -> int:
        run_id = random_id()

        async def recorded(number: int) -> int:
            started = time.time()
            payload = encode(await square(number))
            row = checkpoint_of(thread_id, run_id, "square", number, payload, started, encode)
            await self.connection.execute(*insert_checkpoints([row]))
            return decode_number(payload)

        await self.begin(thread_id, run_id, size)
        total = sum(await awaited(form, recorded, range(size), width=POOL_WIDTH))
        await self.end(thread_id, run_id, total)
        return total

    async def pages(self, thread_id: str, form: Form, size: int) -> int:
        run_id = random_id()

        async def recorded(number: int) -> Page:
            started = time.time()
            payload = encode(page(number))
            row = checkpoint_of(thread_id, run_id, "page", number, payload, started, encode)
            await self.connection.execute(*insert_checkpoints([row]))
            return decode_page(payload)

        await self.begin(thread_id, run_id, size)
        found = await awaited(form, recorded, range(size), width=POOL_WIDTH)
        total = sum(len(one["paragraphs"]) for one in found)
        await self.end(thread_id, run_id, total)
        return total

    async def resume(self, size: int, *, asleep: bool) -> list[float]:
        """One commit each for the signal, the run if asleep, its receive, its task, its end."""
        names = [f"resumed-{number}" for number in range(size)]
        run_ids = {name: random_id() for name in names}
        for name, run_id in run_ids.items():
            await self.begin(name, run_id, 0)
            if asleep:
                await self.connection.execute(*pause_run(name, run_id, b'[{"name":"number"}]'))
        latencies: list[float] = []
        for number, (name, run_id) in enumerate(run_ids.items()):
            await asyncio.sleep(0.01)
            started = perf_counter()
            signal = await self.record(name, run_id, encode(number), "signal")
            if asleep:
                await self.connection.execute(*continue_run(name, run_id))
                await self.connection.execute_fetchall(SELECT_RECORDED, (name, run_id))
            await self.record(name, run_id, encode(number), "value", signal)
            result = decode_number(encode(await square(number)))
            await self.record(name, run_id, encode(result), "value")
            await self.end(name, run_id, result)
            latencies.append(perf_counter() - started)
        return latencies

    async def record(
        self, thread_id: str, run_id: str, payload: bytes, kind: str, signal: str | None = None
    ) -> str:
        now = time.time()
        row = checkpoint_of(thread_id, run_id, "number", 0, payload, now, encode, kind, signal)
        await self.connection.execute(*insert_checkpoints([row]))
        return str(row[2])

    async def begin(self, thread_id: str, run_id: str, size: int) -> None:
        row = run_of(thread_id, run_id, "squares", encode({"size": size}))
        await self.connection.execute_fetchall(*select_latest_runs([thread_id]))
        await self.connection.execute(*insert_runs([row]))

    async def end(self, thread_id: str, run_id: str, total: int) -> None:
        await self.connection.execute(*end_runs([end_of(thread_id, run_id, encode(total))]))


def opener(synchronous: str) -> OpenSession:
    @asynccontextmanager
    async def open_session(path: Path) -> AsyncGenerator[Session, None]:
        async with connected(path, synchronous) as connection:
            yield RawSession(connection)

    return open_session
