"""Runs, threads and what the runtime shows of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from kinds import MakeStore, on_asyncio
from reruns import Crash
from waits import PATIENCE

from taskflow import (
    MemoryStore,
    RunCancelled,
    RunNotFound,
    RunPaused,
    Runtime,
    RunUnfinished,
    SQLiteStore,
    TaskflowError,
    ThreadBusy,
    Workflow,
    WorkflowCall,
    previous,
    receive,
    task,
    workflow,
)
from taskflow.errors import HistoryMismatch, StoreError, UnknownWorkflow
from taskflow.testing import FaultyStore

pytestmark = pytest.mark.anyio


class Shop:
    """A workflow that can be made to crash or to wait, and counts its executions."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.crash = False
        self.begun = anyio.Event()
        self.go_on: anyio.Event | None = None

        @task
        async def charge(order: str) -> str:
            self.bodies.append(order)
            self.begun.set()
            if self.go_on is not None:
                await self.go_on.wait()
            return f"receipt for {order}"

        @workflow
        async def fulfil(order: str) -> str:
            receipt = await charge(order)
            if self.crash:
                raise Crash
            return receipt

        self.fulfil: Workflow[[str], Any, str] = fulfil

    async def fail(self, runtime: Runtime, order: str, **options: Any) -> None:
        """Leave a failed run behind."""
        self.crash = True
        with pytest.raises(Crash):
            await runtime.run(self.fulfil(order), thread_id="t", **options)
        self.crash = False

    async def leave(self, runtime: Runtime, order: str, **options: Any) -> None:
        """Leave an unfinished run behind, of which nothing is recorded: its caller is cancelled."""
        self.hold()
        async with anyio.create_task_group() as group:
            group.start_soon(partial(runtime.run, self.fulfil(order), thread_id="t", **options))
            await self.begun.wait()
            group.cancel_scope.cancel()
        self.go_on = None
        self.bodies.clear()

    def hold(self) -> None:
        """Make the next bodies wait."""
        self.begun, self.go_on = anyio.Event(), anyio.Event()

    def release(self) -> None:
        """Let them go on."""
        assert self.go_on is not None
        self.go_on.set()


@pytest.fixture
def shop(anyio_backend: object) -> Shop:
    """The workflow that most tests here run."""
    return Shop()


@pytest.fixture
async def other(
    runtime: Runtime, make_store: MakeStore, anyio_backend: object
) -> AsyncIterator[Runtime]:
    """A second runtime on the same records, as another process would open it."""
    async with Runtime(make_store()) as other:
        yield other


async def statuses(runtime: Runtime, thread_id: str = "t") -> list[tuple[Any, str]]:
    """Input and status of a thread's runs, oldest first."""
    runs = [each for each in await runtime.runs() if each.thread_id == thread_id]
    return [(each.input["order"], each.status) for each in reversed(runs)]


async def test_a_completed_task_is_not_executed_again(runtime: Runtime) -> None:
    """A rerun of the same call on the same thread answers from the checkpoint table."""
    bodies: list[str] = []

    @task
    async def charge(order: str) -> str:
        bodies.append(order)
        return f"receipt for {order}"

    @workflow
    async def fulfil(order: str) -> str:
        return await charge(order)

    for _ in range(2):
        assert await runtime.run(fulfil("A1"), thread_id="order-A1") == "receipt for A1"

    assert bodies == ["A1"]


# The table of what becomes of a call: by the state of the thread, for the same and another input.


async def test_new_thread(runtime: Runtime, shop: Shop) -> None:
    """On a thread without runs a call begins the first one."""
    assert await runtime.run(shop.fulfil("A"), thread_id="t") == "receipt for A"
    record = await runtime.get("t")
    assert (record.sequence, record.status, record.workflow) == (1, "success", "fulfil")


async def test_failed_other_input(runtime: Runtime, shop: Shop) -> None:
    """A failed run is left as it is, with ``supersede`` too."""
    for supersede, order in ((False, "A"), (True, "B")):
        await shop.fail(runtime, order)
        await runtime.run(shop.fulfil("C"), thread_id="t", supersede=supersede)
    assert await statuses(runtime) == [
        ("A", "error"), ("C", "success"), ("B", "error"), ("C", "success")
    ]  # fmt: skip


async def test_failed_same_input(runtime: Runtime, shop: Shop) -> None:
    """A failed run is continued: no second run, no second execution."""
    await shop.fail(runtime, "A")
    run_id = (await runtime.get("t")).run_id
    assert await runtime.run(shop.fulfil("A"), thread_id="t") == "receipt for A"
    assert (await runtime.get("t")).run_id == run_id
    assert await statuses(runtime) == [("A", "success")]
    assert shop.bodies == ["A"]


async def test_unfinished_other_input(runtime: Runtime, shop: Shop) -> None:
    """An unfinished run is not left behind silently."""
    await shop.leave(runtime, "A")
    with pytest.raises(RunUnfinished) as caught:
        await runtime.run(shop.fulfil("B"), thread_id="t")
    assert caught.value.run_id == (await runtime.get("t")).run_id
    assert shop.bodies == []


async def test_unfinished_other_workflow(runtime: Runtime, shop: Shop) -> None:
    """Another workflow is another input."""

    @workflow
    async def refund(order: str) -> str:
        return order

    await shop.leave(runtime, "A")
    with pytest.raises(RunUnfinished):
        await runtime.run(refund("A"), thread_id="t")


async def test_unfinished_other_input_supersede(runtime: Runtime, shop: Shop) -> None:
    """``supersede=True`` cancels the unfinished run for good and begins a new one."""
    await shop.leave(runtime, "A", run_id="first")
    assert await runtime.run(shop.fulfil("B"), thread_id="t", supersede=True) == "receipt for B"
    assert await statuses(runtime) == [("A", "cancelled"), ("B", "success")]
    with pytest.raises(RunCancelled):
        await runtime.run(shop.fulfil("A"), thread_id="t", run_id="first")


async def test_unfinished_same_input_supersede(runtime: Runtime, shop: Shop) -> None:
    """``supersede`` means other input: the same input is continued."""
    await shop.leave(runtime, "A")
    assert await runtime.run(shop.fulfil("A"), thread_id="t", supersede=True) == "receipt for A"
    assert await statuses(runtime) == [("A", "success")]


