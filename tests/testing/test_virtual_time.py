"""`VirtualClock`: what waits for a time waits no longer than it takes to get there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from kinds import MakeStore, store_maker
from trio.testing import MockClock

from taskflow import (
    RetryPolicy,
    Runtime,
    SQLiteStore,
    TaskTimeout,
    ThreadBusy,
    receive,
    sleep,
    task,
    workflow,
)
from taskflow.loops.clocks import boot_time
from taskflow.testing import VirtualClock

pytestmark = pytest.mark.anyio

DAY = 86400.0
NEAR = 0.1  # seconds of real work beside years of virtual time
PLACES = {
    "memory-asyncio": ("asyncio", {}),
    "memory-trio": ("trio", {}),
    "memory-trio-mock": ("trio", {"clock": MockClock}),
    "sqlite-asyncio": ("asyncio", {}),
}


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest) -> str:
    """A store and a loop."""
    return str(request.param)


@pytest.fixture
def anyio_backend(place: str) -> tuple[str, dict[str, Any]]:
    """The loop of ``place``."""
    name, options = PLACES[place]
    return name, {key: make() for key, make in options.items()}


@pytest.fixture
def make_store(place: str, tmp_path: Path) -> MakeStore:
    """Opens the same records again and again."""
    return store_maker(place, tmp_path)


@pytest.fixture
async def clock(anyio_backend: object) -> AsyncIterator[VirtualClock]:
    """Virtual time, and a test of whether it saves any."""
    began = time.monotonic()
    with VirtualClock() as clock:
        yield clock
    assert time.monotonic() - began < 30


@pytest.fixture
async def runtime(clock: VirtualClock, make_store: MakeStore) -> AsyncIterator[Runtime]:
    """A runtime in virtual time that looks at what others do."""
    async with Runtime(make_store(), recover=True) as runtime:
        yield runtime


async def test_a_year_passes_at_once(runtime: Runtime, clock: VirtualClock) -> None:
    """A run that sleeps for a year ends a year later, and has been paused meanwhile."""

    @workflow
    async def patient() -> None:
        await sleep(timedelta(days=365))

    began = clock.now()
    await runtime.run(patient(), thread_id="t", wait=True)

    assert clock.now() - began == pytest.approx(365 * DAY, abs=NEAR)
    (slept,) = await runtime.tasks("t")
    assert slept.duration == pytest.approx(365 * DAY, abs=NEAR)


async def test_back_off_is_waited_for_in_virtual_time(
    runtime: Runtime, clock: VirtualClock
) -> None:
    """A task that fails three times, an hour apart, succeeds three hours later."""
    began = clock.now()
    attempts: list[float] = []

    @task(retry=RetryPolicy(max_attempts=4, initial_interval=3600, max_interval=3600, jitter=0))
    async def flaky() -> int:
        attempts.append(clock.now() - began)
        if len(attempts) < 4:
            raise ConnectionError("not yet")
        return len(attempts)

    @workflow
    async def persistent() -> int:
        return await flaky()

    assert await runtime.run(persistent(), thread_id="t") == 4
    assert attempts == pytest.approx([0, 3600, 7200, 10800], abs=NEAR)


async def test_a_timeout_fires_in_order(runtime: Runtime, clock: VirtualClock) -> None:
    """A body that is done in time is; one that is not is timed out, at its limit."""

    @task(timeout=60)
    async def nap(seconds: float) -> float:
        await anyio.sleep(seconds)
        return seconds

    @workflow
    async def naps() -> list[float]:
        ended = [await nap(59)]
        with pytest.raises(TaskTimeout):
            await nap(3600)
        return ended

    assert await runtime.run(naps(), thread_id="t") == [59]
    durations = [each.duration for each in await runtime.tasks("t")]
    assert durations == pytest.approx([59, 60], abs=NEAR)


async def test_what_is_due_earlier_comes_earlier(runtime: Runtime, clock: VirtualClock) -> None:
    """Sleeps, deadlines and plain naps of several runs end in the order of their times."""
    ended: list[str] = []

    @task
    async def plain(days: int) -> None:
        await anyio.sleep(days * DAY)
        ended.append(f"plain {days}")

    @workflow
    async def durable(days: int) -> None:
        if days % 2:
            await sleep(days * DAY)
        else:
            with pytest.raises(TimeoutError):
                await receive("nothing", timeout=timedelta(days=days))
        ended.append(f"durable {days}")

    @workflow
    async def plainly(days: int) -> None:
        await plain(days)

    async with anyio.create_task_group() as group:
        for days in (5, 2, 7, 4):
            call = durable(days)
            group.start_soon(lambda call, days: runtime.run(call, thread_id=f"{days}", wait=True),
                             call, days)  # fmt: skip
        for days in (6, 3):
            call = plainly(days)
            group.start_soon(lambda call, days: runtime.run(call, thread_id=f"{days}"), call, days)

    assert ended == [
        "durable 2", "plain 3", "durable 4", "durable 5", "plain 6", "durable 7",
    ]  # fmt: skip


async def test_a_worker_thread_is_waited_for(runtime: Runtime, clock: VirtualClock) -> None:
    """Time does not jump over a ``def`` body: it passes as fast as on a wall meanwhile."""
    began = clock.now()

    @task(timeout=60)
    def work() -> str:
        time.sleep(0.05)  # it is what a body does, not what a test waits for
        return "done"

    @workflow
    async def working() -> str:
        return await work()

    assert await runtime.run(working(), thread_id="t") == "done"
    assert 0.04 < clock.now() - began < 10


@pytest.mark.parametrize("place", ["sqlite-asyncio"])
async def test_an_export_is_waited_for(runtime: Runtime, clock: VirtualClock) -> None:
    """Time does not jump while SQLite opens and closes the connection that an export reads with."""

    @workflow
    async def nothing() -> None:
        pass

    await runtime.run(nothing(), thread_id="t")
    began = clock.now()
    for _ in range(20):
        assert len([line async for line in runtime.export("t")]) == 3
    assert clock.now() - began < 10


async def test_a_signal_that_comes_in_time_is_taken(runtime: Runtime, clock: VirtualClock) -> None:
    """Who sends after a day answers a question that stands for two."""

    @workflow
    async def asking() -> str:
        return await receive("answer", str, timeout=timedelta(days=2))

    handle = await runtime.start(asking(), thread_id="t")
    await anyio.sleep(DAY)
    await runtime.send("t", "answer", "yes")

    assert await handle.result() == "yes"


async def test_time_passes_again_afterwards_and_does_not_go_back() -> None:
    """What comes after the block is later than what was in it."""
    with VirtualClock():
        await anyio.sleep(DAY)
        inside = anyio.current_time()

    first = anyio.current_time()
    await anyio.sleep(0.001)
    assert inside <= first < anyio.current_time() < inside + 100


@pytest.mark.parametrize("place", ["memory-asyncio", "memory-trio", "memory-trio-mock"])
async def test_time_jumps_only_after_its_grace(anyio_backend: object) -> None:
    """What comes from outside the loop within that real time is not overtaken."""
    began = time.monotonic()
    with VirtualClock(grace=0.02) as clock:
        virtual = clock.now()
        for _ in range(3):
            await anyio.sleep(DAY)
        assert clock.now() - virtual == pytest.approx(3 * DAY, abs=1)
    assert 3 * 0.02 <= time.monotonic() - began < 10


async def test_virtual_time_is_not_made_twice(clock: VirtualClock) -> None:
    """A second clock in the same loop is refused, and says why."""
    with pytest.raises(RuntimeError, match="already"), VirtualClock():
        pass


@pytest.fixture
def sqlite(tmp_path: Path) -> Callable[[], SQLiteStore]:
    """Opens one file as one process after another would, with a lease of 30 s."""
    return lambda: SQLiteStore(tmp_path / "taskflow.db", lease_ttl=30)


@pytest.mark.parametrize("place", ["sqlite-asyncio"])
@pytest.mark.filterwarnings("ignore:a Runtime:ResourceWarning")
async def test_a_lease_runs_out_in_virtual_time(
    clock: VirtualClock, sqlite: Callable[[], SQLiteStore]
) -> None:
    """A process that stands still is taken for dead when its lease has run out, and not before."""

    @task
    async def work() -> str:
        return "done"

    @workflow
    async def working() -> str:
        await anyio.sleep_forever() if is_first else None
        return await work()

    store, is_first = sqlite(), True
    async with Runtime(store) as stands_still, Runtime(sqlite()) as other:
        await stands_still.start(working(), thread_id="t")
        await anyio.sleep(DAY)  # its lease is renewed for as long as it lives
        with pytest.raises(ThreadBusy):
            await other.run(working(), thread_id="t")
        is_first = False
        await store.abandon(holds_lock=True)
        began = clock.now()
        assert await other.run(working(), thread_id="t", wait=True) == "done"
        assert 20 < clock.now() - began < 100


@pytest.mark.parametrize("place", ["sqlite-asyncio"])
async def test_leases_in_virtual_time_are_not_behind_real_ones(clock: VirtualClock) -> None:
    """A process in real time that looks at the same file takes nobody for dead."""
    assert clock.elapsed() >= boot_time() - 1
