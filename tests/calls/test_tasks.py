"""The decorator in all its forms, and the calls that it makes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any, Self

import anyio
import pytest
from anyio.lowlevel import checkpoint
from kinds import on_asyncio
from reruns import Crash, CrashOnce

from taskflow import (
    Call,
    MemoryStore,
    RetryPolicy,
    Runtime,
    TaskTimeout,
    Workflow,
    as_completed,
    current,
    race,
    sleep,
    task,
    workflow,
)
from taskflow.errors import NotInRun, SerializationError

pytestmark = pytest.mark.anyio


LOCALE: ContextVar[str] = ContextVar("LOCALE", default="en")


@task
async def double(number: int) -> int:
    return number * 2


@task(executor="process")
def process_id(salt: str) -> int:
    """The id of the process that executes it."""
    return os.getpid()


@task(executor="process")
def fail_in_process(order: str) -> None:
    raise KeyError(order)


@task(executor="process")
def unfit_result() -> Any:
    return object()


@task(executor="process")
def position_in_process() -> list[str | None]:
    here = current()
    return [here.thread_id, here.task_id, here.idempotency_key]


@task(executor="process", timeout=0.2)
def endless_in_process(path: str) -> None:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    while True:
        pass


def run_of(body: Any, **options: Any) -> Workflow[[], Any, Any]:
    """A workflow out of a function without parameters."""
    return workflow(body, **options)


async def test_a_bare_decorator_makes_a_task(runtime: Runtime) -> None:
    """``@task`` needs no options, and its name is that of the function."""
    assert double.name == "double"
    assert double.__name__ == "double"

    @workflow
    async def shop() -> int:
        return await double(4)

    assert await runtime.run(shop(), thread_id="t") == 8


async def test_a_decorator_with_options_makes_a_task(runtime: Runtime) -> None:
    """``@task(…)`` takes a name, which the record shows."""

    @task(name="twice", version=2, retry=RetryPolicy(), timeout=60, durability="sync")
    async def body(number: int) -> int:
        return number * 2

    @workflow
    async def shop() -> int:
        return await body(4)

    assert await runtime.run(shop(), thread_id="t") == 8
    assert [each.name for each in await runtime.tasks("t")] == ["twice"]


async def test_a_plain_call_makes_a_task(runtime: Runtime) -> None:
    """``task(fn, name=…)`` wraps what one cannot decorate."""
    shout = task(str.upper, name="shout")

    @workflow
    async def shop() -> str:
        return await shout("hello")

    assert await runtime.run(shop(), thread_id="t") == "HELLO"


async def test_the_items_of_an_async_generator_are_collected(runtime: Runtime) -> None:
    """An async generator's result is the list of its items, and recorded as one."""
    bodies: list[int] = []

    @task
    async def count(limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            bodies.append(number)
            await checkpoint()
            yield number

    @workflow
    async def shop() -> list[int]:
        return await count(3)

    for _ in range(2):
        assert await runtime.run(shop(), thread_id="t") == [0, 1, 2]
    assert bodies == [0, 1, 2]


async def test_a_def_task_executes_in_a_worker_thread(runtime: Runtime) -> None:
    """A plain ``def`` never blocks the event loop."""

    @task
    def where() -> bool:
        return threading.current_thread() is threading.main_thread()

    @workflow
    async def shop() -> bool:
        return await where()

    assert await runtime.run(shop(), thread_id="t") is False


async def test_a_process_task_executes_in_another_process(runtime: Runtime) -> None:
    """``executor="process"`` finds the function by module and name, and records its result."""

    @workflow
    async def shop() -> int:
        return await process_id("a")

    first = await runtime.run(shop(), thread_id="t")
    assert first != os.getpid()
    assert [each.value for each in await runtime.tasks("t")] == [first]


async def test_a_failure_in_a_worker_process_is_met_here(runtime: Runtime) -> None:
    """The exception of a worker process is raised as what it was, with its traceback as a note."""

    @workflow
    async def shop() -> None:
        await fail_in_process("A1")

    with pytest.raises(KeyError, match="A1") as caught:
        await runtime.run(shop(), thread_id="t")
    assert any("fail_in_process" in note for note in caught.value.__notes__)


async def test_a_worker_process_gets_its_position(runtime: Runtime) -> None:
    """``current()`` is all that a worker process is told of the run."""

    @workflow
    async def shop() -> list[str | None]:
        return await position_in_process()

    thread_id, task_id, key = await runtime.run(shop(), thread_id="t")
    (record,) = await runtime.tasks("t")
    assert (thread_id, task_id) == ("t", record.task_id)
    assert key


async def test_a_timed_out_worker_process_is_killed(runtime: Runtime, tmp_path: Any) -> None:
    """A process, unlike a thread, can be stopped."""
    path = tmp_path / "pid"

    @workflow
    async def shop() -> bool:
        await process_id("warm")  # a process that waits for work takes it up at once
        with pytest.raises(TaskTimeout):
            await endless_in_process(str(path))
        return True

    assert await runtime.run(shop(), thread_id="t")
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)