async def test_finished_same_input(runtime: Runtime, shop: Shop) -> None:
    """The recorded result is returned, and nothing executes: not even the workflow."""
    await runtime.run(shop.fulfil("A"), thread_id="t")
    shop.crash = True
    assert await runtime.run(shop.fulfil("A"), thread_id="t") == "receipt for A"
    assert shop.bodies == ["A"]


async def test_finished_other_input(runtime: Runtime, shop: Shop) -> None:
    """Another input is a new run, and so is the first input after that."""
    for order in ("A", "B", "A"):
        assert await runtime.run(shop.fulfil(order), thread_id="t") == f"receipt for {order}"
    assert await statuses(runtime) == [("A", "success"), ("B", "success"), ("A", "success")]
    assert shop.bodies == ["A", "B", "A"]


@pytest.mark.parametrize("order", ["A", "B"])
async def test_cancelled(runtime: Runtime, shop: Shop, order: str) -> None:
    """After ``cancel()`` any input is a new run, which executes everything itself."""
    await shop.fail(runtime, "A")
    await runtime.cancel("t")
    assert await runtime.run(shop.fulfil(order), thread_id="t") == f"receipt for {order}"
    assert await statuses(runtime) == [("A", "cancelled"), (order, "success")]
    assert shop.bodies == ["A", order]


async def test_superseded_same_input(runtime: Runtime, shop: Shop) -> None:
    """The input of a superseded run is a new run too."""
    await shop.leave(runtime, "A")
    await runtime.run(shop.fulfil("B"), thread_id="t", supersede=True)
    await runtime.run(shop.fulfil("A"), thread_id="t")
    assert await statuses(runtime) == [("A", "cancelled"), ("B", "success"), ("A", "success")]


async def test_executing_here_same_input(runtime: Runtime, shop: Shop) -> None:
    """Equal runs join: one execution, a result for each, and never the same object."""
    results: list[str] = []
    shop.hold()

    async def caller() -> None:
        results.append(await runtime.run(shop.fulfil("A"), thread_id="t"))

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        await shop.begun.wait()
        group.start_soon(caller)
        await checkpoint()
        shop.release()
    assert results == ["receipt for A"] * 2
    assert shop.bodies == ["A"]


@pytest.mark.parametrize("supersede", [False, True])
async def test_executing_here_other_input(runtime: Runtime, shop: Shop, supersede: bool) -> None:
    """What executes is neither joined by another input nor superseded by it."""
    shop.hold()
    handle = await runtime.start(shop.fulfil("A"), thread_id="t")
    await shop.begun.wait()
    with pytest.raises(ThreadBusy):
        await runtime.run(shop.fulfil("B"), thread_id="t", supersede=supersede)
    shop.release()
    assert await handle.result() == "receipt for A"


async def test_executing_elsewhere_same_input(runtime: Runtime, other: Runtime, shop: Shop) -> None:
    """Another runtime is told at once that the thread is busy, and with what."""
    shop.hold()
    handle = await runtime.start(shop.fulfil("A"), thread_id="t")
    await shop.begun.wait()
    with pytest.raises(ThreadBusy, match="wait=True") as caught:
        await other.run(shop.fulfil("A"), thread_id="t")
    assert caught.value.same_run
    shop.release()
    assert await handle.result() == "receipt for A"
    assert await other.run(shop.fulfil("A"), thread_id="t") == "receipt for A"
    assert shop.bodies == ["A"]


async def test_executing_elsewhere_same_input_wait(
    runtime: Runtime, other: Runtime, shop: Shop
) -> None:
    """With ``wait=True`` another runtime waits for the result, and executes nothing."""
    shop.hold()
    handle = await runtime.start(shop.fulfil("A"), thread_id="t")
    await shop.begun.wait()

    async def release() -> None:
        for _ in range(10):
            await checkpoint()
        shop.release()

    async with anyio.create_task_group() as group:
        group.start_soon(release)
        assert await other.run(shop.fulfil("A"), thread_id="t", wait=True) == "receipt for A"
    assert await handle.result() == "receipt for A"
    assert shop.bodies == ["A"]


async def test_executing_elsewhere_wait_takes_over(make_store: MakeStore, shop: Shop) -> None:
    """Who waits goes on with the run when its owner has gone."""
    shop.hold()
    async with Runtime(make_store()) as other, Runtime(make_store()) as runtime:
        await runtime.start(shop.fulfil("A"), thread_id="t")
        await shop.begun.wait()
        shop.begun = anyio.Event()
        async with anyio.create_task_group() as group:
            results: list[str] = []

            async def wait() -> None:
                call = shop.fulfil("A")
                results.append(await other.run(call, thread_id="t", wait=True))

            group.start_soon(wait)
            await checkpoint()
            await runtime.aclose()
            await shop.begun.wait()
            shop.release()
    assert results == ["receipt for A"]
    assert shop.bodies == ["A", "A"]


class Waiter:
    """Another runtime, where somebody waits for A, and has found that it executes elsewhere."""

    def __init__(self, runtime: Runtime, store: FaultyStore) -> None:
        self.runtime = runtime
        self.looks = anyio.Event()
        self.outcomes: list[object] = []
        self._store = store.delay("run", 1, until=self.looks)

    async def wait(self, call: WorkflowCall[str]) -> None:
        try:
            with anyio.fail_after(PATIENCE):
                self.outcomes.append(await self.runtime.run(call, thread_id="t", wait=True))
        except (TaskflowError, TimeoutError) as error:
            self.outcomes.append(type(error))

    async def is_waiting(self) -> None:
        """Wait until it is about to look again, which it does when ``looks`` is set."""
        await self._store.asked("run")


@pytest.fixture
async def waiter(
    runtime: Runtime, make_store: MakeStore, anyio_backend: object
) -> AsyncIterator[Waiter]:
    """Somebody else who waits."""
    store = FaultyStore(make_store())
    async with Runtime(store) as other:
        yield Waiter(other, store)


