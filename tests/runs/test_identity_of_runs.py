"""Who is who on a rerun: by content, not by position; and what is told of changed code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from kinds import MakeStore, on_asyncio
from reruns import Crash, CrashOnce

from taskflow import Runtime, task, workflow
from taskflow.errors import HistoryMismatch, SerializationError, TaskNameConflict

pytestmark = pytest.mark.anyio


class Client:
    """What canonical JSON cannot carry."""


async def both(*calls: Awaitable[Any]) -> list[Any]:
    """What ``asyncio.gather`` does, on trio too."""
    results: list[Any] = [None] * len(calls)

    async def collect(position: int, call: Awaitable[Any]) -> None:
        results[position] = await call

    async with anyio.create_task_group() as group:
        for position, call in enumerate(calls):
            group.start_soon(collect, position, call)
    return results


@pytest.mark.parametrize("slow", ["a", "b"])
async def test_two_branches_get_their_own_results_again(runtime: Runtime, slow: str) -> None:
    """Whichever branch was faster before the crash, the rerun gives each its own results."""
    bodies: list[str] = []
    fast_has_charged = anyio.Event()
    crash_once = CrashOnce()

    @task
    async def fetch(name: str) -> str:
        bodies.append(f"fetch {name}")
        if name == slow:
            await fast_has_charged.wait()
        return f"page {name}"

    @task
    async def charge(page: str) -> str:
        bodies.append(f"charge {page}")
        fast_has_charged.set()
        return f"receipt for {page}"

    @workflow
    async def branches() -> list[str]:
        async def branch(name: str) -> str:
            return await charge(await fetch(name))

        receipts = await both(branch("a"), branch("b"))
        crash_once()
        return receipts

    with pytest.raises(Crash):
        await runtime.run(branches(), thread_id="t")
    assert await runtime.run(branches(), thread_id="t") == [
        "receipt for page a",
        "receipt for page b",
    ]

    assert len(bodies) == 4


@on_asyncio
@pytest.mark.parametrize("slow", ["a", "b"])
async def test_two_branches_under_gather_get_their_own_results_again(
    runtime: Runtime, slow: str
) -> None:
    """The same under ``asyncio.gather``, the rerun with the other branch slower."""
    bodies: list[str] = []
    crashes = [Crash()]

    @task
    async def fetch(name: str) -> str:
        bodies.append(name)
        return name

    @task
    async def charge(page: str) -> str:
        bodies.append(page)
        return f"receipt for {page}"

    @workflow
    async def branches() -> list[str]:
        other_is_done = asyncio.Event()
        waits = slow if crashes else {"a": "b", "b": "a"}[slow]

        async def branch(name: str) -> str:
            if name == waits:
                await other_is_done.wait()
            receipt = await charge(await fetch(name))
            other_is_done.set()
            return receipt

        receipts = await asyncio.gather(branch("a"), branch("b"))
        if crashes:
            raise crashes.pop()
        return receipts

    with pytest.raises(Crash):
        await runtime.run(branches(), thread_id="t")
    assert await runtime.run(branches(), thread_id="t") == ["receipt for a", "receipt for b"]
    assert len(bodies) == 4


class Program:
    """A workflow whose code is replaced between two runs: a list of calls to make."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.steps: list[tuple[str, tuple[Any, ...]]] = []
        self.crash = True

        @task
        async def fetch(name: str, limit: int = 10) -> str:
            self.bodies.append(f"fetch {name} {limit}")
            return f"{name}/{limit}"

        @task
        async def store(name: str) -> str:
            self.bodies.append(f"store {name}")
            return f"stored {name}"

        tasks = {"fetch": fetch, "store": store}

        @workflow
        async def program() -> list[str]:
            results = [await tasks[name](*args) for name, args in self.steps]
            if self.crash:
                raise Crash
            return results

        self.workflow = program

    async def run_twice(
        self,
        runtime: Runtime,
        before: list[tuple[str, tuple[Any, ...]]],
        after: list[tuple[str, tuple[Any, ...]]],
    ) -> tuple[list[str], list[str]]:
        """Run until a crash, change the code, run again: results, and the bodies of the rerun."""
        self.steps = before
        with pytest.raises(Crash):
            await runtime.run(self.workflow(), thread_id="t")
        self.bodies.clear()
        self.steps, self.crash = after, False
        return await runtime.run(self.workflow(), thread_id="t"), self.bodies


