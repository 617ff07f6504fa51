"""A handled failure is history; an unhandled one is executed again."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import anyio
import pytest
from kinds import MakeStore, in_memory
from reruns import Crash, CrashOnce, fails_twice

from taskflow import (
    MemoryStore,
    RetryPolicy,
    Runtime,
    SQLiteStore,
    TaskFailed,
    task,
    workflow,
)

pytestmark = pytest.mark.anyio

AT_ONCE = RetryPolicy(max_attempts=3, initial_interval=0)


class CardDeclined(Exception):
    """What a provider says."""


_bodies: list[str] = []


@task
async def charge(card: str = "charge") -> None:
    """Declines every card, and notes it in the fixture ``bodies``."""
    _bodies.append(card)
    raise CardDeclined(card)


@pytest.fixture
def bodies() -> list[str]:
    """What the bodies of a test note, those of ``charge`` among them."""
    _bodies.clear()
    return _bodies


class OrderFailed(Exception):
    """What a workflow makes of it."""


class Refused(Exception):
    """Its constructor would garble the message, were it called again."""

    def __init__(self, order: str, *, code: int) -> None:
        super().__init__(f"{order} was refused with {code}")
        self.order = order
        self.code = code


class ConnectionLost(Exception):
    """Its text is made of what nothing records."""

    def __init__(self, connection: object) -> None:
        super().__init__(connection)

    def __str__(self) -> str:
        return f"lost {type(self.args[0]).__name__}"


async def test_a_caught_failure_is_met_again_without_execution(runtime: Runtime) -> None:
    """A failure that the workflow caught is history: after a crash the rerun takes the same way."""
    bodies: list[str] = []
    crash_once = CrashOnce()

    @task
    async def charge(card: str) -> str:
        bodies.append(f"charge {card}")
        raise CardDeclined(card)

    @task
    async def send_invoice(card: str) -> str:
        bodies.append(f"invoice {card}")
        return "invoiced"

    @workflow
    async def order(card: str) -> str:
        try:
            return await charge(card)
        except CardDeclined as error:
            outcome = await send_invoice(str(error))
        crash_once()
        return outcome

    with pytest.raises(Crash):
        await runtime.run(order("4242"), thread_id="t")
    assert await runtime.run(order("4242"), thread_id="t") == "invoiced"

    assert bodies == ["charge 4242", "invoice 4242"]


async def test_a_caught_failure_stays_history_over_many_reruns(
    runtime: Runtime, bodies: list[str]
) -> None:
    """Every rerun meets the failure, not only the first one."""

    @workflow
    async def order() -> None:
        try:
            await charge()
        except CardDeclined:
            raise Crash from None

    for _ in range(4):
        with pytest.raises(Crash):
            await runtime.run(order(), thread_id="t")

    assert bodies == ["charge"]


async def test_an_uncaught_failure_is_executed_again_and_nothing_else(runtime: Runtime) -> None:
    """The failure that ended a run is un-recorded: the next run executes just that task again."""
    bodies: list[str] = []
    failures = [CardDeclined()]

    @task
    async def reserve() -> None:
        bodies.append("reserve")

    @task
    async def charge() -> str:
        bodies.append("charge")
        if failures:
            raise failures.pop()
        return "paid"

    @workflow
    async def order() -> str:
        await reserve()
        return await charge()

    with pytest.raises(CardDeclined):
        await runtime.run(order(), thread_id="t")
    assert [each.name for each in await runtime.tasks("t")] == ["reserve"]
    assert await runtime.run(order(), thread_id="t") == "paid"

    assert bodies == ["reserve", "charge", "charge"]


async def test_a_caught_failure_stays_when_another_one_ends_the_run(
    runtime: Runtime, bodies: list[str]
) -> None:
    """Of two failures, the one that escaped is executed again; the handled one is not."""

    @workflow
    async def order() -> None:
        try:
            await charge("first")
        except CardDeclined:
            await charge("second")

    await fails_twice(runtime, order, CardDeclined, match="second")

    assert bodies == ["first", "second", "second"]


async def test_raise_from_passes_the_failure_on(runtime: Runtime, bodies: list[str]) -> None:
    """``raise … from error`` ends the run by the task's failure: it is executed again."""

    @workflow
    async def order() -> None:
        try:
            await charge()
        except CardDeclined as error:
            raise OrderFailed("A1") from error

    for error in await fails_twice(runtime, order, OrderFailed):
        assert isinstance(error.__cause__, CardDeclined)

    assert bodies == ["charge", "charge"]


