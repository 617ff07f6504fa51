"""Workflows: their arguments, their children, and what one run leaves for the next."""

from __future__ import annotations

import datetime
import gc
import threading
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from kinds import MakeStore
from msgspec import Struct
from reruns import Crash, CrashOnce

from taskflow import RetryPolicy, RunHandle, Runtime, current, previous, save, task, workflow
from taskflow.errors import NotInRun, SerializationError

pytestmark = pytest.mark.anyio


class Order(Struct):
    """An input of a workflow."""

    id: str
    items: list[str] = []


@dataclass
class Receipt:
    """What a workflow returns."""

    order: str
    day: datetime.date


@task
async def shout(word: str) -> str:
    return word.upper()


async def test_a_workflow_takes_its_arguments_in_any_way(runtime: Runtime) -> None:
    """Positional, keyword, defaults, ``*args`` and ``**kwargs`` reach the body."""

    @workflow
    async def body(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> list[Any]:
        return [a, b, list(rest), c, more]

    calls = {
        "one": (body(1), [1, 2, [], 3, {}]),
        "two": (body(a=1, b=5), [1, 5, [], 3, {}]),
        "three": (body(1, 2, 3, 4, c=6, d=7), [1, 2, [3, 4], 6, {"d": 7}]),
    }
    for thread_id, (call, expected) in calls.items():
        assert await runtime.run(call, thread_id=thread_id) == expected


async def test_a_wrong_argument_of_a_workflow_is_an_error_at_the_call() -> None:
    """A call that does not fit the signature is not even made."""

    @workflow
    async def body(a: int) -> None: ...

    with pytest.raises(TypeError, match="body"):
        body()  # type: ignore[call-arg]


async def test_arguments_are_decoded_on_the_first_run(runtime: Runtime) -> None:
    """A workflow gets what every rerun will get: its own copy, of the annotated types."""
    seen: list[Order] = []

    @workflow
    async def sell(order: Order, day: datetime.date, tags: set[str]) -> str:
        seen.append(order)
        order.items.append("mug")
        return f"{order.id} {day.year} {sorted(tags)}"

    order = Order("A1", ["pen"])
    call = sell(order, datetime.date(2024, 5, 1), {"b", "a"})
    assert await runtime.run(call, thread_id="t") == "A1 2024 ['a', 'b']"
    assert seen[0] is not order
    assert order.items == ["pen"]


async def test_a_dict_argument_keeps_its_order(runtime: Runtime) -> None:
    """Equal inputs are one run however their keys stand; a rerun sees the recorded order."""
    crash_once = CrashOnce()

    @workflow
    async def price(prices: dict[str, int], currency: str) -> list[str]:
        crash_once()
        return list(prices)

    with pytest.raises(Crash):
        await runtime.run(price({"b": 1, "a": 2}, "EUR"), thread_id="t")
    same = price(currency="EUR", prices={"a": 2, "b": 1})
    assert await runtime.run(same, thread_id="t") == ["b", "a"]


async def test_arguments_that_do_not_fit_their_annotations_are_refused() -> None:
    """What would come to the rerun as something else is an error at the call."""

    @workflow
    async def sell(order: Order, pair: tuple[int, int] = (1, 2)) -> None: ...

    for arguments in ({"order": "A1"}, {"order": Order("A1"), "pair": [1, 2]}, {"order": 1}):
        with pytest.raises(SerializationError, match="sell"):
            sell(**arguments)


async def test_a_result_is_decoded_to_its_annotation(runtime: Runtime) -> None:
    """The first caller and the one who is answered get equal values of the annotated type."""

    @workflow
    async def sell(order: str) -> Receipt:
        return Receipt(order, datetime.date(2024, 5, 1))

    for _ in range(2):
        receipt = await runtime.run(sell("A1"), thread_id="t")
        assert receipt == Receipt("A1", datetime.date(2024, 5, 1))


async def test_an_unfit_result_of_a_workflow_fails_its_run(runtime: Runtime) -> None:
    """A result that would come back as something else is an error, and no success."""

    @workflow
    async def sell():
        return {1: "a"}

    with pytest.raises(SerializationError, match=r"sell.*dict\[int, str\]"):
        await runtime.run(sell(), thread_id="t")
    assert (await runtime.get("t")).status == "error"


async def test_a_call_describes_a_run_as_often_as_one_likes(runtime: Runtime) -> None:
    """One call of a workflow may be run on several threads."""

    @workflow
    async def greet(name: str) -> str:
        return await shout(name)

    call = greet("ada")
    assert await runtime.run(call, thread_id="one") == "ADA"
    assert await runtime.run(call, thread_id="two") == "ADA"


async def test_a_workflow_call_is_only_a_description_outside_of_a_run() -> None:
    """Awaited without a runtime it says what is missing."""

    @workflow
    async def greet(name: str) -> str:
        return name

    with pytest.raises(NotInRun, match="greet"):
        await greet("ada")


async def test_a_workflow_call_that_is_never_run_is_reported() -> None:
    """A forgotten ``runtime.run`` is told by name."""

    @workflow
    async def greet(name: str) -> str:
        return name

    def forget_it() -> None:
        greet("ada")
        gc.collect()

    with pytest.warns(RuntimeWarning, match=r"greet.*never"):
        forget_it()


async def test_fn_is_the_plain_function() -> None:
    """``.fn`` is the workflow's function as it was written."""

    @workflow
    async def greet(name: str) -> str:
        """Say hello."""
        return name

    assert await greet.fn("ada") == "ada"
    assert (greet.name, greet.__doc__) == ("greet", "Say hello.")


async def test_a_def_workflow_executes_in_a_worker_thread(runtime: Runtime) -> None:
    """In a ``def`` workflow ``call.result()`` waits for a call."""

    @workflow
    def greet(names: list[str]) -> list[str]:
        assert threading.current_thread() is not threading.main_thread()
        return [shout(names[0]).result(), *shout.map(names[1:]).result()]

    for _ in range(2):
        assert await runtime.run(greet(["a", "b", "c"]), thread_id="t") == ["A", "B", "C"]
    assert len(await runtime.tasks("t")) == 3


async def test_a_child_workflow_is_recorded(runtime: Runtime) -> None:
    """Awaited inside another one a workflow is a call with a record and children of its own."""
    bodies: list[str] = []
    crash_once = CrashOnce()

    @workflow
    async def child(word: str) -> str:
        bodies.append(word)
        return await shout(word)

    @workflow
    async def parent() -> list[str]:
        results = [await child("a"), await child("b")]
        crash_once()
        return results

    with pytest.raises(Crash):
        await runtime.run(parent(), thread_id="t")
    assert await runtime.run(parent(), thread_id="t") == ["A", "B"]
    assert bodies == ["a", "b"]

    first_shout, first_child, *_ = await runtime.tasks("t")
    assert (first_shout.name, first_child.name) == ("shout", "child")
    assert first_shout.parent_id == first_child.task_id
    assert first_child.parent_id is None


async def test_children_execute_at_the_same_time(runtime: Runtime) -> None:
    """Child workflows in a group are calls like any others."""
    both = anyio.Event()
    begun: list[str] = []

    @workflow
    async def child(word: str) -> str:
        begun.append(word)
        if len(begun) == 2:
            both.set()
        await both.wait()
        return word

    @workflow
    async def parent() -> int:
        async with anyio.create_task_group() as group:
            group.start_soon(child, "a")
            group.start_soon(child, "b")
        return len(begun)

    assert await runtime.run(parent(), thread_id="t") == 2
    assert [each.name for each in await runtime.tasks("t")] == ["child", "child"]


async def test_a_child_gets_its_arguments_decoded(runtime: Runtime) -> None:
    """A child sees the same values on its first execution and on every later one."""
    orders: list[Order] = []

    @workflow
    async def child(order: Order) -> str:
        orders.append(order)
        return order.id

    @workflow
    async def parent() -> bool:
        order = Order("A1")
        await child(order)
        return orders[0] == order and orders[0] is not order

    assert await runtime.run(parent(), thread_id="t") is True


async def test_a_child_may_change_what_it_is_given(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a copy, decoded for it alone: nobody is warned, also not of 60 that became 60.0."""

    @workflow
    async def child(limits: dict[str, float]) -> int:
        limits["other"] = 1.0
        return len(limits)

    @workflow
    async def parent() -> list[int]:
        limits: dict[str, float] = {"one": 60}
        return [await child(limits), len(limits)]

    assert await runtime.run(parent(), thread_id="t") == [2, 1]
    assert caplog.records == []


async def test_a_task_may_call_a_workflow(runtime: Runtime) -> None:
    """A workflow inside a task is a recorded child of the task."""

    @workflow
    async def child(word: str) -> str:
        return await shout(word)

    @task
    async def outer() -> str:
        return await child("a")

    @workflow
    async def parent() -> str:
        return await outer()

    assert await runtime.run(parent(), thread_id="t") == "A"
    assert [each.name for each in await runtime.tasks("t")] == ["shout", "child", "outer"]


def test_a_generator_is_no_workflow() -> None:
    """A workflow returns its result: generators of both kinds are refused at decoration."""

    async def items():
        yield 1

    def plain_items():
        yield 1

    for body in (items, plain_items):
        with pytest.raises(TypeError, match="generator"):
            workflow(body)


async def test_a_workflow_has_options(runtime: Runtime) -> None:
    """Name and version are part of who a run is: another version is another input."""

    def make(version: int):
        @workflow(name="greeting", version=version)
        async def greet() -> int:
            return version

        return greet()

    assert await runtime.run(make(1), thread_id="t") == 1
    assert await runtime.run(make(1), thread_id="t") == 1
    assert await runtime.run(make(2), thread_id="t") == 2
    assert [each.workflow for each in await runtime.runs()] == ["greeting", "greeting"]


async def test_previous_gives_the_result_of_the_run_before(runtime: Runtime) -> None:
    """A conversation is a thread whose every run continues from what the one before returned."""

    @workflow
    async def turn(message: str) -> list[str]:
        return [*(previous(list[str]) or []), await shout(message)]

    assert await runtime.run(turn("a"), thread_id="t") == ["A"]
    assert await runtime.run(turn("b"), thread_id="t") == ["A", "B"]
    assert await runtime.run(turn("b"), thread_id="t") == ["A", "B"]
    assert await runtime.run(turn("c"), thread_id="t", run_id="m3") == ["A", "B", "C"]
    assert await runtime.run(turn("c"), thread_id="t", run_id="m4") == ["A", "B", "C", "C"]
    assert await runtime.run(turn("a"), thread_id="other") == ["A"]


async def test_save_keeps_something_else_than_the_result(runtime: Runtime) -> None:
    """``save(value)`` is what the next run's ``previous`` gives; the last value counts."""

    @workflow
    async def count() -> str:
        before = previous(int)
        save(-1)
        save((before or 0) + 1)
        return f"before: {before}"

    seen = [await runtime.run(count(), thread_id="t", run_id=run_id) for run_id in ("a", "b", "c")]
    assert seen == ["before: None", "before: 1", "before: 2"]


async def test_previous_is_decoded_to_the_type_that_is_asked_for(runtime: Runtime) -> None:
    """What was saved as a Struct is asked for as one."""

    @workflow
    async def sell(name: str) -> str:
        before = previous(Order)
        save(Order(name, ["pen"]))
        return "first" if before is None else f"after {before.id} {before.items}"

    assert await runtime.run(sell("A1"), thread_id="t") == "first"
    assert await runtime.run(sell("A2"), thread_id="t") == "after A1 ['pen']"

    @workflow
    async def misread() -> None:
        previous(int)

    with pytest.raises(SerializationError, match="previous run"):
        await runtime.run(misread(), thread_id="t")


async def test_previous_is_what_it_was_when_the_run_was_created(runtime: Runtime) -> None:
    """A rerun of an unfinished run sees the same ``previous`` as its first execution."""
    crashes = [Crash()]

    @workflow
    async def turn(message: str) -> list[str]:
        before = previous(list[str]) or []
        if message == "b" and crashes:
            raise crashes.pop()
        return [*before, message]

    await runtime.run(turn("a"), thread_id="t")
    with pytest.raises(Crash):
        await runtime.run(turn("b"), thread_id="t")
    assert await runtime.run(turn("b"), thread_id="t") == ["a", "b"]


async def test_what_a_failed_or_cancelled_run_saved_is_not_given(runtime: Runtime) -> None:
    """``previous`` looks at the latest run that succeeded."""

    @workflow
    async def turn(message: str) -> str:
        save(message)
        if message == "bad":
            raise Crash
        return str(previous(str))

    await runtime.run(turn("good"), thread_id="t")
    with pytest.raises(Crash):
        await runtime.run(turn("bad"), thread_id="t")
    assert await runtime.run(turn("next"), thread_id="t", supersede=True) == "good"


async def test_previous_and_save_belong_into_a_run(runtime: Runtime) -> None:
    """Outside of one they say so; in a task ``save`` would be lost on a rerun, and is refused."""
    with pytest.raises(NotInRun):
        previous(str)
    with pytest.raises(NotInRun):
        save("a")

    @task
    async def careless() -> None:
        save("a")

    @workflow
    async def shop() -> None:
        with pytest.raises(RuntimeError, match="workflow"):
            await careless()

    await runtime.run(shop(), thread_id="t")


@pytest.mark.parametrize("value", [float("nan"), {1: 2}, object()])
async def test_what_cannot_be_saved_is_an_error_at_save(runtime: Runtime, value: object) -> None:
    """Never a silent change."""

    @workflow
    async def shop() -> None:
        with pytest.raises(SerializationError):
            save(value)

    await runtime.run(shop(), thread_id="t")


async def test_current_counts_the_attempts_of_a_workflow(runtime: Runtime) -> None:
    """A workflow with a policy sees which attempt it is."""

    @workflow(retry=RetryPolicy(max_attempts=3, initial_interval=0))
    async def flaky() -> int:
        attempt = current().attempt
        if attempt < 3:
            raise ConnectionError
        return attempt

    assert await runtime.run(flaky(), thread_id="t") == 3


async def test_a_runtime_may_run_a_workflow_from_inside_another(runtime: Runtime) -> None:
    """``runtime.run`` in a task is another run, on another thread."""

    @workflow
    async def child(word: str) -> str:
        return f"{current().thread_id} {await shout(word)}"

    @task
    async def elsewhere() -> str:
        return await runtime.run(child("a"), thread_id="inner")

    @workflow
    async def parent() -> str:
        return await elsewhere()

    assert await runtime.run(parent(), thread_id="outer") == "inner A"
    assert [each.name for each in await runtime.tasks("inner")] == ["shout"]
    assert [each.name for each in await runtime.tasks("outer")] == ["elsewhere"]


async def test_a_handle_is_typed_by_its_workflow(runtime: Runtime) -> None:
    """``start`` gives a handle on the run, whose result is the workflow's."""

    @workflow
    async def greet() -> str:
        return await shout("a")

    handle: RunHandle[str] = await runtime.start(greet(), thread_id="t")
    assert await handle.result() == "A"


async def test_a_recorded_argument_is_never_left_out(make_store: MakeStore) -> None:
    """A run is not continued by code that has no such parameter any more."""

    @workflow(name="greet")
    async def old(person: str) -> str:
        raise ConnectionError(person)

    @workflow(name="greet")
    async def new(name: str = "nobody") -> str:
        return name

    store = make_store()
    async with Runtime(store) as runtime:
        with pytest.raises(ConnectionError):
            await runtime.run(old("Ann"), thread_id="t")
    async with Runtime(make_store(), workflows=[new]) as runtime:
        with pytest.raises(SerializationError, match="takes no parameter person"):
            await runtime.resume("t")
    async with Runtime(make_store(), workflows=[old]) as runtime:
        with pytest.raises(ConnectionError, match="Ann"):
            await runtime.resume("t")
