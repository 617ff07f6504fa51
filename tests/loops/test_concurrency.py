"""Many things at the same time: nesting never deadlocks, and one thread has one writer."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from kinds import MakeStore

from taskflow import Runtime, ThreadBusy, previous, task, workflow

pytestmark = pytest.mark.anyio


@pytest.fixture
async def narrow(make_store: MakeStore, anyio_backend: object) -> AsyncIterator[Runtime]:
    """A runtime in which one body executes at a time."""
    with anyio.fail_after(20):
        async with Runtime(make_store(), max_concurrency=1) as runtime:
            yield runtime


@task
async def leaf(number: int) -> int:
    await checkpoint()
    return number


@task
def leaf_in_thread(number: int) -> int:
    return number


async def test_nested_tasks_finish_with_one_slot(narrow: Runtime) -> None:
    """A body that waits for a call of its own holds no slot."""

    @task
    async def descend(depth: int) -> int:
        return 0 if depth == 0 else 1 + await descend(depth - 1)

    @workflow
    async def shop() -> int:
        return await descend(20)

    assert await narrow.run(shop(), thread_id="t") == 20


async def test_nested_groups_finish_with_one_slot(narrow: Runtime) -> None:
    """Whichever branch gets the slot first, every body gets its turn."""

    @task
    async def tree(depth: int) -> int:
        if depth == 0:
            return 1
        leaves: list[int] = []

        async def grow(branch: int) -> None:
            leaves.append(await tree_of(branch)(depth - 1))

        async with anyio.create_task_group() as group:
            for branch in range(3):
                group.start_soon(grow, branch)
        return sum(leaves)

    def tree_of(branch: int) -> Any:
        return branches[branch]

    branches = [task(tree.fn, name=f"branch {branch}") for branch in range(3)]

    @workflow
    async def forest() -> int:
        return await tree(3)

    assert await narrow.run(forest(), thread_id="t") == 27


async def test_nested_maps_finish_with_one_slot(narrow: Runtime) -> None:
    """Maps in maps, of tasks on the loop and in worker threads."""

    @task
    async def row(width: int) -> int:
        return sum(await leaf.map(range(width))) + sum(await leaf_in_thread.map(range(width)))

    @task
    async def table(height: int) -> int:
        return sum(await row.map(range(height)))

    @workflow
    async def shop() -> list[int]:
        return await table.map([3, 4])

    assert await narrow.run(shop(), thread_id="t") == [2, 8]


async def test_nested_def_tasks_finish_with_one_slot(narrow: Runtime) -> None:
    """A worker thread that waits in ``result()`` holds no slot either."""

    @task
    def outer(number: int) -> int:
        return inner(number).result() + leaf(number).result()

    @task
    def inner(number: int) -> int:
        return sum(leaf_in_thread.map(range(number)).result())

    @workflow
    def shop() -> list[int]:
        return outer.map([3, 4]).result()

    assert await narrow.run(shop(), thread_id="t") == [6, 10]


async def test_many_runs_finish_with_one_slot(narrow: Runtime) -> None:
    """Runs share the slots of their runtime, and none of them starves."""
    results: dict[str, int] = {}

    @task
    async def outer(number: int) -> int:
        return sum(await leaf.map(range(number)))

    @workflow
    async def shop(number: int) -> int:
        return await outer(number)

    async def run(number: int) -> None:
        results[str(number)] = await narrow.run(shop(number), thread_id=str(number))

    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(run, number)
    assert results == {str(number): sum(range(number)) for number in range(10)}


async def test_one_slot_means_one_body(narrow: Runtime) -> None:
    """At no moment do two bodies execute that do not wait for calls of theirs."""
    executing: list[int] = [0]
    most: list[int] = [0]
    lock = threading.Lock()

    def enter() -> None:
        with lock:
            executing[0] += 1
            most[0] = max(most[0], executing[0])

    def leave() -> None:
        with lock:
            executing[0] -= 1

    @task
    async def on_loop(number: int) -> None:
        enter()
        for _ in range(3):
            await checkpoint()
        leave()

    @task
    def in_thread(number: int) -> None:
        enter()
        leave()

    @task
    async def outer(number: int) -> None:
        enter()
        leave()
        await on_loop(number)
        enter()
        await checkpoint()
        leave()

    @workflow
    async def shop() -> None:
        async with anyio.create_task_group() as group:
            for each in (on_loop, in_thread, outer):
                group.start_soon(each.map, range(100, 110))
                group.start_soon(each.map, range(10))

    await narrow.run(shop(), thread_id="t")
    assert most == [1]


async def test_a_cancelled_waiter_for_a_slot_gives_way(narrow: Runtime) -> None:
    """Cancelling a call that waits for its slot leaves the slot to the next one."""
    go_on = anyio.Event()
    begun = anyio.Event()

    @task
    async def hold() -> str:
        begun.set()
        await go_on.wait()
        return "held"

    @task
    async def later(number: int) -> int:
        return number

    @workflow
    async def shop() -> list[Any]:
        results: list[Any] = []

        async def collect(call: Any) -> None:
            results.append(await call)

        async with anyio.create_task_group() as group:
            group.start_soon(collect, hold())
            await begun.wait()
            for number in range(5):
                with anyio.move_on_after(0.005):
                    await later(number)
            group.start_soon(collect, later(5))
            go_on.set()
        return sorted(results, key=str)

    assert await narrow.run(shop(), thread_id="t") == [5, "held"]


async def test_equal_runs_of_one_thread_are_one_execution(runtime: Runtime) -> None:
    """Five callers of one run share one execution."""
    bodies: list[str] = []
    results: list[str] = []

    @task
    async def charge(order: str) -> str:
        bodies.append(order)
        await checkpoint()
        return f"receipt for {order}"

    @workflow
    async def fulfil(order: str) -> str:
        return await charge(order)

    async def caller() -> None:
        results.append(await runtime.run(fulfil("A"), thread_id="t"))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(caller)
    assert results == ["receipt for A"] * 5
    assert bodies == ["A"]


async def test_different_runs_of_one_thread_lose_nothing(runtime: Runtime) -> None:
    """Of five turns at once one executes and four are busy; repeated, none is lost."""
    lost: list[int] = []

    @workflow
    async def turn(number: int) -> list[int]:
        before = previous(list[int]) or []
        await leaf(number)
        return [*before, number]

    async def caller(number: int) -> None:
        while True:
            try:
                await runtime.run(turn(number), thread_id="t", run_id=f"m{number}")
            except ThreadBusy:
                lost.append(number)
                await checkpoint()
            else:
                return

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(caller, number)
    assert sorted((await runtime.get("t")).result) == [0, 1, 2, 3, 4]
    assert lost


async def test_one_thread_in_many_runtimes_has_one_writer(make_store: MakeStore) -> None:
    """Several runtimes on one store: one execution, and the same result for all who wait."""
    bodies: list[str] = []
    results: list[str] = []
    begun = anyio.Event()

    @task
    async def charge() -> str:
        bodies.append("charge")
        begun.set()
        for _ in range(20):
            await checkpoint()
        return "paid"

    @workflow
    async def order() -> str:
        return await charge()

    async def caller() -> None:
        async with Runtime(make_store()) as runtime:
            results.append(await runtime.run(order(), thread_id="t", wait=True))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(caller)
    assert results == ["paid"] * 5
    assert bodies == ["charge"]


async def test_many_threads_execute_at_the_same_time(runtime: Runtime) -> None:
    """A hundred runs of five tasks each, beside each other."""
    results: list[int] = []

    @workflow
    async def shop(start: int) -> int:
        return sum([await leaf(start + number) for number in range(5)])

    async def caller(start: int) -> None:
        results.append(await runtime.run(shop(start), thread_id=str(start)))

    async with anyio.create_task_group() as group:
        for start in range(100):
            group.start_soon(caller, start)
    assert sorted(results) == sorted(start * 5 + 10 for start in range(100))
    assert len(await runtime.runs(status="success", limit=200)) == 100
