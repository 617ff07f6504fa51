"""`Task.map`: order, bounds, lazy items, failures, and what a rerun makes of them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from bodies import Gauge
from kinds import MakeStore, every_durability
from reruns import Crash, CrashOnce

from taskflow import MemoryStore, RetryPolicy, Runtime, task, workflow

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("concurrency", [None, 1, 3, 100])
async def test_results_come_in_the_order_of_the_items(
    runtime: Runtime, concurrency: int | None
) -> None:
    """Whichever item is ready first, its result stands where the item stood."""

    @task
    async def step(number: int) -> int:
        for _ in range(10 - number):
            await checkpoint()
        return number

    @workflow
    async def shop() -> list[int]:
        return await step.map(range(10), concurrency=concurrency)

    for _ in range(2):
        assert await runtime.run(shop(), thread_id="t") == list(range(10))


@pytest.mark.parametrize("concurrency", [1, 2, 5])
async def test_no_more_bodies_execute_than_were_asked_for(
    runtime: Runtime, concurrency: int
) -> None:
    """``concurrency`` bounds the bodies, and as many do execute at the same time."""
    gauge = Gauge()

    @task
    async def step(number: int) -> None:
        with gauge:
            for _ in range(5):
                await checkpoint()

    @workflow
    async def shop() -> None:
        await step.map(range(30), concurrency=concurrency)

    await runtime.run(shop(), thread_id="t")
    assert gauge.most == concurrency


async def test_the_runtime_bounds_the_bodies_of_all_maps() -> None:
    """``max_concurrency`` counts over everything that the runtime executes."""
    gauge = Gauge()

    @task
    async def step(number: int) -> None:
        with gauge:
            for _ in range(5):
                await checkpoint()

    @workflow
    async def shop() -> None:
        async with anyio.create_task_group() as group:
            for start in (0, 100, 200):
                group.start_soon(step.map, range(start, start + 10))

    async with Runtime(MemoryStore(), max_concurrency=4) as runtime:
        await runtime.run(shop(), thread_id="t")
    assert gauge.most == 4


async def test_items_are_pulled_as_they_are_needed(runtime: Runtime) -> None:
    """An iterable is not exhausted ahead of the bodies: a million items need no memory."""
    pulled: list[int] = []
    ahead: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(50):
            pulled.append(number)
            yield number

    @task
    async def step(number: int) -> int:
        ahead.append(len(pulled) - number)
        await checkpoint()
        return number

    @workflow
    async def shop() -> int:
        return len(await step.map(numbers(), concurrency=4))

    assert await runtime.run(shop(), thread_id="t") == 50
    assert max(ahead) <= 5


async def test_async_iterables_are_mapped(runtime: Runtime) -> None:
    """Items may come from something that has to be awaited."""

    async def numbers() -> AsyncIterator[int]:
        for number in range(20):
            await checkpoint()
            yield number

    @task
    async def step(number: int) -> int:
        return number * 2

    @workflow
    async def shop() -> list[int]:
        return await step.map(numbers(), concurrency=4)

    for _ in range(2):
        assert await runtime.run(shop(), thread_id="t") == [number * 2 for number in range(20)]


@pytest.mark.parametrize("items", [[], (), iter([]), range(0)])
async def test_no_items_are_no_results(runtime: Runtime, items: Any) -> None:
    """An empty map is an empty list."""

    @task
    async def step(number: int) -> int:
        return number

    @workflow
    async def shop() -> list[int]:
        return await step.map(items)

    assert await runtime.run(shop(), thread_id="t") == []


async def test_an_items_call_is_that_of_a_plain_call(runtime: Runtime) -> None:
    """A map records the calls that awaiting them one by one would record."""
    bodies: list[str] = []
    maps = [True]

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        return name.upper()

    @workflow
    async def shop() -> list[str]:
        if maps:
            maps.clear()
            await step.map(["a", "b", "a"], concurrency=1)
            raise Crash
        return [await step("a"), await step(name="b"), await step("a")]

    with pytest.raises(Crash):
        await runtime.run(shop(), thread_id="t")
    assert await runtime.run(shop(), thread_id="t") == ["A", "B", "A"]
    assert bodies == ["a", "b", "a"]


async def test_maps_nest(runtime: Runtime) -> None:
    """A task that is mapped may map another one."""

    @task
    async def cell(number: int) -> int:
        return number

    @task
    async def row(number: int) -> list[int]:
        return await cell.map(range(number))

    @workflow
    async def table() -> list[list[int]]:
        return await row.map(range(4), concurrency=2)

    for _ in range(2):
        assert await runtime.run(table(), thread_id="t") == [[], [0], [0, 1], [0, 1, 2]]
    assert len(await runtime.tasks("t")) == 10


async def test_def_tasks_are_mapped_in_worker_threads(runtime: Runtime) -> None:
    """Bodies in worker threads are bounded and ordered like any others."""
    gauge = Gauge()
    all_three = threading.Barrier(3)

    @task
    def step(number: int) -> int:
        with gauge:
            all_three.wait(10)
        return number

    @workflow
    async def shop() -> list[int]:
        return await step.map(range(9), concurrency=3)

    assert await runtime.run(shop(), thread_id="t") == list(range(9))
    assert gauge.most == 3


async def test_the_first_failure_is_raised_itself_and_stops_the_rest(runtime: Runtime) -> None:
    """No group is wrapped around it; what executes is cancelled, what waits does not start."""
    begun: list[int] = []
    cancelled: list[int] = []
    two_wait = anyio.Event()

    @task
    async def step(number: int) -> None:
        begun.append(number)
        if number == 2:
            await two_wait.wait()
            raise ConnectionError(number)
        try:
            if len(begun) >= 2:
                two_wait.set()
            await anyio.sleep_forever()
        finally:
            cancelled.append(number)

    @workflow
    async def shop() -> None:
        await step.map(range(10), concurrency=3)

    with pytest.raises(ConnectionError, match="2"):
        await runtime.run(shop(), thread_id="t")
    assert begun == [0, 1, 2]
    assert sorted(cancelled) == [0, 1]


async def test_the_results_before_a_failure_are_recorded(runtime: Runtime) -> None:
    """What was done before the first failure is not executed again."""
    bodies: list[int] = []

    @task
    async def step(number: int) -> int:
        bodies.append(number)
        if number == 3 and bodies.count(3) == 1:
            raise ConnectionError
        return number

    @workflow
    async def shop() -> list[int]:
        return await step.map(range(6), concurrency=1)

    with pytest.raises(ConnectionError):
        await runtime.run(shop(), thread_id="t")
    assert [each.value for each in await runtime.tasks("t")] == [0, 1, 2]
    assert await runtime.run(shop(), thread_id="t") == list(range(6))
    assert bodies == [0, 1, 2, 3, 3, 4, 5]


@pytest.mark.parametrize("form", [list, iter])
async def test_a_rerun_meets_the_failure_of_a_caught_map_again(
    runtime: Runtime, form: Callable[[Any], Any]
) -> None:
    """Of several failures it is the same one that a rerun meets, and nothing executes."""
    bodies: list[str] = []
    seen: list[str] = []
    both = anyio.Event()

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        if name == "good":
            return name
        if len(bodies) == 3:
            both.set()
        await both.wait()
        if name == "slow":
            for _ in range(3):
                await checkpoint()
        raise ValueError(name)

    @workflow
    async def shop() -> None:
        try:
            await step.map(form(["good", "slow", "fast"]), concurrency=3)
        except ValueError as error:
            seen.append(str(error))
        raise Crash

    for _ in range(3):
        with pytest.raises(Crash):
            await runtime.run(shop(), thread_id="t")
    assert seen == ["fast"] * 3
    assert sorted(bodies[:3]) == ["fast", "good", "slow"]
    assert len(bodies) == 3


async def test_equal_items_after_a_failed_map_keep_their_places(runtime: Runtime) -> None:
    """However far a failed map has got, an equal call after it is the same call on every rerun."""
    bodies: list[str] = []
    crash_once = CrashOnce()

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        if name == "bad":
            raise ValueError
        return f"{name} {len(bodies)}"

    @workflow
    async def shop() -> str:
        try:
            await step.map(["bad", "a", "a"], concurrency=1)
        except ValueError:
            result = await step("a")
        crash_once()
        return result

    with pytest.raises(Crash):
        await runtime.run(shop(), thread_id="t")
    recorded = [each.value for each in await runtime.tasks("t")][-1]
    assert await runtime.run(shop(), thread_id="t") == recorded
    assert bodies == ["bad", "a"]


async def test_a_failing_iterable_stops_its_map(runtime: Runtime) -> None:
    """What the iterable raises is raised itself, after the bodies have ended."""
    executing: set[int] = set()

    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("no more")

    @task
    async def step(number: int) -> None:
        executing.add(number)
        try:
            await anyio.sleep_forever()
        finally:
            executing.discard(number)

    @workflow
    async def shop() -> str:
        try:
            await step.map(numbers(), concurrency=3)
        except LookupError as error:
            assert not executing
            return str(error)
        raise AssertionError("it did not fail")

    assert await runtime.run(shop(), thread_id="t") == "no more"


async def test_a_failing_async_iterable_stops_its_map(runtime: Runtime) -> None:
    """The same where the items have to be awaited."""

    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more")

    @task
    async def step(number: int) -> None:
        await anyio.sleep_forever()

    @workflow
    async def shop() -> None:
        await step.map(numbers(), concurrency=3)

    with pytest.raises(LookupError, match="no more"):
        await runtime.run(shop(), thread_id="t")


async def test_a_cancelled_map_can_be_continued(make_store: MakeStore) -> None:
    """A map that was cancelled half-way executes the rest, and only that, in another runtime."""
    bodies: list[int] = []
    half_way = anyio.Event()

    @task
    async def step(number: int) -> int:
        bodies.append(number)
        if number == 5 and not half_way.is_set():
            half_way.set()
            await anyio.sleep_forever()
        return number

    @workflow
    async def shop() -> list[int]:
        return await step.map(range(10), concurrency=1)

    async def caller(runtime: Runtime) -> None:
        await runtime.run(shop(), thread_id="t")

    async with Runtime(make_store()) as runtime, anyio.create_task_group() as group:
        group.start_soon(caller, runtime)
        await half_way.wait()
        group.cancel_scope.cancel()
    async with Runtime(make_store()) as runtime:
        assert await runtime.run(shop(), thread_id="t") == list(range(10))
    assert bodies == [0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9]


async def test_a_map_can_be_cut_off_by_a_scope(runtime: Runtime) -> None:
    """A scope of the workflow's around a map ends its bodies, and the workflow goes on."""
    executing: set[int] = set()

    @task
    async def step(number: int) -> None:
        executing.add(number)
        try:
            await anyio.sleep_forever()
        finally:
            executing.discard(number)

    @workflow
    async def shop() -> int:
        with anyio.move_on_after(0.02):
            await step.map(range(10), concurrency=3)
        return len(executing)

    assert await runtime.run(shop(), thread_id="t") == 0
    assert await runtime.tasks("t") == []


