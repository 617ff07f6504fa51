"""What `Runtime.drain` lets end, what it keeps from starting, and who continues the rest."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import anyio
import pytest
from bodies import Gate
from kinds import MakeStore
from processes import ENVIRONMENT
from waits import PATIENCE, until, until_count, until_status

from taskflow import (
    RetryPolicy,
    RunHandle,
    Runtime,
    RunUnfinished,
    previous,
    receive,
    sleep,
    task,
    workflow,
)
from taskflow.records import RunStatus

pytestmark = pytest.mark.anyio


class GatedSteps(Gate):
    """A gate that the task ``step`` passes, and a workflow that takes so many steps in a row."""

    def __init__(self) -> None:
        super().__init__()

        @task
        async def step(number: int) -> int:
            await self.pass_through(number)
            return number

        @workflow
        async def steps(count: int) -> int:
            return sum([await step(number) for number in range(count)])

        self.step, self.steps = step, steps


@pytest.fixture
def gate() -> GatedSteps:
    return GatedSteps()


async def drained_while(runtime: Runtime, gate: Gate, timeout: float = PATIENCE) -> None:
    """Drain, and let the bodies go once that is under way."""
    async with anyio.create_task_group() as group:
        group.start_soon(runtime.drain, timeout)
        await anyio.sleep(0.1)
        gate.go.set()


async def failure_of(waited: Awaitable[Any]) -> BaseException:
    """What it raises."""
    with pytest.raises(Exception) as caught:
        await waited
    return caught.value


async def test_what_executes_ends_and_is_recorded_and_nothing_more_starts(
    make_store: MakeStore, gate: GatedSteps
) -> None:
    """The next runtime executes what is left, and only that."""
    async with Runtime(make_store()) as runtime:
        handle = await runtime.start(gate.steps(3), thread_id="t")
        await until(lambda: gate.begun == [0])
        await drained_while(runtime, gate)
        assert gate.begun == gate.ended == [0]
        assert [each.value for each in await runtime.tasks("t")] == [0]
        with pytest.raises(RunUnfinished):
            await handle.result()

    async with Runtime(make_store()) as runtime:
        assert await runtime.run(gate.steps(3), thread_id="t") == 3
    assert gate.begun == [0, 1, 2]


async def test_a_drained_run_is_continued_by_whoever_recovers(
    make_store: MakeStore, gate: GatedSteps
) -> None:
    """Nobody has to ask for it again."""
    async with Runtime(make_store()) as runtime:
        await runtime.start(gate.steps(3), thread_id="t")
        await until(lambda: gate.begun == [0])
        await drained_while(runtime, gate)

    async with Runtime(make_store(), workflows=[gate.steps], recover=True) as runtime:
        await until_status(runtime, RunStatus.SUCCESS, "t")
    assert gate.begun == [0, 1, 2]


async def test_another_runtime_need_not_wait_for_the_drained_one_to_close(
    make_store: MakeStore, gate: GatedSteps
) -> None:
    """Runs are released by the drain itself."""
    async with Runtime(make_store()) as runtime, Runtime(make_store()) as other:
        await runtime.start(gate.steps(2), thread_id="t")
        await until(lambda: gate.begun == [0])
        await drained_while(runtime, gate)
        assert (await runtime.get("t")).owner is None
        assert await other.run(gate.steps(2), thread_id="t") == 1


async def test_calls_that_wait_for_a_slot_do_not_begin(
    make_store: MakeStore, gate: GatedSteps
) -> None:
    """They were made before the drain, and have not begun to execute."""

    @workflow
    async def both() -> None:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(_await, gate.step(number))

    async with Runtime(make_store(), max_concurrency=1) as runtime:
        await runtime.start(both(), thread_id="t")
        await until(lambda: len(gate.begun) == 1)
        await drained_while(runtime, gate)
        assert gate.begun == gate.ended
        assert len(gate.begun) == 1
        assert len(await runtime.tasks("t")) == 1


async def _await(call: Awaitable[Any]) -> None:
    await call


async def test_items_of_a_map_that_have_not_begun_do_not(
    make_store: MakeStore, gate: GatedSteps
) -> None:
    """Those that execute are recorded; a rerun executes the others."""

    @workflow
    async def mapped() -> list[int]:
        return await gate.step.map(range(20), concurrency=3)

    async with Runtime(make_store()) as runtime:
        await runtime.start(mapped(), thread_id="t")
        await until(lambda: len(gate.begun) == 3)
        await drained_while(runtime, gate)
        assert gate.begun == [0, 1, 2]
        assert len(await runtime.tasks("t")) == 3

    async with Runtime(make_store()) as runtime:
        assert await runtime.run(mapped(), thread_id="t") == list(range(20))
    assert sorted(gate.begun) == list(range(20))


async def test_a_call_that_backs_off_is_not_attempted_again(make_store: MakeStore) -> None:
    """Nothing of it executes, so the drain does not wait for it; its attempts begin anew later."""
    attempts: list[int] = []

    @task(retry=RetryPolicy(max_attempts=2, initial_interval=300, jitter=False))
    async def flaky() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("not now")
        return 1

    @workflow
    async def trying() -> int:
        return await flaky()

    async with Runtime(make_store()) as runtime:
        await runtime.start(trying(), thread_id="t")
        await until(lambda: attempts == [1])
        await anyio.sleep(0.05)
        begun = time.monotonic()
        await runtime.drain(timeout=PATIENCE)
        assert time.monotonic() - begun < PATIENCE / 2
        assert attempts == [1]

    async with Runtime(make_store()) as runtime:
        assert await runtime.run(trying(), thread_id="t") == 1


async def test_a_failed_attempt_is_not_followed_by_another_one(make_store: MakeStore) -> None:
    """The body that executes may end, whatever it comes to; no further one starts."""
    gate = Gate()

    @task(retry=RetryPolicy(max_attempts=5, initial_interval=0.01, jitter=False))
    async def flaky() -> int:
        await gate.pass_through("attempt")
        raise OSError("not now")

    @workflow
    async def trying() -> int:
        return await flaky()

    async with Runtime(make_store()) as runtime:
        await runtime.start(trying(), thread_id="t")
        await until(lambda: gate.begun == ["attempt"])
        await drained_while(runtime, gate)
        assert gate.begun == ["attempt"]
        assert await runtime.tasks("t") == []
        assert (await runtime.get("t")).status == RunStatus.RUNNING


async def test_of_nested_tasks_the_inner_one_ends_and_the_outer_one_is_unwound(
    make_store: MakeStore,
) -> None:
    """The outer body would have to make another call: it executes again, the inner one does not."""
    gate = Gate()
    outer_bodies: list[str] = []

    @task
    async def inner(number: int) -> int:
        await gate.pass_through(number)
        return number

    @task
    async def outer() -> int:
        outer_bodies.append("begun")
        return await inner(1) + await inner(2)

    @workflow
    async def nested() -> int:
        return await outer()

    async with Runtime(make_store()) as runtime:
        await runtime.start(nested(), thread_id="t")
        await until(lambda: gate.begun == [1])
        await drained_while(runtime, gate)
        assert [each.name.rpartition(".")[2] for each in await runtime.tasks("t")] == ["inner"]

    async with Runtime(make_store()) as runtime:
        assert await runtime.run(nested(), thread_id="t") == 3
    assert gate.begun == [1, 2]
    assert len(outer_bodies) == 2


async def test_an_outer_task_that_makes_no_more_calls_is_recorded(make_store: MakeStore) -> None:
    """After its inner call has ended, its body executes, and what executes ends."""
    gate = Gate()
    tail = Gate()

    @task
    async def inner() -> int:
        await gate.pass_through("inner")
        return 1

    @task
    async def outer() -> int:
        result = await inner()
        await tail.pass_through("tail")
        return result

    @workflow
    async def nested() -> int:
        return await outer()

    async with Runtime(make_store()) as runtime:
        handle = await runtime.start(nested(), thread_id="t")
        await until(lambda: gate.begun == ["inner"])
        gate.go.set()
        await until(lambda: tail.begun == ["tail"])
        await drained_while(runtime, tail)
        assert len(await runtime.tasks("t")) == 2
        # The workflow itself had nothing left but to return.
        assert handle.status in (RunStatus.SUCCESS, RunStatus.RUNNING)


async def test_a_body_in_a_worker_thread_ends(make_store: MakeStore) -> None:
    """A ``def`` task cannot be cut off, and is not."""
    begun: list[str] = []
    go: list[str] = []

    @task
    def slow(name: str) -> str:
        begun.append(name)
        while not go:
            time.sleep(0.005)
        return name

    @workflow
    async def two() -> str:
        return await slow("a") + await slow("b")

    async with Runtime(make_store()) as runtime:
        await runtime.start(two(), thread_id="t")
        await until(lambda: begun == ["a"])
        async with anyio.create_task_group() as group:
            group.start_soon(runtime.drain)
            await anyio.sleep(0.1)
            go.append("go")
        assert begun == ["a"]
        assert [each.value for each in await runtime.tasks("t")] == ["a"]


async def test_a_worker_thread_that_waits_for_a_held_call_comes_back(make_store: MakeStore) -> None:
    """``result()`` of a call that may not start raises in the thread, which then ends."""
    begun: list[str] = []
    go: list[str] = []

    @task
    async def inner() -> int:
        begun.append("inner")
        return 1

    @task
    def outer() -> int:
        begun.append("outer")
        while not go:
            time.sleep(0.005)
        return inner().result()

    @workflow
    async def nested() -> int:
        return await outer()

    async with Runtime(make_store()) as runtime:
        await runtime.start(nested(), thread_id="t")
        await until(lambda: begun == ["outer"])
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(runtime.drain)
                await anyio.sleep(0.1)
                go.append("go")
        assert begun == ["outer"]

    async with Runtime(make_store()) as runtime:
        assert await runtime.run(nested(), thread_id="t") == 1


@task(executor="process")
def in_process(folder: str) -> str:
    Path(folder, "begun").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    return "done"


async def test_a_body_in_a_worker_process_ends(
    make_store: MakeStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It is not killed, and its result is recorded."""
    folder = tmp_path_factory.mktemp("process")

    @workflow
    async def computing() -> str:
        result = await in_process(str(folder))
        await in_process("never begun")
        return result

    async with Runtime(make_store()) as runtime:
        await runtime.start(computing(), thread_id="t")
        await until(folder.joinpath("begun").exists)
        async with anyio.create_task_group() as group:
            group.start_soon(runtime.drain)
            await anyio.sleep(0.1)
            folder.joinpath("go").touch()
        assert [each.value for each in await runtime.tasks("t")] == ["done"]


