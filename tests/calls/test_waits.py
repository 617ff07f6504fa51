"""`receive`, `sleep` and `sleep_until`: what is taken by whom, what is recorded, what is raised."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from typing import Any, TypedDict

import anyio
import msgspec
import pytest
from kinds import MakeStore, every_durability, on_asyncio
from waits import PATIENCE, JumpingClock, finish, until, waits_of

from taskflow import (
    MemoryStore,
    RetryPolicy,
    RunNotFound,
    RunPaused,
    Runtime,
    WorkflowCall,
    receive,
    sleep,
    sleep_until,
    task,
    workflow,
)
from taskflow.errors import NotInRun, SerializationError
from taskflow.events import Waiting

pytestmark = pytest.mark.anyio


class Decision(msgspec.Struct):
    approved: bool
    reason: str = ""


@dataclass
class Point:
    x: int
    y: int


class Colour(Enum):
    RED = "red"


class Order(TypedDict):
    id: int


@asynccontextmanager
async def waiting_live(runtime: Runtime, call: WorkflowCall[Any], count: int):
    """A run in the moment in which ``count`` of its calls wait, before it pauses; its result."""
    results: list[Any] = []

    async def go() -> None:
        results.append(await runtime.run(call, thread_id="t", wait=True))

    async with (
        anyio.create_task_group() as group,
        runtime.stream(call, thread_id="t", wait=True) as events,
    ):
        group.start_soon(go)
        with anyio.fail_after(PATIENCE):
            async for event in events:
                count -= isinstance(event, Waiting)
                if not count:
                    break
        yield results


# What a signal is, and who takes it.


async def test_a_signal_that_was_sent_before_is_there(runtime: Runtime) -> None:
    """It may arrive before anybody waits."""

    @workflow
    async def ask() -> str:
        before = await receive("first")
        await runtime.send("t", "approval", "yes")
        return f"{before} {await receive('approval')}"

    async def main() -> str:
        return await runtime.run(ask(), thread_id="t", wait=True)

    await waits_of(runtime, ask())
    await runtime.send("t", "first", "early")

    assert await finish(runtime, ask()) == "early yes"
    assert await main() == "early yes"


@pytest.mark.parametrize("value", [None, False, {}, [], 0, "", 2**60, 0.1, {"a": [1, None]}])
async def test_any_json_value_is_an_answer(runtime: Runtime, value: object) -> None:
    """``None``, ``False`` and empty ones too: a rerun sees the same."""

    @workflow
    async def ask() -> list[Any]:
        return [await receive("x")]

    await waits_of(runtime, ask())
    await runtime.send("t", "x", value)

    for _ in range(2):
        assert await finish(runtime, ask()) == [value]


@pytest.mark.parametrize(
    "value",
    [float("nan"), {1: "a"}, object(), "\ud800", {"a": float("inf")}, 10**5000],
    ids=lambda value: type(value).__name__,
)
async def test_a_value_that_json_does_not_carry_is_refused(runtime: Runtime, value: object) -> None:
    """The sender is told; nothing is written, and the wait goes on."""

    @workflow
    async def ask() -> Any:
        return await receive("x")

    await waits_of(runtime, ask())
    with pytest.raises(SerializationError):
        await runtime.send("t", "x", value)

    assert len(await waits_of(runtime, ask())) == 1


async def test_the_same_value_comes_back_though_json_says_it_otherwise(runtime: Runtime) -> None:
    """What is sent is read as the type that is asked for: tuples, dates, structs, enums."""

    @workflow
    async def ask() -> list[str]:
        return [
            repr(await receive("struct", Decision)),
            repr(await receive("point", Point)),
            repr(await receive("colour", Colour)),
            repr(await receive("tuple", tuple[int, int])),
            repr(await receive("when", datetime)),
            repr(await receive("order", Order)),
            repr(await receive("either", int | None)),
        ]

    when = datetime(2026, 1, 2, tzinfo=UTC)
    await waits_of(runtime, ask())
    await runtime.send("t", "struct", Decision(True))
    await runtime.send("t", "point", {"x": 1, "y": 2})
    await runtime.send("t", "colour", "red")
    await runtime.send("t", "tuple", (1, 2))
    await runtime.send("t", "when", when)
    await runtime.send("t", "order", {"id": 1})
    await runtime.send("t", "either", None)

    expected = [Decision(True), Point(1, 2), Colour.RED, (1, 2), when, {"id": 1}, None]
    assert await finish(runtime, ask()) == [repr(each) for each in expected]


async def test_signals_are_taken_in_the_order_in_which_they_were_sent(runtime: Runtime) -> None:
    """Each by one receive."""

    @workflow
    async def collect() -> list[int]:
        return [await receive("number", int) for _ in range(5)]

    await waits_of(runtime, collect())
    for number in range(5):
        await runtime.send("t", "number", number)

    assert await finish(runtime, collect()) == [0, 1, 2, 3, 4]


@on_asyncio
async def test_the_earliest_call_is_served_first(runtime: Runtime) -> None:
    """Though another one is awaited, or scheduled, before it."""

    @workflow
    async def collect() -> list[int]:
        first, second, third = (receive("number", int) for _ in range(3))
        late, middle, early = await asyncio.gather(third, second, first)
        return [early, middle, late]

    async with waiting_live(runtime, collect(), 3) as results:
        for number in range(3):
            await runtime.send("t", "number", number)

    assert results == [[0, 1, 2]]


@on_asyncio
async def test_the_earliest_call_is_served_first_though_its_deadline_is_recorded_first(
    runtime: Runtime,
) -> None:
    """A timeout, whose deadline is committed before the wait begins, costs nobody his place."""

    @workflow
    async def collect() -> list[int]:
        with_limit = receive("number", int, timeout=100)
        return list(await asyncio.gather(with_limit, receive("number", int)))

    async with waiting_live(runtime, collect(), 2) as results:
        await runtime.send("t", "number", 1)
        await runtime.send("t", "number", 2)

    assert results == [[1, 2]]


@on_asyncio
async def test_a_rerun_serves_in_the_same_order(runtime: Runtime) -> None:
    """Also when the signals came while nothing of the run was in memory."""

    @workflow
    async def collect() -> list[int]:
        return list(
            await asyncio.gather(receive("n", timeout=100), receive("n"), receive("n", timeout=9))
        )

    await waits_of(runtime, collect())
    for number in range(3):
        await runtime.send("t", "n", number)

    assert await finish(runtime, collect()) == [0, 1, 2]


async def test_with_an_id_a_signal_is_taken_once_however_often_it_is_sent(runtime: Runtime) -> None:
    """Before it was taken, after that, and with another value: the first one counts."""

    @workflow
    async def collect() -> list[str]:
        return [await receive("word", str), await receive("word", str)]

    await waits_of(runtime, collect())
    await runtime.send("t", "word", "one", id="m1")
    await runtime.send("t", "word", "one", id="m1")
    (wait,) = await waits_of(runtime, collect())
    await runtime.send("t", "word", "changed", id="m1")
    assert [each.task_id for each in await waits_of(runtime, collect())] == [wait.task_id]
    await runtime.send("t", "word", "two", id="m2")

    assert await finish(runtime, collect()) == ["one", "two"]
    await runtime.send("t", "word", "again", id="m2")  # an old message that is repeated late


async def test_one_id_under_two_names_is_two_signals(runtime: Runtime) -> None:
    """The id is that of a message to one receive."""

    @workflow
    async def collect() -> list[str]:
        return [await receive("a"), await receive("b")]

    await waits_of(runtime, collect())
    await runtime.send("t", "a", "one", id="m")
    await runtime.send("t", "b", "two", id="m")

    assert await finish(runtime, collect()) == ["one", "two"]


async def test_many_senders_of_one_id_at_once_are_one_signal(runtime: Runtime) -> None:
    """The store decides, in one transaction."""

    @workflow
    async def collect() -> list[Any]:
        return [await receive("x"), await receive("y")]

    await waits_of(runtime, collect())
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(lambda number=number: runtime.send("t", "x", number, id="once"))
    await runtime.send("t", "y", "end")

    first, last = await finish(runtime, collect())
    assert first in range(20)
    assert last == "end"


async def test_other_names_are_left_for_whoever_asks(runtime: Runtime) -> None:
    """A receive takes signals of its own name only."""

    @workflow
    async def collect() -> list[str]:
        return [await receive("b"), await receive("a")]

    await waits_of(runtime, collect())
    await runtime.send("t", "a", "A")
    assert [each.name for each in await waits_of(runtime, collect())] == ["b"]
    await runtime.send("t", "b", "B")

    assert await finish(runtime, collect()) == ["B", "A"]


@pytest.mark.parametrize("name", ["'; DROP TABLE run --", "🧵 x", "=", "a:b", "a@", "x" * 512])
async def test_any_text_is_a_name_and_an_id(runtime: Runtime, name: str) -> None:
    """Names and ids come back exactly."""

    @workflow
    async def ask(name: str) -> Any:
        return await receive(name)

    (wait,) = await waits_of(runtime, ask(name))
    assert wait.name == name
    await runtime.send("t", name, 1, id=name)

    assert await finish(runtime, ask(name)) == 1


async def test_nothing_becomes_the_input_of_a_workflow_by_accident(runtime: Runtime) -> None:
    """A signal to a thread that has no unfinished run is RunNotFound, and stays nowhere."""

    @workflow
    async def ask(what: str) -> Any:
        return await receive(what, timeout=0.05)

    @workflow
    async def nothing() -> None: ...

    with pytest.raises(RunNotFound):
        await runtime.send("t", "x", 1)
    await finish(runtime, nothing())
    with pytest.raises(RunNotFound):
        await runtime.send("t", "x", 2)
    with pytest.raises(TimeoutError):
        await finish(runtime, ask("x"))


async def test_a_signal_belongs_to_one_run(runtime: Runtime) -> None:
    """What a finished or cancelled run has not taken is not given to the thread's next one."""

    @workflow
    async def ask(number: int) -> Any:
        return await receive("x", timeout=0.05 if number else None)

    await waits_of(runtime, ask(0))
    await runtime.send("t", "unasked", 1)
    await runtime.cancel("t")
    with pytest.raises(RunNotFound):
        await runtime.send("t", "x", 1)

    with pytest.raises(TimeoutError):
        await finish(runtime, ask(1))