async def test_raise_in_an_except_block_has_handled_the_failure(
    runtime: Runtime, bodies: list[str]
) -> None:
    """The ``__context__`` of an exception is no reason to execute anything again."""

    @workflow
    async def order() -> None:
        try:
            await charge()
        except CardDeclined:
            raise OrderFailed("A1")  # noqa: B904

    await fails_twice(runtime, order, OrderFailed)

    assert bodies == ["charge"]


async def test_a_failure_that_was_caught_and_raised_later_ends_the_run(
    runtime: Runtime, bodies: list[str]
) -> None:
    """What counts is the escaping exception, not where it was raised."""

    @task
    async def log_it() -> None:
        bodies.append("log")

    @workflow
    async def order() -> None:
        failure: Exception | None = None
        try:
            await charge()
        except CardDeclined as error:
            failure = error
        await log_it()
        assert failure is not None
        raise failure

    await fails_twice(runtime, order, CardDeclined)

    assert bodies == ["charge", "log", "charge"]


async def test_the_members_of_an_escaping_group_are_executed_again(runtime: Runtime) -> None:
    """Each failure in a group that ended the run is executed again; the successes are not."""
    bodies: list[str] = []
    both_have_begun = anyio.Event()

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        if name == "good":
            return name
        if len(bodies) >= 3:
            both_have_begun.set()
        with anyio.CancelScope(shield=True):
            await both_have_begun.wait()
        raise CardDeclined(name)

    @workflow
    async def order() -> None:
        await step("good")
        async with anyio.create_task_group() as group:
            group.start_soon(step, "bad")
            group.start_soon(step, "worse")

    for _ in range(2):
        with pytest.raises(ExceptionGroup) as caught:
            await runtime.run(order(), thread_id="t")
        assert caught.group_contains(CardDeclined)

    assert bodies[0] == "good"
    assert sorted(bodies[1:]) == ["bad", "bad", "worse", "worse"]


async def test_a_group_as_a_cause_passes_its_members_on(runtime: Runtime) -> None:
    """``raise … from group`` passes on every failure in the group."""
    bodies: list[str] = []

    @task
    async def step(name: str) -> None:
        bodies.append(name)
        raise CardDeclined(name)

    @workflow
    async def order() -> None:
        errors: list[Exception] = []
        for name in ("a", "b"):
            try:
                await step(name)
            except CardDeclined as error:
                errors.append(error)
        raise OrderFailed from ExceptionGroup("both", errors)

    await fails_twice(runtime, order, OrderFailed)

    assert bodies == ["a", "b", "a", "b"]


async def test_un_recording_follows_the_failure_down_through_nested_calls(
    runtime: Runtime,
) -> None:
    """A failure that passed through tasks is executed again at every level, and only there."""
    bodies: list[str] = []
    failures = [CardDeclined()]

    @task
    async def look_up() -> None:
        bodies.append("look_up")

    @task
    async def charge() -> str:
        bodies.append("charge")
        if failures:
            raise failures.pop()
        return "paid"

    @task
    async def pay() -> str:
        bodies.append("pay")
        await look_up()
        return await charge()

    @task
    async def order() -> str:
        bodies.append("order")
        return await pay()

    @workflow
    async def shop() -> str:
        return await order()

    with pytest.raises(CardDeclined):
        await runtime.run(shop(), thread_id="t")
    assert await runtime.run(shop(), thread_id="t") == "paid"

    assert bodies == ["order", "pay", "look_up", "charge", "order", "pay", "charge"]


