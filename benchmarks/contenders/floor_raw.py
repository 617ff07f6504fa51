"""Floor b: raw aiosqlite, one insert and one commit a task, awaited."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite
import msgspec

from benchmarks.contenders.floor_database import (
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

POOL_WIDTH = 16

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