async def test_a_run_that_has_failed_still_takes_signals(runtime: Runtime) -> None:
    """It is unfinished: the next run on the thread continues it."""
    fails = True

    @task
    async def step() -> None:
        if fails:
            raise ValueError("not yet")

    @workflow
    async def ask() -> Any:
        await step()
        return await receive("x")

    with pytest.raises(ValueError, match="not yet"):
        await finish(runtime, ask())
    await runtime.send("t", "x", "there")
    fails = False

    assert await finish(runtime, ask()) == "there"


# Values that do not fit.


@pytest.mark.parametrize("is_paused", [False, True])
async def test_a_value_that_does_not_fit_is_refused_to_the_sender(
    runtime: Runtime, is_paused: bool
) -> None:
    """Where the run waits for it, here or paused, and its type is known in this process."""

    @workflow
    async def ask() -> bool:
        return (await receive("approval", Decision)).approved

    handle = await runtime.start(ask(), thread_id="t")
    if is_paused:
        await waits_of(runtime, ask())
    else:
        await until(lambda: _is_waiting_for(runtime, "approval"))
    for misfit in ("yes", {}, {"approved": "yes"}, None, 1):
        with pytest.raises(SerializationError, match="approval"):
            await runtime.send("t", "approval", misfit)
    await runtime.send("t", "approval", {"approved": True})

    with anyio.fail_after(PATIENCE):
        assert await handle.result() is True


