"""taskflow, as its README says."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Literal

from benchmarks.form import Form, awaited
from benchmarks.page import Page
from benchmarks.page import page as page_of
from benchmarks.session import OpenSession, Session
from benchmarks.session import square as square_of
from taskflow import Runtime, SQLiteStore, task, workflow

__all__ = ("opener",)

Synchronous = Literal["FULL", "NORMAL"]
Durability = Literal["sync", "async", "exit"]


class Plan:
    """How the next execution of a workflow behaves: no input, so that a rerun may differ."""

    form: Form = "chain"
    fails: bool = False


class LeftUnfinishedError(Exception):
    """Ends a run with everything recorded but its result."""


square = task(square_of, name="square")


@task
async def page(number: int) -> Page:
    return page_of(number)


@workflow
async def squares(size: int) -> int:
    total = sum(await squared(Plan.form, range(size)))
    if Plan.fails:
        raise LeftUnfinishedError
    return total


@workflow
async def pages(size: int) -> int:
    if Plan.form == "map":
        found = await page.map(range(size))
    else:
        found = await awaited(Plan.form, page, range(size), width=0)
    return sum(len(one["paragraphs"]) for one in found)


async def squared(form: Form, items: range) -> list[int]:
    if form == "map":
        return await square.map(items)
    return await awaited(form, square, items, width=0)


class TaskflowSession(Session):
    def __init__(self, runtime: Runtime, synchronous: Synchronous) -> None:
        self.runtime = runtime
        self.synchronous = synchronous

    async def pragmas(self) -> str:
        return f"wal, {self.synchronous.lower()}"

    async def squares(self, thread_id: str, form: Form, size: int) -> int:
        Plan.form, Plan.fails = form, False
        return await self.runtime.run(squares(size), thread_id=thread_id)

    async def pages(self, thread_id: str, form: Form, size: int) -> int:
        Plan.form = form
        return await self.runtime.run(pages(size), thread_id=thread_id)

    async def fill(self, thread_id: str, size: int) -> None:
        Plan.form, Plan.fails = "map", True
        try:
            await self.runtime.run(squares(size), thread_id=thread_id)
        except LeftUnfinishedError:
            return
        raise AssertionError("the run was to end without a result")

    async def replay(self, thread_id: str, form: Form, size: int) -> float:
        Plan.form, Plan.fails = form, False
        started = perf_counter()
        total = await self.runtime.run(squares(size), thread_id=thread_id)
        seconds = perf_counter() - started
        assert total == sum(number * number for number in range(size))
        return seconds

    async def extend(self, thread_id: str, form: Form, items: range) -> float:
        async with self.runtime.thread(thread_id):
            # What a fresh thread does behind its caller is not part of what is measured.
            await asyncio.sleep(0.05)
            started = perf_counter()
            await squared(form, items)
            return perf_counter() - started


def opener(durability: Durability, synchronous: Synchronous) -> OpenSession:
    @asynccontextmanager
    async def open_session(path: Path) -> AsyncGenerator[Session, None]:
        store = SQLiteStore(path, synchronous=synchronous)
        async with Runtime(store, durability=durability) as runtime:
            yield TaskflowSession(runtime, synchronous)

    return open_session