async def test_who_waits_for_a_run_elsewhere_is_answered_by_that_one(
    runtime: Runtime, waiter: Waiter, shop: Shop
) -> None:
    """Though another run has begun in his own runtime before he looks again."""
    shop.hold()
    handle = await runtime.start(shop.fulfil("A"), thread_id="t")
    await shop.begun.wait()
    async with anyio.create_task_group() as group:
        group.start_soon(waiter.wait, shop.fulfil("A"))
        await waiter.is_waiting()
        shop.release()
        await handle.result()
        shop.hold()
        later = await waiter.runtime.start(shop.fulfil("B"), thread_id="t")
        await shop.begun.wait()
        waiter.looks.set()
    assert waiter.outcomes == ["receipt for A"]
    shop.release()
    assert await later.result() == "receipt for B"
    assert shop.bodies == ["A", "B"]


@pytest.mark.parametrize(("end", "told"), [("cancel", RunCancelled), ("delete", RunNotFound)])
async def test_who_waits_for_a_run_elsewhere_begins_no_other(
    runtime: Runtime, waiter: Waiter, shop: Shop, end: str, told: type[Exception]
) -> None:
    """What was cancelled or deleted while he waited is not begun again."""
    shop.hold()
    await runtime.start(shop.fulfil("A"), thread_id="t")
    await shop.begun.wait()
    async with anyio.create_task_group() as group:
        group.start_soon(waiter.wait, shop.fulfil("A"))
        await waiter.is_waiting()
        await runtime.cancel("t")
        if end == "delete":
            await runtime.delete("t")
        waiter.looks.set()
    assert waiter.outcomes == [told]
    assert shop.bodies == ["A"]


async def test_who_waits_for_a_run_elsewhere_is_told_when_his_runtime_closes(
    runtime: Runtime, waiter: Waiter, shop: Shop
) -> None:
    """As those who wait for a run that it executes itself, whether he is looking or not."""
    shop.hold()
    handle = await runtime.start(shop.fulfil("A"), thread_id="t")
    await shop.begun.wait()
    async with anyio.create_task_group() as group:
        group.start_soon(waiter.wait, shop.fulfil("A"))
        await waiter.is_waiting()
        await waiter.runtime.aclose()
        waiter.looks.set()
    assert waiter.outcomes == [RunUnfinished]
    shop.release()
    assert await handle.result() == "receipt for A"


@pytest.mark.parametrize("options", [{}, {"wait": True}, {"supersede": True}])
async def test_executing_elsewhere_other_input(
    runtime: Runtime, other: Runtime, shop: Shop, options: dict[str, bool]
) -> None:
    """Another input is busy at once, whatever is asked for."""
    shop.hold()
    handle = await runtime.start(shop.fulfil("A"), thread_id="t")
    await shop.begun.wait()
    with pytest.raises(ThreadBusy) as caught:
        await other.run(shop.fulfil("B"), thread_id="t", **options)
    assert not caught.value.same_run
    shop.release()
    await handle.result()


async def test_a_closed_runtime_owns_nothing(
    runtime: Runtime, make_store: MakeStore, shop: Shop
) -> None:
    """Of several runtimes on one store, the end of one says nothing about the others."""
    shop.hold()
    async with Runtime(make_store()):
        handle = await runtime.start(shop.fulfil("A"), thread_id="t")
        await shop.begun.wait()
    async with Runtime(make_store()) as third:
        with pytest.raises(ThreadBusy):
            await third.run(shop.fulfil("A"), thread_id="t")
    shop.release()
    assert await handle.result() == "receipt for A"
    assert shop.bodies == ["A"]


async def test_an_older_runtime_that_closes_takes_nothing_from_a_younger_one(
    make_store: MakeStore, shop: Shop
) -> None:
    """The same the other way round."""
    shop.hold()
    older = await Runtime(make_store()).open()
    async with Runtime(make_store()) as younger, Runtime(make_store()) as third:
        handle = await younger.start(shop.fulfil("A"), thread_id="t")
        await shop.begun.wait()
        await older.aclose()
        with pytest.raises(ThreadBusy):
            await third.run(shop.fulfil("A"), thread_id="t")
        shop.release()
        assert await handle.result() == "receipt for A"
    assert shop.bodies == ["A"]


# The same with an explicit run id.


async def test_a_run_id_means_that_run(runtime: Runtime, shop: Shop) -> None:
    """Each turn gets its message's id: a repeated one runs once, equal words do twice."""
    for run_id in ("m1", "m1", "m2", "m1"):
        await runtime.run(shop.fulfil("hello"), thread_id="t", run_id=run_id)
    assert await statuses(runtime) == [("hello", "success")] * 2
    assert shop.bodies == ["hello", "hello"]


async def test_a_known_run_id_is_continued(runtime: Runtime, shop: Shop) -> None:
    """An unfinished run is continued by its id, and without it."""
    await shop.fail(runtime, "A", run_id="m1")
    await shop.fail(runtime, "A", run_id="m1")
    assert await runtime.run(shop.fulfil("A"), thread_id="t") == "receipt for A"
    assert await statuses(runtime) == [("A", "success")]
    assert shop.bodies == ["A"]


async def test_an_unknown_run_id_beside_an_unfinished_run(runtime: Runtime, shop: Shop) -> None:
    """Even with the same input: it is another run, and one is open."""
    await shop.leave(runtime, "A", run_id="m1")
    for order in ("A", "B"):
        with pytest.raises(RunUnfinished) as caught:
            await runtime.run(shop.fulfil(order), thread_id="t", run_id="m2")
        assert caught.value.run_id == "m1"


async def test_an_unknown_run_id_supersedes(runtime: Runtime, shop: Shop) -> None:
    """With ``supersede=True`` the open one is cancelled."""
    await shop.leave(runtime, "A", run_id="m1")
    await runtime.run(shop.fulfil("A"), thread_id="t", run_id="m2", supersede=True)
    assert await statuses(runtime) == [("A", "cancelled"), ("A", "success")]


async def test_a_known_run_id_with_another_input(runtime: Runtime, shop: Shop) -> None:
    """An id that was given to other words is a mistake of the caller's."""
    await runtime.run(shop.fulfil("A"), thread_id="t", run_id="m1")
    with pytest.raises(HistoryMismatch, match="m1"):
        await runtime.run(shop.fulfil("B"), thread_id="t", run_id="m1")


async def test_a_cancelled_run_id(runtime: Runtime, shop: Shop) -> None:
    """What was cancelled is not begun again under its id."""
    await shop.fail(runtime, "A", run_id="m1")
    await runtime.cancel("t")
    with pytest.raises(RunCancelled, match="m1"):
        await runtime.run(shop.fulfil("A"), thread_id="t", run_id="m1")