async def _is_waiting_for(runtime: Runtime, name: str) -> bool:
    """Whether a signal of that name can be seen to be waited for: it is refused, or it pauses."""
    progress = runtime._progress("t")
    return progress is not None and "taskflow.receive" in progress.executing


async def test_two_types_of_one_name_are_not_confused(runtime: Runtime) -> None:
    """Each run's own type decides what is refused, whatever others of that name were met before."""

    def make(field: str) -> type[msgspec.Struct]:
        return msgspec.defstruct("Decision", [(field, int)], namespace={"__qualname__": "Decision"})

    @workflow
    async def ask(field: str) -> int:
        return getattr(await receive("approval", make(field)), field)

    for field in ("a", "b", "a"):
        await waits_of(runtime, ask(field), field)
        await runtime.send(field, "approval", {field: 1})
        assert await finish(runtime, ask(field), field) == 1
        await runtime.delete(field)


async def test_a_misfit_is_set_aside_and_logged_once(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """One that came before its type was known: the wait goes on, and takes the next that fits."""

    @workflow
    async def ask() -> list[Any]:
        await receive("begin")
        return [await receive("x", int), await receive("y")]

    await waits_of(runtime, ask())
    await runtime.send("t", "x", "no number")
    with caplog.at_level(logging.WARNING, "taskflow"):
        await runtime.send("t", "begin")
        assert [each.name for each in await waits_of(runtime, ask())] == ["x"]
    told = [each for each in caplog.records if "set aside" in each.message]
    assert len(told) == 1
    assert "'t'" in told[0].message
    await runtime.send("t", "x", 5)
    await runtime.send("t", "y", 6)

    assert await finish(runtime, ask()) == [5, 6]


async def test_what_one_has_set_aside_another_takes(runtime: Runtime) -> None:
    """A misfit stays for a receive of the same name whose type it fits."""

    @workflow
    async def ask() -> list[Any]:
        await receive("begin")
        return [await receive("x", int), await receive("x", str)]

    await waits_of(runtime, ask())
    await runtime.send("t", "x", "a text")
    await runtime.send("t", "x", 7)
    await runtime.send("t", "begin")

    assert await finish(runtime, ask()) == [7, "a text"]


@on_asyncio
async def test_a_value_goes_to_the_open_receive_that_it_fits(runtime: Runtime) -> None:
    """It is refused only where it fits none of those that wait."""

    @workflow
    async def ask() -> list[Any]:
        return list(await asyncio.gather(receive("x", int), receive("x", str)))

    async with waiting_live(runtime, ask(), 2) as results:
        with pytest.raises(SerializationError):
            await runtime.send("t", "x", [1])
        await runtime.send("t", "x", "text")
        await runtime.send("t", "x", 1)

    assert results == [[1, "text"]]


async def test_a_type_that_cannot_be_read_back_is_refused_at_the_call(runtime: Runtime) -> None:
    """With one clear error, and without any other warning."""

    @workflow
    async def ask() -> str:
        for annotation in (complex, 5, list["int"]):  # type: ignore[valid-type]
            with pytest.raises(SerializationError):
                receive("x", annotation)
        return "refused"

    assert await finish(runtime, ask()) == "refused"


async def test_a_prompt_that_json_does_not_carry_is_refused_at_the_call(runtime: Runtime) -> None:
    """Before anybody waits."""

    @workflow
    async def ask() -> str:
        for prompt in (object(), 1j, {1j: 2}):
            with pytest.raises(SerializationError, match="prompt"):
                receive("x", prompt=prompt)
        return "refused"

    assert await finish(runtime, ask()) == "refused"


async def test_receive_takes_the_names_that_can_be_sent(runtime: Runtime) -> None:
    """What `send` refuses nobody can ever answer."""

    @workflow
    async def ask() -> str:
        for name in ("", "x" * 513, "a\0b", "\ud800", 5, None):
            with pytest.raises((ValueError, TypeError)) as refused:
                await runtime.send("t", name)  # type: ignore[arg-type]
            with pytest.raises(type(refused.value)):
                receive(name)  # type: ignore[call-overload]
        return "refused"

    assert await finish(runtime, ask()) == "refused"


async def test_waits_are_refused_outside_of_a_run(runtime: Runtime) -> None:
    """NotInRun, and nothing is left behind."""
    for call in (
        lambda: receive("x"),
        lambda: sleep(1),
        lambda: sleep_until(datetime.now(UTC)),
    ):
        with pytest.raises(NotInRun):
            call()


# Deadlines.


async def test_a_timeout_is_a_timeout_error_that_a_rerun_meets_again(runtime: Runtime) -> None:
    """Recorded as any failure: a signal that comes later is for the next one who asks."""

    @workflow
    async def ask() -> list[Any]:
        try:
            first = await receive("x", timeout=0.05)
        except TimeoutError as error:
            first = str(error)
        return [first, await receive("x")]

    await waits_of(runtime, ask())
    await runtime.send("t", "x", "late")

    first, second = await finish(runtime, ask())
    assert "'x'" in first
    assert second == "late"


async def test_an_unhandled_timeout_is_asked_again_with_a_new_deadline(runtime: Runtime) -> None:
    """It has ended the run, so the next one executes it again."""

    @workflow
    async def ask() -> Any:
        return await receive("x", timeout=0.3)

    with pytest.raises(TimeoutError):
        await finish(runtime, ask())
    assert (await runtime.get("t")).status == "error"
    assert await runtime.tasks("t") == []
    await runtime.send("t", "x", "there")

    assert await finish(runtime, ask()) == "there"


async def test_a_deadline_counts_from_the_first_call_over_reruns(make_store: MakeStore) -> None:
    """Each rerun waits for what is left, and shows the same deadline."""
    clock = JumpingClock()

    @workflow
    async def ask() -> Any:
        return await receive("x", timeout=timedelta(hours=1))

    async with Runtime(make_store(), clock=clock) as runtime:
        (first,) = await waits_of(runtime, ask())
        clock.jump(1800)
    async with Runtime(make_store(), clock=clock) as runtime:
        (second,) = await waits_of(runtime, ask())
        assert (second.deadline, second.since) == (first.deadline, first.since)
        assert first.deadline == pytest.approx(first.since + 3600, abs=1)
        clock.jump(1801)
        with pytest.raises(TimeoutError):
            await finish(runtime, ask())


async def test_a_signal_that_was_sent_in_time_counts_though_nobody_lived(
    make_store: MakeStore,
) -> None:
    """Who wakes after the deadline takes what came before it, and not what came after."""
    clock = JumpingClock()

    @workflow
    async def ask() -> Any:
        return await receive("x", timeout=3600)

    async with Runtime(make_store(), clock=clock) as runtime:
        for thread_id in ("in time", "late"):
            await waits_of(runtime, ask(), thread_id)
        await runtime.send("in time", "x", 1)
        clock.jump(4000)
        await runtime.send("late", "x", 2)
        assert await finish(runtime, ask(), "in time") == 1
        with pytest.raises(TimeoutError):
            await finish(runtime, ask(), "late")


async def test_a_value_that_was_taken_stays_though_its_deadline_passes(
    make_store: MakeStore,
) -> None:
    """The record of the call ends it, whatever the time is on a rerun."""
    clock = JumpingClock()

    @workflow
    async def ask() -> list[Any]:
        return [await receive("x", timeout=10), await receive("y")]

    async with Runtime(make_store(), clock=clock) as runtime:
        await waits_of(runtime, ask())
        await runtime.send("t", "x", 1)
        await waits_of(runtime, ask())
        clock.jump(7200)
        await runtime.send("t", "y", 2)
        assert await finish(runtime, ask()) == [1, 2]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), timedelta(0)])
