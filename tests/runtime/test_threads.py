"""The runs of one thread: which is continued, which is new, which is ended; and timers between."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from kinds import MakeStore
from waits import NEVER, PATIENCE, JumpingClock, until

from taskflow import (
    RunCancelled,
    RunNotFound,
    RunPaused,
    Runtime,
    RunUnfinished,
    events,
    previous,
    receive,
    sleep,
    task,
    workflow,
)
from taskflow.records import RunStatus

pytestmark = pytest.mark.anyio

bodies: list[str] = []  # that were executed
outage: list[str] = []  # orders whose charge fails


@pytest.fixture(autouse=True)
def nothing_yet() -> None:
    bodies.clear()
    outage.clear()


@task
async def reserve(order: str) -> str:
    bodies.append(f"reserve {order}")
    return order


@task
async def charge(order: str) -> str:
    bodies.append(f"charge {order}")
    if order in outage:
        raise ConnectionError("the bank is down")
    return f"receipt for {order}"


@workflow
async def fulfil(order: str) -> str:
    return await charge(await reserve(order))


@workflow
async def chat(message: str) -> list[str]:
    return [*(previous(list[str]) or []), await charge(message)]


@workflow
async def nap(times: int = 1) -> str:
    for _ in range(times):
        await sleep(3600)
    return "rested"


@workflow
async def nap_and_ask() -> str:
    await sleep(3600)
    return await receive("answer", str)


@workflow
async def ask_once() -> str:
    return await receive("answer", str)


async def fails(runtime: Runtime, order: str, **options: Any) -> None:
    """A run of ``fulfil`` that fails."""
    outage.append(order)
    with pytest.raises(ConnectionError):
        await runtime.run(fulfil(order), thread_id="t", **options)
    outage.clear()


# A failed run.


@pytest.mark.parametrize("how", ["run", "start", "stream"])
async def test_a_failed_run_is_final_for_another_input(runtime: Runtime, how: str) -> None:
    """That makes a new run; the failed one stays as it is, error and all."""
    await fails(runtime, "A1")
    failed = await runtime.get("t")

    options: dict[str, Any] = {"thread_id": "t"}
    if how == "run":
        await runtime.run(fulfil("B2"), **options)
    elif how == "start":
        await (await runtime.start(fulfil("B2"), **options)).result()
    else:
        async with runtime.stream(fulfil("B2"), **options) as stream:
            assert await stream.result() == "receipt for B2"

    assert await runtime.get("t", failed.run_id) == failed
    assert failed.error == "ConnectionError: the bank is down"
    assert [each.status for each in await runtime.runs(thread_id="t")] == ["success", "error"]


async def test_a_failed_run_is_continued_by_the_same_input(runtime: Runtime) -> None:
    """Until another run has begun: then the same input is a new run, too."""
    await fails(runtime, "A1")
    await runtime.run(fulfil("A1"), thread_id="t")
    assert bodies == ["reserve A1", "charge A1", "charge A1"]

    await fails(runtime, "B2")
    await runtime.run(fulfil("C3"), thread_id="t")
    await runtime.run(fulfil("B2"), thread_id="t")

    assert bodies[-2:] == ["reserve B2", "charge B2"]
    statuses = [each.status for each in await runtime.runs(thread_id="t")]
    assert statuses == ["success", "success", "error", "success"]


async def test_a_failed_turn_is_continued_by_its_id_after_later_ones(runtime: Runtime) -> None:
    """With what the thread had saved before it, whatever was saved since."""
    await runtime.run(chat("one"), thread_id="t", run_id="m1")
    outage.append("two")
    with pytest.raises(ConnectionError):
        await runtime.run(chat("two"), thread_id="t", run_id="m2")
    outage.clear()
    await runtime.run(chat("three"), thread_id="t", run_id="m3")

    said = await runtime.run(chat("two"), thread_id="t", run_id="m2")

    assert said == ["receipt for one", "receipt for two"]
    assert (await runtime.get("t")).run_id == "m3"


async def test_a_failed_run_is_resumed_by_its_id(runtime: Runtime) -> None:
    """Without an id the thread's latest run is meant."""
    await fails(runtime, "A1", run_id="a")
    await runtime.run(fulfil("B2"), thread_id="t", run_id="b")

    assert await runtime.resume("t") == "receipt for B2"
    assert await runtime.resume("t", run_id="a") == "receipt for A1"