async def test_an_earlier_run_is_answered_by_its_id(runtime: Runtime, shop: Shop) -> None:
    """A request that is repeated late gets its own answer, though others came after it."""
    for order in ("A", "B"):
        await runtime.run(shop.fulfil(order), thread_id="t", run_id=order)
    await shop.fail(runtime, "C", run_id="C")
    assert await runtime.run(shop.fulfil("A"), thread_id="t", run_id="A") == "receipt for A"
    assert shop.bodies == ["A", "B", "C"]


async def test_an_ended_run_is_answered_by_its_id_while_another_executes(
    runtime: Runtime, shop: Shop
) -> None:
    """A repeated request never runs twice, and need not wait until the next one has ended."""
    await runtime.run(shop.fulfil("A"), thread_id="t", run_id="A")
    await shop.fail(runtime, "B", run_id="B")
    await runtime.cancel("t")
    shop.hold()
    handle = await runtime.start(shop.fulfil("C"), thread_id="t", run_id="C")
    await shop.begun.wait()
    assert await runtime.run(shop.fulfil("A"), thread_id="t", run_id="A") == "receipt for A"
    with pytest.raises(RunCancelled):
        await runtime.run(shop.fulfil("B"), thread_id="t", run_id="B")
    with pytest.raises(HistoryMismatch):
        await runtime.run(shop.fulfil("B"), thread_id="t", run_id="A")
    shop.release()
    assert await handle.result() == "receipt for C"
    assert shop.bodies == ["A", "B", "C"]


async def test_an_executing_run_is_joined_by_its_id(runtime: Runtime, shop: Shop) -> None:
    """The same id joins; another id is busy, with the same words too."""
    shop.hold()
    handle = await runtime.start(shop.fulfil("A"), thread_id="t", run_id="m1")
    await shop.begun.wait()
    with pytest.raises(ThreadBusy):
        await runtime.run(shop.fulfil("A"), thread_id="t", run_id="m2")
    again = await runtime.start(shop.fulfil("A"), thread_id="t", run_id="m1")
    shop.release()
    assert await again.result() == await handle.result() == "receipt for A"
    assert shop.bodies == ["A"]


async def test_ids_that_the_runtime_makes_are_not_repeated(runtime: Runtime, shop: Shop) -> None:
    """Runs without an id of the caller's get random ones."""
    for number in range(20):
        await runtime.run(shop.fulfil("A"), thread_id=f"t{number}")
    assert len({each.run_id for each in await runtime.runs()}) == 20


# Waiting, joining, cancelling.


async def test_each_waiter_gets_a_result_of_its_own(runtime: Runtime) -> None:
    """What one caller does to its result is not seen by another."""
    go_on = anyio.Event()
    results: list[list[int]] = []

    @workflow
    async def numbers() -> list[int]:
        await go_on.wait()
        return [1]

    async def caller() -> None:
        result = await runtime.run(numbers(), thread_id="t")
        result.append(2)
        results.append(result)

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        group.start_soon(caller)
        for _ in range(5):
            await checkpoint()
        go_on.set()
    assert results == [[1, 2], [1, 2]]


async def test_all_who_wait_meet_the_failure(runtime: Runtime) -> None:
    """Each waiter gets an exception of its own, of the same class and words."""
    go_on = anyio.Event()
    met: list[Crash] = []

    @workflow
    async def crash() -> None:
        await go_on.wait()
        raise Crash("all")

    async def caller() -> None:
        with pytest.raises(Crash, match="all") as caught:
            await runtime.run(crash(), thread_id="t")
        met.append(caught.value)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(caller)
        for _ in range(5):
            await checkpoint()
        go_on.set()
    assert len({id(each) for each in met}) == 3


async def test_a_run_goes_on_while_somebody_waits(runtime: Runtime, shop: Shop) -> None:
    """The first caller is cancelled, the second gets the result of the one execution."""
    shop.hold()
    first = anyio.CancelScope()
    results: list[str] = []

    async def caller(scope: anyio.CancelScope) -> None:
        with scope:
            results.append(await runtime.run(shop.fulfil("A"), thread_id="t"))

    async with anyio.create_task_group() as group:
        group.start_soon(caller, first)
        await shop.begun.wait()
        group.start_soon(caller, anyio.CancelScope())
        await checkpoint()
        first.cancel()
        for _ in range(5):
            await checkpoint()
        shop.release()
    assert results == ["receipt for A"]
    assert shop.bodies == ["A"]


async def test_when_the_last_waiter_is_cancelled_so_is_the_run(
    runtime: Runtime, shop: Shop
) -> None:
    """Nobody executes for nobody."""
    shop.hold()
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(_run_quietly, runtime, shop)
        await shop.begun.wait()
        await checkpoint()
        group.cancel_scope.cancel()
    record = await runtime.get("t")
    assert (record.status, record.owner) == ("running", None)


async def _run_quietly(runtime: Runtime, shop: Shop) -> None:
    await runtime.run(shop.fulfil("A"), thread_id="t")


async def test_a_started_run_needs_no_waiter(runtime: Runtime, shop: Shop) -> None:
    """``start`` counts as a waiter until the runtime closes: a client that goes stops nothing."""
    shop.hold()
    handle = await runtime.start(shop.fulfil("A"), thread_id="t")
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(handle.result)
            await shop.begun.wait()
            scope.cancel()
    assert handle.status == "running"
    shop.release()
    assert await handle.result() == "receipt for A"
    assert handle.status == "success"


async def test_a_call_that_comes_while_a_run_is_unwound_continues_it(
    runtime: Runtime, shop: Shop
) -> None:
    """Who comes while the last waiter leaves waits for the end, and executes what is missing."""
    cleaning, clean = anyio.Event(), anyio.Event()
    entered: list[str] = []

    @workflow
    async def slow() -> str:
        entered.append("slow")
        if len(entered) > 1:
            return "second"
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                cleaning.set()
                await clean.wait()
        return "never"

    scope = anyio.CancelScope()
    results: list[str] = []

    async def first() -> None:
        with scope:
            await runtime.run(slow(), thread_id="t")

    async def second() -> None:
        results.append(await runtime.run(slow(), thread_id="t"))

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        while not entered:
            await checkpoint()
        scope.cancel()
        await cleaning.wait()
        group.start_soon(second)
        for _ in range(5):
            await checkpoint()
        assert entered == ["slow"]
        clean.set()
    assert results == ["second"]