async def test_a_timeout_is_positive_and_finite(runtime: Runtime, timeout: Any) -> None:
    """Anything else is a ValueError at the call."""

    @workflow
    async def ask() -> str:
        with pytest.raises(ValueError, match="timeout"):
            receive("x", timeout=timeout)
        return "refused"

    assert await finish(runtime, ask()) == "refused"


async def test_a_timeout_in_a_retried_task_is_waited_for_again(runtime: Runtime) -> None:
    """Between the attempts its failure and its deadline are un-recorded."""
    attempts = 0

    @task(retry=RetryPolicy(max_attempts=3, initial_interval=0.001))
    async def ask() -> Any:
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            await runtime.send("t", "x", "at last")
        return await receive("x", timeout=0.05)

    @workflow
    async def main() -> Any:
        return await ask()

    assert await finish(runtime, main()) == "at last"
    assert attempts == 3


async def test_what_was_received_is_kept_between_attempts(runtime: Runtime) -> None:
    """A signal is not lost with the attempt that had taken it, nor asked for again."""
    attempts = 0

    @task(retry=RetryPolicy(max_attempts=3, initial_interval=0.001))
    async def ask() -> Any:
        nonlocal attempts
        attempts += 1
        value = await receive("x")
        if attempts < 3:
            raise OSError("once more")
        return value

    @workflow
    async def main() -> Any:
        return await ask()

    await waits_of(runtime, main())
    attempts = 0
    await runtime.send("t", "x", 1)

    assert await finish(runtime, main()) == 1
    assert attempts == 3
    assert [each.name for each in await runtime.tasks("t")] == ["taskflow.receive", "ask"]