async def test_a_nested_failure_passed_on_as_a_cause_is_executed_again(
    runtime: Runtime, bodies: list[str]
) -> None:
    """``raise … from`` inside a task is followed down too."""

    @task
    async def pay() -> None:
        bodies.append("pay")
        try:
            await charge()
        except CardDeclined as error:
            raise OrderFailed from error

    @workflow
    async def shop() -> None:
        await pay()

    await fails_twice(runtime, shop, OrderFailed)

    assert bodies == ["pay", "charge", "pay", "charge"]


async def test_a_failure_that_a_task_handled_is_history_inside_it(
    runtime: Runtime, bodies: list[str]
) -> None:
    """What the outer task handled is not executed again when the outer task is."""

    @task
    async def pay() -> None:
        bodies.append("pay")
        with contextlib.suppress(CardDeclined):
            await charge()
        raise OrderFailed

    @workflow
    async def shop() -> None:
        await pay()

    await fails_twice(runtime, shop, OrderFailed)

    assert bodies == ["pay", "charge", "pay"]


async def test_a_caught_nested_failure_is_not_looked_into_again(
    runtime: Runtime, bodies: list[str]
) -> None:
    """When the workflow caught the outer failure, neither level executes again."""

    @task
    async def pay() -> None:
        bodies.append("pay")
        await charge()

    @workflow
    async def shop() -> None:
        try:
            await pay()
        except CardDeclined:
            raise Crash from None

    await fails_twice(runtime, shop, Crash)

    assert bodies == ["pay", "charge"]


async def test_a_failure_escapes_through_a_child_workflow(
    runtime: Runtime, bodies: list[str]
) -> None:
    """A child workflow is a call like any other: its failed task is executed again."""

    @task
    async def reserve() -> None:
        bodies.append("reserve")

    @workflow
    async def order() -> None:
        bodies.append("order")
        await reserve()
        await charge()

    @workflow
    async def shop() -> None:
        await order()

    await fails_twice(runtime, shop, CardDeclined)

    assert bodies == ["order", "reserve", "charge", "order", "charge"]


async def test_a_failed_map_is_executed_again_only_where_it_failed(runtime: Runtime) -> None:
    """The failure that ended a map, and the run with it, is executed again; its results are not."""
    bodies: list[int] = []

    @task
    async def step(number: int) -> int:
        bodies.append(number)
        if number == 2 and bodies.count(2) == 1:
            raise CardDeclined(number)
        return number

    @workflow
    async def count() -> list[int]:
        return await step.map([0, 1, 2, 3], concurrency=1)

    with pytest.raises(CardDeclined):
        await runtime.run(count(), thread_id="t")
    assert await runtime.run(count(), thread_id="t") == [0, 1, 2, 3]

    assert bodies == [0, 1, 2, 2, 3]


async def test_the_next_attempt_of_a_task_executes_only_what_failed(runtime: Runtime) -> None:
    """Between the attempts of a task that calls tasks the same rule holds."""
    bodies: list[str] = []

    @task
    async def look_up() -> None:
        bodies.append("look_up")

    @task
    async def charge() -> str:
        bodies.append("charge")
        if bodies.count("charge") < 3:
            raise CardDeclined
        return "paid"

    @task(retry=AT_ONCE)
    async def pay() -> str:
        bodies.append("pay")
        await look_up()
        return await charge()

    @workflow
    async def shop() -> str:
        return await pay()

    assert await runtime.run(shop(), thread_id="t") == "paid"
    assert bodies == ["pay", "look_up", "charge", "pay", "charge", "pay", "charge"]


async def test_the_next_attempt_of_a_task_meets_what_it_handled(
    runtime: Runtime, bodies: list[str]
) -> None:
    """A failure that an attempt handled is history for the attempts after it."""

    @task(retry=AT_ONCE)
    async def pay() -> str:
        bodies.append("pay")
        try:
            await charge()
        except CardDeclined:
            if bodies.count("pay") < 3:
                raise ConnectionError("unrelated") from None
        return "billed"

    @workflow
    async def shop() -> str:
        return await pay()

    assert await runtime.run(shop(), thread_id="t") == "billed"
    assert bodies == ["pay", "charge", "pay", "pay"]