def test_a_process_task_must_be_importable() -> None:
    """What a worker process could not find by name is refused at decoration."""

    def local() -> None: ...

    with pytest.raises(TypeError, match="top of a module"):
        task(local, executor="process")


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_an_async_task_takes_no_executor(executor: Any) -> None:
    """An ``async def`` executes on the event loop and nowhere else."""

    async def body() -> None: ...

    with pytest.raises(TypeError, match="event loop"):
        task(body, executor=executor)


def test_a_generator_is_no_task() -> None:
    """A plain generator is refused: it would be a list, or async."""

    def items():
        yield 1

    with pytest.raises(TypeError, match="generator"):
        task(items)


def test_what_cannot_be_called_is_no_task() -> None:
    """A clear error where the decorator is given anything else."""
    with pytest.raises(TypeError, match="function"):
        task("fetch")  # type: ignore[call-overload]


def test_a_lambda_needs_a_name() -> None:
    """Its calls could not be told apart from those of other lambdas."""
    with pytest.raises(ValueError, match="name"):
        task(lambda: None)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_a_positive_number(timeout: float) -> None:
    """Anything else is refused at decoration."""

    async def body() -> None: ...

    with pytest.raises(ValueError, match="timeout"):
        task(body, timeout=timeout)


class Shop:
    """A class with a method that is a task; JSON carries its instances no more than a client."""

    def __init__(self, name: str) -> None:
        self.name = name

    @task(key=lambda self, order: f"{self.name}/{order}")
    async def sell(self, order: str) -> str:
        return f"{self.name} sold {order}"

    @staticmethod
    @task(name="Shop.open")
    def opens(hour: int) -> int:
        return hour


async def test_a_method_is_a_task_bound_to_its_instance(runtime: Runtime) -> None:
    """``self`` is an argument like any other, here one that the key stands for."""
    north, south = Shop("north"), Shop("south")

    @workflow
    async def sales() -> list[str]:
        return [await north.sell("A1"), await south.sell("A1"), await north.sell(order="A2")]

    assert await runtime.run(sales(), thread_id="t") == [
        "north sold A1",
        "south sold A1",
        "north sold A2",
    ]
    assert len(await runtime.tasks("t")) == 3


async def test_a_method_can_be_mapped(runtime: Runtime) -> None:
    """``instance.method.map(items)`` passes the instance to each call."""

    @workflow
    async def sales() -> list[str]:
        return await Shop("north").sell.map(["A1", "A2"])

    for _ in range(2):
        assert await runtime.run(sales(), thread_id="t") == ["north sold A1", "north sold A2"]


async def test_self_is_part_of_the_identity(runtime: Runtime) -> None:
    """Without a key, an instance that JSON cannot carry is an error that says so."""

    class Plain:
        @task
        async def sell(self, order: str) -> str:
            return order

    @workflow
    async def sales() -> None:
        with pytest.raises(SerializationError, match=r"self.*key="):
            Plain().sell("A1")

    await runtime.run(sales(), thread_id="t")