async def test_a_run_that_waits_for_itself_is_busy(runtime: Runtime) -> None:
    """A run that asks for its own result would never end."""

    @workflow
    async def ouroboros() -> str:
        with pytest.raises(ThreadBusy, match="itself"):
            await runtime.run(ouroboros(), thread_id="t")
        return "alive"

    assert await runtime.run(ouroboros(), thread_id="t") == "alive"


async def test_runs_that_wait_for_each_other_are_busy(runtime: Runtime) -> None:
    """However many runs the circle has, the call that would close it is refused."""

    @workflow
    async def link(number: int) -> str:
        if number == 3:
            with pytest.raises(ThreadBusy, match="itself"):
                await runtime.run(link(0), thread_id="thread-0")
            return "end"
        return await runtime.run(link(number + 1), thread_id=f"thread-{number + 1}")

    assert await runtime.run(link(0), thread_id="thread-0") == "end"


async def test_a_handle_shows_ids_and_status(runtime: Runtime, shop: Shop) -> None:
    """What a service answers a POST with before the run has ended."""
    shop.hold()
    handle = await runtime.start(shop.fulfil("A"), thread_id="t", run_id="m1")
    assert (handle.thread_id, handle.run_id, handle.status) == ("t", "m1", "running")
    shop.release()
    assert [await handle.result() for _ in range(2)] == ["receipt for A"] * 2
    assert handle.status == "success"


async def test_start_says_at_once_why_it_was_turned_down(runtime: Runtime, shop: Shop) -> None:
    """``start`` returns when the run is recorded, or raises what ``run`` would."""
    await shop.leave(runtime, "A")
    with pytest.raises(RunUnfinished):
        await runtime.start(shop.fulfil("B"), thread_id="t")


async def test_start_is_answered_by_a_finished_run(runtime: Runtime, shop: Shop) -> None:
    """A handle on a recorded result has it at once."""
    await runtime.run(shop.fulfil("A"), thread_id="t", run_id="m1")
    handle = await runtime.start(shop.fulfil("A"), thread_id="t")
    assert (handle.run_id, await handle.result()) == ("m1", "receipt for A")
    assert handle.status == "success"


async def test_a_failed_handle_raises_for_each_who_asks(runtime: Runtime, shop: Shop) -> None:
    """``result()`` raises what the workflow raised, as often as it is asked."""
    shop.crash = True
    handle = await runtime.start(shop.fulfil("A"), thread_id="t")
    for _ in range(2):
        with pytest.raises(Crash):
            await handle.result()
    assert handle.status == "error"


async def test_a_handle_cancels_its_run_for_good(runtime: Runtime, shop: Shop) -> None:
    """When ``cancel()`` returns nothing executes, and the run is over."""
    shop.hold()
    handle = await runtime.start(shop.fulfil("A"), thread_id="t")
    await shop.begun.wait()
    await handle.cancel()
    assert handle.status == "cancelled"
    assert (await runtime.get("t")).status == "cancelled"
    with pytest.raises(RunCancelled):
        await handle.result()


async def test_cancel_ends_an_executing_run(runtime: Runtime, shop: Shop) -> None:
    """``runtime.cancel`` unwinds what executes here; who waits is told."""
    shop.hold()
    handle = await runtime.start(shop.fulfil("A"), thread_id="t")
    await shop.begun.wait()
    async with anyio.create_task_group() as group:
        group.start_soon(runtime.cancel, "t")
        with pytest.raises(RunCancelled):
            await handle.result()


async def test_cancel_reaches_a_run_of_another_runtime(
    runtime: Runtime, other: Runtime, shop: Shop
) -> None:
    """The owner's next commit is refused, its run ended, and its caller told."""
    shop.hold()
    handle = await runtime.start(shop.fulfil("A"), thread_id="t")
    await shop.begun.wait()
    await other.cancel("t")
    shop.release()
    with pytest.raises(RunCancelled):
        await handle.result()
    assert (await runtime.get("t")).status == "cancelled"
    assert await runtime.tasks("t") == []


async def test_cancel_reaches_the_run_that_has_begun_since(
    runtime: Runtime, other: Runtime, shop: Shop
) -> None:
    """Also where a body still executes of one that was cancelled elsewhere before."""
    shop.hold()
    first = await runtime.start(shop.fulfil("A"), thread_id="t")
    await shop.begun.wait()
    await other.cancel("t")
    shop.begun = anyio.Event()
    second = await other.start(shop.fulfil("B"), thread_id="t")
    await shop.begun.wait()
    await runtime.cancel("t")
    shop.release()
    for handle in (first, second):
        with pytest.raises(RunCancelled):
            await handle.result()
    assert await statuses(runtime) == [("A", "cancelled"), ("B", "cancelled")]


async def test_cancel_reaches_the_run_that_has_begun_since_one_fell_asleep(
    runtime: Runtime, other: Runtime, shop: Shop
) -> None:
    """Also where nobody here has seen yet that the sleeping one was cancelled elsewhere."""

    @workflow
    async def ask() -> None:
        await receive("answer")

    asleep = await runtime.start(ask(), thread_id="t")
    with pytest.raises(RunPaused):
        await runtime.run(ask(), thread_id="t")
    shop.hold()
    await other.cancel("t")
    second = await other.start(shop.fulfil("B"), thread_id="t")
    await shop.begun.wait()
    await runtime.cancel("t")
    shop.release()
    for handle in (asleep, second):
        with pytest.raises(RunCancelled):
            await handle.result()


async def test_cancel_asks_for_an_unfinished_run(runtime: Runtime, shop: Shop) -> None:
    """What has succeeded, or never was, cannot be cancelled."""
    with pytest.raises(RunNotFound):
        await runtime.cancel("t")
    await runtime.run(shop.fulfil("A"), thread_id="t")
    with pytest.raises(RunNotFound):
        await runtime.cancel("t")
    assert (await runtime.get("t")).status == "success"


