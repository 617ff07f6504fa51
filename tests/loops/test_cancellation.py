"""Nothing outlives its scope: cancellation, strays, timeouts and worker threads."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint, current_token
from kinds import MakeStore, on_asyncio

from taskflow import (
    MemoryStore,
    RetryPolicy,
    RunCancelled,
    RunNotFound,
    Runtime,
    RunUnfinished,
    TaskTimeout,
    Workflow,
    task,
    workflow,
)

pytestmark = pytest.mark.anyio


EXPECTED = ["reserve", ["a", "b", "c"], "inner", "thread"]


class Trip:
    """A workflow with calls of every form, and what its bodies do."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.executing: set[str] = set()
        self.workflow = self._make()

    async def body(self, name: str) -> str:
        """A body that takes some steps, and some more to clean up."""
        self.begun.append(name)
        self.executing.add(name)
        try:
            for _ in range(3):
                await checkpoint()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            self.executing.discard(name)
        return name

    def _make(self) -> Workflow[[], Any, list[Any]]:
        @task
        async def step(name: str) -> str:
            return await self.body(name)

        @task
        async def outer() -> str:
            await self.body("outer")
            return await step("inner")

        @task
        def in_thread() -> str:
            self.begun.append("thread")
            return "thread"

        @workflow
        async def trip() -> list[Any]:
            return [
                await step("reserve"),
                await step.map(["a", "b", "c"], concurrency=2),
                await outer(),
                await in_thread(),
            ]

        return trip


class Endless:
    """A task that begins, and ends when it is cancelled."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.ended: list[str] = []

        @task(name="endless")
        async def endless() -> None:
            try:
                self.begun.set()
                await anyio.sleep_forever()
            finally:
                self.ended.append("endless")

        self.task = endless


@pytest.fixture
def endless() -> Endless:
    return Endless()


async def _by_scope(main: Callable[[], Awaitable[Any]], ticks: int) -> bool:
    """Cancel ``main()`` by a scope when the loop has turned ``ticks`` times; whether it ended."""
    ended = False

    async def child() -> None:
        nonlocal ended
        await main()
        ended = True

    async with anyio.create_task_group() as group:
        group.start_soon(child)
        for _ in range(ticks):
            await checkpoint()
        group.cancel_scope.cancel()
    return ended


async def _natively(main: Callable[[], Awaitable[Any]], ticks: int) -> bool:
    """The same by asyncio's own ``cancel()``."""
    child = asyncio.ensure_future(main())
    for _ in range(ticks):
        await checkpoint()
    child.cancel()
    await asyncio.wait([child])
    return not child.cancelled() and child.exception() is None


async def _natively_again_and_again(main: Callable[[], Awaitable[Any]], ticks: int) -> bool:
    """The same, and once more at every turn of the loop until it has ended."""
    child = asyncio.ensure_future(main())
    for _ in range(ticks):
        await checkpoint()
    while not child.done():
        child.cancel()
        await checkpoint()
    return not child.cancelled() and child.exception() is None


async def _rows(runtime: Runtime, thread_id: str) -> list[str]:
    try:
        return [each.task_id for each in await runtime.tasks(thread_id)]
    except RunNotFound:
        return []


async def _cancelled_at_every_turn(
    runtime: Runtime,
    cancel_after: Callable[[Callable[[], Awaitable[Any]], int], Awaitable[bool]],
    ticks_at: Callable[[int], int],
) -> None:
    for turn in count():
        thread_id = f"turn-{turn}"
        trip = Trip()

        async def caller(trip: Trip = trip, thread_id: str = thread_id) -> None:
            assert await runtime.run(trip.workflow(), thread_id=thread_id) == EXPECTED

        ended = await cancel_after(caller, ticks_at(turn))
        assert not trip.executing, "nothing executes when run() has ended"
        begun = list(trip.begun)
        rows = await _rows(runtime, thread_id)
        if rows and not ended:
            assert (await runtime.get(thread_id)).owner is None
        for _ in range(5):
            await checkpoint()
        assert trip.begun == begun, "nothing has begun behind its back"
        assert await _rows(runtime, thread_id) == rows, "nothing was written behind its back"

        again = Trip()
        assert await runtime.run(again.workflow(), thread_id=thread_id) == EXPECTED
        assert len(again.begun) <= 7 - len(rows), "what was recorded does not execute again"
        if ended:
            return