async def test_a_static_method_is_a_task(runtime: Runtime) -> None:
    """It is called without an instance, on the class or on an instance."""

    @workflow
    async def hours() -> int:
        return await Shop.opens(9) + await Shop("north").opens(10)

    assert await runtime.run(hours(), thread_id="t") == 19


async def test_a_partial_is_a_task(runtime: Runtime) -> None:
    """``functools.partial`` is called with what is left of its parameters."""

    async def add(one: int, other: int) -> int:
        return one + other

    add_ten = task(functools.partial(add, 10))
    assert add_ten.name == "add"

    @workflow
    async def shop() -> list[int]:
        return [await add_ten(1), await add_ten(other=2)]

    assert await runtime.run(shop(), thread_id="t") == [11, 12]


async def test_a_callable_object_is_a_task(runtime: Runtime) -> None:
    """An object with ``__call__`` is called, async or not."""

    class Adder:
        async def __call__(self, number: int) -> int:
            return number + 1

    class Doubler:
        def __call__(self, number: int) -> int:
            return number * 2

    add, multiply = task(Adder()), task(Doubler(), name="multiply")
    assert add.name == "Adder"

    @workflow
    async def shop() -> int:
        return await multiply(await add(3))

    assert await runtime.run(shop(), thread_id="t") == 8


async def test_parameters_may_have_any_name(runtime: Runtime) -> None:
    """No name that a parameter could have is taken by taskflow."""
    names = (
        "self", "cls", "fn", "config", "store", "runtime", "timeout", "name", "version", "key",
        "retry", "cache", "executor", "durability", "call", "frame", "run", "args", "kwargs",
        "thread_id", "run_id", "wait", "definition", "items", "concurrency", "context", "run_id",
    )  # fmt: skip

    @task
    async def everything(
        self: int, cls: int, fn: int, config: int, store: int, runtime: int, timeout: int,
        name: int, version: int, key: int, retry: int, cache: int, executor: int, durability: int,
        call: int, frame: int, run: int, args: int, kwargs: int, thread_id: int, wait: int,
        definition: int, items: int, concurrency: int, context: int, run_id: int,
    ) -> int:  # fmt: skip
        return len(locals())

    @workflow
    async def shop() -> int:
        return await everything(**dict.fromkeys(names, 1))

    assert await runtime.run(shop(), thread_id="t") == len(set(names))


async def test_arguments_may_be_passed_in_any_way(runtime: Runtime) -> None:
    """Positional-only, keyword-only, ``*args``, ``**kwargs`` and defaults reach the body."""

    @task
    async def body(a: int, /, b: int = 2, *rest: int, c: int = 3, **more: int) -> list[Any]:
        return [a, b, list(rest), c, more]

    @workflow
    async def shop() -> list[Any]:
        return [
            await body(1),
            await body(1, b=5),
            await body(1, 2, 3, 4, c=6, d=7, a=8),
        ]

    for _ in range(2):
        assert await runtime.run(shop(), thread_id="t") == [
            [1, 2, [], 3, {}],
            [1, 5, [], 3, {}],
            [1, 2, [3, 4], 6, {"d": 7, "a": 8}],
        ]


async def test_a_wrong_argument_is_an_error_at_the_call(runtime: Runtime) -> None:
    """A call that does not fit the signature is not even made."""

    @workflow
    async def shop() -> None:
        with pytest.raises(TypeError, match="double"):
            double()  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="double"):
            double(1, 2)  # type: ignore[call-arg]

    await runtime.run(shop(), thread_id="t")


async def test_fn_is_the_plain_function() -> None:
    """``.fn`` is for tests and for use without a run."""
    assert await double.fn(4) == 8


async def test_a_call_outside_of_a_run_is_refused_at_once() -> None:
    """Not when it is awaited: at the call."""
    with pytest.raises(NotInRun, match=r"double\.fn"):
        double(4)
    with pytest.raises(NotInRun, match="map"):
        double.map([4])
    with pytest.raises(NotInRun):
        current()