async def test_mapped_calls_are_retried_each_for_itself(runtime: Runtime) -> None:
    """A policy belongs to each call: one flaky item does not stop the others."""
    bodies: list[int] = []

    @task(retry=RetryPolicy(max_attempts=2, initial_interval=0))
    async def step(number: int) -> int:
        bodies.append(number)
        if number == 1 and bodies.count(1) == 1:
            raise ConnectionError
        return number

    @workflow
    async def shop() -> list[int]:
        return await step.map(range(3))

    assert await runtime.run(shop(), thread_id="t") == [0, 1, 2]
    assert sorted(bodies) == [0, 1, 1, 2]


@every_durability
async def test_many_items_are_all_recorded(make_store: MakeStore, durability: Any) -> None:
    """More results than one batch holds are committed before anybody sees the list."""

    @task
    async def step(number: int) -> int:
        return number

    @workflow
    async def shop() -> int:
        return sum(await step.map(range(3000)))

    async with Runtime(make_store(), durability=durability) as runtime:
        assert await runtime.run(shop(), thread_id="t") == sum(range(3000))
        assert len(await runtime.tasks("t")) == 3000


async def test_a_map_in_a_retried_task_replays_its_results(runtime: Runtime) -> None:
    """Between the attempts of the task around it, a map executes only what failed."""
    bodies: list[int] = []

    @task
    async def step(number: int) -> int:
        bodies.append(number)
        if number == 1 and bodies.count(1) == 1:
            raise ConnectionError
        return number

    @task(retry=RetryPolicy(max_attempts=2, initial_interval=0))
    async def outer() -> list[int]:
        return await step.map(range(3), concurrency=1)

    @workflow
    async def shop() -> list[int]:
        return await outer()

    assert await runtime.run(shop(), thread_id="t") == [0, 1, 2]
    assert bodies == [0, 1, 1, 2]


