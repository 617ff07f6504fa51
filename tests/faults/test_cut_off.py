"""Cut off at every await and every commit: nothing stays open, nothing executes on, and the rerun
equals an undisturbed run. With the tools that users have."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from taskflow import (
    RetryPolicy,
    SQLiteStore,
    Store,
    as_completed,
    current,
    race,
    receive,
    sleep,
    task,
    workflow,
)
from taskflow.testing import crash_everywhere

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """On both event loops, where the store does."""
    return str(request.param)


@task
async def part(number: int) -> int:
    """Awaits something of its own, in a scope that cleans up."""
    try:
        await anyio.sleep(number)
    finally:
        await anyio.lowlevel.checkpoint()
    return number * number


@task(retry=RetryPolicy(max_attempts=3))
async def shaky(number: int) -> int:
    """Calls a task, and fails twice after that."""
    squared = await part(number)
    if current().attempt < 3:
        raise ConnectionError("again")
    return squared


@task(timeout=60)
def counted(numbers: list[int]) -> int:
    """In a worker thread."""
    return len(numbers)


@task
async def tree(depth: int) -> list[Any]:
    """Calls itself twice, and more tasks."""
    if not depth:
        return [await part(1)]
    return [await tree(depth - 1), *(await part.map(range(depth, depth + 2)))]


@workflow
async def branch(name: str) -> str:
    """Asks, with a time limit that passes."""
    try:
        return await receive(f"never {name}", str, timeout=DAY)
    except TimeoutError:
        return f"{name}: {await shaky(3)}"


@workflow
async def everything(order: str) -> list[Any]:
    """Nested tasks and workflows, maps, retries, a race, a signal, timers, a worker thread."""
    found: list[Any] = [await tree(2), await part.map([1, 3, 2], concurrency=2)]
    found.append(await race(branch("a"), branch("b")))
    async with as_completed(part(6), part(5)) as completed:
        found += [value async for value in completed]
    await sleep(DAY)
    found += [await receive("answer", str), await counted([1, 2]), await shaky(2)]
    return found


async def cut_off(is_long: bool, rng: random.Random, short: int, **options: Any) -> None:
    """Cancels it everywhere, and drops its process everywhere; in the long form twice in a row."""
    crashes = await crash_everywhere(
        lambda: everything("A1"),
        signals=[("answer", "yes")],
        pairs=is_long,
        seed=rng.randrange(10**6),
        max_passes=2000 if is_long else short,
        patience=60,
        **options,
    )
    assert crashes.points > 60
    assert crashes.unreached <= crashes.passes // (3 if is_long else 10)  # what trio orders anew


async def test_a_run_is_cut_off_everywhere(is_long: bool, rng: random.Random) -> None:
    """By anyio, natively by asyncio, and by the death of its process."""
    await cut_off(is_long, rng, 150)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_run_on_a_file_is_cut_off_everywhere(is_long: bool, rng: random.Random) -> None:
    """The same on SQLite: whoever comes next finds no transaction open."""

    def open_store(folder: Path) -> Store:
        path = folder / "orders.db"
        if path.exists():
            check_nothing_is_open(path)
        return SQLiteStore(path)

    options: dict[str, Callable[[Path], Store]] = {"store": open_store}
    await cut_off(is_long, rng, 30, **options)


def check_nothing_is_open(path: Path) -> None:
    """Whoever begins to write may do so at once."""
    db = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        db.execute("BEGIN IMMEDIATE")
        db.execute("ROLLBACK")
    finally:
        db.close()