@workflow
async def charge_and_ask(order: str) -> str:
    await charge(order)
    return await ask_once()


async def test_an_older_run_that_is_open_again_is_the_latest(runtime: Runtime) -> None:
    """It is shown, signals go to it, and another input waits for its end."""
    outage.append("A1")
    with pytest.raises(ConnectionError):
        await runtime.run(charge_and_ask("A1"), thread_id="t", run_id="a")
    outage.clear()
    await runtime.run(fulfil("B2"), thread_id="t", run_id="b")

    with pytest.raises(RunPaused):
        await runtime.run(charge_and_ask("A1"), thread_id="t", run_id="a")
    assert (await runtime.get("t")).run_id == "a"
    with pytest.raises(RunUnfinished):
        await runtime.run(fulfil("C3"), thread_id="t")
    await runtime.send("t", "answer", "yes")

    assert await runtime.resume("t") == "yes"
    assert (await runtime.get("t")).run_id == "b"


# A fresh run.


@pytest.mark.parametrize("how", ["run", "start", "stream"])
async def test_fresh_executes_again_what_has_succeeded(runtime: Runtime, how: str) -> None:
    """The same input, a new run; without it the latest run's result is handed out."""
    options: dict[str, Any] = {"thread_id": "t", "fresh": True}
    await runtime.run(fulfil("A1"), **options)
    if how == "run":
        await runtime.run(fulfil("A1"), **options)
    elif how == "start":
        await (await runtime.start(fulfil("A1"), **options)).result()
    else:
        async with runtime.stream(fulfil("A1"), **options) as stream:
            await stream.result()
    await runtime.run(fulfil("A1"), thread_id="t")

    assert bodies == ["reserve A1", "charge A1"] * 2
    assert [each.sequence for each in await runtime.runs(thread_id="t")] == [2, 1]


async def test_fresh_begins_anew_after_a_failure(runtime: Runtime) -> None:
    """The failed run is left as it is."""
    await fails(runtime, "A1")
    await runtime.run(fulfil("A1"), thread_id="t", fresh=True)

    assert bodies == ["reserve A1", "charge A1"] * 2
    assert [each.status for each in await runtime.runs(thread_id="t")] == ["success", "error"]


async def test_fresh_is_not_answered_beside_one_who_is(runtime: Runtime) -> None:
    """Two ask at the same moment: the one is given the record, the other a new run."""
    await runtime.run(fulfil("A1"), thread_id="t")
    found: list[str] = []

    async def ask(**options: Any) -> None:
        found.append(await runtime.run(fulfil("A1"), thread_id="t", **options))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await anyio.lowlevel.checkpoint()
        await ask(fresh=True)

    assert found == ["receipt for A1"] * 2
    assert bodies == ["reserve A1", "charge A1"] * 2


async def test_fresh_continues_what_has_not_ended(runtime: Runtime) -> None:
    """A thread has one open run at most; with ``supersede`` that one is ended for it."""
    with pytest.raises(RunPaused):
        await runtime.run(ask_once(), thread_id="t")
    with pytest.raises(RunPaused):
        await runtime.run(ask_once(), thread_id="t", fresh=True)
    assert len(await runtime.runs(thread_id="t")) == 1

    with pytest.raises(RunPaused):
        await runtime.run(ask_once(), thread_id="t", fresh=True, supersede=True)

    statuses = [each.status for each in await runtime.runs(thread_id="t")]
    assert statuses == ["paused", "cancelled"]


async def test_fresh_and_a_run_id_contradict_each_other(runtime: Runtime) -> None:
    """The one names a run, the other asks for a new one."""
    with pytest.raises(ValueError, match="pass one of them"):
        await runtime.run(fulfil("A1"), thread_id="t", run_id="a", fresh=True)


# Timers.