async def test_a_scope_may_cancel_the_caller_at_any_turn(runtime: Runtime) -> None:
    """At whichever turn of the loop the waiting caller is cancelled, P6 holds."""
    await _cancelled_at_every_turn(runtime, _by_scope, lambda turn: turn + turn**3 // 500)


@on_asyncio
async def test_asyncio_may_cancel_the_caller_at_any_turn(runtime: Runtime) -> None:
    """``task.cancel()`` is no different from a scope."""
    await _cancelled_at_every_turn(runtime, _natively, lambda turn: turn + turn**3 // 500)


@on_asyncio
async def test_asyncio_may_cancel_the_caller_again_and_again(runtime: Runtime) -> None:
    """However often the waiting caller is cancelled, ``run()`` ends after its calls have."""
    await _cancelled_at_every_turn(
        runtime, _natively_again_and_again, lambda turn: turn + turn**3 // 500
    )


async def test_a_cancelled_run_belongs_to_nobody(runtime: Runtime, endless: Endless) -> None:
    """A run whose caller was cancelled from outside is ``running`` without an owner."""

    @workflow
    async def wait() -> None:
        await endless.task()

    async def caller() -> None:
        await runtime.run(wait(), thread_id="t")

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        await endless.begun.wait()
        group.cancel_scope.cancel()

    record = await runtime.get("t")
    assert (record.status, record.owner) == ("running", None)
    assert await runtime.tasks("t") == []


async def test_run_ends_after_the_cleanup_of_its_bodies(runtime: Runtime) -> None:
    """A body that takes long to clean up keeps the cancelled caller waiting."""
    begun, cleaning, clean = anyio.Event(), anyio.Event(), anyio.Event()
    ended: list[str] = []

    @task
    async def slow_to_stop() -> None:
        try:
            begun.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                cleaning.set()
                await clean.wait()
                ended.append("body")

    @workflow
    async def wait() -> None:
        await slow_to_stop()

    async def caller(scope: anyio.CancelScope) -> None:
        with scope:
            await runtime.run(wait(), thread_id="t")
        ended.append("run")

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(caller, scope)
        await begun.wait()
        scope.cancel()
        await cleaning.wait()
        for _ in range(10):
            await checkpoint()
        assert ended == []
        clean.set()

    assert ended == ["body", "run"]


@pytest.mark.parametrize("shield", [False, True])
async def test_no_call_starts_while_a_run_is_unwound(runtime: Runtime, shield: bool) -> None:
    """A call made while unwinding re-raises the cancellation, even behind a shield."""
    bodies: list[str] = []
    begun = anyio.Event()
    reached: list[str] = []

    @task
    async def endless() -> None:
        begun.set()
        await anyio.sleep_forever()

    @task
    async def refund() -> None:
        bodies.append("refund")

    @workflow
    async def order() -> None:
        try:
            await endless()
        finally:
            with anyio.CancelScope(shield=shield):
                await refund()
                reached.append("after refund")

    async def caller() -> None:
        await runtime.run(order(), thread_id="t")

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        await begun.wait()
        group.cancel_scope.cancel()

    assert (bodies, reached) == ([], [])
    assert (await runtime.get("t")).status == "running"


@pytest.mark.parametrize("end", ["returns", "raises"])
async def test_what_an_unwound_workflow_comes_to_is_discarded(runtime: Runtime, end: str) -> None:
    """A workflow that swallows its cancellation does not end its run by that."""
    begun = anyio.Event()
    attempts: list[str] = []

    @task
    async def endless() -> None:
        attempts.append("endless")
        begun.set()
        if len(attempts) == 1:
            await anyio.sleep_forever()

    @workflow
    async def stubborn() -> str:
        try:
            await endless()
        except anyio.get_cancelled_exc_class():
            if end == "raises":
                raise ValueError("instead") from None
            return "given up"
        return "finished"

    async def caller() -> None:
        await runtime.run(stubborn(), thread_id="t")

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        await begun.wait()
        group.cancel_scope.cancel()

    record = await runtime.get("t")
    assert (record.status, record.result, record.error) == ("running", None, None)
    assert await runtime.run(stubborn(), thread_id="t") == "finished"


@on_asyncio
async def test_calls_left_executing_are_cancelled_awaited_and_told(runtime: Runtime) -> None:
    """A call in a task that nobody awaits ends with its run, and is warned about."""
    ended: list[str] = []
    begun = anyio.Event()

    @task
    async def endless() -> None:
        try:
            begun.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            ended.append("endless")

    @workflow
    async def careless() -> str:
        left.append(asyncio.create_task(endless()))
        await begun.wait()
        return "done"

    left: list[asyncio.Task[None]] = []
    with pytest.warns(RuntimeWarning, match=r"left executing.*endless"):
        assert await runtime.run(careless(), thread_id="t") == "done"
    assert ended == ["endless"]
    assert [each.name for each in await runtime.tasks("t")] == []
    await asyncio.wait(left)
    assert left[0].cancelled()


@on_asyncio
async def test_calls_that_a_task_left_executing_end_with_it(
    runtime: Runtime, endless: Endless
) -> None:
    """What a body leaves behind ends before the body's caller goes on."""

    @task
    async def careless() -> str:
        left.append(asyncio.create_task(endless.task()))
        await endless.begun.wait()
        return "done"

    @workflow
    async def order() -> list[str]:
        await careless()
        return list(endless.ended)

    left: list[asyncio.Task[None]] = []
    with pytest.warns(RuntimeWarning, match="left executing"):
        assert await runtime.run(order(), thread_id="t") == ["endless"]
    await asyncio.wait(left)


@on_asyncio
async def test_calls_that_a_failed_gather_left_executing_end_with_the_run(
    runtime: Runtime, endless: Endless
) -> None:
    """``asyncio.gather`` leaves the others executing when one fails; the run does not."""

    @task
    async def fail() -> None:
        await endless.begun.wait()
        raise ConnectionError

    @workflow
    async def order() -> None:
        await asyncio.gather(endless.task(), fail())

    with (
        pytest.warns(RuntimeWarning, match="left executing"),
        pytest.raises(ConnectionError),
    ):
        await runtime.run(order(), thread_id="t")
    assert endless.ended == ["endless"]


@on_asyncio
async def test_calls_left_executing_end_with_a_thread_block(
    runtime: Runtime, endless: Endless
) -> None:
    """A block of ``Runtime.thread()`` is a scope too."""
    left: list[asyncio.Task[None]] = []

    async def careless() -> None:
        async with runtime.thread("t"):
            left.append(asyncio.create_task(endless.task()))
            await endless.begun.wait()

    with pytest.warns(RuntimeWarning, match="left executing"):
        await careless()
    assert endless.ended == ["endless"]
    await asyncio.wait(left)


@pytest.mark.parametrize("limit", [0.01, timedelta(milliseconds=10)])
async def test_a_timed_out_body_cleans_up_before_the_timeout_is_raised(
    runtime: Runtime, limit: float
) -> None:
    """``TaskTimeout`` names task, limit and elapsed time, and is raised after the cleanup."""
    ended: list[str] = []

    @task(timeout=limit)
    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            ended.append("slow")

    @workflow
    async def order() -> tuple[str, float, bool]:
        try:
            await slow()
        except TaskTimeout as error:
            assert ended == ["slow"]
            return error.task_name, error.limit, error.elapsed >= 0.01
        raise AssertionError("it did not time out")

    assert await runtime.run(order(), thread_id="t") == ("slow", 0.01, True)


async def test_a_timeout_error_of_the_bodys_own_passes_unchanged(runtime: Runtime) -> None:
    """Only taskflow's own timeout is a ``TaskTimeout``."""

    @task(timeout=60)
    async def impatient() -> None:
        raise TimeoutError("of my own")

    @workflow
    async def order() -> None:
        await impatient()

    with pytest.raises(TimeoutError, match="of my own") as caught:
        await runtime.run(order(), thread_id="t")
    assert type(caught.value) is TimeoutError


async def test_a_timeout_is_for_each_attempt(runtime: Runtime) -> None:
    """A timed-out attempt is retried like any other transient failure."""
    bodies: list[str] = []

    @task(timeout=0.01, retry=RetryPolicy(max_attempts=3, initial_interval=0))
    async def slow() -> str:
        bodies.append("slow")
        if len(bodies) < 3:
            await anyio.sleep_forever()
        return "in time"

    @workflow
    async def order() -> str:
        return await slow()

    assert await runtime.run(order(), thread_id="t") == "in time"
    assert len(bodies) == 3


async def test_a_timed_out_task_takes_its_calls_with_it(runtime: Runtime) -> None:
    """The calls of a body that has timed out have ended before the timeout is raised."""
    ended: list[str] = []

    @task
    async def inner() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            ended.append("inner")

    @task(timeout=0.01)
    async def outer() -> None:
        await inner()

    @workflow
    async def order() -> list[str]:
        with pytest.raises(TaskTimeout):
            await outer()
        return list(ended)

    assert await runtime.run(order(), thread_id="t") == ["inner"]
    assert [each.name for each in await runtime.tasks("t")] == ["outer"]


async def test_a_timed_out_worker_thread_is_abandoned(runtime: Runtime) -> None:
    """Nobody can stop a thread: the timeout is raised while it still executes."""
    release = threading.Event()

    @task(timeout=0.01)
    def stuck() -> str:
        release.wait()
        return "too late"

    @workflow
    async def order() -> str:
        try:
            return await stuck()
        except TaskTimeout:
            return f"released: {release.is_set()}"

    try:
        assert await runtime.run(order(), thread_id="t") == "released: False"
        assert [each.status for each in await runtime.tasks("t")] == ["error"]
    finally:
        release.set()


async def test_an_abandoned_worker_thread_cannot_start_calls(runtime: Runtime) -> None:
    """What a timed-out thread calls later does not execute."""
    release = threading.Event()
    bodies: list[str] = []
    met: list[BaseException] = []
    gone = threading.Event()

    @task
    async def inner() -> None:
        bodies.append("inner")

    @task(timeout=0.01)
    def stuck() -> None:
        release.wait()
        try:
            inner().result()
        except BaseException as error:
            met.append(error)
            raise
        finally:
            gone.set()

    @workflow
    async def order() -> str:
        with pytest.raises(TaskTimeout):
            await stuck()
        release.set()
        await anyio.to_thread.run_sync(gone.wait)
        return "went on"

    assert await runtime.run(order(), thread_id="t") == "went on"
    assert bodies == []
    assert len(met) == 1


def test_an_abandoned_worker_thread_does_not_keep_the_process_alive() -> None:
    """A process whose tasks are done ends, though a timed-out thread still sleeps."""
    program = """
import anyio, threading
from taskflow import MemoryStore, Runtime, TaskTimeout, task, workflow

@task(timeout=0.01)
def stuck():
    threading.Event().wait()

@workflow
async def order():
    try:
        await stuck()
    except TaskTimeout:
        return "went on"

async def main():
    async with Runtime(MemoryStore()) as runtime:
        print(await runtime.run(order(), thread_id="t"))

anyio.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=20, capture_output=True)
    assert (done.stdout.strip(), done.returncode) == (b"went on", 0), done.stderr


async def test_cancellation_waits_for_a_worker_thread(runtime: Runtime) -> None:
    """A cancelled run ends when its worker thread has: the thread is not abandoned."""
    begun, release = threading.Event(), threading.Event()
    ended: list[str] = []

    @task
    def in_thread() -> None:
        begun.set()
        release.wait()
        ended.append("thread")

    @workflow
    async def order() -> None:
        await in_thread()

    async def caller(scope: anyio.CancelScope) -> None:
        with scope:
            await runtime.run(order(), thread_id="t")
        ended.append("run")

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as group:
        group.start_soon(caller, scope)
        await anyio.to_thread.run_sync(begun.wait)
        scope.cancel()
        for _ in range(10):
            await checkpoint()
        assert ended == []
        release.set()

    assert ended == ["thread", "run"]


class Charge:
    """A ``def`` task that is held while it executes, and how often it has executed."""

    def __init__(self) -> None:
        self.bodies = 0
        self.begun = anyio.Event()
        self.release = threading.Event()
        self._token = current_token()
        self.task = task(self._charge, name="charge", key=lambda order: order)

    def _charge(self, order: str) -> str:
        self.bodies += 1
        anyio.from_thread.run_sync(self.begun.set, token=self._token)
        self.release.wait(20)
        return f"receipt for {order}"

    async def let_go(self) -> None:
        """Let the body go on once the cancellation has reached the call."""
        await anyio.wait_all_tasks_blocked()
        self.release.set()


@pytest.mark.parametrize("how", ["group", "map", "child"])
async def test_a_def_body_that_completes_beside_a_failure_is_recorded(
    runtime: Runtime, how: str
) -> None:
    """The sibling's failure cancels its caller; the charge was made, and is not made again."""
    charge = Charge()
    has_failed = anyio.Event()

    @task
    async def fail() -> None:
        await charge.begun.wait()
        if not has_failed.is_set():
            has_failed.set()
            raise LookupError

    @workflow
    def nested(order: str) -> str:
        return charge._charge(order)

    async def booked() -> None:
        if how == "map":
            results.extend(await charge.task.map(["A1"]))
        else:
            results.append(await (nested if how == "child" else charge.task)("A1"))

    @workflow
    async def order() -> list[str]:
        async with anyio.create_task_group() as group:
            group.start_soon(booked)
            group.start_soon(fail)
        return results

    results: list[str] = []
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            await has_failed.wait()
            await charge.let_go()

        group.start_soon(watch)
        with pytest.raises(ExceptionGroup):
            await runtime.run(order(), thread_id="t")
    assert await runtime.run(order(), thread_id="t") == ["receipt for A1"]
    assert charge.bodies == 1


@pytest.mark.parametrize("how", ["scope", "native", "closed"])
async def test_a_def_body_that_completes_as_its_run_is_cut_off_is_recorded(
    make_store: MakeStore, kind: str, how: str
) -> None:
    """A waiter that leaves, Ctrl-C (which asyncio makes a cancellation), a runtime that closes."""
    if how == "native" and kind == "memory-trio":
        pytest.skip("only asyncio cancels natively")
    charge = Charge()

    @workflow
    async def order() -> str:
        return await charge.task("A1")

    async def cut_off() -> None:
        async with Runtime(make_store()) as runtime:
            if how == "closed":
                await runtime.start(order(), thread_id="t")
                await charge.begun.wait()
            elif how == "native":
                waiter = asyncio.create_task(runtime.run(order(), thread_id="t"))
                await charge.begun.wait()
                waiter.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await waiter
            else:
                async with anyio.create_task_group() as waiters:
                    waiters.start_soon(functools.partial(runtime.run, order(), thread_id="t"))
                    await charge.begun.wait()
                    waiters.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(cut_off)
        await charge.begun.wait()
        await charge.let_go()
    async with Runtime(make_store()) as runtime:
        assert await runtime.run(order(), thread_id="t") == "receipt for A1"
    assert charge.bodies == 1


async def test_a_def_body_whose_call_was_cut_off_has_not_completed(runtime: Runtime) -> None:
    """What it makes of the cancellation is no outcome, and the next run executes it again."""
    bodies: list[str] = []
    begun = anyio.Event()

    @task
    async def endless() -> None:
        if len(bodies) == 1:
            begun.set()
            await anyio.sleep_forever()

    @task
    def outer() -> str:
        bodies.append("outer")
        try:
            endless().result()
        except BaseException:
            return "cut off"
        return "whole"

    @workflow
    async def order() -> str:
        return await outer()

    async with anyio.create_task_group() as group:
        group.start_soon(functools.partial(runtime.run, order(), thread_id="t"))
        await begun.wait()
        group.cancel_scope.cancel()
    assert await runtime.run(order(), thread_id="t") == "whole"


async def test_a_def_workflow_is_unwound_through_its_calls(runtime: Runtime) -> None:
    """A cancelled ``def`` workflow meets the cancellation at the call that it waits for."""
    begun = anyio.Event()
    bodies: list[str] = []

    @task
    async def endless() -> None:
        begun.set()
        await anyio.sleep_forever()

    @task
    async def later() -> None:
        bodies.append("later")

    @workflow
    def order() -> None:
        try:
            endless().result()
        finally:
            later().result()

    async def caller() -> None:
        await runtime.run(order(), thread_id="t")

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        await begun.wait()
        group.cancel_scope.cancel()

    assert bodies == []
    assert (await runtime.get("t")).status == "running"


async def test_a_body_may_cancel_its_own_calls(runtime: Runtime) -> None:
    """A call that was cut off by a scope of the workflow's is not recorded; the run goes on."""
    bodies: list[str] = []

    @task
    async def endless() -> None:
        bodies.append("endless")
        await anyio.sleep_forever()

    @task
    async def instead() -> str:
        return "instead"

    @workflow
    async def order() -> str:
        with anyio.move_on_after(0.01):
            await endless()
        return await instead()

    assert await runtime.run(order(), thread_id="t") == "instead"
    assert [each.name for each in await runtime.tasks("t")] == ["instead"]


async def test_an_inner_run_ends_with_the_outer_one(runtime: Runtime) -> None:
    """A run that waits for another one is its waiter: cancelled, it takes that with it."""
    begun = anyio.Event()
    ended: list[str] = []

    @task
    async def endless() -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("endless")

    @workflow
    async def inner() -> None:
        await endless()

    @workflow
    async def outer() -> None:
        try:
            await runtime.run(inner(), thread_id="inner")
        finally:
            ended.append("outer")

    async def caller() -> None:
        await runtime.run(outer(), thread_id="outer")

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        await begun.wait()
        group.cancel_scope.cancel()
    assert ended == ["endless", "outer"]
    for thread_id in ("inner", "outer"):
        assert (await runtime.get(thread_id)).owner is None


async def test_a_cancelled_wait_between_attempts_records_nothing(runtime: Runtime) -> None:
    """A run that is cancelled while a task waits for its next attempt has not failed by it."""
    failed = anyio.Event()

    @task(retry=RetryPolicy(initial_interval=60))
    async def flaky() -> None:
        failed.set()
        raise ConnectionError

    @workflow
    async def order() -> None:
        await flaky()

    async def caller() -> None:
        await runtime.run(order(), thread_id="t")

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        await failed.wait()
        await checkpoint()
        group.cancel_scope.cancel()
    assert await runtime.tasks("t") == []
    assert (await runtime.get("t")).status == "running"


class Block:
    """A block of ``Runtime.thread()`` whose second task does not end when it is entered first."""

    def __init__(self, runtime: Runtime) -> None:
        self.begun = anyio.Event()
        self.bodies: list[str] = []
        self._runtime = runtime

        @task
        async def step(name: str) -> str:
            self.bodies.append(name)
            if name == "endless" and not self.begun.is_set():
                self.begun.set()
                await anyio.sleep_forever()
            return name

        self._step = step

    async def enter(self) -> None:
        async with self._runtime.thread("t"):
            await self._step("first")
            await self._step("endless")


async def test_a_cancelled_block_can_be_entered_again(runtime: Runtime) -> None:
    """A block of ``Runtime.thread()`` that was cancelled has released its thread."""
    block = Block(runtime)
    async with anyio.create_task_group() as group:
        group.start_soon(block.enter)
        await block.begun.wait()
        group.cancel_scope.cancel()
    assert [each.value for each in await runtime.tasks("t")] == ["first"]
    await block.enter()
    assert block.bodies == ["first", "endless", "endless"]


@on_asyncio
async def test_a_natively_cancelled_block_can_be_entered_again(runtime: Runtime) -> None:
    """The same by ``task.cancel()``, again and again until it has ended."""
    block = Block(runtime)
    child = asyncio.create_task(block.enter())
    await block.begun.wait()
    while not child.done():
        child.cancel()
        await checkpoint()
    assert [each.value for each in await runtime.tasks("t")] == ["first"]
    assert (await runtime.get("t")).owner is None
    await block.enter()
    assert block.bodies == ["first", "endless", "endless"]


async def test_a_retried_worker_thread_is_not_disturbed_by_an_abandoned_one(
    runtime: Runtime,
) -> None:
    """The abandoned attempt returns while the next one executes: its result is nobody's."""
    release, gone = threading.Event(), threading.Event()
    attempts: list[int] = []

    @task(timeout=0.05, retry=RetryPolicy(max_attempts=2, initial_interval=0))
    def stuck() -> str:
        attempts.append(len(attempts))
        if len(attempts) == 1:
            release.wait()
            gone.set()
            return "abandoned"
        release.set()
        gone.wait()
        return "second"

    @workflow
    async def order() -> str:
        return await stuck()

    for _ in range(2):
        assert await runtime.run(order(), thread_id="t") == "second"
    assert [each.attempts for each in await runtime.tasks("t")] == [2]


@on_asyncio
async def test_wait_for_cuts_a_call_off(runtime: Runtime) -> None:
    """``asyncio.wait_for`` around a call raises its TimeoutError; nothing of the call is left."""
    ended: list[str] = []

    @task
    async def endless() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("endless")

    @workflow
    async def order() -> str:
        try:
            await asyncio.wait_for(endless(), 0.01)
        except TimeoutError:
            return "cut off"
        raise AssertionError("it was not cut off")

    assert await runtime.run(order(), thread_id="t") == "cut off"
    assert ended == ["endless"]
    assert await runtime.tasks("t") == []


async def test_closing_the_runtime_unwinds_what_executes() -> None:
    """``aclose()`` returns when nothing executes; the run may be continued by anybody."""
    store = MemoryStore()
    begun = anyio.Event()
    ended: list[str] = []

    @task
    async def endless() -> str:
        begun.set()
        try:
            if not ended:
                await anyio.sleep_forever()
        finally:
            ended.append("endless")
        return "done"

    @workflow
    async def order() -> str:
        return await endless()

    async with Runtime(store) as runtime:
        handle = await runtime.start(order(), thread_id="t")
        await begun.wait()
    assert ended == ["endless"]
    assert handle.status == "running"

    async with Runtime(store) as runtime:
        assert await runtime.run(order(), thread_id="t") == "done"


@pytest.mark.parametrize("how", ["caller", "handle", "timeout", "sibling"])
async def test_cleanup_may_await_without_a_shield_on_asyncio(how: str) -> None:
    """One cancellation is one CancelledError, as asyncio's users know it."""
    cleaned: list[str] = []
    begun = asyncio.Event()

    async def wait_and_clean_up(name: str) -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            cleaned.append(name)

    @task(timeout=0.01 if how == "timeout" else 60)
    async def step(name: str) -> None:
        if name == "sibling":
            await begun.wait()
            raise ValueError(name)
        await wait_and_clean_up(name)

    @workflow
    async def flow() -> None:
        try:
            await step.map(["sibling", "step"] if how == "sibling" else ["step"])
        finally:
            await asyncio.sleep(0)
            cleaned.append("flow")

    async with Runtime(MemoryStore()) as runtime:
        handle = await runtime.start(flow(), thread_id="thread")
        waiting = asyncio.ensure_future(runtime.run(flow(), thread_id="thread"))
        await begun.wait()
        if how == "handle":
            await handle.cancel()
        elif how == "caller":
            await runtime.aclose()
        with pytest.raises((RunCancelled, RunUnfinished, TaskTimeout, ValueError)):
            await waiting

    assert cleaned == ["step", "flow"]