@pytest.mark.parametrize("concurrency", [0, -1])
async def test_a_map_executes_at_least_one_body(runtime: Runtime, concurrency: int) -> None:
    """A bound that nothing could pass is refused at the call."""

    @task
    async def step(number: int) -> int:
        return number

    @workflow
    async def shop() -> None:
        with pytest.raises(ValueError, match="concurrency"):
            step.map([1], concurrency=concurrency)

    await runtime.run(shop(), thread_id="t")


async def test_a_map_takes_an_iterable(runtime: Runtime) -> None:
    """Anything else is refused at the call."""

    @task
    async def step(number: int) -> int:
        return number

    @workflow
    async def shop() -> None:
        with pytest.raises(TypeError, match="iterable"):
            step.map(5)  # type: ignore[arg-type]

    await runtime.run(shop(), thread_id="t")


async def test_items_that_failed_together_are_executed_again_together(
    make_store: MakeStore,
) -> None:
    """Whoever sees the map fail has seen all its failures: one rerun executes them all again."""
    bodies: list[int] = []
    is_down = True

    @task
    async def ask(item: int) -> int:
        bodies.append(item)
        await checkpoint()
        if is_down:
            raise ConnectionError(item)
        return item

    @workflow
    async def ask_all() -> list[int]:
        return await ask.map(range(4))

    async with Runtime(make_store()) as runtime:
        with pytest.raises(ConnectionError):
            await runtime.run(ask_all(), thread_id="thread")
        is_down = False
        bodies.clear()

        assert await runtime.run(ask_all(), thread_id="thread") == [0, 1, 2, 3]

    assert sorted(bodies) == [0, 1, 2, 3]


async def test_equal_items_of_a_map_are_nobody_s_mistake(runtime: Runtime) -> None:
    """A map takes its items in order: equal ones are told apart without a warning."""

    @task
    async def ask(item: int) -> int:
        await checkpoint()
        return item

    async with runtime.thread("thread"):
        assert await ask.map([1, 1, 1]) == [1, 1, 1]