async def test_an_inserted_step_executes_alone(runtime: Runtime) -> None:
    """A step inserted before recorded ones shifts nothing."""
    results, bodies = await Program().run_twice(
        runtime,
        [("fetch", ("a",)), ("store", ("a",))],
        [("store", ("new",)), ("fetch", ("a",)), ("fetch", ("new",)), ("store", ("a",))],
    )
    assert results == ["stored new", "a/10", "new/10", "stored a"]
    assert bodies == ["store new", "fetch new 10"]


async def test_swapped_steps_keep_their_results(runtime: Runtime) -> None:
    """Reordering lines changes no one's identity."""
    results, bodies = await Program().run_twice(
        runtime,
        [("fetch", ("a",)), ("fetch", ("b",)), ("store", ("a",))],
        [("store", ("a",)), ("fetch", ("b",)), ("fetch", ("a",))],
    )
    assert results == ["stored a", "b/10", "a/10"]
    assert bodies == []


async def test_changed_arguments_are_another_call(runtime: Runtime) -> None:
    """A call with other arguments executes; the recorded result of the old ones is not given."""
    results, bodies = await Program().run_twice(
        runtime,
        [("fetch", ("a", 1)), ("store", ("a",))],
        [("fetch", ("a", 2)), ("store", ("a",))],
    )
    assert results == ["a/2", "stored a"]
    assert bodies == ["fetch a 2"]


async def test_a_repeated_call_is_told_apart_by_its_occurrence(runtime: Runtime) -> None:
    """The second equal call is another call, on the rerun too."""
    results, bodies = await Program().run_twice(
        runtime,
        [("fetch", ("a",)), ("fetch", ("a",))],
        [("fetch", ("a",)), ("fetch", ("a",)), ("fetch", ("a",))],
    )
    assert results == ["a/10"] * 3
    assert bodies == ["fetch a 10"]


async def test_a_changed_result_reaches_only_what_depends_on_it(runtime: Runtime) -> None:
    """After one result was forgotten, a rerun executes it, and what is given a changed value."""
    bodies: list[str] = []
    version = ["v1"]

    @task
    async def read(name: str) -> str:
        bodies.append(f"read {name}")
        return f"{name} {version[0] if name == 'a' else ''}"

    @task
    async def render(text: str) -> str:
        bodies.append(f"render {text}")
        return text.upper()

    @workflow
    async def build() -> list[str]:
        return [await render(await read(name)) for name in ("a", "b")]

    await runtime.run(build(), thread_id="t")
    bodies.clear()
    version[0] = "v2"
    (record,) = [each for each in await runtime.tasks("t") if each.arguments == {"name": "a"}]
    await runtime.forget("t", record.task_id)
    assert await runtime.run(build(), thread_id="t") == ["A V2", "B "]
    assert bodies == ["read a", "render a v2"]


async def test_positional_and_keyword_arguments_are_one_call(runtime: Runtime) -> None:
    """``f(1)`` and ``f(x=1)`` are the same call on a rerun."""
    bodies: list[int] = []
    crashes = [Crash()]

    @task
    async def double(x: int, y: int = 2) -> int:
        bodies.append(x)
        return x * y

    @workflow
    async def shop() -> int:
        if not crashes:
            return await double(y=3, x=1)
        await double(1, 3)
        raise crashes.pop()

    with pytest.raises(Crash):
        await runtime.run(shop(), thread_id="t")
    assert await runtime.run(shop(), thread_id="t") == 3
    assert bodies == [1]


async def test_a_new_parameter_with_a_default_changes_no_identity(runtime: Runtime) -> None:
    """Neither does moving the function: names and arguments are identity, code is not."""

    @task(name="fetch")
    async def before(url: str) -> str:
        return f"old {url}"

    @task(name="fetch")
    async def after(url: str, limit: int = 3) -> str:
        return f"new {url} {limit}"

    fetches = [before]

    @workflow
    async def shop() -> str:
        page = await fetches[0]("a.org")
        if fetches[0] is before:
            raise Crash
        return page

    with pytest.raises(Crash):
        await runtime.run(shop(), thread_id="t")
    fetches[0] = after
    assert await runtime.run(shop(), thread_id="t") == "old a.org"