@on_asyncio
async def test_calls_work_in_everything_that_asyncio_offers(runtime: Runtime) -> None:
    """A call is a coroutine to await, gather, create_task, TaskGroup and wait_for."""

    @workflow
    async def shop() -> list[int]:
        async with asyncio.TaskGroup() as group:
            grouped = group.create_task(double(1))
        created = asyncio.create_task(double(2))
        done, _ = await asyncio.wait([asyncio.ensure_future(double(3))])
        gathered = await asyncio.gather(double(4), double(5))
        first = next(iter(asyncio.as_completed([double(6)])))
        return [
            grouped.result(),
            await created,
            done.pop().result(),
            *gathered,
            await first,
            await asyncio.wait_for(double(7), 60),
            await asyncio.shield(double(8)),
        ]

    for _ in range(2):
        assert await runtime.run(shop(), thread_id="t") == [2, 4, 6, 8, 10, 12, 14, 16]
    assert len(await runtime.tasks("t")) == 8


async def test_calls_work_in_anyios_groups(runtime: Runtime) -> None:
    """A task is a function of anyio's ``start_soon``; each child has its own call."""
    bodies: list[int] = []

    @task
    async def step(number: int) -> None:
        bodies.append(number)

    @workflow
    async def shop() -> None:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(step, number)

    for _ in range(2):
        await runtime.run(shop(), thread_id="t")
    assert sorted(bodies) == [0, 1, 2, 3, 4]


async def test_a_call_is_a_coroutine(runtime: Runtime) -> None:
    """What drives coroutines by hand can drive a call."""

    @workflow
    async def shop() -> int:
        call = double(21)
        steps = call.__await__()
        try:
            yielded = next(steps)
            while True:
                yielded = steps.send(await _pass_on(yielded))
        except StopIteration as stop:
            return stop.value

    assert await runtime.run(shop(), thread_id="t") == 42


class _pass_on:
    """Awaits what a coroutine has yielded."""

    def __init__(self, yielded: Any) -> None:
        self.yielded = yielded

    def __await__(self):
        return (yield self.yielded)


async def test_tasks_call_tasks_to_any_depth(runtime: Runtime) -> None:
    """A recursion of 50 tasks is recorded with its parents, innermost first."""
    bodies: list[int] = []

    @task
    async def descend(depth: int) -> int:
        bodies.append(depth)
        return 0 if depth == 0 else 1 + await descend(depth - 1)

    @workflow
    async def shop() -> int:
        return await descend(50)

    for _ in range(2):
        assert await runtime.run(shop(), thread_id="t") == 50
    records = await runtime.tasks("t")
    assert [each.arguments["depth"] for each in records] == list(range(51))
    assert [each.parent_id for each in records] == [each.task_id for each in records[1:]] + [None]
    assert len(bodies) == 51


async def test_what_a_recorded_task_had_called_is_not_looked_at_again(runtime: Runtime) -> None:
    """The outer record is the answer, though an inner one was forgotten."""
    bodies: list[str] = []
    crash_once = CrashOnce()

    @task
    async def inner() -> str:
        bodies.append("inner")
        return "inner"

    @task
    async def outer() -> str:
        bodies.append("outer")
        return await inner()

    @workflow
    async def shop() -> str:
        result = await outer()
        crash_once()
        return result

    with pytest.raises(Crash):
        await runtime.run(shop(), thread_id="t")
    assert await runtime.run(shop(), thread_id="t") == "inner"
    assert bodies == ["outer", "inner"]


async def test_an_interrupted_outer_task_finds_its_inner_ones(runtime: Runtime) -> None:
    """An outer task that did not finish executes again; the inner ones that did, do not."""
    bodies: list[str] = []

    @task
    async def inner(name: str) -> str:
        bodies.append(name)
        return name

    @task
    async def outer() -> str:
        bodies.append("outer")
        first = await inner("first")
        if bodies.count("outer") == 1:
            raise Crash
        return first + await inner("second")

    @workflow
    async def shop() -> str:
        return await outer()

    with pytest.raises(Crash):
        await runtime.run(shop(), thread_id="t")
    assert await runtime.run(shop(), thread_id="t") == "firstsecond"
    assert bodies == ["outer", "first", "outer", "second"]