async def test_resume_continues_with_the_recorded_input(make_store: MakeStore, shop: Shop) -> None:
    """After a restart a run is continued by its thread alone."""
    async with Runtime(make_store()) as runtime:
        await shop.fail(runtime, "A")
    async with Runtime(make_store(), workflows=[shop.fulfil]) as runtime:
        assert await runtime.resume("t") == "receipt for A"
        assert await runtime.resume("t") == "receipt for A"
    assert shop.bodies == ["A"]


async def test_resume_needs_the_workflow(make_store: MakeStore, shop: Shop) -> None:
    """A runtime that was not given the workflow says which one is missing."""
    async with Runtime(make_store()) as runtime:
        await shop.fail(runtime, "A")
    async with Runtime(make_store()) as runtime:
        with pytest.raises(UnknownWorkflow, match="fulfil"):
            await runtime.resume("t")
        with pytest.raises(RunNotFound):
            await runtime.resume("unknown")


# Blocks without a workflow.


async def test_a_block_records_its_tasks(runtime: Runtime) -> None:
    """Entered again, a block answers its tasks from their records."""
    bodies: list[str] = []

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        return name

    for _ in range(2):
        async with runtime.thread("t"):
            assert await step("a") == "a"
            assert await step.map(["b", "c"]) == ["b", "c"]
    assert bodies == ["a", "b", "c"]
    assert (await runtime.get("t")).run_id == ""
    assert (await runtime.get("t")).status == "running"


async def test_a_block_executes_its_failed_tasks_again(runtime: Runtime) -> None:
    """A failure that left the block is executed again by the next one; a caught one is not."""
    bodies: list[str] = []

    @task
    async def step(name: str) -> None:
        bodies.append(name)
        raise Crash(name)

    async def block() -> None:
        async with runtime.thread("t"):
            try:
                await step("caught")
            except Crash:
                await step("uncaught")

    for _ in range(2):
        with pytest.raises(Crash, match="uncaught"):
            await block()
    assert bodies == ["caught", "uncaught", "uncaught"]


async def test_a_block_executes_in_its_callers_own_task(runtime: Runtime) -> None:
    """No task of its own stands between the block and the code around it."""
    before = anyio.get_current_task().id
    async with runtime.thread("t"):
        assert anyio.get_current_task().id == before


async def test_a_thread_is_used_by_blocks_or_by_workflows(runtime: Runtime, shop: Shop) -> None:
    """Not by both, in either order."""
    async with runtime.thread("blocks"):
        pass
    with pytest.raises(RunUnfinished, match="thread"):
        await runtime.run(shop.fulfil("A"), thread_id="blocks")
    await runtime.run(shop.fulfil("A"), thread_id="runs")
    with pytest.raises(HistoryMismatch):
        async with runtime.thread("runs"):
            pass


async def test_one_block_at_a_time_is_open_on_a_thread(runtime: Runtime, other: Runtime) -> None:
    """A second one is busy, here and in another runtime."""
    async with runtime.thread("t"):
        for second in (runtime, other):
            with pytest.raises(ThreadBusy):
                async with second.thread("t"):
                    pass
    async with other.thread("t"):
        pass


async def test_a_block_ends_with_its_context(runtime: Runtime) -> None:
    """After the block there is no run to call a task in."""

    @task
    async def step() -> None: ...

    async with runtime.thread("t"):
        await step()
    with pytest.raises(RuntimeError, match="outside a run"):
        step()


# What the runtime shows, and takes away.


async def test_get_shows_a_run(runtime: Runtime, shop: Shop) -> None:
    """Input, result, status and times of the latest run, or of the one that is named."""
    await runtime.run(shop.fulfil("A"), thread_id="t", run_id="m1")
    await runtime.run(shop.fulfil("B"), thread_id="t", run_id="m2")
    latest, first = await runtime.get("t"), await runtime.get("t", "m1")
    assert (latest.run_id, latest.sequence, latest.result) == ("m2", 2, "receipt for B")
    assert (first.run_id, first.sequence, first.input) == ("m1", 1, {"order": "A"})
    assert first.created <= first.started <= (first.finished or 0) <= latest.created
    assert first.error is None


async def test_what_is_not_there_is_not_found(runtime: Runtime, shop: Shop) -> None:
    """Every method that asks for a thread, a run or a call says that it is missing."""
    await runtime.run(shop.fulfil("A"), thread_id="t")
    for ask in (
        runtime.get("u"),
        runtime.get("t", "m9"),
        runtime.tasks("u"),
        runtime.tasks("t", "m9"),
        runtime.forget("t", "charge:00"),
        runtime.forget("u", "charge:00"),
        runtime.delete("u"),
        runtime.cancel("u"),
    ):
        with pytest.raises(RunNotFound):
            await ask


async def test_runs_are_listed_newest_first_in_pages(runtime: Runtime, shop: Shop) -> None:
    """By status, by workflow, and from any run on."""

    @workflow
    async def refund(order: str) -> str:
        return order

    for order in ("A", "B", "C"):
        await runtime.run(shop.fulfil(order), thread_id=order)
    await runtime.run(refund("D"), thread_id="D")
    await shop.fail(runtime, "E")

    def shown(runs: list[Any]) -> list[str]:
        return [each.input["order"] for each in runs]

    assert shown(await runtime.runs()) == ["E", "D", "C", "B", "A"]
    assert shown(await runtime.runs(status="success")) == ["D", "C", "B", "A"]
    assert shown(await runtime.runs(status="error")) == ["E"]
    assert shown(await runtime.runs(workflow=refund)) == ["D"]
    assert shown(await runtime.runs(workflow="fulfil")) == ["E", "C", "B", "A"]
    page = await runtime.runs(limit=2)
    assert shown(page) == ["E", "D"]
    assert shown(await runtime.runs(before=page[-1].number, limit=2)) == ["C", "B"]
    with pytest.raises(ValueError, match="nonsense"):
        await runtime.runs(status="nonsense")