async def test_a_new_version_executes_again(runtime: Runtime) -> None:
    """A task whose meaning changed gets a new version, and old results are not given to it."""

    @task(name="fetch", version=1)
    async def before() -> str:
        return "old"

    @task(name="fetch", version=2)
    async def after() -> str:
        return "new"

    fetches = [before]

    @workflow
    async def shop() -> str:
        page = await fetches[0]()
        if fetches[0] is before:
            raise Crash
        return page

    with pytest.raises(Crash):
        await runtime.run(shop(), thread_id="t")
    fetches[0] = after
    assert await runtime.run(shop(), thread_id="t") == "new"


async def test_another_type_is_another_call(runtime: Runtime) -> None:
    """``1``, ``1.0``, ``True``, ``"1"`` and ``[1]`` and ``(1,)`` are different arguments."""
    bodies: list[object] = []

    @task
    async def show(value: object) -> str:
        bodies.append(value)
        return repr(value)

    @workflow
    async def shop() -> list[str]:
        return [await show(value) for value in (1, 1.0, True, "1", [1], (1,), None, "null")]

    for _ in range(2):
        assert await runtime.run(shop(), thread_id="t") == [
            "1", "1.0", "True", "'1'", "[1]", "(1,)", "None", "'null'"
        ]  # fmt: skip
    ids = {each.task_id for each in await runtime.tasks("t")}
    assert len(ids) == len(bodies) == 8


async def test_ids_are_the_same_on_another_thread_with_the_same_run_id(runtime: Runtime) -> None:
    """The thread's id is no part of a task id, so that a copied run keeps its ids."""

    @task
    async def step(name: str) -> str:
        return name

    @workflow
    async def shop() -> str:
        return await step("a")

    await runtime.run(shop(), thread_id="one", run_id="r")
    await runtime.run(shop(), thread_id="two", run_id="r")
    await runtime.run(shop(), thread_id="two", run_id="s")
    one, two = await runtime.tasks("one"), await runtime.tasks("two")
    assert one[0].task_id == two[0].task_id
    assert two[0].task_id != two[1].task_id


async def test_the_identity_of_a_call_is_taken_when_it_is_made(runtime: Runtime) -> None:
    """Arguments that change before the call is awaited change nothing about who it is."""
    seen: list[str] = []

    @task
    async def step(names: list[str]) -> int:
        return len(names)

    @workflow
    async def shop() -> None:
        names = ["a"]
        first = step(names)
        names.append("b")
        second = step(["a", "b"])
        seen.extend((first.id, second.id))
        await first
        await second

    await runtime.run(shop(), thread_id="t")
    assert len(set(seen)) == 2
    assert [each.task_id for each in await runtime.tasks("t")] == seen


async def test_a_key_stands_in_place_of_the_arguments(runtime: Runtime) -> None:
    """What a key returns is the call's identity: a client may be part of the arguments."""
    bodies: list[str] = []
    crash_once = CrashOnce()

    @task(key=lambda client, order: order)
    async def charge(client: Client, order: str) -> str:
        bodies.append(order)
        return order

    @workflow
    async def shop() -> list[str]:
        receipts = [await charge(Client(), "A1"), await charge(Client(), order="A2")]
        crash_once()
        return receipts

    with pytest.raises(Crash):
        await runtime.run(shop(), thread_id="t")
    assert await runtime.run(shop(), thread_id="t") == ["A1", "A2"]
    assert bodies == ["A1", "A2"]


