"""`Runtime.subscribe`: watching a thread, without a gap and without a repeat."""

from __future__ import annotations

import contextlib
import gc
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from kinds import MakeStore, every_durability
from processes import ENVIRONMENT
from waits import PATIENCE, until

import taskflow
from taskflow import (
    RunPaused,
    Runtime,
    SQLiteStore,
    ThreadBusy,
    emit,
    receive,
    task,
    workflow,
)
from taskflow.events import (
    Dropped,
    Emitted,
    Event,
    RunCompleted,
    RunFailed,
    RunStarted,
    TaskCompleted,
    TaskStarted,
    Waiting,
)
from taskflow.events import RunCancelled as RunCancelledEvent
from taskflow.events import RunPaused as RunPausedEvent
from taskflow.events import TaskFailed as TaskFailedEvent
from taskflow.runs.feeds import Listener
from taskflow.runtime.subscriptions import Subscription

pytestmark = pytest.mark.anyio


@task
async def step(number: int) -> int:
    return number


@task
async def spoken(number: int) -> int:
    await emit(number)
    return number


@workflow
async def steps(count: int) -> int:
    for number in range(count):
        await step(number)
    return count


@workflow
async def talk(count: int) -> int:
    return len(await spoken.map(range(count), concurrency=8))


@workflow
async def ask() -> str:
    await step(0)
    return await receive("answer", str)


def is_durable(event: Event) -> bool:
    """Whether it can be asked for again."""
    if isinstance(event, TaskCompleted | TaskFailedEvent):
        return not event.replayed
    return isinstance(event, Emitted) and event.durable


def durable(events: list[Event]) -> list[int]:
    """The numbers of those that can be asked for again."""
    return [each.number for each in events if is_durable(each)]


async def recorded(runtime: Runtime, after: int | None = None) -> list[int]:
    """What is recorded of a run that has ended: what a new reader is told."""
    async with runtime.subscribe("t", after=after) as events:
        return durable([each async for each in events])