async def test_a_workflow_with_a_policy_replays_what_is_recorded(runtime: Runtime) -> None:
    """A workflow of three attempts whose third task always fails executes the first two once."""
    bodies: list[str] = []

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        if name == "third":
            raise ConnectionError(name)
        return name

    @workflow(retry=AT_ONCE)
    async def chain() -> None:
        for name in ("first", "second", "third"):
            await step(name)

    with pytest.raises(ConnectionError, match="third"):
        await runtime.run(chain(), thread_id="t")

    assert bodies == ["first", "second", "third", "third", "third"]


async def test_a_child_workflow_with_a_policy_replays_what_is_recorded(runtime: Runtime) -> None:
    """A child's retry replays its own recorded calls, like that of the run's workflow."""
    bodies: list[str] = []

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        if bodies.count("second") == 1 and name == "second":
            raise ConnectionError(name)
        return name

    @workflow(retry=AT_ONCE)
    async def child() -> str:
        return await step("first") + await step("second")

    @workflow
    async def parent() -> str:
        return await child()

    assert await runtime.run(parent(), thread_id="t") == "firstsecond"
    assert bodies == ["first", "second", "second"]


async def test_what_a_policy_gave_up_on_is_not_retried_above(runtime: Runtime) -> None:
    """Policies do not multiply: two attempts below, and none by the policies above."""
    bodies: list[str] = []

    @task(retry=RetryPolicy(max_attempts=2, initial_interval=0))
    async def charge() -> None:
        bodies.append("charge")
        raise ConnectionError

    @task(retry=AT_ONCE)
    async def pay() -> None:
        bodies.append("pay")
        await charge()

    @workflow(retry=AT_ONCE)
    async def shop() -> None:
        bodies.append("shop")
        await pay()

    with pytest.raises(ConnectionError):
        await runtime.run(shop(), thread_id="t")

    assert bodies == ["shop", "pay", "charge", "charge"]


async def test_what_a_policy_gave_up_on_is_executed_by_the_next_run(runtime: Runtime) -> None:
    """Giving up ends the run, and the next run has all its attempts again."""
    bodies: list[str] = []

    @task(retry=RetryPolicy(max_attempts=2, initial_interval=0))
    async def charge() -> str:
        bodies.append("charge")
        if len(bodies) < 4:
            raise ConnectionError
        return "paid"

    @workflow
    async def shop() -> str:
        return await charge()

    with pytest.raises(ConnectionError):
        await runtime.run(shop(), thread_id="t")
    assert await runtime.run(shop(), thread_id="t") == "paid"

    assert len(bodies) == 4


async def test_the_first_policy_that_matches_decides(runtime: Runtime) -> None:
    """Several policies in a row: a later one is not asked where an earlier one matches."""
    bodies: list[str] = []

    @task(
        retry=[
            RetryPolicy(max_attempts=2, initial_interval=0, retry_on=CardDeclined),
            RetryPolicy(max_attempts=4, initial_interval=0, retry_on=(ConnectionError, KeyError)),
            RetryPolicy(max_attempts=9, initial_interval=0, retry_on=lambda error: True),
        ]
    )
    async def step(kind: str) -> None:
        bodies.append(kind)
        raise {"card": CardDeclined, "key": KeyError, "value": ValueError}[kind](kind)

    @workflow
    async def each() -> list[int]:
        for kind in ("card", "key", "value"):
            with contextlib.suppress(CardDeclined, KeyError, ValueError):
                await step(kind)
        return [bodies.count(kind) for kind in ("card", "key", "value")]

    assert await runtime.run(each(), thread_id="t") == [2, 4, 9]