async def test_a_run_that_failed_after_a_receive_does_not_ask_again(runtime: Runtime) -> None:
    """Only what ended the run executes again; the answer stays."""
    fails = True

    @workflow
    async def main() -> Any:
        value = await receive("x")
        if fails:
            raise ValueError("of the workflow's own")
        return value

    await waits_of(runtime, main())
    await runtime.send("t", "x", 1)
    with pytest.raises(ValueError, match="own"):
        await finish(runtime, main())
    fails = False

    assert await finish(runtime, main()) == 1


# What is shown while it waits.


@on_asyncio
async def test_all_open_receives_are_visible_at_once(runtime: Runtime) -> None:
    """With name, prompt, type, schema and deadline; answered in any order."""

    @workflow
    async def ask() -> list[Any]:
        return list(
            await asyncio.gather(
                receive("approval", Decision, prompt={"question": "Ship?"}, timeout=60),
                receive("amount", int),
                receive("anything"),
                sleep(3600),
            )
        )[:3]

    waits = await waits_of(runtime, ask())
    by_name = {each.name: each for each in waits}
    approval, amount, anything, timer = map(
        by_name.get, ("approval", "amount", "anything", "sleep")
    )

    assert approval
    assert amount
    assert anything
    assert timer
    assert (approval.kind, approval.name, approval.type) == ("signal", "approval", "Decision")
    assert approval.prompt == {"question": "Ship?"}
    assert approval.deadline == pytest.approx(approval.since + 60, abs=5)
    assert approval.schema is not None
    assert "approved" in str(approval.schema)
    assert (amount.type, amount.schema, amount.deadline) == ("int", {"type": "integer"}, None)
    assert (anything.name, anything.prompt) == ("anything", None)
    assert (timer.kind, timer.deadline) == ("timer", pytest.approx(timer.since + 3600, abs=5))
    assert (await runtime.get("t")).waits == waits


@on_asyncio
async def test_open_receives_are_answered_in_any_order(runtime: Runtime) -> None:
    """Each answer is recorded as it comes, and what is left is shown."""

    @workflow
    async def ask() -> list[Any]:
        return list(await asyncio.gather(receive("a"), receive("b"), receive("c")))

    await waits_of(runtime, ask())
    await runtime.send("t", "b", 2)
    assert [each.name for each in await waits_of(runtime, ask())] == ["a", "c"]
    await runtime.send("t", "c", 3)
    assert [each.name for each in await waits_of(runtime, ask())] == ["a"]
    await runtime.send("t", "a", 1)

    assert await finish(runtime, ask()) == [1, 2, 3]


async def test_a_receive_is_shown_among_the_tasks(runtime: Runtime) -> None:
    """What it asked for and what it was given; a signal or a deadline is no task."""

    @workflow
    async def ask() -> Any:
        return await receive("x", int, prompt="How many?", timeout=60)

    await waits_of(runtime, ask())
    assert await runtime.tasks("t") == []
    await runtime.send("t", "x", 3)
    await finish(runtime, ask())

    (shown,) = await runtime.tasks("t")
    assert (shown.name, shown.value, shown.status) == ("taskflow.receive", 3, "success")
    assert shown.arguments == {"name": "x", "prompt": "How many?", "type": "int", "timeout": 60.0}


async def test_asking_otherwise_is_the_same_receive(runtime: Runtime) -> None:
    """Its name is its identity: another prompt, type or timeout finds what was recorded."""
    options: dict[str, Any] = {}

    @workflow
    async def ask() -> list[Any]:
        return [await receive("x", options.get("type", Any), timeout=options.get("timeout"))]

    await waits_of(runtime, ask())
    options.update(type=int, timeout=60)
    await waits_of(runtime, ask())
    await runtime.send("t", "x", 1)

    assert await finish(runtime, ask()) == [1]