async def test_tasks_shows_every_recorded_call(runtime: Runtime) -> None:
    """Name, id, parent, status, attempts, times, arguments, and value or error."""

    @task
    async def inner(number: int) -> list[int]:
        return [number]

    @task
    async def outer(number: int, *, label: str = "none") -> int:
        return (await inner(number))[0]

    @task
    async def fail() -> None:
        raise Crash("boom")

    @workflow
    async def shop() -> None:
        await outer(4, label="x")
        with pytest.raises(Crash):
            await fail()

    await runtime.run(shop(), thread_id="t", run_id="m1")
    first, second, third = await runtime.tasks("t")
    assert (first.name, first.parent_id, first.value) == ("inner", second.task_id, [4])
    assert (second.arguments, second.value) == ({"number": 4, "label": "x"}, 4)
    assert (second.status, second.parent_id, second.attempts) == ("success", None, 1)
    assert (third.status, third.error, third.value) == ("error", "Crash: boom", None)
    assert first.sequence < second.sequence < third.sequence
    assert {each.run_id for each in (first, second, third)} == {"m1"}
    assert second.started <= first.started
    assert second.duration >= 0
    assert second.task_id.startswith("outer:")
    assert await runtime.tasks("t", "m1") == [first, second, third]


async def test_forgetting_a_call_reopens_its_run(runtime: Runtime, shop: Shop) -> None:
    """Running the same call again executes what is missing."""
    await runtime.run(shop.fulfil("A"), thread_id="t")
    (record,) = await runtime.tasks("t")
    await runtime.forget("t", record.task_id)
    assert (await runtime.get("t")).status != "success"
    assert (await runtime.get("t")).result is None
    assert await runtime.run(shop.fulfil("A"), thread_id="t") == "receipt for A"
    assert await statuses(runtime) == [("A", "success")]
    assert shop.bodies == ["A", "A"]


async def test_forgetting_an_inner_call_forgets_the_outer_ones(runtime: Runtime) -> None:
    """Otherwise the outer record would answer, and nothing would execute."""
    bodies: list[str] = []

    @task
    async def inner(name: str) -> str:
        bodies.append(name)
        return name

    @task
    async def outer() -> str:
        bodies.append("outer")
        return await inner("a") + await inner("b")

    @workflow
    async def shop() -> str:
        return await outer()

    await runtime.run(shop(), thread_id="t")
    bodies.clear()
    await runtime.forget("t", (await runtime.tasks("t"))[0].task_id)
    assert await runtime.run(shop(), thread_id="t") == "ab"
    assert bodies == ["outer", "a"]


async def test_forgetting_a_call_of_an_earlier_run_reopens_nothing(
    runtime: Runtime, shop: Shop
) -> None:
    """Only the thread's latest run can be open."""
    for order in ("A", "B"):
        await runtime.run(shop.fulfil(order), thread_id="t", run_id=order)
    first, _ = await runtime.tasks("t")
    await runtime.forget("t", first.task_id)
    assert await statuses(runtime) == [("A", "success"), ("B", "success")]


async def test_a_deleted_thread_never_was(runtime: Runtime, shop: Shop) -> None:
    """``delete`` drops runs and records; the same call begins anew."""
    await runtime.run(shop.fulfil("A"), thread_id="t", run_id="m1")
    await runtime.delete("t")
    with pytest.raises(RunNotFound):
        await runtime.get("t")
    await runtime.run(shop.fulfil("A"), thread_id="t", run_id="m1")
    assert (await runtime.get("t")).sequence == 1
    assert shop.bodies == ["A", "A"]


async def test_what_executes_is_neither_forgotten_nor_deleted(
    runtime: Runtime, other: Runtime, shop: Shop
) -> None:
    """Both are busy while the run executes, here or in another runtime."""
    await runtime.run(shop.fulfil("A"), thread_id="t")
    (record,) = await runtime.tasks("t")
    shop.hold()
    handle = await runtime.start(shop.fulfil("B"), thread_id="t")
    await shop.begun.wait()
    for each in (runtime, other):
        with pytest.raises(ThreadBusy):
            await each.forget("t", record.task_id)
        with pytest.raises(ThreadBusy):
            await each.delete("t")
    shop.release()
    await handle.result()


# Ids.

GOOD_IDS = [
    "order-17", "'; DROP TABLE run; --", '"quoted"', "../../etc/passwd", "a\nb\r\tc", "🍕" * 128,
    " ", "x" * 512, "é", "e\u0301", "%s{0}", "\x7f\x01", "NULL",
]  # fmt: skip
BAD_IDS = ["", "\0", "a\0b", "x" * 513, "🍕" * 129, "\ud800", 17, None, b"t"]


@pytest.mark.parametrize("text", GOOD_IDS)
async def test_any_text_can_be_an_id(runtime: Runtime, shop: Shop, text: str) -> None:
    """Thread ids and run ids come back exactly as they were given."""
    await runtime.run(shop.fulfil("A"), thread_id=text, run_id=text)
    await runtime.run(shop.fulfil("A"), thread_id="other", run_id=text)
    record = await runtime.get(text, text)
    assert (record.thread_id, record.run_id) == (text, text)
    assert [each.run_id for each in await runtime.tasks(text)] == [text]
    assert {each.thread_id for each in await runtime.runs()} == {text, "other"}
    await runtime.delete(text)


@pytest.mark.parametrize("text", BAD_IDS, ids=repr)
async def test_anything_else_is_refused_before_a_task_executes(
    runtime: Runtime, shop: Shop, text: Any
) -> None:
    """The error says what an id is."""
    with pytest.raises((TypeError, ValueError), match="thread id"):
        await runtime.run(shop.fulfil("A"), thread_id=text)
    with pytest.raises((TypeError, ValueError), match="thread id"):
        async with runtime.thread(text):
            pass
    if text is not None:
        with pytest.raises((TypeError, ValueError), match="run id"):
            await runtime.run(shop.fulfil("A"), thread_id="t", run_id=text)
    for ask in (runtime.get, runtime.tasks, runtime.delete, runtime.cancel, runtime.resume):
        with pytest.raises((TypeError, ValueError), match="thread id"):
            await ask(text)
    assert shop.bodies == []
    assert await runtime.runs() == []


# Opening and closing.


async def test_a_runtime_is_opened_in_one_task_and_closed_in_another(
    make_store: MakeStore, shop: Shop
) -> None:
    """Fixtures, notebooks and lifespans do that; runs work from any task meanwhile."""
    runtime = Runtime(make_store())
    for step in (runtime.open, runtime.aclose):
        async with anyio.create_task_group() as group:
            group.start_soon(step)
        if step == runtime.open:
            assert await runtime.run(shop.fulfil("A"), thread_id="t") == "receipt for A"
    with pytest.raises(RuntimeError, match="not open"):
        await runtime.run(shop.fulfil("A"), thread_id="t")