@pytest.mark.parametrize(
    "argument",
    [Client(), float("nan"), float("inf"), {1: "a"}, "\ud800", object],
    ids=["client", "nan", "infinity", "int keys", "surrogate", "class"],
)
async def test_an_argument_without_a_canonical_form_asks_for_a_key(
    runtime: Runtime, argument: object
) -> None:
    """The error comes at the call, names the argument and says what to write."""
    bodies: list[object] = []

    @task
    async def charge(order: str, client: object) -> None:
        bodies.append(client)

    @workflow
    async def shop() -> None:
        with pytest.raises(SerializationError, match=r"client.*key="):
            charge("A1", argument)

    await runtime.run(shop(), thread_id="t")
    assert bodies == []


async def test_one_task_name_means_one_function_in_a_run(runtime: Runtime) -> None:
    """A second function under the same name is refused at its call."""

    @task(name="step")
    async def one() -> str:
        return "one"

    @task(name="step")
    async def two() -> str:
        return "two"

    @workflow
    async def shop() -> str:
        first = await one()
        with pytest.raises(TaskNameConflict) as caught:
            two()
        assert caught.value.name == "step"
        return first

    assert await runtime.run(shop(), thread_id="t") == "one"


async def test_one_function_may_be_decorated_again(runtime: Runtime) -> None:
    """The same function under its name is no conflict, whichever object wraps it."""

    def make():
        @task
        async def step(number: int) -> int:
            return number

        return step

    @workflow
    async def shop() -> list[int]:
        return [await make()(1), await make()(2)]

    assert await runtime.run(shop(), thread_id="t") == [1, 2]


async def test_equal_calls_in_flight_are_warned_about_once(runtime: Runtime) -> None:
    """Who of two equal calls is who depends on who calls first: that is told, with the way out."""
    bodies: list[str] = []
    two_have_begun = anyio.Event()

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        if len(bodies) >= 2:
            two_have_begun.set()
        await two_have_begun.wait()
        return name

    @workflow
    async def shop() -> list[str]:
        return await both(step("a"), step("a"), step("a"))

    with pytest.warns(RuntimeWarning, match=r"equal calls of step.*key=") as warned:
        assert await runtime.run(shop(), thread_id="t") == ["a", "a", "a"]
    assert len(warned) == 1
    assert len(bodies) == 3


async def test_equal_calls_are_warned_about_whichever_begins_first(runtime: Runtime) -> None:
    """The order in which equal calls were made says nothing about the order of their bodies."""
    both_have_begun = anyio.Event()
    bodies: list[str] = []

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        if len(bodies) == 2:
            both_have_begun.set()
        await both_have_begun.wait()
        return name

    @workflow
    async def shop() -> str:
        first, second = step("a"), step("a")

        async def begin_second() -> None:
            await second

        async with anyio.create_task_group() as group:
            group.start_soon(begin_second)
            while not bodies:
                await checkpoint()
            return await first

    with pytest.warns(RuntimeWarning, match="equal calls of step"):
        assert await runtime.run(shop(), thread_id="t") == "a"


async def test_equal_calls_one_after_the_other_are_not_warned_about(runtime: Runtime) -> None:
    """An order that the code fixes needs no key. (Warnings are errors in these tests.)"""
    bodies: list[str] = []

    @task
    async def step(name: str) -> int:
        bodies.append(name)
        return len(bodies)

    @workflow
    async def shop() -> list[int]:
        return [await step("a"), await step("a")]

    assert await runtime.run(shop(), thread_id="t") == [1, 2]