# Everywhere that a call may be made.


async def test_a_receive_in_a_task_in_a_nested_workflow_and_in_a_map(runtime: Runtime) -> None:
    """Bodies wait without a slot, and are executed again from their first line."""

    @task
    async def confirm(order: str) -> str:
        return f"{order} {await receive(order)}"

    @workflow
    async def inner() -> str:
        return await confirm("inner")

    @workflow
    async def main() -> list[str]:
        return [await confirm("first"), await inner(), *await confirm.map(["a", "b", "c"])]

    assert [each.name for each in await waits_of(runtime, main())] == ["first"]
    await runtime.send("t", "first", 1)
    assert [each.name for each in await waits_of(runtime, main())] == ["inner"]
    await runtime.send("t", "inner", 2)
    assert sorted(each.name for each in await waits_of(runtime, main())) == ["a", "b", "c"]
    for number, name in enumerate("cab"):
        await runtime.send("t", name, number)

    assert await finish(runtime, main()) == ["first 1", "inner 2", "a 1", "b 2", "c 0"]


async def test_a_map_shows_as_many_waits_as_it_executes(runtime: Runtime) -> None:
    """``concurrency`` bounds bodies, whether they wait or not; a thousand pass through two."""

    @task
    async def confirm(number: int) -> int:
        return number + await receive(str(number), int)

    @workflow
    async def main() -> int:
        return sum(await confirm.map(range(6), concurrency=2))

    seen: list[str] = []
    for _ in range(3):
        names = sorted(each.name for each in await waits_of(runtime, main()))
        assert len(names) == 2
        seen += names
        for name in names:
            await runtime.send("t", name, 10)

    assert seen == ["0", "1", "2", "3", "4", "5"]
    assert await finish(runtime, main()) == 75


async def test_waiting_bodies_hold_no_slot(make_store: MakeStore) -> None:
    """Not even the only one: while one waits, others execute."""

    @task
    async def ask() -> int:
        return await receive("x", int)

    @task
    async def answer() -> None:
        await runtime.send("t", "x", 5)

    @task
    async def both(which: str) -> int:
        if which == "ask":
            return await ask()
        await answer()
        return 0

    @workflow
    async def main() -> list[int]:
        return await both.map(["ask", "answer"], concurrency=2)

    async with Runtime(make_store(), max_concurrency=1) as runtime:
        assert await finish(runtime, main()) == [5, 0]


async def test_def_bodies_wait_in_their_thread(runtime: Runtime) -> None:
    """``receive(…).result()`` and ``sleep(…).result()``, in def tasks and def workflows."""

    @task
    def ask() -> int:
        sleep(0.01).result()
        return receive("x", int).result()

    @workflow
    def main() -> int:
        return ask().result() + receive("y", int).result()

    assert [each.name for each in await waits_of(runtime, main())] == ["x"]
    await runtime.send("t", "x", 1)
    assert [each.name for each in await waits_of(runtime, main())] == ["y"]
    await runtime.send("t", "y", 2)

    assert await finish(runtime, main()) == 3


async def test_a_thread_block_waits_where_it_is(runtime: Runtime) -> None:
    """No workflow is there to be unwound; what it received is there for the next block."""
    received: list[Any] = []

    async def block() -> None:
        async with runtime.thread("t"):
            received.append(await receive("x", int))
            await sleep(0.01)

    async with anyio.create_task_group() as group:
        group.start_soon(block)
        await until(lambda: _accepts(runtime, "t", "other"))
        await runtime.send("t", "x", 1)
    with anyio.fail_after(PATIENCE):
        await block()

    assert received == [1, 1]


async def test_a_thread_block_finds_what_was_sent_between_two_blocks(runtime: Runtime) -> None:
    """Its run never finishes: it may be sent to at any time."""
    async with runtime.thread("t"):
        pass
    await runtime.send("t", "x", 1)
    with anyio.fail_after(PATIENCE):
        async with runtime.thread("t"):
            assert await receive("x") == 1
            with pytest.raises(TimeoutError):
                await receive("y", timeout=0.05)


async def _accepts(runtime: Runtime, thread_id: str, name: str) -> bool:
    try:
        await runtime.send(thread_id, name)
    except RunNotFound:
        return False
    return True


async def test_a_workflow_may_send_to_itself_and_to_others(runtime: Runtime) -> None:
    """From a task: a send that is repeated by a rerun takes an id."""

    @task
    async def tell(thread_id: str, value: int) -> None:
        await runtime.send(thread_id, "x", value)

    @workflow
    async def listener() -> int:
        return await receive("x", int)

    @workflow
    async def main() -> int:
        await tell("other", 1)
        await tell("t", 2)
        return await receive("x", int)

    other = await runtime.start(listener(), thread_id="other")
    assert await finish(runtime, main()) == 2
    with anyio.fail_after(PATIENCE):
        assert await other.result() == 1