class Asked:
    """A call of ``run`` that waits in a task of its own."""

    def __init__(self) -> None:
        self.outcome: Any = None
        self.scope = anyio.CancelScope()

    async def ask(self, runtime: Runtime, call: Any) -> None:
        with self.scope:
            try:
                self.outcome = await runtime.run(call, thread_id="t")
            except Exception as error:
                self.outcome = error

    async def come(self) -> Any:
        await until(lambda: self.outcome is not None)
        return self.outcome


async def asleep(runtime: Runtime, tasks: int = 0) -> None:
    """Wait until the run is paused, with so many recorded calls."""

    async def is_asleep() -> bool:
        runs = await runtime.runs(thread_id="t")
        return [each.status for each in runs] == ["paused"] and (
            len(await runtime.tasks("t")) == tasks
        )

    await until(is_asleep)


async def test_run_waits_through_timers_however_long(make_store: MakeStore) -> None:
    """Nothing of it is in memory meanwhile: the run is paused, and goes on by itself."""
    clock, asked = JumpingClock(), Asked()
    async with (
        Runtime(make_store(), clock=clock, poll_interval=NEVER) as runtime,
        anyio.create_task_group() as group,
    ):
        group.start_soon(asked.ask, runtime, nap(3))
        for number in range(3):
            await asleep(runtime, number)
            assert asked.outcome is None
            clock.jump(3600)

        assert await asked.come() == "rested"


async def test_run_raises_where_an_answer_is_needed_after_a_timer(make_store: MakeStore) -> None:
    """RunPaused, which shows what is asked."""
    clock, asked = JumpingClock(), Asked()
    async with (
        Runtime(make_store(), clock=clock, poll_interval=NEVER) as runtime,
        anyio.create_task_group() as group,
    ):
        group.start_soon(asked.ask, runtime, nap_and_ask())
        await asleep(runtime)
        clock.jump(3600)
        paused = await asked.come()

        assert isinstance(paused, RunPaused)
        assert [each.name for each in paused.waits] == ["answer"]


async def test_a_stream_goes_through_timers_and_ends_at_a_question(make_store: MakeStore) -> None:
    """As `run` does."""
    clock = JumpingClock()
    async with Runtime(make_store(), clock=clock, poll_interval=NEVER) as runtime:
        kinds: list[str] = []
        with anyio.fail_after(PATIENCE):
            async with runtime.stream(nap_and_ask(), thread_id="t") as stream:
                async for each in stream:
                    kinds.append(type(each).__name__)
                    if isinstance(each, events.RunPaused) and len(kinds) < 5:
                        clock.jump(3600)
                with pytest.raises(RunPaused):
                    await stream.result()

    assert kinds.count("RunPaused") == 2


@pytest.mark.parametrize("then", ["result", "question", "cancelled"])
async def test_run_waits_on_when_another_runtime_has_woken_it(
    make_store: MakeStore, then: str
) -> None:
    """Whoever continues the run after its timer: the outcome comes to whoever asked for it."""
    here, there = JumpingClock(), JumpingClock()
    call = nap() if then == "result" else nap_and_ask()
    asked = Asked()
    async with (
        Runtime(make_store(), clock=here, poll_interval=0.03) as runtime,
        Runtime(make_store(), clock=there, poll_interval=0.03) as other,
        anyio.create_task_group() as group,
    ):
        group.start_soon(asked.ask, runtime, call)
        await asleep(runtime)
        there.jump(7200)
        handle = await other.start(call, thread_id="t")
        if then == "result":
            assert await handle.result() == "rested"
            assert await asked.come() == "rested"
        elif then == "question":
            assert isinstance(await asked.come(), RunPaused)
        else:
            await handle.cancel()
            assert isinstance(await asked.come(), RunCancelled | RunPaused)


async def test_a_caller_who_leaves_during_a_timer_leaves_the_run_paused(
    make_store: MakeStore,
) -> None:
    """Anybody continues it when its time has come."""
    clock, asked = JumpingClock(), Asked()
    async with Runtime(make_store(), clock=clock) as runtime:
        async with anyio.create_task_group() as group:
            group.start_soon(asked.ask, runtime, nap())
            await asleep(runtime)
            asked.scope.cancel()
        assert (await runtime.get("t")).status == RunStatus.PAUSED
        clock.jump(3600)
        assert await runtime.run(nap(), thread_id="t") == "rested"


