"""`Slots` and `WorkerThreads`: how many bodies execute, and where ``def`` bodies do."""

from __future__ import annotations

import threading
from contextvars import ContextVar, copy_context

import anyio
import anyio.from_thread
import pytest
from anyio.lowlevel import current_token

from taskflow.loops.loop import current_loop
from taskflow.loops.scheduler import Slots
from taskflow.loops.workers import TimedOut, WorkerThreads

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Both event loops."""
    return str(request.param)


def nothing(cancellation: BaseException) -> None:
    pass


async def test_slots_are_handed_on_in_the_order_in_which_they_were_asked_for() -> None:
    """First come, first served."""
    slots = Slots(1, current_loop())
    order: list[int] = []

    async def work(number: int) -> None:
        await slots.take()
        order.append(number)
        slots.give_back()

    await slots.take()
    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(work, number)
            await anyio.wait_all_tasks_blocked()
        slots.give_back()

    assert order == [0, 1, 2, 3, 4]
    assert slots.try_take()


async def test_no_more_slots_are_taken_than_there_are() -> None:
    """try_take says no when none is free."""
    slots = Slots(2, current_loop())

    assert [slots.try_take() for _ in range(3)] == [True, True, False]
    slots.give_back()
    assert slots.try_take()


async def test_a_cancelled_waiter_is_passed_over() -> None:
    """It gives up its place, and the slot goes to the one behind it."""
    slots = Slots(1, current_loop())
    await slots.take()
    served: list[str] = []

    async def work(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            await slots.take()
            served.append(name)

    first, second = anyio.CancelScope(), anyio.CancelScope()
    async with anyio.create_task_group() as group:
        for name, scope in (("first", first), ("second", second)):
            group.start_soon(work, name, scope)
            await anyio.wait_all_tasks_blocked()
        first.cancel()
        await anyio.wait_all_tasks_blocked()
        slots.give_back()

    assert served == ["second"]


async def test_a_slot_that_reaches_a_cancelled_waiter_is_not_lost() -> None:
    """Served and cancelled in one moment: it is used or handed on."""
    slots = Slots(1, current_loop())
    await slots.take()
    scope = anyio.CancelScope()
    served: list[str] = []

    async def work() -> None:
        with scope:
            await slots.take()
            served.append("took it")

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        slots.give_back()
        scope.cancel()

    if served:
        slots.give_back()
    assert slots.try_take()
    assert not slots.try_take()


async def test_a_function_is_called_in_a_daemon_thread_in_its_context() -> None:
    """What it returns comes back; the process can end without it."""
    threads = WorkerThreads(current_loop())
    variable: ContextVar[str] = ContextVar("variable")
    context = copy_context()
    context.run(variable.set, "seen")

    def look() -> tuple[str, bool, bool]:
        thread = threading.current_thread()
        return variable.get(), thread.daemon, thread is threading.main_thread()

    assert await threads.call(context, look, None, nothing) == ("seen", True, False)
    threads.close()


async def test_what_a_function_raises_comes_back_as_it_was() -> None:
    """The same exception object."""
    threads = WorkerThreads(current_loop())
    error = KeyError("k")

    def fail() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        await threads.call(copy_context(), fail, None, nothing)

    assert caught.value is error
    threads.close()


async def test_an_idle_thread_is_used_again() -> None:
    """One after another needs one thread."""
    threads = WorkerThreads(current_loop())

    seen = {
        await threads.call(copy_context(), threading.get_ident, None, nothing) for _ in range(5)
    }

    assert len(seen) == 1
    threads.close()


async def test_a_cancellation_waits_for_the_thread() -> None:
    """It is told by when_cancelled, and the thread has ended when the call does."""
    threads = WorkerThreads(current_loop())
    asked = threading.Event()
    ended: list[bool] = []

    def work() -> None:
        ended.append(asked.wait(5))

    def ask(cancellation: BaseException) -> None:
        asked.set()

    async with anyio.create_task_group() as group:
        group.start_soon(threads.call, copy_context(), work, None, ask)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()

    assert ended == [True]
    threads.close()


async def test_what_a_cancelled_thread_returns_is_not_lost() -> None:
    """The call returns it, and passes the cancellation on to be raised later."""
    threads = WorkerThreads(current_loop())
    begun, asked = anyio.Event(), threading.Event()
    token, passed, returned = current_token(), [], []

    def work() -> bool:
        anyio.from_thread.run_sync(begun.set, token=token)
        return asked.wait(5)

    def ask(cancellation: BaseException) -> None:
        passed.append(cancellation)
        asked.set()

    async def call() -> None:
        returned.append(await threads.call(copy_context(), work, None, ask))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await begun.wait()
        group.cancel_scope.cancel()

    assert returned == [True]
    assert isinstance(passed[0], anyio.get_cancelled_exc_class())
    threads.close()


async def test_a_cancelled_thread_is_abandoned_at_its_limit() -> None:
    """A cancellation waits for a thread no longer than its caller would have."""
    threads = WorkerThreads(current_loop())
    release = threading.Event()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await threads.call(copy_context(), release.wait, 0.01, nothing)
    assert scope.cancelled_caught
    release.set()
    threads.close()


async def test_a_timed_out_thread_is_abandoned() -> None:
    """Only a timed-out one; it is not used again, and what it returns is dropped."""
    threads = WorkerThreads(current_loop())
    release = threading.Event()
    stuck: list[int] = []

    def work() -> None:
        stuck.append(threading.get_ident())
        release.wait(5)

    with pytest.raises(TimedOut):
        await threads.call(copy_context(), work, 0.01, nothing)

    other = await threads.call(copy_context(), threading.get_ident, None, nothing)
    assert [other] != stuck
    release.set()
    threads.close()