async def test_two_runtimes_in_one_process_may_send_to_each_other(make_store: MakeStore) -> None:
    """A run that executes here, and one that sleeps here, hear of it within the poll interval."""

    @workflow
    async def listener() -> list[Any]:
        return [await receive("x"), await receive("x")]

    async with (
        Runtime(make_store(), poll_interval=0.02) as here,
        Runtime(make_store()) as there,
    ):
        handle = await here.start(listener(), thread_id="t")
        await there.send("t", "x", 1)
        await until(lambda: _is_paused(here))
        await there.send("t", "x", 2)
        with anyio.fail_after(PATIENCE):
            assert await handle.result() == [1, 2]


async def _is_paused(runtime: Runtime) -> bool:
    record = await runtime.get("t")
    return record.status == "paused" and len(await runtime.tasks("t")) == 1


# Records put right.


async def test_a_receive_that_is_forgotten_takes_its_signal_again(runtime: Runtime) -> None:
    """Its signal is free with it; so is the order."""

    @workflow
    async def ask() -> list[Any]:
        return [await receive("x"), await receive("x")]

    await waits_of(runtime, ask())
    await runtime.send("t", "x", 1)
    await runtime.send("t", "x", 2)
    await finish(runtime, ask())
    first = (await runtime.tasks("t"))[0]
    await runtime.forget("t", first.task_id)
    await runtime.send("t", "x", 3)

    assert await finish(runtime, ask()) == [1, 2]
    assert len(await runtime.tasks("t")) == 2


async def test_a_timed_out_receive_that_is_forgotten_has_a_new_deadline(runtime: Runtime) -> None:
    """The deadline goes with the call that it was recorded for."""

    @workflow
    async def ask() -> str:
        try:
            return await receive("x", str, timeout=0.1)
        except TimeoutError:
            return "too late"

    assert await finish(runtime, ask()) == "too late"
    (failed,) = await runtime.tasks("t")
    assert failed.status == "error"
    await runtime.forget("t", failed.task_id)
    await runtime.send("t", "x", "in time")

    assert await finish(runtime, ask()) == "in time"


async def test_what_is_no_call_cannot_be_forgotten(runtime: Runtime) -> None:
    """A signal or a deadline is part of the call that it is for."""

    @workflow
    async def ask() -> Any:
        return await receive("x", timeout=3600)

    await waits_of(runtime, ask())
    await runtime.send("t", "unasked", 1, id="m")
    rows = await runtime._store.checkpoints("t", None)
    assert sorted(row.checkpoint.kind for row in rows) == ["signal", "wait"]

    for row in rows:
        with pytest.raises((RunNotFound, ValueError)):
            await runtime.forget("t", row.checkpoint.task_id)


