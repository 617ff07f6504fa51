"""taskflow, used as its README shows."""

import asyncio
import gc
import sqlite3
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Literal

import anyio

from benchmarks.form import Form, awaited
from benchmarks.page import Page
from benchmarks.page import page as page_of
from benchmarks.session import OpenSession, Session
from benchmarks.session import square as square_of
from taskflow import Call, RunHandle, Runtime, SQLiteStore, receive, sleep, task, workflow
from taskflow.events import TaskCompleted

__all__ = ("Plan", "opener", "squares")

SLEEPERS_AT_ONCE = 1_000
ANY_RUNS = "SELECT 1 FROM run WHERE status = 'running' LIMIT 1"
COUNT_RUNS = "SELECT count(*) FROM run WHERE status = ?"

Synchronous = Literal["FULL", "NORMAL"]
Durability = Literal["sync", "async", "exit"]


class Plan:
    """The behaviour of the next execution; not a workflow's input, so that a rerun may differ.

    After ``holds_at`` tasks, if given, the workflow releases ``held`` and never ends.
    """

    form: Form = "chain"
    fails: bool = False
    receives: bool = False
    gate: asyncio.Event
    holds_at: int | None = None
    held: asyncio.Semaphore


class LeftUnfinishedError(Exception):
    """Ends a run with everything recorded but its result."""


square = task(square_of, name="square")


@task
async def page(number: int) -> Page:
    return page_of(number)


@workflow
async def squares(size: int) -> int:
    if Plan.holds_at is not None:
        await squared(Plan.form, range(Plan.holds_at))
        Plan.held.release()
        await asyncio.Event().wait()
    total = sum(await squared(Plan.form, range(size)))
    if Plan.fails:
        raise LeftUnfinishedError
    return total


@workflow
async def behind_gate(size: int) -> int:
    await Plan.gate.wait()
    if not Plan.receives:
        return sum(await squared(Plan.form, range(size)))
    return sum(await awaited(Plan.form, number_sent, range(size), width=0))


def number_sent(number: int) -> Call[int]:
    return receive("number", int)


@workflow
async def answer() -> int:
    return await square(await receive("number", int))


@workflow
async def nap() -> None:
    await sleep(timedelta(days=1))


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
    def __init__(self, runtime: Runtime, path: Path, synchronous: Synchronous) -> None:
        self.runtime = runtime
        self.path = path
        self.synchronous: Synchronous = synchronous

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
            # The background work for a new thread is not part of the measurement.
            await asyncio.sleep(0.05)
            started = perf_counter()
            await squared(form, items)
            return perf_counter() - started

    async def receive(self, thread_id: str, form: Form, size: int) -> float:
        handle = await self.behind_gate(thread_id, form, size, receives=True)
        async with anyio.create_task_group() as group:
            for number in range(size):
                group.start_soon(self.runtime.send, thread_id, "number", number * number)
        return await self.through_gate(handle, size)

    async def held_back(self, thread_id: str, form: Form, size: int) -> float:
        handle = await self.behind_gate(thread_id, form, size, receives=False)
        return await self.through_gate(handle, size)

    async def behind_gate(
        self, thread_id: str, form: Form, size: int, *, receives: bool
    ) -> RunHandle[int]:
        Plan.form, Plan.receives, Plan.gate = form, receives, asyncio.Event()
        return await self.runtime.start(behind_gate(size), thread_id=thread_id)

    async def through_gate(self, handle: RunHandle[int], size: int) -> float:
        gc.collect()
        started = perf_counter()
        Plan.gate.set()
        total = await handle.result()
        seconds = perf_counter() - started
        assert total == sum(number * number for number in range(size))
        return seconds

    async def streamed(self, thread_id: str, form: Form, size: int) -> int:
        Plan.form, Plan.fails = form, False
        completed = 0
        # Room for all events: dropped ones would cost nothing.
        call, buffer = squares(size), 4 * size + 100
        async with self.runtime.stream(call, thread_id=thread_id, buffer=buffer) as events:
            async for event in events:
                completed += isinstance(event, TaskCompleted)
            total = await events.result()
        assert completed == size
        return total

    async def watched(self, thread_id: str) -> int:
        async with self.runtime.subscribe(thread_id) as events:
            return sum([isinstance(event, TaskCompleted) async for event in events])

    async def resume(self, size: int, *, asleep: bool) -> list[float]:
        names = [f"resumed-{number}" for number in range(size)]
        handles: list[RunHandle[int]] = []
        if asleep:
            handles = [await self.runtime.start(answer(), thread_id=name) for name in names]
            await self.all_are("paused", size)
        latencies: list[float] = []
        for number, name in enumerate(names):
            if not asleep:
                handles.append(await self.runtime.start(answer(), thread_id=name))
            # Let the background work of a start, or of the last result, end first.
            await asyncio.sleep(0.01)
            started = perf_counter()
            await self.runtime.send(name, "number", number)
            result = await handles[number].result()
            latencies.append(perf_counter() - started)
            assert result == number * number
        return latencies

    async def orphan(self, count: int, tasks: int, recorded: int) -> None:
        numbers = [str(number) for number in (count, tasks, recorded)]
        command = [sys.executable, "-m", "benchmarks.orphans", str(self.path), *numbers]
        async with await anyio.open_process(command, stderr=None) as process:
            assert process.stdout is not None
            said = await process.stdout.receive()
            process.kill()
        assert said.startswith(b"held")

    async def recover(self, count: int, callers: int) -> float:
        Plan.form, Plan.fails = "chain", False
        started = perf_counter()
        async with Runtime(
            SQLiteStore(self.path, synchronous=self.synchronous),
            workflows=[squares],
            recover=True,
            max_concurrent_runs=callers,
        ):
            await self.all_are("success", count)
            return perf_counter() - started

    async def put_to_sleep(self, count: int) -> None:
        for start in range(0, count, SLEEPERS_AT_ONCE):
            end = min(count, start + SLEEPERS_AT_ONCE)
            async with anyio.create_task_group() as group:
                for number in range(start, end):
                    group.start_soon(self.start_nap, f"sleeper-{number}")
            await self.all_are("paused", end)

    async def start_nap(self, thread_id: str) -> None:
        await self.runtime.start(nap(), thread_id=thread_id)

    async def reopen(self) -> float:
        Plan.form, Plan.fails = "chain", False
        started = perf_counter()
        store = SQLiteStore(self.path, synchronous=self.synchronous)
        async with Runtime(store, workflows=[nap, squares], recover=True) as runtime:
            await runtime.run(squares(1), thread_id="first")
            return perf_counter() - started

    async def all_are(self, status: str, count: int) -> None:
        """Wait until no run executes any more; then ``count`` runs have the ``status``."""
        with closing(sqlite3.connect(self.path)) as connection:
            while connection.execute(ANY_RUNS).fetchone():  # noqa: ASYNC110 - costs the runtime nothing
                await asyncio.sleep(0.005)
            assert connection.execute(COUNT_RUNS, (status,)).fetchone() == (count,)


def opener(durability: Durability, synchronous: Synchronous) -> OpenSession:
    @asynccontextmanager
    async def open_session(path: Path) -> AsyncGenerator[Session, None]:
        store = SQLiteStore(path, synchronous=synchronous)
        async with Runtime(store, durability=durability) as runtime:
            yield TaskflowSession(runtime, path, synchronous)

    return open_session