async def test_a_held_call_ends_as_a_cancellation_that_no_except_swallows(
    make_store: MakeStore, gate: GatedSteps
) -> None:
    """The workflow's cleanup executes; its ``except Exception`` does not."""
    seen: list[str] = []

    @workflow
    async def careful() -> int:
        try:
            return await gate.step(0) + await gate.step(1)
        except Exception as error:
            seen.append(f"swallowed {error!r}")
            return -1
        finally:
            seen.append("cleanup")

    async with Runtime(make_store()) as runtime:
        handle = await runtime.start(careful(), thread_id="t")
        await until(lambda: gate.begun == [0])
        await drained_while(runtime, gate)
        assert seen == ["cleanup"]
        assert isinstance(await failure_of(handle.result()), RunUnfinished)
        assert (await runtime.get("t")).status == RunStatus.RUNNING


async def test_after_the_timeout_what_still_executes_is_cancelled(make_store: MakeStore) -> None:
    """Its cleanup has ended when ``drain`` returns, and the next runtime executes it again."""
    bodies: list[str] = []

    @task
    async def endless() -> int:
        bodies.append("begun")
        try:
            if len(bodies) == 1:
                await anyio.sleep_forever()
            return 1
        finally:
            bodies.append("ended")

    @workflow
    async def waiting() -> int:
        return await endless()

    async with Runtime(make_store()) as runtime:
        await runtime.start(waiting(), thread_id="t")
        await until(lambda: bodies == ["begun"])
        with anyio.fail_after(PATIENCE):
            await runtime.drain(timeout=0.05)
        assert bodies == ["begun", "ended"]
        assert await runtime.tasks("t") == []

    async with Runtime(make_store()) as runtime:
        assert await runtime.run(waiting(), thread_id="t") == 1


