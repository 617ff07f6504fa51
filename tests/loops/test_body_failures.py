"""What decides whether a body has failed, been cancelled, or returned in time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable

import anyio
import pytest
from kinds import in_memory, in_memory_on_asyncio

from taskflow import MemoryStore, RetryPolicy, Runtime, TaskFailed, TaskTimeout, task, workflow

pytestmark = pytest.mark.anyio

AT_ONCE = RetryPolicy(max_attempts=3, initial_interval=0, retry_on=Exception)


class Refused(Exception):
    """What a body fails with."""


async def refuse() -> None:
    """Fail after a step, as something that was waited for."""
    await asyncio.sleep(0)
    raise Refused


async def fail_in_a_group() -> None:
    """Leave ``Task.cancelling()`` at 1, on Python 3.11 and 3.12, and raise a group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(refuse())
        group.create_task(asyncio.sleep(60))


async def fail_by_a_careless_time_limit() -> None:
    """Leave ``Task.cancelling()`` at 1, as aiohttp 3.10 does on every Python."""
    host = asyncio.current_task()
    assert host is not None
    asyncio.get_running_loop().call_soon(host.cancel)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        raise Refused from None


async def handle_a_failed_group() -> None:
    """Leave ``Task.cancelling()`` at 1, and go on."""
    try:
        await fail_in_a_group()
    except* Refused:
        pass


async def fail_after_a_handled_group() -> None:
    """Fail plainly, with a count that an earlier group has left."""
    await handle_a_failed_group()
    raise Refused


async def await_what_is_cancelled() -> None:
    """Raise CancelledError without having been cancelled."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def await_what_is_cancelled_after_a_group() -> None:
    """The same, with a count that an earlier group has left."""
    await handle_a_failed_group()
    await asyncio.sleep(0)
    await await_what_is_cancelled()


async def await_a_child_that_is_cancelled() -> None:
    """The CancelledError of a child is none of the parent's."""
    child = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    child.cancel()
    await child


FAILURES = [
    fail_in_a_group,
    fail_by_a_careless_time_limit,
    fail_after_a_handled_group,
    await_what_is_cancelled,
    await_what_is_cancelled_after_a_group,
    await_a_child_that_is_cancelled,
]

every_failure = pytest.mark.parametrize("fail", FAILURES, ids=lambda each: each.__name__)
Fail = Callable[[], Awaitable[None]]


@in_memory_on_asyncio
@every_failure
async def test_a_handled_failure_is_recorded(runtime: Runtime, fail: Fail) -> None:
    """Whatever a library has left on ``Task.cancelling()``, what leaves the body is a failure."""

    @task
    async def step() -> None:
        await fail()

    @workflow
    async def flow() -> str:
        try:
            await step()
        except* (Refused, TaskFailed):
            pass
        return "handled"

    assert await runtime.run(flow(), thread_id="t") == "handled"
    assert [each.status for each in await runtime.tasks("t")] == ["error"]


@in_memory_on_asyncio
@every_failure
async def test_an_unhandled_failure_is_executed_again(runtime: Runtime, fail: Fail) -> None:
    """It is un-recorded with the run that it ends, and the next run executes it."""
    bodies: list[str] = []

    @task
    async def step() -> str:
        bodies.append("step")
        if len(bodies) == 1:
            await fail()
        return "done"

    @workflow
    async def flow() -> str:
        return await step()

    with pytest.raises((Refused, ExceptionGroup, TaskFailed)):
        await runtime.run(flow(), thread_id="t")
    assert (await runtime.get("t")).status == "error"
    assert await runtime.run(flow(), thread_id="t") == "done"


@in_memory_on_asyncio
@every_failure
async def test_a_policy_retries_a_failure(runtime: Runtime, fail: Fail) -> None:
    """All attempts are made."""
    bodies: list[str] = []

    @task(retry=RetryPolicy(max_attempts=3, initial_interval=0, retry_on=lambda error: True))
    async def step() -> None:
        bodies.append("step")
        await fail()

    @workflow
    async def flow() -> None:
        await step()

    with pytest.raises((Refused, ExceptionGroup, TaskFailed)):
        await runtime.run(flow(), thread_id="t")
    assert len(bodies) == 3


@in_memory_on_asyncio
@pytest.mark.parametrize("before", [handle_a_failed_group, fail_by_a_careless_time_limit])
async def test_a_time_limit_holds_after_a_left_count(runtime: Runtime, before: Fail) -> None:
    """A body with a ``timeout`` whose group has failed is stopped all the same."""

    @task(timeout=0.02)
    async def slow() -> None:
        with contextlib.suppress(Refused):
            await before()
        await asyncio.sleep(60)

    @workflow
    async def flow() -> str:
        try:
            await slow()
        except TaskTimeout:
            return "in time"
        return "late"

    assert await runtime.run(flow(), thread_id="t") == "in time"


@in_memory_on_asyncio
async def test_a_workflow_whose_group_failed_records_later_failures(runtime: Runtime) -> None:
    """The count that the workflow's own group has left says nothing about its calls."""

    @task
    async def step() -> None:
        raise Refused

    @workflow
    async def flow() -> str:
        await handle_a_failed_group()
        try:
            await step()
        except Refused:
            return "handled"
        return "done"

    assert await runtime.run(flow(), thread_id="t") == "handled"
    assert [each.status for each in await runtime.tasks("t")] == ["error"]