async def test_waits_are_not_drift(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    """Deadlines that are left over are no unused results; signals that nobody took are told."""

    @workflow
    async def ask() -> Any:
        return await receive("x", timeout=60)

    await waits_of(runtime, ask())
    await runtime.send("t", "unasked", 1)
    await runtime.send("t", "x", 1)
    with caplog.at_level(logging.WARNING, "taskflow"):
        await finish(runtime, ask())

    (told,) = [record.getMessage() for record in caplog.records]
    assert "ended without 1 signals that were sent to it: unasked" in told


@every_durability
async def test_every_durability_takes_a_signal_once(make_store: MakeStore, durability: Any) -> None:
    """A pause commits what was held back; a rerun asks for what is left."""

    @task
    async def step(number: int) -> int:
        return number

    @workflow
    async def ask() -> list[Any]:
        found: list[Any] = []
        for number in range(3):
            found += [await step(number), await receive("x", timeout=60)]
        return found

    async with Runtime(make_store(), durability=durability) as runtime:
        for number in range(3):
            await waits_of(runtime, ask())
            await runtime.send("t", "x", number)
        assert await finish(runtime, ask()) == [0, 0, 1, 1, 2, 2]
        assert len(await runtime.tasks("t")) == 6


@pytest.mark.parametrize("is_rerun", [False, True])
async def test_drift_is_no_hindrance_to_waits(make_store: MakeStore, is_rerun: bool) -> None:
    """``on_drift="error"``: a rerun that asks for what is recorded waits on."""

    @task
    async def step(number: int) -> int:
        return number

    @workflow
    async def ask() -> list[Any]:
        return [await step(1), await receive("x"), await step(2), await receive("y")]

    async with Runtime(make_store(), on_drift="error") as runtime:
        await waits_of(runtime, ask())
        if is_rerun:
            await waits_of(runtime, ask())
        await runtime.send("t", "x", 1)
        await waits_of(runtime, ask())
        await runtime.send("t", "y", 2)
        assert await finish(runtime, ask()) == [1, 1, 2, 2]


# Timers.


async def test_a_short_sleep_is_not_worth_a_pause(runtime: Runtime) -> None:
    """It is waited for where it is."""

    @workflow
    async def nap() -> str:
        await sleep(0.15)
        await sleep(timedelta(milliseconds=5))
        await sleep(0)
        return "awake"

    assert await finish(runtime, nap()) == "awake"
    assert [each.name for each in await runtime.tasks("t")] == ["taskflow.sleep"] * 3


async def test_a_rerun_sleeps_only_for_what_is_left(make_store: MakeStore) -> None:
    """The time of waking was recorded on the first call, and is not moved by reruns."""
    clock = JumpingClock()

    @workflow
    async def night() -> str:
        await sleep(timedelta(hours=8))
        return "morning"

    async with Runtime(make_store(), clock=clock) as runtime:
        (first,) = await waits_of(runtime, night())
        clock.jump(4 * 3600)
    async with Runtime(make_store(), clock=clock) as runtime:
        (second,) = await waits_of(runtime, night())
        assert (second.deadline, second.since) == (first.deadline, first.since)
        clock.jump(4 * 3600 + 1)
        assert await finish(runtime, night()) == "morning"
        (shown,) = await runtime.tasks("t")
        assert shown.duration >= 8 * 3600
        assert shown.started == first.since


async def test_a_sleep_until_the_past_is_over_at_once(runtime: Runtime) -> None:
    """Whatever the zone that it is told in."""

    @workflow
    async def nap() -> str:
        await sleep_until(datetime(1999, 12, 31, tzinfo=UTC))
        await sleep_until(datetime.min.replace(tzinfo=UTC))
        east = timezone(timedelta(hours=14))
        await sleep_until(datetime.now(east) + timedelta(milliseconds=30))
        return "awake"

    assert await finish(runtime, nap()) == "awake"


async def test_a_sleep_until_a_time_that_never_comes_is_a_pause(runtime: Runtime) -> None:
    """Far deadlines are shown as they are."""

    @workflow
    async def nap() -> None:
        await sleep_until(datetime.max.replace(tzinfo=UTC))

    (wait,) = await waits_of(runtime, nap())
    assert wait.deadline == datetime.max.replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "duration", [-1, float("nan"), float("inf"), timedelta(seconds=-1), 10**400, "5", None, True]
)
async def test_a_duration_is_a_finite_number_of_seconds(runtime: Runtime, duration: Any) -> None:
    """Anything else is refused at the call."""

    @workflow
    async def nap() -> str:
        with pytest.raises((ValueError, TypeError)):
            sleep(duration)
        return "refused"

    assert await finish(runtime, nap()) == "refused"


@pytest.mark.parametrize("when", [datetime(2026, 1, 1), "2026-01-01", 5, None])
async def test_sleep_until_takes_a_datetime_with_a_zone(runtime: Runtime, when: Any) -> None:
    """A naive one would mean something else on another machine."""

    @workflow
    async def nap() -> str:
        with pytest.raises((ValueError, TypeError), match="datetime"):
            sleep_until(when)
        return "refused"

    assert await finish(runtime, nap()) == "refused"


@on_asyncio
async def test_timers_of_one_run_are_over_in_their_order(runtime: Runtime) -> None:
    """Equal ones too, and without a warning about twins."""
    order: list[float] = []

    @workflow
    async def naps() -> None:
        async def nap(seconds: float) -> None:
            await sleep(seconds)
            order.append(seconds)

        await asyncio.gather(*(nap(seconds) for seconds in (0.12, 0.06, 0.06, 0.0)))

    await finish(runtime, naps())
    assert order == [0.0, 0.06, 0.06, 0.12]


async def test_wait_for_cancels_a_receive_and_gives_its_signal_back() -> None:
    """One that was cut off has taken nothing: the next one is served."""
    async with Runtime(MemoryStore()) as runtime:

        @workflow
        async def ask() -> list[Any]:
            with anyio.move_on_after(0.02):
                await receive("x")
            await runtime.send("t", "x", 1)
            return [await receive("x")]

        assert await finish(runtime, ask()) == [1]


async def test_an_answer_is_never_given_to_another_question(runtime: Runtime) -> None:
    """A prompt is part of what a call is: an approval of 100 is none of 900."""
    amount = 100

    @task
    async def draft() -> int:
        return amount

    @workflow
    async def expense() -> Any:
        cents = await draft()
        approved = await receive("approval", bool, prompt={"cents": cents})
        return cents, approved, await receive("more", str)

    with pytest.raises(RunPaused):
        await runtime.run(expense(), thread_id="t")
    await runtime.send("t", "approval", True)
    with pytest.raises(RunPaused):
        await runtime.run(expense(), thread_id="t")
    (drafted,) = [each for each in await runtime.tasks("t") if each.name == "draft"]
    await runtime.replace("t", drafted.task_id, 900)

    with pytest.raises(RunPaused) as paused:
        await runtime.run(expense(), thread_id="t")
    assert [(each.name, each.prompt) for each in paused.value.waits] == [
        ("approval", {"cents": 900})
    ]