async def test_everybody_who_waits_is_told_that_the_run_is_unfinished(
    runtime: Runtime, gate: GatedSteps
) -> None:
    """``run()``, ``result()`` of a handle, and a stream."""
    told: list[BaseException] = []

    async def wait_for_run() -> None:
        told.append(await failure_of(runtime.run(gate.steps(2), thread_id="t")))

    async def wait_for_handle(handle: RunHandle[int]) -> None:
        told.append(await failure_of(handle.result()))

    async def read_stream() -> None:
        async with runtime.stream(gate.steps(2), thread_id="t") as events:
            async for _ in events:
                pass
            told.append(await failure_of(events.result()))

    handle = await runtime.start(gate.steps(2), thread_id="t")
    async with anyio.create_task_group() as group:
        group.start_soon(wait_for_run)
        group.start_soon(wait_for_handle, handle)
        group.start_soon(read_stream)
        await until(lambda: gate.begun == [0])
        await anyio.sleep(0.1)  # until all three wait
        with anyio.fail_after(PATIENCE):
            await drained_while(runtime, gate)
    assert [type(each) for each in told] == [RunUnfinished] * 3
    assert isinstance(told[0], RunUnfinished)
    assert told[0].thread_id == "t"


async def test_a_run_that_sleeps_stays_paused_and_its_waiters_are_told(
    make_store: MakeStore,
) -> None:
    """Its signal is taken by whoever continues it."""

    @workflow
    async def asking() -> int:
        return await receive("answer", int)

    async with Runtime(make_store()) as runtime:
        handle = await runtime.start(asking(), thread_id="t")
        await until_status(runtime, RunStatus.PAUSED, "t")
        with anyio.fail_after(PATIENCE):
            await runtime.drain()
            assert isinstance(await failure_of(handle.result()), RunUnfinished)
        assert (await runtime.get("t")).status == RunStatus.PAUSED

    async with Runtime(make_store(), workflows=[asking], recover=True) as runtime:
        await runtime.send("t", "answer", 42)
        assert await runtime.run(asking(), thread_id="t", wait=True) == 42