async def test_what_a_second_attempt_cannot_mend_is_not_retried(runtime: Runtime) -> None:
    """The default policy leaves a ValueError alone and retries a ConnectionError."""
    bodies: list[str] = []

    @task(retry=AT_ONCE)
    async def step(kind: str) -> None:
        bodies.append(kind)
        raise {"value": ValueError, "connection": ConnectionResetError}[kind](kind)

    @workflow
    async def each() -> None:
        for kind in ("value", "connection"):
            with contextlib.suppress(ValueError, ConnectionResetError):
                await step(kind)

    await runtime.run(each(), thread_id="t")
    assert bodies == ["value", "connection", "connection", "connection"]


async def test_attempts_are_counted_in_the_record(runtime: Runtime) -> None:
    """The record of a call says how many attempts it took."""
    bodies: list[str] = []

    @task(retry=AT_ONCE)
    async def flaky() -> str:
        bodies.append("flaky")
        if len(bodies) < 3:
            raise ConnectionError
        return "done"

    @workflow
    async def once() -> str:
        return await flaky()

    await runtime.run(once(), thread_id="t")
    assert [each.attempts for each in await runtime.tasks("t")] == [3]


async def test_the_rerun_raises_the_exception_of_the_first_run(runtime: Runtime) -> None:
    """Class, arguments, message and plain attributes come back, without running ``__init__``."""
    seen: list[Refused] = []

    @task
    async def charge(order: str) -> None:
        raise Refused(order, code=402)

    @workflow
    async def shop() -> None:
        try:
            await charge("A1")
        except Refused as error:
            seen.append(error)
        raise Crash

    await fails_twice(runtime, shop, Crash)

    for error in seen:
        assert type(error) is Refused
        assert str(error) == "A1 was refused with 402"
        assert error.args == ("A1 was refused with 402",)
        assert (error.order, error.code) == ("A1", 402)


async def test_the_first_run_shows_where_the_exception_was_raised(runtime: Runtime) -> None:
    """The traceback of the first run ends in the body of the task."""

    @task
    async def charge() -> None:
        raise CardDeclined

    @workflow
    async def shop() -> None:
        await charge()

    with pytest.raises(CardDeclined) as caught:
        await runtime.run(shop(), thread_id="t")

    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].line == "raise CardDeclined"


async def test_the_first_run_shows_the_cause_of_the_exception(runtime: Runtime) -> None:
    """What led to the exception inside the body is there for who reads the traceback."""

    @task
    async def charge() -> None:
        try:
            raise KeyError("card")
        except KeyError as error:
            raise CardDeclined from error

    @workflow
    async def shop() -> None:
        await charge()

    with pytest.raises(CardDeclined) as caught:
        await runtime.run(shop(), thread_id="t")
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_recorded_group_is_rebuilt_member_by_member(runtime: Runtime) -> None:
    """A task that fails with a group is met by ``except*`` on every rerun."""
    seen: list[list[str]] = []

    @task
    async def charge() -> None:
        raise ExceptionGroup(
            "both", [CardDeclined("one"), ExceptionGroup("deeper", [ValueError("two")])]
        )

    @workflow
    async def shop() -> None:
        found: list[str] = []
        try:
            await charge()
        except* CardDeclined as group:
            found.extend(str(each) for each in group.exceptions)
        except* ValueError as group:
            found.extend(type(each).__name__ for each in group.exceptions)
        seen.append(found)
        raise Crash

    await fails_twice(runtime, shop, Crash)

    assert seen == [["one", "ExceptionGroup"]] * 2


async def test_a_message_that_cannot_be_made_again_is_met_on_every_run(runtime: Runtime) -> None:
    """By the same ``except`` clause."""
    seen: list[str] = []

    @task
    async def charge() -> None:
        raise ConnectionLost(object())

    @workflow
    async def shop() -> None:
        try:
            await charge()
        except ConnectionLost as error:
            seen.append(str(error))
        raise Crash

    await fails_twice(runtime, shop, Crash)

    assert seen == ["lost object"] * 2