async def test_a_runtime_that_closes_during_a_timer_tells_who_waits(make_store: MakeStore) -> None:
    """RunUnfinished: running it again continues."""
    asked = Asked()
    async with anyio.create_task_group() as group:
        async with Runtime(make_store()) as runtime:
            group.start_soon(asked.ask, runtime, nap())
            await asleep(runtime)
        assert isinstance(await asked.come(), RunUnfinished)


# Which runs there are, and the end of one.


async def test_the_runs_of_a_thread_are_listed(runtime: Runtime) -> None:
    """Newest first, by status and page; none of another thread."""
    for message in ("one", "two", "three"):
        await runtime.run(chat(message), thread_id="t", run_id=message)
    await runtime.run(chat("one"), thread_id="u")

    first = await runtime.runs(thread_id="t", limit=2)
    rest = await runtime.runs(thread_id="t", before=first[-1].number)

    assert [each.run_id for each in [*first, *rest]] == ["three", "two", "one"]
    assert await runtime.runs(thread_id="t", status="error") == []
    assert await runtime.runs(thread_id="elsewhere") == []


async def test_one_run_of_a_thread_is_cancelled(runtime: Runtime) -> None:
    """A failed one is not continued any more; the latest is not touched."""
    await fails(runtime, "A1", run_id="a")
    with pytest.raises(RunPaused):
        await runtime.run(ask_once(), thread_id="t", run_id="b")

    await runtime.cancel("t", run_id="a")

    assert [each.status for each in await runtime.runs(thread_id="t")] == ["paused", "cancelled"]
    with pytest.raises(RunCancelled):
        await runtime.run(fulfil("A1"), thread_id="t", run_id="a")


@pytest.mark.parametrize("run_id", ["b", "unknown"])
async def test_a_run_that_cannot_be_cancelled_is_named(runtime: Runtime, run_id: str) -> None:
    """It has succeeded, or is not there; what executes or sleeps on the thread goes on."""
    await runtime.run(fulfil("B2"), thread_id="t", run_id="b")
    handle = await runtime.start(ask_once(), thread_id="t", run_id="c")

    with pytest.raises(RunNotFound, match=run_id):
        await runtime.cancel("t", run_id=run_id)

    await runtime.send("t", "answer", "yes")
    assert await handle.result() == "yes"


# A run that others end.


@task
async def stand(order: str) -> None:
    bodies.append(f"begin {order}")
    try:
        await anyio.sleep(PATIENCE)
    finally:
        bodies.append(f"end {order}")


@workflow
async def hold(order: str) -> None:
    await stand(order)


@pytest.mark.parametrize("how", ["latest", "run_id"])
async def test_cancel_elsewhere_reaches_a_body_within_the_poll_interval(
    make_store: MakeStore, how: str
) -> None:
    """The body is cancelled, and whoever waits for the run is told."""
    async with (
        Runtime(make_store(), poll_interval=0.05) as here,
        Runtime(make_store(), poll_interval=NEVER) as other,
    ):
        handle = await here.start(hold("A1"), thread_id="t", run_id="r")
        await until(lambda: bodies == ["begin A1"])

        await other.cancel("t", run_id="r" if how == "run_id" else None)

        await until(lambda: bodies == ["begin A1", "end A1"])
        with pytest.raises(RunCancelled):
            await handle.result()
        assert (await here.get("t")).status == RunStatus.CANCELLED


async def test_supersede_is_refused_while_another_runtime_executes(make_store: MakeStore) -> None:
    """Cancel it first: that reaches the body, and the next run begins."""
    async with (
        Runtime(make_store(), poll_interval=0.05) as here,
        Runtime(make_store(), poll_interval=0.05) as other,
    ):
        await here.start(hold("A1"), thread_id="t")
        await until(lambda: bodies == ["begin A1"])
        await other.cancel("t")
        assert await other.run(fulfil("B2"), thread_id="t") == "receipt for B2"
        await until(lambda: "end A1" in bodies)