async def test_who_waits_through_pauses_is_told_the_same_while_another_body_ends(
    runtime: Runtime,
) -> None:
    """A run that becomes idle during the drain is unfinished for them, not paused."""
    gate = Gate()

    @task
    async def step() -> None:
        await gate.pass_through("step")

    @workflow
    async def working() -> None:
        await step()

    @workflow
    async def asking() -> int:
        return await receive("answer", int)

    await runtime.start(working(), thread_id="working")
    await until(lambda: gate.begun == ["step"])
    handle = await runtime.start(asking(), thread_id="asking")
    async with anyio.create_task_group() as group:
        group.start_soon(runtime.drain)
        await until_status(runtime, RunStatus.PAUSED, "asking")
        gate.go.set()
    assert isinstance(await failure_of(handle.result()), RunUnfinished)


async def test_a_timer_that_was_asleep_goes_on_from_its_deadline(make_store: MakeStore) -> None:
    """Drained before it was paused: the wait is not begun anew."""

    @workflow
    async def napping() -> None:
        await sleep(3600)

    async with Runtime(make_store()) as runtime:
        await runtime.start(napping(), thread_id="t")
        await runtime.drain()

    async with Runtime(make_store()) as runtime:
        handle = await runtime.start(napping(), thread_id="t")
        await until_status(runtime, RunStatus.PAUSED, "t")
        (wait,) = (await runtime.get("t")).waits
        assert wait.deadline is not None
        assert wait.deadline <= (await runtime.get("t")).created + 3600 + PATIENCE
        await handle.cancel()


async def test_a_signal_that_is_sent_during_the_drain_is_not_lost(make_store: MakeStore) -> None:
    """Sending is no execution: it is durable, and taken later."""
    gate = Gate()

    @task
    async def step() -> None:
        await gate.pass_through("step")

    @workflow
    async def asking() -> int:
        await step()
        return await receive("answer", int)

    async with Runtime(make_store()) as runtime:
        await runtime.start(asking(), thread_id="t")
        await until(lambda: gate.begun == ["step"])
        async with anyio.create_task_group() as group:
            group.start_soon(runtime.drain)
            await anyio.sleep(0.05)
            await runtime.send("t", "answer", 7)
            gate.go.set()

    async with Runtime(make_store()) as runtime:
        assert await runtime.run(asking(), thread_id="t", wait=True) == 7
    assert gate.begun == ["step"]


async def test_draining_twice_and_closing_is_no_harm(
    make_store: MakeStore, gate: GatedSteps
) -> None:
    """One after the other, at the same time, and ``aclose`` after that, from other tasks."""
    runtime = await Runtime(make_store()).open()
    await runtime.start(gate.steps(2), thread_id="t")
    await until(lambda: gate.begun == [0])
    async with anyio.create_task_group() as group:
        group.start_soon(runtime.drain)
        group.start_soon(runtime.drain)
        await anyio.sleep(0.05)
        gate.go.set()
    await runtime.drain()
    await runtime.aclose()
    with pytest.raises(RuntimeError, match="not open"):
        await runtime.drain()
    async with Runtime(make_store()) as runtime:
        assert await runtime.run(gate.steps(2), thread_id="t") == 1