async def test_what_cannot_be_rebuilt_is_task_failed_on_every_run(runtime: Runtime) -> None:
    """The first run raises what the rerun will raise, here a TaskFailed that names the original."""
    seen: list[TaskFailed] = []

    @task
    async def charge() -> None:
        raise asyncio.CancelledError("lost")  # by nobody: to raise it again would cancel

    @workflow
    async def shop() -> None:
        try:
            await charge()
        except TaskFailed as error:
            seen.append(error)
        raise Crash

    await fails_twice(runtime, shop, Crash)

    assert [each.message for each in seen] == ["lost"] * 2
    assert [each.exception_type for each in seen] == ["asyncio.exceptions:CancelledError"] * 2


async def test_a_cause_is_met_on_every_run(runtime: Runtime) -> None:
    """As its own class, with its own message and cause."""
    seen: list[str] = []

    @task
    async def charge() -> None:
        try:
            try:
                raise TimeoutError("slow")
            except TimeoutError as error:
                raise ConnectionLost("line") from error
        except ConnectionLost as error:
            raise CardDeclined("later") from error

    @workflow
    async def shop() -> None:
        try:
            await charge()
        except CardDeclined as error:
            cause = error.__cause__ or error
            seen.append(f"{cause!r} {cause.__cause__!r}")
        raise Crash

    await fails_twice(runtime, shop, Crash)

    assert seen == ["ConnectionLost('line') TimeoutError('slow')"] * 2


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file", "orders.txt"),
        KeyError("order"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        OSError("plain"),
        StopAsyncIteration(3),
        CardDeclined("a", 1, None, [2.5]),
        CardDeclined(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_common_exceptions_come_back_as_they_were(runtime: Runtime, error: Exception) -> None:
    """The fields of exceptions that are written in C come back too."""
    seen: list[Exception] = []

    @task
    async def fail() -> None:
        raise error

    @workflow
    async def shop() -> None:
        try:
            await fail()
        except Exception as caught:
            seen.append(caught)
        raise Crash

    await fails_twice(runtime, shop, Crash)

    for each in seen:
        assert type(each) is type(error)
        assert str(each) == str(error)
        assert each.args == error.args
        assert getattr(each, "filename", None) == getattr(error, "filename", None)


async def test_a_class_that_this_process_has_not_imported_is_task_failed(tmp_path: Path) -> None:
    """Nothing named in a database is imported: a foreign class is met as TaskFailed."""
    path = tmp_path / "taskflow.db"
    other = """
import anyio, sys, types
from taskflow import Runtime, task, workflow

elsewhere = types.ModuleType("elsewhere")
exec("class Foreign(Exception): pass", elsewhere.__dict__)
sys.modules["elsewhere"] = elsewhere

@task
async def fail():
    raise elsewhere.Foreign("from afar")

@workflow
async def shop():
    try:
        await fail()
    except elsewhere.Foreign:
        pass
    raise RuntimeError("crash")

async def main():
    async with Runtime(sys.argv[1]) as runtime:
        try:
            await runtime.run(shop(), thread_id="t")
        except RuntimeError:
            pass

anyio.run(main)
"""
    await anyio.run_process([sys.executable, "-c", other, str(path)], stderr=subprocess.STDOUT)

    @task
    async def fail() -> None:
        raise AssertionError("it is recorded")

    @workflow
    async def shop() -> str:
        with pytest.raises(TaskFailed, match="from afar") as caught:
            await fail()
        return caught.value.exception_type

    async with Runtime(SQLiteStore(path)) as runtime:
        assert await runtime.run(shop(), thread_id="t") == "elsewhere:Foreign"
    assert "elsewhere" not in sys.modules


async def test_a_cancelled_error_of_the_bodys_own_making_is_a_failure() -> None:
    """A body that raises CancelledError without having been cancelled has failed."""
    bodies: list[str] = []
    crashes = [Crash()]

    @task
    async def odd() -> None:
        bodies.append("odd")
        raise asyncio.CancelledError("of my own")

    @workflow
    async def shop() -> str:
        try:
            await odd()
        except TaskFailed as error:
            if crashes:
                raise crashes.pop() from None
            return error.message
        raise AssertionError("it did not fail")

    async with Runtime(MemoryStore()) as runtime:
        with pytest.raises(Crash):
            await runtime.run(shop(), thread_id="t")
        assert await runtime.run(shop(), thread_id="t") == "of my own"

    assert bodies == ["odd"]


async def test_a_body_that_cancels_a_child_of_its_own_has_failed_by_it() -> None:
    """Awaiting a future that somebody cancelled is a failure of the task, not its cancellation."""

    @task
    async def odd() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    @workflow
    async def shop() -> None:
        await odd()

    async with Runtime(MemoryStore()) as runtime:
        with pytest.raises(TaskFailed, match="CancelledError"):
            await runtime.run(shop(), thread_id="t")
        assert (await runtime.get("t")).status == "error"


@in_memory
async def test_a_scope_of_the_bodys_own_is_its_own_business(runtime: Runtime) -> None:
    """A body whose own scope times out has not been cancelled: it goes on, and is recorded."""

    @task
    async def patient() -> str:
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        return "moved on"

    @workflow
    async def shop() -> str:
        return await patient()

    assert await runtime.run(shop(), thread_id="t") == "moved on"


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_ends_the_process_is_never_recorded(end: type[BaseException], backend: str) -> None:
    """Ctrl-C in a body ends the program; the next run executes the task as if it had not begun."""
    store = MemoryStore()
    ends = [end()]

    @task
    async def first() -> str:
        return "first"

    @task(retry=AT_ONCE)
    async def interrupted() -> str:
        if ends:
            raise ends.pop()
        return "done"

    @workflow
    async def shop() -> str:
        return await first() + await interrupted()

    async def main() -> str:
        async with Runtime(store) as runtime:
            return await runtime.run(shop(), thread_id="t")

    async def look() -> list[str]:
        async with Runtime(store) as runtime:
            return [each.name for each in await runtime.tasks("t")]

    with pytest.raises(BaseException) as caught:
        anyio.run(main, backend=backend)
    assert _holds(caught.value, end)
    assert anyio.run(look, backend=backend) == ["first"]
    assert anyio.run(main, backend=backend) == "firstdone"


async def test_a_generator_exit_is_never_recorded(runtime: Runtime) -> None:
    """GeneratorExit says that a generator was closed, nothing about the task."""

    @task
    async def odd() -> None:
        raise GeneratorExit

    @workflow
    async def shop() -> None:
        await odd()

    with pytest.raises(GeneratorExit):
        await runtime.run(shop(), thread_id="t")
    assert await runtime.tasks("t") == []


async def test_a_failure_is_history_for_another_process_too(
    make_store: MakeStore, bodies: list[str]
) -> None:
    """Nothing of the rule lives in memory: another runtime on the same records meets the same."""

    @workflow
    async def order() -> None:
        try:
            await charge("caught")
        except CardDeclined:
            await charge("uncaught")

    for _ in range(2):
        async with Runtime(make_store()) as runtime:
            with pytest.raises(CardDeclined, match="uncaught"):
                await runtime.run(order(), thread_id="t")

    assert bodies == ["caught", "uncaught", "uncaught"]


async def test_equal_calls_keep_their_places_between_attempts(runtime: Runtime) -> None:
    """Each attempt counts equal calls anew: the second attempt meets both recorded results."""
    bodies: list[int] = []

    @task
    async def draw() -> int:
        bodies.append(len(bodies))
        return bodies[-1]

    @task(retry=AT_ONCE)
    async def game() -> list[int]:
        drawn = [await draw(), await draw()]
        if len(attempts) < 2:
            attempts.append(drawn)
            raise ConnectionError
        return drawn

    @workflow
    async def shop() -> list[int]:
        return [*await game(), await draw()]

    attempts: list[list[int]] = []
    for _ in range(2):
        assert await runtime.run(shop(), thread_id="t") == [0, 1, 2]
    assert attempts == [[0, 1], [0, 1]]


async def test_a_failure_beside_a_caught_one_in_a_group_ends_the_run(
    runtime: Runtime, bodies: list[str]
) -> None:
    """``except*`` that takes a part of a group passes the rest on, and only the rest."""

    @task
    async def reserve() -> None:
        bodies.append("reserve")
        raise OrderFailed("nothing left")

    @workflow
    async def order() -> None:
        errors: list[Exception] = []
        for call in (charge("4242"), reserve()):
            try:
                await call
            except (CardDeclined, OrderFailed) as error:
                errors.append(error)
        try:
            raise ExceptionGroup("both", errors)
        except* CardDeclined:
            pass

    for _ in range(2):
        with pytest.raises(ExceptionGroup) as caught:
            await runtime.run(order(), thread_id="t")
        assert caught.group_contains(OrderFailed)
        assert not caught.group_contains(CardDeclined)
    assert bodies == ["4242", "reserve", "reserve"]


async def test_a_failure_of_another_run_does_not_end_this_one(
    runtime: Runtime, bodies: list[str]
) -> None:
    """A failure that came through ``runtime.run`` belongs to that other run."""

    @workflow
    async def inner() -> None:
        await charge()

    @task
    async def delegate() -> None:
        bodies.append("delegate")
        await runtime.run(inner(), thread_id="inner")

    @workflow
    async def outer() -> None:
        await delegate()

    for _ in range(2):
        with pytest.raises(CardDeclined):
            await runtime.run(outer(), thread_id="outer")
    assert bodies == ["delegate", "charge"] * 2
    assert await runtime.tasks("inner") == []
    assert await runtime.tasks("outer") == []


async def test_a_handled_failure_of_a_given_up_task_is_history(runtime: Runtime) -> None:
    """All attempts used up, then caught: the rerun makes none."""
    bodies: list[str] = []

    @task(retry=AT_ONCE)
    async def charge() -> None:
        bodies.append("charge")
        raise ConnectionError

    @workflow(retry=AT_ONCE)
    async def order() -> str:
        with contextlib.suppress(ConnectionError):
            await charge()
        if len(crashes) < 2:
            crashes.append("crash")
            raise OSError("somewhere else")
        return "billed"

    crashes: list[str] = []
    for _ in range(2):
        assert await runtime.run(order(), thread_id="t") == "billed"
    assert bodies == ["charge"] * 3


async def test_a_predicate_that_fails_leaves_the_failure(runtime: Runtime) -> None:
    """A mistake in ``retry_on`` is a note on it, and leaves nothing executing."""

    def broken(error: BaseException) -> bool:
        raise LookupError("mistake")

    @task(retry=RetryPolicy(retry_on=broken))
    async def charge() -> None:
        raise CardDeclined

    @workflow
    async def order() -> None:
        await charge()

    with pytest.raises(CardDeclined) as caught:
        await runtime.run(order(), thread_id="t")
    assert "mistake" in caught.value.__notes__[0]
    assert (await runtime.get("t")).owner is None


async def test_a_failed_run_shows_what_ended_it(runtime: Runtime) -> None:
    """The run's record says ``error``, and which."""

    @task
    async def charge() -> None:
        raise CardDeclined("insufficient funds")

    @workflow
    async def order() -> None:
        await charge()

    with pytest.raises(CardDeclined):
        await runtime.run(order(), thread_id="t")
    record = await runtime.get("t")
    assert record.status == "error"
    assert record.error == "CardDeclined: insufficient funds"
    assert record.owner is None


def _holds(error: BaseException, kind: type[BaseException]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return any(_holds(member, kind) for member in error.exceptions)
    return isinstance(error, kind)


async def test_an_exception_that_left_its_run_can_be_pickled(runtime: Runtime) -> None:
    """It holds nothing of the runtime, and carries no marks of ours."""

    @task
    async def fail() -> None:
        raise ValueError("x", 1)

    @workflow
    async def flow() -> None:
        await fail()

    with pytest.raises(ValueError, match="x") as caught:
        await runtime.run(flow(), thread_id="thread")

    assert pickle.loads(pickle.dumps(caught.value)).args == ("x", 1)
    assert vars(caught.value) == {}