async def test_a_runtime_can_be_opened_again(make_store: MakeStore, shop: Shop) -> None:
    """Closing ends it; ``open`` begins anew. Twice closed is closed; twice opened is an error."""
    runtime = Runtime(make_store())
    for _ in range(2):
        await runtime.open()
        with pytest.raises(RuntimeError, match="open already"):
            await runtime.open()
        assert await runtime.run(shop.fulfil("A"), thread_id="t") == "receipt for A"
        await runtime.aclose()
        await runtime.aclose()
    assert shop.bodies == ["A"]


async def test_a_runtime_that_is_not_open_says_so(shop: Shop) -> None:
    """Every method needs an open runtime."""
    runtime = Runtime(MemoryStore())
    with pytest.raises(RuntimeError, match="not open"):
        await runtime.run(shop.fulfil("A"), thread_id="t")
    with pytest.raises(RuntimeError, match="not open"):
        await runtime.runs()


async def test_an_error_of_the_users_is_not_wrapped_in_a_group() -> None:
    """What leaves the ``async with`` block is what was raised in it."""

    @workflow
    async def crash() -> None:
        raise Crash

    with pytest.raises(Crash):
        async with Runtime(MemoryStore()) as runtime:
            await runtime.run(crash(), thread_id="t")


async def test_a_path_opens_a_sqlite_store(tmp_path: Path, shop: Shop) -> None:
    """``Runtime("orders.db")`` is short for a SQLiteStore with its defaults."""
    for path in (tmp_path / "one.db", str(tmp_path / "one.db")):
        async with Runtime(path) as runtime:
            assert await runtime.run(shop.fulfil("A"), thread_id="t") == "receipt for A"
    assert shop.bodies == ["A"]
    async with Runtime(SQLiteStore(tmp_path / "one.db")) as runtime:
        assert len(await runtime.runs()) == 1


@pytest.mark.parametrize(
    "options",
    [{"max_concurrency": 0}, {"durability": "never"}, {"on_drift": "ignore"}],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    """A wrong option is refused where it is given."""
    with pytest.raises(ValueError, match=next(iter(options))):
        Runtime(MemoryStore(), **options)


async def test_only_workflows_can_be_run(runtime: Runtime) -> None:
    """A task, a coroutine or a workflow that was not called are refused with an example."""

    @task
    async def step() -> None: ...

    @workflow
    async def shop() -> None: ...

    for wrong in (step, shop, None):
        with pytest.raises(TypeError, match="call of a workflow"):
            await runtime.run(wrong, thread_id="t")  # type: ignore[arg-type]


async def test_a_run_executes_in_a_copy_of_its_callers_context(runtime: Runtime) -> None:
    """Opened in one context, the runtime executes each run in that of its first caller."""

    user: ContextVar[str] = ContextVar("user")

    @workflow
    async def who() -> str:
        name = user.get()
        user.set("changed")
        return name

    for name in ("ada", "grace"):
        user.set(name)
        assert await runtime.run(who(), thread_id=secrets.token_hex(4)) == name
        assert user.get() == name


@on_asyncio
async def test_a_run_works_under_asyncios_own_tools(runtime: Runtime, shop: Shop) -> None:
    """``gather`` and ``wait_for`` around ``runtime.run``."""
    results = await asyncio.gather(
        *(runtime.run(shop.fulfil(str(each % 3)), thread_id=str(each % 3)) for each in range(9))
    )
    assert results == [f"receipt for {each % 3}" for each in range(9)]
    assert sorted(shop.bodies) == ["0", "1", "2"]
    shop.hold()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(runtime.run(shop.fulfil("A"), thread_id="t"), 0.02)
    assert (await runtime.get("t")).owner is None


async def test_a_cancelled_supersede_keeps_what_previous_gives(runtime: Runtime) -> None:
    """A run that was superseded saved nothing; the one before it still counts."""

    @workflow
    async def turn(message: str) -> str:
        if message == "bad":
            raise Crash
        return f"{previous(str)} {message}"

    await runtime.run(turn("one"), thread_id="t")
    with pytest.raises(Crash):
        await runtime.run(turn("bad"), thread_id="t")
    result = await runtime.run(turn("two"), thread_id="t", supersede=True)
    assert result == "None one two"


async def test_a_block_that_outlives_its_runtime_is_told(make_store: MakeStore) -> None:
    """Nothing can be recorded after aclose(): the next call says so, and nothing hangs."""

    @task
    async def step() -> int:
        return 1

    runtime = await Runtime(make_store()).open()

    async def block() -> None:
        async with runtime.thread("thread"):
            await step()
            await runtime.aclose()
            await step()

    with pytest.raises(StoreError, match="after the runtime was closed"):
        await block()


async def test_a_body_may_cancel_its_own_thread(runtime: Runtime) -> None:
    """It is unwound by that, and does not wait for itself."""

    @task
    async def give_up() -> None:
        await runtime.cancel("thread")

    @workflow
    async def flow() -> None:
        await give_up()

    with pytest.raises(RunCancelled):
        await runtime.run(flow(), thread_id="thread")

    assert (await runtime.get("thread")).status == "cancelled"


async def test_a_block_s_thread_cannot_be_cancelled_for_good(runtime: Runtime) -> None:
    """Its run never finishes; delete() is the way to be rid of it."""

    @task
    async def step() -> int:
        return 1

    async with runtime.thread("thread"):
        await step()
    with pytest.raises(RunNotFound, match="delete"):
        await runtime.cancel("thread")
    async with runtime.thread("thread"):
        assert await step() == 1


@pytest.mark.parametrize("ask", ["run", "aclose"])
async def test_an_open_runtime_is_refused_to_another_event_loop(ask: str) -> None:
    """What it would wait for there could never wake it."""

    @workflow
    async def echo(text: str) -> str:
        return text

    async with Runtime(MemoryStore()) as runtime:

        async def elsewhere() -> None:
            await (runtime.run(echo("A1"), thread_id="A1") if ask == "run" else runtime.aclose())

        with pytest.raises(RuntimeError, match="one Runtime on each event loop"):
            await asyncio.wait_for(asyncio.to_thread(asyncio.run, elsewhere()), 30)
        assert await runtime.run(echo("A1"), thread_id="A1") == "A1"