async def test_closing_while_a_drain_waits_ends_both(make_store: MakeStore) -> None:
    """A second signal of an impatient operator."""
    gate = Gate()

    @task
    async def step() -> int:
        await gate.pass_through("step")
        return 1

    @workflow
    async def steps() -> int:
        return await step()

    runtime = await Runtime(make_store()).open()
    await runtime.start(steps(), thread_id="t")
    await until(lambda: gate.begun == ["step"])
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(runtime.drain, 600.0)
            await anyio.sleep(0.05)
            await runtime.aclose()
    gate.go.set()
    async with Runtime(make_store()) as runtime:
        assert await runtime.run(steps(), thread_id="t") == 1


async def test_a_drain_that_was_cancelled_can_be_repeated(
    runtime: Runtime, gate: GatedSteps
) -> None:
    """Nothing starts from the first one on; the second one releases the runs."""
    await runtime.start(gate.steps(2), thread_id="t")
    await until(lambda: gate.begun == [0])
    with anyio.move_on_after(0.05):
        await runtime.drain()
    gate.go.set()
    with anyio.fail_after(PATIENCE):
        await runtime.drain()
    assert gate.begun == [0]
    assert (await runtime.get("t")).owner is None


@pytest.mark.parametrize("how", ["run", "start", "resume", "stream", "thread"])
async def test_nothing_is_begun_on_a_drained_runtime(make_store: MakeStore, how: str) -> None:
    """It is an error that says so, at once, and the run stays as it was."""

    @task
    async def step() -> int:
        return 1

    @workflow
    async def steps(fails: bool) -> int:
        if fails and previous(int) is None and not mended:
            raise ValueError("not yet")
        return await step()

    mended: list[str] = []

    async def begin(runtime: Runtime) -> None:
        if how == "run":
            await runtime.run(steps(True), thread_id="t")
        elif how == "start":
            await runtime.start(steps(True), thread_id="t")
        elif how == "resume":
            await runtime.resume("t")
        elif how == "stream":
            async with runtime.stream(steps(True), thread_id="t") as events:
                await events.result()
        else:
            async with runtime.thread("block"):
                await step()

    async with Runtime(make_store(), workflows=[steps]) as runtime:
        with pytest.raises(ValueError, match="not yet"):
            await runtime.run(steps(True), thread_id="t")
        mended.append("mended")
        await runtime.drain()
        with anyio.fail_after(PATIENCE / 4), pytest.raises(RuntimeError, match="drain"):
            await begin(runtime)
        assert (await runtime.get("t")).status == RunStatus.ERROR
        assert (await runtime.get("t")).owner is None


async def test_a_block_that_is_open_is_not_left_hanging(make_store: MakeStore) -> None:
    """Its next task raises: nobody would ever let it start."""
    bodies: list[int] = []

    @task
    async def step(number: int) -> int:
        bodies.append(number)
        return number

    async with Runtime(make_store()) as runtime:
        with anyio.fail_after(PATIENCE / 4), pytest.raises(RuntimeError):  # noqa: PT012
            async with runtime.thread("block"):
                await step(0)
                await runtime.drain()
                await step(1)
    async with Runtime(make_store()) as runtime, runtime.thread("block"):
        assert [await step(0), await step(1)] == [0, 1]
    assert bodies == [0, 1]


async def test_who_waits_for_another_runtimes_run_is_told_and_takes_nothing_over(
    make_store: MakeStore,
) -> None:
    """``run(wait=True)``: once the drain has ended, nobody here claims that run any more."""
    gate = Gate()
    told: list[BaseException] = []

    @task
    async def step() -> int:
        await gate.pass_through("step")
        return 1

    @workflow
    async def steps() -> int:
        return await step()

    async with Runtime(make_store()) as runtime:
        owner = await Runtime(make_store()).open()
        await owner.start(steps(), thread_id="t")
        await until(lambda: gate.begun == ["step"])

        async def wait_for_it() -> None:
            told.append(await failure_of(runtime.run(steps(), thread_id="t", wait=True)))

        async with anyio.create_task_group() as group:
            group.start_soon(wait_for_it)
            await anyio.sleep(0.1)
            await runtime.drain()
            await owner.aclose()
            await anyio.sleep(0.5)  # some looks of it at what has become of the run
            assert (await runtime.get("t")).owner is None
            await until(lambda: bool(told))
    assert isinstance(told[0], RunUnfinished | RuntimeError)