class Reader:
    """Reads a subscription in the background, and keeps what it was told."""

    def __init__(self, runtime: Runtime, slow: float = 0, **options: Any) -> None:
        self.events: list[Event] = []
        self.has_ended = False
        self._runtime = runtime
        self._slow = slow
        self._options = options

    async def read(self, *, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
        """Until the subscription ends."""
        async with self._runtime.subscribe("t", **self._options) as events:
            task_status.started()
            async for each in events:
                self.events.append(each)
                if self._slow:
                    await anyio.sleep(self._slow)
        self.has_ended = True

    def kinds(self) -> list[str]:
        """The names of what it was told."""
        return [type(each).__name__ for each in self.events]

    async def until_told(self, kind: Any) -> None:
        """Wait until there was such an event."""
        await until(lambda: any(isinstance(each, kind) for each in self.events))


@contextlib.asynccontextmanager
async def reading(runtime: Runtime, **options: Any) -> AsyncIterator[Reader]:
    """A reader that must have come to the end soon after the block."""
    reader = Reader(runtime, **options)
    async with anyio.create_task_group() as group:
        await group.start(reader.read)
        yield reader
        with anyio.move_on_after(PATIENCE):
            while not reader.has_ended:  # noqa: ASYNC110
                await anyio.sleep(0.002)
        group.cancel_scope.cancel()
    assert reader.has_ended, reader.kinds()[-20:]


# What is recorded


async def test_a_run_that_has_succeeded_is_told_from_the_beginning(runtime: Runtime) -> None:
    """Started, what is recorded, and the end; as often as one asks."""
    await runtime.run(steps(3), thread_id="t")
    run = await runtime.get("t")
    for _ in range(2):
        async with runtime.subscribe("t") as events:
            found = [each async for each in events]
        kinds: list[type] = [RunStarted, TaskCompleted, TaskCompleted, TaskCompleted, RunCompleted]
        assert [type(each) for each in found] == kinds
        tasks = await runtime.tasks("t")
        assert [each.task_id for each in found[1:4]] == [each.task_id for each in tasks]
        assert durable(found) == [each.sequence for each in tasks]
        assert isinstance(found[-1], RunCompleted)
        assert (found[-1].result, found[-1].run_id) == (3, run.run_id)
        assert [each.time for each in found[1:4]] == pytest.approx(
            [each.started + each.duration for each in tasks]
        )


async def test_a_recorded_event_is_the_one_that_was_told_live(runtime: Runtime) -> None:
    """Field by field, for all that is durable."""

    @task
    async def fails() -> None:
        raise ValueError("no")

    @workflow
    async def mixed() -> int:
        await emit("begun")
        with contextlib.suppress(ValueError):
            await fails()
        return await talk(3)

    async with runtime.stream(mixed(), thread_id="t") as events:
        live = [each async for each in events if is_durable(each)]
    async with runtime.subscribe("t") as events:
        again = [each async for each in events if is_durable(each)]
    assert live == again


async def test_runs_that_failed_or_were_cancelled_end_with_that(runtime: Runtime) -> None:
    """And so does the subscription."""

    @workflow
    async def fail() -> None:
        await step(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await runtime.run(fail(), thread_id="t")
    async with runtime.subscribe("t") as events:
        found = [each async for each in events]
    assert [type(each) for each in found] == [RunStarted, TaskCompleted, RunFailed]
    assert "ValueError: no" in found[-1].error  # type: ignore[union-attr]

    with pytest.raises(RunPaused):
        await runtime.run(ask(), thread_id="u")
    await runtime.cancel("u")
    async with runtime.subscribe("u") as events:
        found = [each async for each in events]
    assert [type(each) for each in found] == [RunStarted, TaskCompleted, RunCancelledEvent]
    assert found[-1].final  # type: ignore[union-attr]


async def test_a_paused_run_is_told_and_its_reader_waits(make_store: MakeStore) -> None:
    """Also after the process was restarted; what it waits for is told."""
    async with Runtime(make_store()) as runtime:
        with pytest.raises(RunPaused):
            await runtime.run(ask(), thread_id="t")
    async with Runtime(make_store()) as runtime, reading(runtime) as reader:
        await reader.until_told(RunPausedEvent)
        paused = reader.events[-1]
        assert isinstance(paused, RunPausedEvent)
        assert [each.name for each in paused.waits] == ["answer"]
        await runtime.send("t", "answer", "yes")
        assert await runtime.run(ask(), thread_id="t") == "yes"
    kinds = reader.kinds()
    assert kinds[:3] == ["RunStarted", "TaskCompleted", "RunPaused"]
    assert kinds[-2:] == ["TaskCompleted", "RunCompleted"]
    numbers = [each.number for each in reader.events]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("count", [999, 1000, 1001, 2500])
async def test_pages_have_no_seam(runtime: Runtime, count: int) -> None:
    """As many events as are recorded, around the size of a page and beyond."""
    await runtime.run(wide(count), thread_id="t")
    tasks = [each.sequence for each in await runtime.tasks("t")]
    assert await recorded(runtime) == tasks
    middle = tasks[count // 2]
    assert await recorded(runtime, middle) == tasks[count // 2 + 1 :]


@workflow
async def wide(count: int) -> int:
    return len(await step.map(range(count)))


async def test_pages_of_emits_have_no_seam(runtime: Runtime) -> None:
    """Rows that are no events (deadlines, signals) do not end a page early."""

    @workflow
    async def noisy() -> int:
        for number in range(400):
            await receive("go", int, timeout=1000)
            await emit(number)
            await step(number)
        return 400

    handle = await runtime.start(noisy(), thread_id="t")
    for number in range(400):
        await runtime.send("t", "go", number)
    with anyio.fail_after(60):
        await handle.result()
    async with runtime.subscribe("t") as events:
        found = [each async for each in events]
    assert [each.value for each in found if isinstance(each, Emitted)] == list(range(400))
    assert sum(isinstance(each, TaskCompleted) for each in found) == 800
    numbers = durable(found)
    assert numbers == sorted(set(numbers))


async def test_after_a_number_come_only_later_ones(runtime: Runtime) -> None:
    """For every number there is, and for those before, between and behind."""
    await runtime.run(talk(10), thread_id="t")
    everything = await recorded(runtime)
    assert len(everything) == 20
    for after in [0, *everything, everything[-1] + 1000]:
        assert await recorded(runtime, after) == [each for each in everything if each > after]


async def test_the_numbers_of_other_threads_do_not_matter(runtime: Runtime) -> None:
    """They are counted over the whole store, and grow along each thread."""
    async with anyio.create_task_group() as group:
        for name in ("t", "u", "v"):
            group.start_soon(run_it, runtime, name)
    seen: set[int] = set()
    for name in ("t", "u", "v"):
        async with runtime.subscribe(name) as events:
            found = [each async for each in events]
        assert {each.thread_id for each in found} == {name}
        numbers = durable(found)
        assert numbers == sorted(set(numbers))
        assert not seen & set(numbers)
        seen |= set(numbers)
    assert len(seen) == 60


async def run_it(runtime: Runtime, thread_id: str) -> None:
    await runtime.run(talk(10), thread_id=thread_id)


async def test_a_run_can_be_named(runtime: Runtime) -> None:
    """An earlier one of the thread; the latest otherwise."""
    for number in range(3):
        await runtime.run(steps(number), thread_id="t", run_id=f"r{number}")
    for number in range(3):
        async with runtime.subscribe("t", run_id=f"r{number}") as events:
            found = [each async for each in events]
        assert {each.run_id for each in found} == {f"r{number}"}
        assert found[-1].result == number  # type: ignore[union-attr]
    async with runtime.subscribe("t") as events:
        assert (await anext(events)).run_id == "r2"


# What happens


@pytest.mark.parametrize("buffer", [1, 2, 3, 5, 50, 10_000])
@pytest.mark.parametrize("slow", [0, 0.001])
async def test_while_things_are_committed_there_is_no_gap_and_no_repeat(
    runtime: Runtime, buffer: int, slow: float
) -> None:
    """Whatever the buffer, and however slow the reader: all that is recorded, once, in order."""
    async with reading(runtime, buffer=buffer, slow=slow) as reader:
        await runtime.run(talk(100), thread_id="t")
    assert durable(reader.events) == await recorded(runtime)
    assert isinstance(reader.events[-1], RunCompleted)
    numbers = [each.number for each in reader.events]
    assert numbers == sorted(numbers)


@every_durability
async def test_there_is_no_gap_in_any_durability(make_store: MakeStore, durability: Any) -> None:
    """What is committed late is told late, and in order."""
    async with Runtime(make_store(), durability=durability) as runtime:
        async with reading(runtime, buffer=20) as reader:
            await runtime.run(talk(200), thread_id="t")
        assert durable(reader.events) == await recorded(runtime)


async def test_readers_that_come_at_any_moment_miss_nothing(runtime: Runtime) -> None:
    """Twenty of them, one after another, while five hundred calls are committed."""
    readers = [Reader(runtime, buffer=30) for _ in range(20)]
    async with anyio.create_task_group() as group:
        handle = await runtime.start(talk(500), thread_id="t")
        for reader in readers:
            group.start_soon(reader.read)
            await anyio.sleep(0.003)
        await handle.result()
        with anyio.fail_after(PATIENCE):
            while not all(reader.has_ended for reader in readers):  # noqa: ASYNC110
                await anyio.sleep(0.005)
    everything = await recorded(runtime)
    assert len(everything) == 1000
    for reader in readers:
        assert durable(reader.events) == everything


async def test_a_reader_that_reconnects_again_and_again_misses_nothing(runtime: Runtime) -> None:
    """After each few events it comes back with the last number that it was told."""
    found: list[Event] = []
    last: int | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(run_it_all, runtime)
        with anyio.fail_after(60):
            while not (found and isinstance(found[-1], RunCompleted)):
                async with runtime.subscribe("t", after=last, buffer=10) as events:
                    for _ in range(7):
                        found.append(await anext(events))
                        last = found[-1].number
                        if isinstance(found[-1], RunCompleted):
                            break
    assert durable(found) == await recorded(runtime)


async def run_it_all(runtime: Runtime) -> None:
    await runtime.run(talk(150), thread_id="t")


async def test_two_readers_are_told_the_same(runtime: Runtime) -> None:
    """One fast and one slow: the same durable events."""
    async with reading(runtime) as fast, reading(runtime, slow=0.002, buffer=5) as slow:
        await runtime.run(talk(60), thread_id="t")
    assert durable(fast.events) == durable(slow.events) == await recorded(runtime)
    assert not any(isinstance(each, Dropped) for each in fast.events)


async def test_who_watches_does_not_touch_the_run(runtime: Runtime) -> None:
    """Leaving a subscription cancels nothing, whoever else waits for the run."""
    go_on = anyio.Event()

    @workflow
    async def wait() -> str:
        await go_on.wait()
        return "done"

    handle = await runtime.start(wait(), thread_id="t")
    async with runtime.subscribe("t") as events:
        await anext(events)
    with anyio.move_on_after(0.05):
        async with runtime.subscribe("t") as events:
            await anext(events)
            await anext(events)
    go_on.set()
    assert await handle.result() == "done"


async def test_who_waited_for_a_run_sees_its_first_events(runtime: Runtime) -> None:
    """The start of the first call is told too, and a start of the run once."""

    @task
    async def is_seen() -> None:
        await reader.until_told(TaskStarted)

    @workflow
    async def work() -> None:
        await is_seen()

    async with reading(runtime) as reader:
        await anyio.sleep(0.05)
        await runtime.run(work(), thread_id="t")
    assert reader.kinds() == ["RunStarted", "TaskStarted", "TaskCompleted", "RunCompleted"]


async def test_who_waited_for_a_run_sees_its_first_wait(runtime: Runtime) -> None:
    """What it waits for is told when it begins to wait, not only when it pauses."""

    @workflow
    async def at_once() -> str:
        return await receive("answer", str)

    async with reading(runtime) as reader:
        await anyio.sleep(0.05)
        handle = await runtime.start(at_once(), thread_id="t")
        await reader.until_told(RunPausedEvent)
        await runtime.send("t", "answer", "yes")
        await handle.result()
    assert reader.kinds()[:3] == ["RunStarted", "Waiting", "RunPaused"]
    assert any(isinstance(each, Waiting) for each in reader.events)


async def test_a_start_is_told_once(runtime: Runtime) -> None:
    """Who listened before the run began, and looked only after that, is told once."""
    async with runtime.subscribe("t") as events:
        handle = await runtime.start(ask(), thread_id="t")
        found: list[Event] = []
        with anyio.fail_after(PATIENCE):
            while not any(isinstance(each, RunPausedEvent) for each in found):
                found.append(await anext(events))
        await runtime.send("t", "answer", "yes")
        await handle.result()
    assert sum(isinstance(each, RunStarted) for each in found) == 1


async def test_no_task_starts_after_it_has_completed(runtime: Runtime) -> None:
    """However much was dropped and read again: a display would show it executing for ever."""
    for buffer in (2, 4, 8, 16):
        thread_id = f"t{buffer}"
        completed: set[str | None] = set()
        late = 0
        async with runtime.subscribe(thread_id, buffer=buffer) as events:
            handle = await runtime.start(steps(100), thread_id=thread_id)
            async for each in events:
                if isinstance(each, TaskCompleted):
                    completed.add(each.task_id)
                late += isinstance(each, TaskStarted) and each.task_id in completed
                await anyio.lowlevel.checkpoint()
            await handle.result()
        assert late == 0


async def test_a_deadline_around_one_event_does_not_end_the_subscription(runtime: Runtime) -> None:
    """Nothing came in time: the next question is answered with what comes then."""
    handle = await runtime.start(ask(), thread_id="t")
    found: list[Event] = []
    with anyio.fail_after(PATIENCE):
        async with runtime.subscribe("t") as events:
            while not any(isinstance(each, RunPausedEvent) for each in found):
                with anyio.move_on_after(0.05):
                    found.append(await anext(events))
            for _ in range(3):
                with anyio.move_on_after(0.02):
                    found.append(await anext(events))
            await runtime.send("t", "answer", "yes")
            found += [each async for each in events]
        await handle.result()
    assert isinstance(found[-1], RunCompleted)
    assert durable(found) == await recorded(runtime)


async def test_who_breaks_out_of_a_loop_without_a_block_leaves_nothing_behind(
    runtime: Runtime,
) -> None:
    """The buffer is gone with the subscription."""

    def count() -> int:
        gc.collect()
        return sum(isinstance(each, Listener) for each in gc.get_objects())

    before = count()
    handle = await runtime.start(ask(), thread_id="t")
    for _ in range(5):
        async for _ in runtime.subscribe("t"):
            break
    await until(lambda: count() == before)
    await runtime.send("t", "answer", "yes")
    await handle.result()


async def test_a_loop_to_the_end_without_a_block_leaves_nothing_behind(runtime: Runtime) -> None:
    """It ends by itself."""
    await runtime.run(steps(3), thread_id="t")
    found = [each async for each in runtime.subscribe("t")]
    assert len(found) == 5
    assert isinstance(runtime.subscribe("t"), Subscription)


async def test_a_reader_that_never_reads_keeps_a_bounded_number_of_events(
    runtime: Runtime,
) -> None:
    """However many runs begin and end on the thread."""
    gc.collect()
    before = sum(isinstance(each, RunCompleted | Dropped) for each in gc.get_objects())
    async with runtime.subscribe("t", buffer=5):
        for number in range(100):
            await runtime.run(steps(0), thread_id="t", run_id=f"r{number}")
        gc.collect()
        held = sum(isinstance(each, RunCompleted | Dropped) for each in gc.get_objects())
    assert held - before <= 10


@pytest.mark.parametrize("what", ["no run", "executing", "paused"])
async def test_closing_the_runtime_ends_every_subscription(
    make_store: MakeStore, what: str
) -> None:
    """Nobody waits for a runtime that is closed, and nobody gets an error of its store."""

    @workflow
    async def endless() -> None:
        await anyio.sleep_forever()

    runtime = await Runtime(make_store(), poll_interval=0.05).open()
    reader = Reader(runtime)
    ended = False

    async def read() -> None:
        nonlocal ended
        await reader.read()
        ended = True

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        if what == "executing":
            await runtime.start(endless(), thread_id="t")
            await reader.until_told(RunStarted)
        elif what == "paused":
            await runtime.start(ask(), thread_id="t")
            await reader.until_told(RunPausedEvent)
        await anyio.sleep(0.1)
        await runtime.aclose()
        with anyio.move_on_after(5):
            while not ended:  # noqa: ASYNC110
                await anyio.sleep(0.005)
        group.cancel_scope.cancel()
    assert ended


async def test_a_deleted_thread_does_not_break_its_reader(runtime: Runtime) -> None:
    """A paused run is deleted while somebody watches: a new run of the thread goes on unharmed."""
    with pytest.raises(RunPaused):
        await runtime.run(ask(), thread_id="t")
    reader = Reader(runtime)
    async with anyio.create_task_group() as group:
        await group.start(reader.read)
        await reader.until_told(RunPausedEvent)
        await runtime.delete("t")
        assert await runtime.run(steps(2), thread_id="t") == 2
        group.cancel_scope.cancel()
    assert len({each.run_id for each in reader.events}) == 1


# Other processes


async def test_what_another_process_executes_is_told_as_far_as_it_is_recorded(
    tmp_path: Path,
) -> None:
    """Within the poll interval, without a gap, to the end."""
    path = tmp_path / "taskflow.db"
    async with Runtime(path) as one, Runtime(path, poll_interval=0.01) as two:
        async with reading(two) as reader:
            await one.run(talk(300), thread_id="t")
        assert durable(reader.events) == await recorded(one)
        assert isinstance(reader.events[-1], RunCompleted)
        assert reader.events[-1].result == 300


async def test_a_reader_elsewhere_is_told_before_the_end(tmp_path: Path) -> None:
    """The events of a run that goes on are told while it goes on."""
    path = tmp_path / "taskflow.db"
    go_on = anyio.Event()

    @workflow
    async def hold() -> None:
        await step(1)
        await go_on.wait()

    async with Runtime(path) as one, Runtime(path, poll_interval=0.01) as two:
        handle = await one.start(hold(), thread_id="t")
        async with reading(two) as reader:
            await reader.until_told(TaskCompleted)
            go_on.set()
            await handle.result()


async def test_an_attempt_that_is_turned_down_leaves_who_watches_alone(tmp_path: Path) -> None:
    """Another process executes; a run here is refused again and again, and the reader reads on."""
    path = tmp_path / "taskflow.db"
    go_on = anyio.Event()

    @task
    async def hold() -> int:
        await go_on.wait()
        return 1

    @workflow
    async def work() -> int:
        return await hold() + await step(1)

    async with Runtime(path) as one, Runtime(path, poll_interval=0.002) as two:
        handle = await one.start(work(), thread_id="t")
        async with reading(two) as reader:
            await reader.until_told(RunStarted)
            for _ in range(60):
                with pytest.raises(ThreadBusy):
                    await two.run(work(), thread_id="t")
            go_on.set()
            await handle.result()
    assert reader.kinds() == ["RunStarted", "TaskCompleted", "TaskCompleted", "RunCompleted"]


async def test_every_pause_of_another_process_is_told(tmp_path: Path) -> None:
    """The first was told by the run itself, here; the second one is found in the store."""
    path = tmp_path / "taskflow.db"

    @workflow
    async def twice() -> list[str]:
        return [await receive("a", str), await receive("b", str)]

    def pauses() -> list[str]:
        waits = [each.waits for each in reader.events if isinstance(each, RunPausedEvent)]
        return [each[0].name for each in waits]

    async with Runtime(path, poll_interval=1) as one, Runtime(path) as two, reading(one) as reader:
        with pytest.raises(RunPaused):
            await one.run(twice(), thread_id="t")
        await until(lambda: pauses() == ["a"])
        await two.send("t", "a", "x")
        with pytest.raises(RunPaused):
            await two.run(twice(), thread_id="t")
        await until(lambda: pauses() == ["a", "b"])
        await two.send("t", "b", "y")
        assert await two.run(twice(), thread_id="t") == ["x", "y"]


async def test_a_takeover_is_told_without_a_gap(tmp_path: Path) -> None:
    """One process executes the first half and lets go; the other one continues, and watches."""
    path = tmp_path / "taskflow.db"
    half = anyio.Event()
    stop = True

    @workflow
    async def long() -> int:
        for number in range(100):
            if number == 50 and stop:
                half.set()
                await anyio.sleep_forever()
            await spoken(number)
        return 100

    async with Runtime(path, poll_interval=0.01) as two:
        async with reading(two, buffer=10) as reader:
            async with Runtime(path) as one:
                await one.start(long(), thread_id="t")
                await half.wait()
            stop = False
            assert await two.run(long(), thread_id="t") == 100
        everything = await recorded(two)
    assert len(everything) == 200
    assert durable(reader.events) == everything


PROGRAM = """
import sys, anyio
from taskflow import Runtime, emit, task, workflow

@task
async def spoken(number: int) -> int:
    await emit(number)
    return number

@workflow
async def long() -> int:
    for number in range(400):
        await spoken(number)
        if number == 250 and sys.argv[2] == "hang":
            print("half way", flush=True)
            await anyio.sleep_forever()
    return 400

async def main():
    async with Runtime(sys.argv[1]) as runtime:
        await runtime.run(long(), thread_id="t")

anyio.run(main)
"""


async def test_a_killed_process_and_its_successor_are_told_as_one_run(tmp_path: Path) -> None:
    """``kill -9`` in the middle; who watches from a third process misses nothing."""
    path, program = tmp_path / "taskflow.db", tmp_path / "program.py"
    program.write_text(PROGRAM)

    def start(how: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(program), str(path), how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )

    async with Runtime(path, poll_interval=0.01) as runtime, reading(runtime) as reader:
        with start("hang") as first:
            assert first.stdout is not None
            await anyio.to_thread.run_sync(first.stdout.readline)
            first.send_signal(signal.SIGKILL)
            await anyio.to_thread.run_sync(first.communicate)
        with start("go on") as second:
            _, err = await anyio.to_thread.run_sync(second.communicate)
            assert second.returncode == 0, err.decode()
        await reader.until_told(RunCompleted)
        values = [each.value for each in reader.events if isinstance(each, Emitted)]
        assert values == list(range(400))
        assert durable(reader.events) == await recorded(runtime)


async def test_after_a_restart_a_reader_goes_on_where_it_was(make_store: MakeStore) -> None:
    """A new runtime, another store object, the last number: nothing twice, nothing lost."""
    found: list[Event] = []
    crash = True

    @workflow
    async def long() -> int:
        for number in range(40):
            if number == 20 and crash:
                raise ValueError
            await spoken(number)
        return 40

    async with Runtime(make_store()) as runtime:
        with pytest.raises(ValueError):
            await runtime.run(long(), thread_id="t")
        async with runtime.subscribe("t") as events:
            async for each in events:
                found.append(each)
                if len(durable(found)) == 13:
                    break
    crash = False
    async with Runtime(make_store()) as runtime:
        async with runtime.subscribe("t", after=found[-1].number) as events:
            found += [each async for each in events]
        assert isinstance(found[-1], RunFailed)
        await runtime.run(long(), thread_id="t")
    async with Runtime(make_store()) as runtime:
        async with runtime.subscribe("t", after=found[-1].number) as events:
            found += [each async for each in events]
        assert durable(found) == await recorded(runtime)
        assert len(durable(found)) == 80


async def test_a_subscription_of_a_store_that_is_written_by_its_own_runtime_only(
    tmp_path: Path,
) -> None:
    """A store object that was closed and opened again tells the same."""
    path = tmp_path / "taskflow.db"
    async with Runtime(SQLiteStore(path)) as runtime:
        await runtime.run(talk(20), thread_id="t")
        before = await recorded(runtime)
    async with Runtime(SQLiteStore(path)) as runtime:
        assert await recorded(runtime) == before


async def test_a_block_without_a_workflow_can_be_watched(runtime: Runtime) -> None:
    """What its tasks record is told."""
    reader = Reader(runtime)
    async with anyio.create_task_group() as group:
        async with runtime.thread("t"):
            await step(1)
            await group.start(reader.read)
            await until(lambda: len(reader.events) >= 2)
            await step(2)
            await until(lambda: len(durable(reader.events)) == 2)
        group.cancel_scope.cancel()
    assert [each.name for each in reader.events if isinstance(each, TaskCompleted)] == ["step"] * 2


async def test_wrong_questions_are_told(runtime: Runtime) -> None:
    """Of what is no thread id, and of a runtime that is closed."""
    with pytest.raises((TypeError, ValueError)):
        runtime.subscribe("")
    closed = Runtime(taskflow.MemoryStore())
    with pytest.raises(RuntimeError, match="not open"):
        closed.subscribe("t")