async def test_a_rerun_that_uses_all_that_is_recorded_logs_nothing(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """Only what was left unused is told."""
    with caplog.at_level(logging.WARNING, "taskflow"):
        await Program().run_twice(
            runtime, [("fetch", ("a",))], [("fetch", ("a",)), ("fetch", ("b",))]
        )
    assert caplog.records == []


async def test_a_run_that_ends_with_unused_results_logs_them_by_name(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """A recorded result that the code does not ask for any more is no error, and told."""
    with caplog.at_level(logging.WARNING, "taskflow"):
        results, _ = await Program().run_twice(
            runtime, [("fetch", ("a",)), ("store", ("a",))], [("fetch", ("a",))]
        )
    assert results == ["a/10"]
    (record,) = caplog.records
    assert "store:" in record.getMessage()
    assert "fetch:" not in record.getMessage()
    assert "'t'" in record.getMessage()


async def test_what_a_replayed_task_had_called_is_not_unused(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """When the outer call is recorded the inner ones are not asked for; nor are they missed."""
    crash_once = CrashOnce()

    @task
    async def inner() -> str:
        return "inner"

    @task
    async def outer() -> str:
        return await inner()

    @workflow
    async def shop() -> str:
        result = await outer()
        crash_once()
        return result

    with caplog.at_level(logging.WARNING, "taskflow"):
        with pytest.raises(Crash):
            await runtime.run(shop(), thread_id="t")
        assert await runtime.run(shop(), thread_id="t") == "inner"
    assert caplog.records == []


@pytest.fixture
async def strict(make_store: MakeStore, anyio_backend: object):
    """A runtime that refuses drift."""
    async with Runtime(make_store(), on_drift="error") as runtime:
        yield runtime


async def test_drift_can_be_refused_before_anything_new_executes(strict: Runtime) -> None:
    """``on_drift="error"`` shows recorded and asked, and executes nothing."""
    program = Program()
    with pytest.raises(HistoryMismatch) as caught:
        await program.run_twice(
            strict,
            [("fetch", ("a", 1)), ("store", ("a",))],
            [("fetch", ("a", 2)), ("store", ("a",))],
        )
    assert program.bodies == []
    assert '{"limit":1,"name":"a"}' in _json(str(caught.value))
    assert '{"limit":2,"name":"a"}' in _json(str(caught.value))


async def test_refused_drift_leaves_the_run_as_it_was(strict: Runtime) -> None:
    """After a HistoryMismatch the code that recorded the run can still continue it."""
    program = Program()
    steps: list[tuple[str, tuple[Any, ...]]] = [("fetch", ("a", 1)), ("store", ("a",))]
    with pytest.raises(HistoryMismatch):
        await program.run_twice(strict, steps, [("store", ("b",))])
    program.steps = steps
    assert await strict.run(program.workflow(), thread_id="t") == ["a/1", "stored a"]
    assert program.bodies == []


async def test_a_rerun_that_asks_for_everything_goes_on_under_strict_drift(
    strict: Runtime,
) -> None:
    """Swapped and appended steps are no drift: all that is recorded is asked for in the end."""
    results, bodies = await Program().run_twice(
        strict,
        [("fetch", ("a",)), ("fetch", ("b",))],
        [("fetch", ("b",)), ("fetch", ("a",)), ("store", ("new",))],
    )
    assert results == ["b/10", "a/10", "stored new"]
    assert bodies == ["store new"]


async def test_strict_drift_holds_new_calls_until_the_others_were_asked(strict: Runtime) -> None:
    """A new branch beside a recorded one waits until the recorded calls have been asked for."""
    bodies: list[str] = []
    branches = ["a"]
    crash_once = CrashOnce()

    @task
    async def step(name: str) -> str:
        bodies.append(name)
        return name

    @workflow
    async def shop() -> list[list[str]]:
        async def branch(name: str) -> list[str]:
            return [await step(f"{name}{number}") for number in range(3)]

        results = await both(*[branch(name) for name in branches])
        crash_once()
        return results

    with pytest.raises(Crash):
        await strict.run(shop(), thread_id="t")
    branches.insert(0, "b")
    assert await strict.run(shop(), thread_id="t") == [["b0", "b1", "b2"], ["a0", "a1", "a2"]]
    assert bodies == ["a0", "a1", "a2", "b0", "b1", "b2"]


async def test_a_strict_rerun_that_ends_early_is_told_by_the_log(
    strict: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no new call is asked for there is nothing to hold: unused results are logged."""
    with caplog.at_level(logging.WARNING, "taskflow"):
        results, _ = await Program().run_twice(
            strict, [("fetch", ("a",)), ("store", ("a",))], [("fetch", ("a",))]
        )
    assert results == ["a/10"]
    assert len(caplog.records) == 1


def _json(text: str) -> str:
    """``text`` with arguments in the order of their names, as they may be shown in any."""
    return text.replace('{"name":"a","limit":1}', '{"limit":1,"name":"a"}').replace(
        '{"name":"a","limit":2}', '{"limit":2,"name":"a"}'
    )