@pytest.mark.parametrize("result", [None, False, 0, "", [], {}, 0.0])
async def test_a_falsy_result_is_a_recorded_result(runtime: Runtime, result: Any) -> None:
    """``None``, ``False``, ``0``, ``""`` and ``[]`` are not executed again."""
    bodies: list[str] = []
    crash_once = CrashOnce()

    @task
    async def step() -> Any:
        bodies.append("step")
        return result

    @workflow
    async def shop() -> Any:
        value = await step()
        crash_once()
        return value

    with pytest.raises(Crash):
        await runtime.run(shop(), thread_id="t")
    for _ in range(2):
        value = await runtime.run(shop(), thread_id="t")
        assert (value, type(value)) == (result, type(result))
    assert bodies == ["step"]


async def test_current_says_where_code_executes(runtime: Runtime) -> None:
    """Thread, run, task and attempt, in tasks and in the workflow itself."""

    @task
    async def where() -> list[Any]:
        here = current()
        return [here.thread_id, here.run_id, here.task_id, here.attempt]

    @workflow
    async def shop() -> list[Any]:
        here = current()
        assert (here.thread_id, here.run_id, here.task_id, here.attempt) == ("t", "r", None, 1)
        call = where()
        return [call.id, *await call]

    call_id, *found = await runtime.run(shop(), thread_id="t", run_id="r")
    assert found == ["t", "r", call_id, 1]


async def test_an_idempotency_key_is_the_same_over_retries_and_reruns(runtime: Runtime) -> None:
    """A payment provider is given one key for one payment, however often it is tried."""
    keys: dict[str, list[str]] = {"A1": [], "A2": []}

    @task(retry=RetryPolicy(max_attempts=2, initial_interval=0))
    async def charge(order: str) -> int:
        here = current()
        keys[order].append(here.idempotency_key)
        if len(keys[order]) < 4:
            raise ConnectionError
        return here.attempt

    @workflow
    async def shop(order: str) -> int:
        return await charge(order)

    for order in keys:
        with pytest.raises(ConnectionError):
            await runtime.run(shop(order), thread_id=order, run_id="r")
        assert await runtime.run(shop(order), thread_id=order, run_id="r") == 2
        assert len(keys[order]) == 4
        assert len(set(keys[order])) == 1
    assert keys["A1"][0] != keys["A2"][0]


async def test_an_idempotency_key_belongs_to_one_thread(runtime: Runtime) -> None:
    """The same call on another thread is another payment."""
    keys: list[str] = []

    @task
    async def charge() -> None:
        keys.append(current().idempotency_key)

    @workflow
    async def shop() -> None:
        await charge()

    for thread_id in ("one", "two"):
        await runtime.run(shop(), thread_id=thread_id, run_id="r")
    assert len(set(keys)) == 2


async def test_a_call_awaited_twice_is_an_error(runtime: Runtime) -> None:
    """A second question is a second call, and never answered by accident."""

    @workflow
    async def shop() -> int:
        call = double(4)
        result = await call
        with pytest.raises(RuntimeError, match="awaited already"):
            await call
        return result

    for _ in range(2):
        assert await runtime.run(shop(), thread_id="t") == 8


async def test_a_replayed_call_awaited_twice_is_an_error_too(runtime: Runtime) -> None:
    """Whether a call was answered from its record makes no difference."""
    crash_once = CrashOnce()

    @workflow
    async def shop() -> int:
        call = double(4)
        result = await call
        with pytest.raises(RuntimeError, match="awaited already"):
            await call
        crash_once()
        return result

    with pytest.raises(Crash):
        await runtime.run(shop(), thread_id="t")
    assert await runtime.run(shop(), thread_id="t") == 8


@on_asyncio
async def test_a_call_that_was_awaited_cannot_be_scheduled(runtime: Runtime) -> None:
    """It would be answered with None, as a coroutine that has ended would be."""

    @workflow
    async def shop() -> int:
        call = double(4)
        result = await call
        with pytest.raises(RuntimeError, match="awaited already"):
            await asyncio.create_task(call)
        return result

    assert await runtime.run(shop(), thread_id="t") == 8