def test_a_drain_can_be_asked_for_by_a_task() -> None:
    """A body that drains its own runtime is not waited for by itself for ever."""
    program = """
import anyio
from taskflow import MemoryStore, Runtime, RunUnfinished, task, workflow

async def main():
    async with Runtime(MemoryStore()) as runtime:

        @task
        async def last_one() -> None:
            await runtime.drain(timeout=0.1)

        @workflow
        async def leaving() -> None:
            await last_one()

        try:
            await runtime.run(leaving(), thread_id="t")
        except RuntimeError:  # RunUnfinished, or a refusal
            pass
        print("ended")

anyio.run(main)
"""
    # In a process of its own: what waits for itself here no timeout of this process could end.
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        timeout=PATIENCE,
        env=ENVIRONMENT,
    )
    assert ended.stdout.strip() == b"ended", ended.stderr.decode()


@pytest.mark.parametrize("durability", ["async", "exit"])
async def test_results_that_were_to_be_committed_later_are(
    make_store: MakeStore, durability: Any
) -> None:
    """In any durability the drain leaves nothing behind."""
    gate = Gate()

    @task
    async def step(number: int) -> int:
        if number == 2:
            await gate.pass_through(number)
        return number

    @workflow
    async def steps() -> int:
        return sum([await step(number) for number in range(5)])

    async with Runtime(make_store(), durability=durability) as runtime:
        await runtime.start(steps(), thread_id="t")
        await until(lambda: gate.begun == [2])
        await drained_while(runtime, gate)
        assert [each.value for each in await runtime.tasks("t")] == [0, 1, 2]


async def test_a_runtime_that_recovers_takes_nothing_over_once_it_is_drained(
    make_store: MakeStore,
) -> None:
    """Neither what others leave, nor what becomes due."""
    bodies: list[str] = []
    gate = Gate()

    @task
    async def step() -> int:
        bodies.append("step")
        await gate.go.wait()
        return 1

    @workflow
    async def steps() -> int:
        return await step()

    options: dict[str, Any] = {"workflows": [steps], "recover": True, "poll_interval": 0.02}
    async with Runtime(make_store(), **options) as runtime:
        await runtime.drain()
        async with Runtime(make_store()) as owner:
            await owner.start(steps(), thread_id="t")
            await until(lambda: bodies == ["step"])
        await anyio.sleep(0.2)  # ten looks
        assert (await runtime.get("t")).owner is None
        assert bodies == ["step"]


async def test_what_is_recorded_may_be_looked_at_after_a_drain(runtime: Runtime) -> None:
    """Until the runtime is closed."""

    @task
    async def step() -> int:
        return 1

    @workflow
    async def steps() -> int:
        return await step()

    await runtime.run(steps(), thread_id="t")
    await runtime.drain()
    assert (await runtime.get("t")).result == 1
    assert len(await runtime.runs()) == len(await runtime.tasks("t")) == 1
    assert runtime._progress("t") is None


async def test_many_runs_are_drained_together(make_store: MakeStore) -> None:
    """Fifty runs in all states: executing, held, waiting, in plain code; none is lost."""
    gate = Gate()

    @task
    async def step(number: int, part: int) -> int:
        if part == number % 4:
            await gate.pass_through((number, part))
        return number

    @workflow
    async def steps(number: int) -> int:
        for part in range(3):
            await step(number, part)
        await anyio.sleep(0.01)
        if number % 4 == 3:
            await receive("answer", int)
        return number

    async with Runtime(make_store()) as runtime:
        for number in range(50):
            await runtime.start(steps(number), thread_id=f"t{number}")
        await until(lambda: len(gate.begun) == sum(number % 4 < 3 for number in range(50)))
        await drained_while(runtime, gate)
        assert all(each.owner is None for each in await runtime.runs(limit=100))

    async with Runtime(make_store(), workflows=[steps], recover=True) as runtime:
        for number in range(3, 50, 4):
            await runtime.send(f"t{number}", "answer", 0)
        await until_count(runtime, RunStatus.SUCCESS, 50)
    assert len(gate.begun) == len(set(gate.begun))