@in_memory_on_asyncio
async def test_a_count_that_a_body_has_left_does_not_reach_a_scope_around_it(
    runtime: Runtime,
) -> None:
    """The workflow's own scope swallows its own cancellation after a call whose group failed."""

    @task
    async def step() -> None:
        await handle_a_failed_group()

    @workflow
    async def flow() -> str:
        with anyio.move_on_after(0.02):
            await step()
            await anyio.sleep_forever()
        return "moved on"

    assert await runtime.run(flow(), thread_id="t") == "moved on"


async def pass_on() -> None:
    """Let the cancellation through, after a cleanup that waits."""
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)


async def raise_another() -> None:
    """Raise another CancelledError in its place."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError as error:
        raise asyncio.CancelledError("of my own") from error


async def raise_another_later() -> None:
    """The same, without any link to the first one, as `asyncio.Condition` may."""
    is_cancelled = False
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        is_cancelled = True
    if is_cancelled:
        raise asyncio.CancelledError


async def limit_the_cleanup() -> None:
    """Have a time limit fire in the cleanup, which withdraws a request of its own."""
    try:
        await asyncio.sleep(60)
    finally:
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(60)
        except TimeoutError:
            await asyncio.sleep(0)


async def pass_on_after_a_group() -> None:
    """Be cancelled with a count that an earlier group has left."""
    await handle_a_failed_group()
    await asyncio.sleep(60)


async def wait_for_children() -> None:
    """Be cancelled through a gather, which makes a CancelledError of its own."""
    await asyncio.gather(asyncio.sleep(60), asyncio.sleep(60))


CANCELLED = [pass_on, raise_another, limit_the_cleanup, pass_on_after_a_group, wait_for_children]


@in_memory_on_asyncio
@pytest.mark.parametrize("wait", [*CANCELLED, raise_another_later], ids=lambda each: each.__name__)
async def test_a_cancelled_body_records_nothing(runtime: Runtime, wait: Fail) -> None:
    """Who was cancelled has not failed, and is executed by the next run."""

    @task
    async def step() -> None:
        await wait()

    @workflow
    async def flow() -> str:
        try:
            async with asyncio.timeout(0.02):
                await step()
        except TimeoutError:
            return "cancelled"
        return "done"

    assert await runtime.run(flow(), thread_id="t") == "cancelled"
    assert await runtime.tasks("t") == []


@in_memory_on_asyncio
@pytest.mark.parametrize("wait", CANCELLED, ids=lambda each: each.__name__)
async def test_a_body_cancelled_by_a_scope_records_nothing(runtime: Runtime, wait: Fail) -> None:
    """The same for a scope of anyio around the call."""

    @task
    async def step() -> None:
        await wait()

    @workflow
    async def flow() -> str:
        with anyio.move_on_after(0.02):
            await step()
        return "cancelled"

    assert await runtime.run(flow(), thread_id="t") == "cancelled"
    assert await runtime.tasks("t") == []


@in_memory_on_asyncio
async def test_an_exception_out_of_a_cancelled_body_is_a_failure(runtime: Runtime) -> None:
    """The caller sees it, and so does every rerun."""

    @task
    async def step() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise Refused from None

    @workflow
    async def flow() -> str:
        try:
            async with asyncio.timeout(0.02):
                await step()
        except Refused:
            return "refused"
        return "done"

    assert await runtime.run(flow(), thread_id="t") == "refused"
    assert [each.status for each in await runtime.tasks("t")] == ["error"]


async def test_a_thread_that_raises_cancelled_error_has_failed() -> None:
    """A ``def`` body that raises CancelledError without having been cancelled has failed."""

    @task
    def step() -> None:
        raise asyncio.CancelledError("of my own")

    @workflow
    async def flow() -> str:
        try:
            await step()
        except TaskFailed as error:
            return error.message
        return "done"

    async with Runtime(MemoryStore()) as runtime:
        assert await runtime.run(flow(), thread_id="t") == "of my own"


@in_memory
async def test_what_a_body_returns_that_swallowed_its_timeout_is_no_result(
    runtime: Runtime,
) -> None:
    """``TaskTimeout`` is the outcome: what the body makes of its cancellation came too late."""

    @task(timeout=0.02)
    async def stubborn() -> str:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            pass
        return "half of it"

    @workflow
    async def flow() -> str:
        try:
            return await stubborn()
        except TaskTimeout:
            return "too late"

    assert await runtime.run(flow(), thread_id="t") == "too late"
    assert [each.status for each in await runtime.tasks("t")] == ["error"]


@in_memory
async def test_a_swallowed_timeout_is_retried(runtime: Runtime) -> None:
    """It is a failure of the attempt, like any timeout."""
    bodies: list[str] = []

    @task(timeout=0.02, retry=AT_ONCE)
    async def stubborn() -> str:
        bodies.append("stubborn")
        if len(bodies) == 1:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                pass
        return f"attempt {len(bodies)}"

    @workflow
    async def flow() -> str:
        return await stubborn()

    assert await runtime.run(flow(), thread_id="t") == "attempt 2"


@in_memory
async def test_a_body_that_was_not_interrupted_has_returned_in_time(runtime: Runtime) -> None:
    """A body that blocked the event loop beyond its limit has completed: its result is kept."""

    @task(timeout=0.02)
    async def busy() -> str:
        threading.Event().wait(0.05)
        return "done"

    @workflow
    async def flow() -> str:
        return await busy()

    assert await runtime.run(flow(), thread_id="t") == "done"