@on_asyncio
async def test_a_call_that_was_answered_can_be_closed(runtime: Runtime) -> None:
    """As any coroutine, however it was answered: there is nothing left to give up."""
    crash_once = CrashOnce()

    @workflow
    async def shop() -> int:
        call = double(4)
        (result,) = await asyncio.gather(call)
        call.close()
        crash_once()
        return result

    with pytest.raises(Crash):
        await runtime.run(shop(), thread_id="t")
    assert await runtime.run(shop(), thread_id="t") == 8


class Counted(Exception):
    """Knows which of its instances there are."""

    alive: weakref.WeakSet[Counted] = weakref.WeakSet()

    def __new__(cls, *args: object) -> Self:
        error = super().__new__(cls, *args)
        cls.alive.add(error)
        return error


async def test_a_failure_that_was_handled_is_freed_at_once(runtime: Runtime) -> None:
    """Its traceback is in no circle: a loop of failures leaves nothing to the garbage collector."""

    @task
    async def fail() -> None:
        raise Counted

    @workflow
    async def shop() -> int:
        with contextlib.suppress(Counted):
            await fail()
        await checkpoint()
        return len(Counted.alive)

    gc.disable()
    try:
        assert await runtime.run(shop(), thread_id="t") == 0
    finally:
        gc.enable()


async def test_a_call_awaited_in_another_run_is_an_error(runtime: Runtime) -> None:
    """A call belongs to the run in which it was made."""
    calls: list[Any] = []

    @workflow
    async def make() -> None:
        calls.append(double(4))

    @workflow
    async def use() -> None:
        with pytest.raises(RuntimeError, match="cannot be awaited in run"):
            await calls[0]

    await runtime.run(make(), thread_id="one")
    await runtime.run(use(), thread_id="two")


async def test_a_call_awaited_after_its_run_is_an_error(runtime: Runtime) -> None:
    """A run that has ended executes nothing any more, and says so."""
    calls: list[Any] = []

    @workflow
    async def make() -> None:
        calls.append(double(4))

    await runtime.run(make(), thread_id="t")
    with pytest.raises(RuntimeError, match="ended"):
        await calls[0]


async def test_a_call_that_is_never_awaited_is_reported(runtime: Runtime) -> None:
    """A forgotten ``await`` is told by name, and executed nothing."""

    @workflow
    async def shop() -> None:
        double(4)
        gc.collect()

    with pytest.warns(RuntimeWarning, match=r"double:\w+ on thread 't' was never awaited"):
        await runtime.run(shop(), thread_id="t")
    assert await runtime.tasks("t") == []


async def test_a_map_that_is_never_awaited_is_reported(runtime: Runtime) -> None:
    """The same for a whole map."""

    @workflow
    async def shop() -> None:
        double.map([4])
        gc.collect()

    with pytest.warns(RuntimeWarning, match=r"double\.map .*was never awaited"):
        await runtime.run(shop(), thread_id="t")


async def test_a_closed_call_is_not_reported(runtime: Runtime) -> None:
    """``close()`` says that it will never be awaited. (Warnings are errors in these tests.)"""

    @workflow
    async def shop() -> None:
        double(4).close()
        gc.collect()

    await runtime.run(shop(), thread_id="t")


async def test_nothing_executes_before_a_call_is_awaited(runtime: Runtime) -> None:
    """Making a call is not starting it."""
    bodies: list[str] = []

    @task
    async def step() -> None:
        bodies.append("step")

    @workflow
    async def shop() -> list[str]:
        call = step()
        for _ in range(5):
            await checkpoint()
        before = list(bodies)
        await call
        return before

    assert await runtime.run(shop(), thread_id="t") == []
    assert bodies == ["step"]


async def test_result_blocks_in_a_worker_thread(runtime: Runtime) -> None:
    """In a ``def`` body ``call.result()`` is what ``await call`` is elsewhere."""

    @task
    def outer(number: int) -> int:
        return double(number).result() + sum(double.map([1, 2]).result())

    @workflow
    async def shop() -> int:
        return await outer(4)

    for _ in range(2):
        assert await runtime.run(shop(), thread_id="t") == 14
    assert [each.name for each in await runtime.tasks("t")] == ["double"] * 3 + ["outer"]


async def test_result_raises_what_the_call_raises(runtime: Runtime) -> None:
    """A failure is met in the worker thread, and caught there."""

    @task
    async def fail() -> None:
        raise LookupError("nothing there")

    @task
    def outer() -> str:
        try:
            fail().result()
        except LookupError as error:
            return str(error)
        return "no failure"

    @workflow
    async def shop() -> str:
        return await outer()

    assert await runtime.run(shop(), thread_id="t") == "nothing there"


async def test_result_is_refused_on_the_loops_own_thread(runtime: Runtime) -> None:
    """It would wait for the loop that it blocks."""

    @workflow
    async def shop() -> None:
        call = double(4)
        with pytest.raises(RuntimeError, match="await the call"):
            call.result()
        await call

    await runtime.run(shop(), thread_id="t")


async def _on_its_own(call: Call[Any]) -> Any:
    return await call


async def _of_as_completed(call: Call[Any]) -> Any:
    async with as_completed(call) as results:
        return [each async for each in results]


async def _in_time(call: Call[Any]) -> Any:
    return await asyncio.wait_for(call, 5)


def _on_a_loop_in_another_thread(call: Call[Any]) -> Any:
    async def put(loop: asyncio.AbstractEventLoop) -> Any:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, loop))

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        return asyncio.run(put(loop))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


FOREIGN: dict[str, Callable[[Any], Any]] = {
    "asyncio": lambda call: asyncio.run(call),
    "inside": lambda call: asyncio.run(_on_its_own(call)),
    "scheduled": lambda call: asyncio.run(_in_time(call)),
    "anyio": lambda call: anyio.run(_on_its_own, call),
    "trio": lambda call: anyio.run(_on_its_own, call, backend="trio"),
    "thread": _on_a_loop_in_another_thread,
    "as_completed": lambda call: asyncio.run(_of_as_completed(call)),
    "map": lambda call: (call.close(), asyncio.run(double.map([1, 2]))),
    "race": lambda call: asyncio.run(race(call)),
    "sleep": lambda call: (call.close(), asyncio.run(sleep(1))),
    "child": lambda call: (call.close(), asyncio.run(nothing_to_do())),
}


@workflow
async def nothing_to_do() -> None:
    pass


@pytest.mark.parametrize("is_task", [True, False], ids=["task", "workflow"])
@pytest.mark.parametrize("how", list(FOREIGN))
async def test_a_call_on_a_foreign_loop_is_an_error_at_once(
    runtime: Runtime, how: str, is_task: bool
) -> None:
    """A loop of the body's own can execute no call of the run: the error names result()."""

    @task
    def body() -> str:
        with pytest.raises(RuntimeError, match=r"another event loop.*call\.result\(\)") as caught:
            FOREIGN[how](double(4))
        return str(caught.value)

    @workflow
    def direct() -> str:
        return body.fn()

    @workflow
    async def through_a_task() -> str:
        return await body()

    shop = through_a_task if is_task else direct
    assert "'t'" in await runtime.run(shop(), thread_id="t")
    assert [each.name for each in await runtime.tasks("t")] == (["body"] if is_task else [])


async def test_a_recorded_call_on_a_foreign_loop_is_an_error_too(runtime: Runtime) -> None:
    """A rerun meets what the first run met."""
    crash_once = CrashOnce()

    @workflow
    def shop() -> int:
        double(4).result()
        crash_once()
        return asyncio.run(double(4))

    with pytest.raises(Crash):
        await runtime.run(shop(), thread_id="t")
    with pytest.raises(RuntimeError, match="another event loop"):
        await runtime.run(shop(), thread_id="t")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_a_def_body_may_run_a_loop_of_its_own(runtime: Runtime, backend: str) -> None:
    """For coroutines that are no calls."""

    async def plain() -> int:
        await checkpoint()
        return 8

    @task
    def body() -> int:
        return anyio.run(plain, backend=backend)

    @workflow
    async def shop() -> int:
        return await body()

    assert await runtime.run(shop(), thread_id="t") == 8


async def test_a_variable_that_a_body_sets_stays_in_it(runtime: Runtime) -> None:
    """The caller would not see it on a rerun, so it does not see it on the first run."""

    @task
    async def set_it() -> str:
        LOCALE.set("de")
        await checkpoint()
        return LOCALE.get()

    @task
    def set_it_in_a_thread() -> str:
        LOCALE.set("fr")
        return LOCALE.get()

    @workflow
    async def shop() -> list[str]:
        return [await set_it(), LOCALE.get(), await set_it_in_a_thread(), LOCALE.get()]

    assert await runtime.run(shop(), thread_id="t") == ["de", "en", "fr", "en"]


async def test_a_body_sees_the_variables_of_its_caller(runtime: Runtime) -> None:
    """A run executes in a copy of its caller's context, a body in a copy of its caller's."""

    @task
    async def look() -> str:
        return LOCALE.get()

    @task
    def look_in_a_thread() -> str:
        return LOCALE.get()

    @workflow
    async def shop() -> list[str]:
        first = await look()
        LOCALE.set("pt")
        return [first, await look(), await look_in_a_thread()]

    token = LOCALE.set("it")
    try:
        assert await runtime.run(shop(), thread_id="t") == ["it", "pt", "pt"]
        assert LOCALE.get() == "it"
    finally:
        LOCALE.reset(token)


async def test_a_result_is_decoded_on_the_first_run_too(runtime: Runtime) -> None:
    """The caller gets what every rerun will get: a new object, never the body's own."""
    kept: list[list[int]] = []

    @task
    async def numbers() -> list[int]:
        kept.append([1, 2])
        return kept[-1]

    @workflow
    async def shop() -> bool:
        found = await numbers()
        return found == kept[-1] and found is not kept[-1]

    assert await runtime.run(shop(), thread_id="t") is True


async def test_an_unreadable_annotation_is_an_error_before_the_body(runtime: Runtime) -> None:
    """A result that could not be read back is refused before anything executes."""
    bodies: list[str] = []

    class Connection:
        pass

    @task
    async def connect() -> Connection:
        bodies.append("connect")
        return Connection()

    @workflow
    async def shop() -> None:
        await connect()

    with pytest.raises(SerializationError, match="Connection"):
        await runtime.run(shop(), thread_id="t")
    assert bodies == []


async def test_an_unfit_result_of_a_worker_process_is_an_error(runtime: Runtime) -> None:
    """What cannot be recorded is told, wherever it was made."""

    @workflow
    async def shop() -> None:
        await unfit_result()

    with pytest.raises(SerializationError, match="unfit_result"):
        await runtime.run(shop(), thread_id="t")


async def test_a_cancelled_worker_process_is_killed(tmp_path: Any) -> None:
    """When ``run()`` has ended, the process that executed its task has too."""
    path = tmp_path / "pid"

    @workflow
    async def shop() -> None:
        await process_task(str(path))

    process_task = task(_stay, executor="process")

    async def caller() -> None:
        async with Runtime(MemoryStore()) as runtime:
            await runtime.run(shop(), thread_id="t")

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        while not (path.exists() and path.read_text()):  # noqa: ASYNC110
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)


def _stay(path: str) -> None:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    while True:
        pass


async def test_a_body_that_changes_its_argument_is_told(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """A rerun would not see the change, and ask for other calls than the first run did."""

    @task
    async def enrich(order: dict[str, int]) -> None:
        order["total"] = 5

    @task
    async def store(order: dict[str, int]) -> int:
        return order["total"]

    @workflow
    async def fulfil() -> int:
        order = {"items": 2}
        await enrich(order)
        return await store(order)

    assert await runtime.run(fulfil(), thread_id="thread") == 5

    (told,) = caplog.messages
    assert told.startswith("an argument of enrich() on thread 'thread'")
