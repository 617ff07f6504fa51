"""What a runtime with ``recover=True`` continues, what it leaves alone, and how much at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from bodies import Gauge
from kinds import MakeStore
from waits import NEVER, PATIENCE, JumpingClock, until, until_count, until_status, waits_of

from taskflow import (
    MemoryStore,
    RunPaused,
    Runtime,
    RunUnfinished,
    SQLiteStore,
    Store,
    Workflow,
    WorkflowCall,
    receive,
    sleep,
    task,
    workflow,
)
from taskflow.errors import StoreError
from taskflow.records import RunStatus
from taskflow.stores.rows import RunRow

pytestmark = pytest.mark.anyio


async def leave(
    store: Store, calls: Sequence[WorkflowCall[Any]], is_under_way: Callable[[], bool]
) -> list[str]:
    """Start runs on threads t0, t1, …, and close their runtime while they execute."""
    runtime = await Runtime(store).open()
    thread_ids = [f"t{number}" for number in range(len(calls))]
    for thread_id, call in zip(thread_ids, calls, strict=True):
        await runtime.start(call, thread_id=thread_id)
    await until(is_under_way)
    await runtime.aclose()
    return thread_ids


def held_steps(held: anyio.Event, bodies: list[tuple[int, int]]) -> Workflow[[int], int, int]:
    """A workflow of three steps, the second of which waits for ``held``."""

    @task
    async def step(number: int, part: int) -> int:
        bodies.append((number, part))
        if part == 1:
            await held.wait()
        return part

    @workflow
    async def steps(number: int) -> int:
        return sum([await step(number, part) for part in range(3)])

    return steps


async def test_started_runs_are_continued_by_the_next_runtime(make_store: MakeStore) -> None:
    """Their owner was closed while they executed; what is recorded is not executed again."""
    held = anyio.Event()
    bodies: list[tuple[int, int]] = []
    steps = held_steps(held, bodies)
    threads = await leave(
        make_store(), [steps(number) for number in range(5)], lambda: len(bodies) == 10
    )
    held.set()
    async with Runtime(make_store(), workflows=[steps], recover=True) as runtime:
        records = await until_status(runtime, RunStatus.SUCCESS, *threads)
    assert [each.result for each in records] == [3] * 5
    counts = Counter(bodies)
    assert counts == {(run, part): 2 if part == 1 else 1 for run in range(5) for part in range(3)}


async def test_a_runtime_that_is_open_continues_what_another_one_leaves(
    make_store: MakeStore,
) -> None:
    """Within a poll interval, not only on opening."""
    held = anyio.Event()
    bodies: list[tuple[int, int]] = []
    steps = held_steps(held, bodies)
    options: dict[str, Any] = {"recover": True, "poll_interval": 0.05}
    async with Runtime(make_store(), workflows=[steps], **options) as runtime:
        threads = await leave(make_store(), [steps(0)], lambda: len(bodies) == 2)
        held.set()
        await until_status(runtime, RunStatus.SUCCESS, *threads)


async def test_without_recover_nothing_is_continued(make_store: MakeStore) -> None:
    """It is something to be asked for."""
    bodies: list[tuple[int, int]] = []
    steps = held_steps(anyio.Event(), bodies)
    await leave(make_store(), [steps(0)], lambda: len(bodies) == 2)
    async with Runtime(make_store(), workflows=[steps], poll_interval=0.02) as runtime:
        await anyio.sleep(0.2)  # ten looks
        assert (await runtime.get("t0")).owner is None
    assert len(bodies) == 2


async def test_a_run_whose_caller_was_cancelled_is_left_to_anybody(make_store: MakeStore) -> None:
    """Somebody did not want it any more: it is continued where somebody asks for it."""
    held = anyio.Event()
    bodies: list[tuple[int, int]] = []
    steps = held_steps(held, bodies)
    options: dict[str, Any] = {"recover": True, "poll_interval": 0.02}
    async with Runtime(make_store(), workflows=[steps], **options) as runtime:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: runtime.run(steps(0), thread_id="t"))
            await until(lambda: len(bodies) == 2)
            group.cancel_scope.cancel()
        await anyio.sleep(0.2)
        assert (await runtime.get("t")).status == RunStatus.RUNNING
        assert (await runtime.get("t")).owner is None
    held.set()
    async with Runtime(make_store(), workflows=[steps], **options) as runtime:
        await anyio.sleep(0.2)
        assert len(bodies) == 2
        assert await runtime.run(steps(0), thread_id="t") == 3


async def test_a_run_that_was_cancelled_for_good_is_not_recovered(make_store: MakeStore) -> None:
    """Neither an orphan nor a paused one."""
    bodies: list[tuple[int, int]] = []
    steps = held_steps(anyio.Event(), bodies)
    await leave(make_store(), [steps(0)], lambda: len(bodies) == 2)
    async with Runtime(make_store()) as runtime:
        await runtime.cancel("t0")
    async with Runtime(make_store(), workflows=[steps], recover=True) as runtime:
        await anyio.sleep(0.1)
        assert (await runtime.get("t0")).status == RunStatus.CANCELLED
    assert len(bodies) == 2


async def test_a_signal_that_was_sent_while_nobody_executed_is_taken_on_opening(
    make_store: MakeStore,
) -> None:
    """Sent by a plain runtime, which knows no workflow."""

    @workflow
    async def asking() -> int:
        return await receive("answer", int)

    async with Runtime(make_store()) as runtime:
        with pytest.raises(RunPaused):
            await runtime.run(asking(), thread_id="t")
    async with Runtime(make_store()) as runtime:
        await runtime.send("t", "answer", 42)
    async with Runtime(make_store(), workflows=[asking], recover=True) as runtime:
        (record,) = await until_status(runtime, RunStatus.SUCCESS, "t")
    assert record.result == 42


async def test_a_signal_of_a_runtime_that_only_sends_is_taken_while_another_is_open(
    make_store: MakeStore,
) -> None:
    """Within a poll interval."""

    @workflow
    async def asking() -> int:
        return await receive("answer", int)

    async with Runtime(make_store()) as sender:
        with pytest.raises(RunPaused):
            await sender.run(asking(), thread_id="t")
        options: dict[str, Any] = {"recover": True, "poll_interval": 0.05}
        async with Runtime(make_store(), workflows=[asking], **options) as runtime:
            await anyio.sleep(0.1)
            assert (await runtime.get("t")).status == RunStatus.PAUSED
            await sender.send("t", "answer", 1)
            await until_status(runtime, RunStatus.SUCCESS, "t")


async def test_a_signal_that_is_sent_here_is_taken_without_waiting_for_a_look(
    make_store: MakeStore,
) -> None:
    """``send`` tells the runtime that recovers, for runs that nobody waits for here."""

    @workflow
    async def asking(times: int) -> int:
        return sum([await receive("answer", int) for _ in range(times)])

    options: dict[str, Any] = {"recover": True, "poll_interval": NEVER}
    async with Runtime(make_store(), workflows=[asking], **options) as runtime:
        with pytest.raises(RunPaused):
            await runtime.run(asking(3), thread_id="t")
        for _ in range(3):
            await runtime.send("t", "answer", 2)
            await anyio.sleep(0.3)  # it pauses again meanwhile
        (record,) = await until_status(runtime, RunStatus.SUCCESS, "t")
        assert record.result == 6


async def test_a_time_that_came_while_nobody_was_open_is_noticed_on_opening(
    make_store: MakeStore,
) -> None:
    """The deadline was recorded; nothing is waited for any more."""
    clock = JumpingClock()

    @workflow
    async def napping() -> str:
        await sleep(86400)
        return "rested"

    async with Runtime(make_store(), clock=clock) as runtime:
        await waits_of(runtime, napping(), "t")
    clock.jump(86400)
    options: dict[str, Any] = {"recover": True, "clock": clock}
    async with Runtime(make_store(), workflows=[napping], **options) as runtime:
        (record,) = await until_status(runtime, RunStatus.SUCCESS, "t")
    assert record.result == "rested"


async def test_a_time_that_comes_while_it_is_open_is_noticed(make_store: MakeStore) -> None:
    """For each of the waits of a run that nobody started here; not one of them too early."""
    clock = JumpingClock()

    @workflow
    async def napping() -> int:
        for _ in range(3):
            await sleep(3600)
        return 3

    async with Runtime(make_store(), clock=clock) as runtime:
        await waits_of(runtime, napping(), "t")
    options: dict[str, Any] = {"recover": True, "clock": clock, "poll_interval": 0.05}
    async with Runtime(make_store(), workflows=[napping], **options) as runtime:
        for nth in range(3):
            await anyio.sleep(0.15)
            assert (await runtime.get("t")).status == RunStatus.PAUSED
            assert len(await runtime.tasks("t")) == nth
            clock.jump(3600)
            with anyio.fail_after(PATIENCE):
                while len(await runtime.tasks("t")) == nth:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            if nth < 2:
                await until_status(runtime, RunStatus.PAUSED, "t")
        await until_status(runtime, RunStatus.SUCCESS, "t")


async def test_no_more_than_max_concurrent_runs_are_recovered_at_a_time(
    make_store: MakeStore,
) -> None:
    """Fifty orphans, three at a time; what becomes free is used at once, not at the next look."""
    gauge = Gauge()
    is_mended: list[bool] = []
    begun: list[int] = []

    @task
    async def step(number: int) -> int:
        begun.append(number)
        if not is_mended:
            await anyio.sleep_forever()
        return number

    @workflow
    async def one(number: int) -> int:
        with gauge:
            await step(number)
            await anyio.sleep(0.002)
            return number

    await leave(make_store(), [one(number) for number in range(50)], lambda: len(begun) == 50)
    is_mended.append(True)
    gauge.most = gauge.now
    assert gauge.now == 0
    options: dict[str, Any] = {"recover": True, "poll_interval": NEVER, "max_concurrent_runs": 3}
    async with Runtime(make_store(), workflows=[one], **options) as runtime:
        await until_count(runtime, RunStatus.SUCCESS, 50)
    assert gauge.most == 3
    assert Counter(begun) == dict.fromkeys(range(50), 2)


async def test_no_more_than_max_concurrent_runs_wake_at_a_time(make_store: MakeStore) -> None:
    """Started runs whose timers ring at the same moment."""
    clock = JumpingClock()
    gauge = Gauge()

    @task
    async def work() -> None:
        with gauge:
            await anyio.sleep(0.005)

    @workflow
    async def napping(number: int) -> int:
        await sleep(3600)
        await work()
        return number

    options: dict[str, Any] = {"clock": clock, "max_concurrent_runs": 3, "poll_interval": NEVER}
    async with Runtime(make_store(), **options) as runtime:
        handles = [
            await runtime.start(napping(number), thread_id=f"t{number}") for number in range(30)
        ]
        await until_count(runtime, RunStatus.PAUSED, 30)
        clock.jump(3600)
        with anyio.fail_after(PATIENCE):
            assert [await each.result() for each in handles] == list(range(30))
    assert gauge.most <= 3
    assert gauge.ever == 30


async def test_orphans_and_timers_share_the_room(make_store: MakeStore) -> None:
    """Recovered runs, and started ones that wake: together no more than the limit; all end."""
    clock = JumpingClock()
    gauge = Gauge()
    begun: list[int] = []
    is_mended: list[bool] = []

    @task
    async def work(number: int) -> None:
        begun.append(number)
        if not is_mended:
            await anyio.sleep_forever()
        with gauge:
            await anyio.sleep(0.005)

    @workflow
    async def orphan(number: int) -> int:
        await work(number)
        return number

    @workflow
    async def napping(number: int) -> int:
        await sleep(3600)
        await work(number)
        return number

    await leave(make_store(), [orphan(number) for number in range(20)], lambda: len(begun) == 20)
    is_mended.append(True)
    async with Runtime(make_store(), clock=clock) as runtime:
        for number in range(20):
            await runtime.start(napping(number), thread_id=f"n{number}")
        await until_count(runtime, RunStatus.PAUSED, 20)
    clock.jump(3600)
    options: dict[str, Any] = {"recover": True, "clock": clock, "max_concurrent_runs": 4}
    async with Runtime(make_store(), workflows=[orphan, napping], **options) as runtime:
        for number in range(20, 30):
            await runtime.start(napping(number), thread_id=f"n{number}")
        await until_status(runtime, RunStatus.PAUSED, *(f"n{each}" for each in range(20, 30)))
        clock.jump(3600)
        await until_count(runtime, RunStatus.SUCCESS, 50)
    assert gauge.most <= 4
    assert gauge.ever == 50


async def test_what_is_asked_for_now_needs_no_room(make_store: MakeStore) -> None:
    """The limit is for what nobody asked for: a request is not kept waiting by recovery."""
    held = anyio.Event()
    bodies: list[tuple[int, int]] = []
    steps = held_steps(held, bodies)

    @workflow
    async def quick() -> str:
        return "quick"

    await leave(make_store(), [steps(0)], lambda: len(bodies) == 2)
    options: dict[str, Any] = {"recover": True, "max_concurrent_runs": 1}
    async with Runtime(make_store(), workflows=[steps], **options) as runtime:
        await until(lambda: len(bodies) == 3)
        with anyio.fail_after(PATIENCE):
            assert await runtime.run(quick(), thread_id="q") == "quick"


async def test_a_run_of_an_unknown_workflow_is_left_alone_and_told_once(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """With its name, however often it is seen; the others are continued."""
    bodies: list[tuple[int, int]] = []
    held = anyio.Event()
    steps = held_steps(held, bodies)

    @workflow(name="stranger")
    async def stranger(number: int) -> int:
        bodies.append((number, -1))
        await anyio.sleep_forever()
        return 0

    await leave(make_store(), [steps(0), stranger(1), stranger(2)], lambda: len(bodies) == 4)
    held.set()
    options: dict[str, Any] = {"recover": True, "poll_interval": 0.02}
    with caplog.at_level(logging.WARNING, "taskflow"):
        async with Runtime(make_store(), workflows=[steps], **options) as runtime:
            await until_status(runtime, RunStatus.SUCCESS, "t0")
            await anyio.sleep(0.2)  # ten looks
            for thread_id in ("t1", "t2"):
                assert (await runtime.get(thread_id)).status == RunStatus.RUNNING
                assert (await runtime.get(thread_id)).owner is None
    assert sum("stranger" in each.getMessage() for each in caplog.records) == 1


async def test_a_block_is_not_recovered(make_store: MakeStore) -> None:
    """Nor is it reported as something unknown."""

    @task
    async def step() -> int:
        return 1

    @workflow
    async def other() -> None: ...

    async with Runtime(make_store()) as runtime, runtime.thread("block"):
        await step()
    options: dict[str, Any] = {"recover": True, "poll_interval": 0.02}
    async with Runtime(make_store(), workflows=[other], **options) as runtime:
        await anyio.sleep(0.1)
        assert (await runtime.get("block")).owner is None


async def test_a_recovered_run_that_fails_is_recorded_and_logged_and_not_repeated(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Its failure is its result: nobody executes it again by himself."""
    bodies: list[str] = []

    @task
    async def step() -> None:
        bodies.append("step")
        if len(bodies) == 1:
            await anyio.sleep_forever()
        raise ValueError("no such order")

    @workflow
    async def failing() -> None:
        await step()

    await leave(make_store(), [failing()], lambda: bodies == ["step"])
    options: dict[str, Any] = {"recover": True, "poll_interval": 0.02}
    with caplog.at_level(logging.WARNING, "taskflow"):
        async with Runtime(make_store(), workflows=[failing], **options) as runtime:
            (record,) = await until_status(runtime, RunStatus.ERROR, "t0")
            await anyio.sleep(0.2)  # ten looks
        async with Runtime(make_store(), workflows=[failing], **options) as runtime:
            await anyio.sleep(0.1)
    assert "no such order" in str(record.error)
    assert len(bodies) == 2
    assert sum("no such order" in each.getMessage() for each in caplog.records) == 1


async def test_a_run_whose_input_does_not_fit_any_more_is_logged_and_not_repeated(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The workflow's parameters have changed since: a look does not try it again and again."""
    begun: list[str] = []

    @workflow(name="changing")
    async def before(order: str) -> None:
        begun.append(order)
        await anyio.sleep_forever()

    @workflow(name="changing")
    async def after(order: int) -> None:
        begun.append(str(order))

    await leave(make_store(), [before("A1")], lambda: begun == ["A1"])
    options: dict[str, Any] = {"recover": True, "poll_interval": 0.02}
    with caplog.at_level(logging.WARNING, "taskflow"):
        async with Runtime(make_store(), workflows=[after], **options):
            await until(lambda: bool(caplog.records))
            await anyio.sleep(0.2)  # ten looks
    assert begun == ["A1"]
    assert len(caplog.records) == 1
    assert "changing" in caplog.records[0].getMessage()


@pytest.mark.parametrize("how", ["run", "start"])
async def test_who_asks_for_a_run_that_is_being_recovered_joins_it(
    make_store: MakeStore, how: str
) -> None:
    """One execution, whose result everybody gets."""
    held = anyio.Event()
    bodies: list[tuple[int, int]] = []
    steps = held_steps(held, bodies)
    await leave(make_store(), [steps(0)], lambda: len(bodies) == 2)
    results: list[int] = []

    async def ask(runtime: Runtime) -> None:
        if how == "run":
            results.append(await runtime.run(steps(0), thread_id="t0"))
        else:
            handle = await runtime.start(steps(0), thread_id="t0")
            results.append(await handle.result())

    async with Runtime(make_store(), workflows=[steps], recover=True) as runtime:
        await until(lambda: len(bodies) == 3)
        async with anyio.create_task_group() as group:
            group.start_soon(ask, runtime)
            group.start_soon(ask, runtime)
            await anyio.sleep(0.05)
            held.set()
    assert results == [3, 3]
    assert Counter(bodies) == {(0, 0): 1, (0, 1): 2, (0, 2): 1}


async def test_who_joins_a_recovered_run_and_leaves_does_not_end_it(make_store: MakeStore) -> None:
    """Recovery itself is one who waits."""
    held = anyio.Event()
    bodies: list[tuple[int, int]] = []
    steps = held_steps(held, bodies)
    await leave(make_store(), [steps(0)], lambda: len(bodies) == 2)
    async with Runtime(make_store(), workflows=[steps], recover=True) as runtime:
        await until(lambda: len(bodies) == 3)
        with anyio.move_on_after(0.1) as scope:
            await runtime.run(steps(0), thread_id="t0")
        assert scope.cancelled_caught
        held.set()
        await until_status(runtime, RunStatus.SUCCESS, "t0")
    assert Counter(bodies)[0, 1] == 2


async def test_a_recovered_run_that_somebody_started_sleeps_on_for_him(
    make_store: MakeStore,
) -> None:
    """It pauses: its handle waits on, and the next signal continues it."""
    held = anyio.Event()
    begun: list[str] = []

    @task
    async def step() -> int:
        begun.append("step")
        await held.wait()
        return 1

    @workflow
    async def asking() -> int:
        return await step() + await receive("answer", int)

    await leave(make_store(), [asking()], lambda: begun == ["step"])
    options: dict[str, Any] = {"recover": True, "poll_interval": NEVER}
    async with Runtime(make_store(), workflows=[asking], **options) as runtime:
        await until(lambda: len(begun) == 2)
        handle = await runtime.start(asking(), thread_id="t0")
        held.set()
        await until_status(runtime, RunStatus.PAUSED, "t0")
        await runtime.send("t0", "answer", 41)
        with anyio.fail_after(PATIENCE):
            assert await handle.result() == 42


async def test_closing_while_it_recovers_loses_nothing(make_store: MakeStore) -> None:
    """Closed at any moment, again and again: the next one goes on."""
    begun: Counter[int] = Counter()
    is_mended: list[bool] = []

    @task
    async def step(number: int) -> int:
        begun[number] += 1
        await anyio.sleep(0.01 if is_mended else 60)
        return number

    @workflow
    async def one(number: int) -> int:
        return await step(number)

    await leave(make_store(), [one(number) for number in range(30)], lambda: len(begun) == 30)
    is_mended.append(True)
    options: dict[str, Any] = {"recover": True, "max_concurrent_runs": 7, "poll_interval": 0.01}
    for pause in (0.0, 0.0, 0.002, 0.005, 0.02, 0.03):
        runtime = await Runtime(make_store(), workflows=[one], **options).open()
        await anyio.sleep(pause)
        await runtime.aclose()
    async with Runtime(make_store(), workflows=[one], **options) as runtime:
        await until_count(runtime, RunStatus.SUCCESS, 30)
        assert all(each.owner is None for each in await runtime.runs())


async def test_two_runtimes_of_one_process_execute_each_run_once(make_store: MakeStore) -> None:
    """Both look at the same orphans at the same time."""
    begun: Counter[int] = Counter()
    is_mended: list[bool] = []

    @task
    async def step(number: int) -> int:
        begun[number] += 1
        await anyio.sleep(0.002 if is_mended else 60)
        return number

    @workflow
    async def one(number: int) -> int:
        return await step(number)

    await leave(make_store(), [one(number) for number in range(40)], lambda: len(begun) == 40)
    is_mended.append(True)
    options: dict[str, Any] = {"recover": True, "max_concurrent_runs": 5, "poll_interval": 0.02}
    async with (
        Runtime(make_store(), workflows=[one], **options) as runtime,
        Runtime(make_store(), workflows=[one], **options),
    ):
        await until_count(runtime, RunStatus.SUCCESS, 40)
    assert begun == dict.fromkeys(range(40), 2)


class Moody(MemoryStore):
    """A store that cannot be looked at for a while."""

    is_down = False
    looks = 0

    async def recoverable(
        self, now: float, workflows: Sequence[str], limit: int
    ) -> Sequence[RunRow]:
        self.looks += 1
        if self.is_down:
            raise StoreError("the memory store is down")
        return await super().recoverable(now, workflows, limit)


async def test_a_look_that_failed_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    """Recovery survives a store that does not answer for a while, and says so once."""
    held = anyio.Event()
    bodies: list[tuple[int, int]] = []
    steps = held_steps(held, bodies)
    store = Moody()
    options: dict[str, Any] = {"recover": True, "poll_interval": 0.02}
    with caplog.at_level(logging.WARNING, "taskflow"):
        async with Runtime(store, workflows=[steps], **options) as runtime:
            store.is_down = True
            await leave(store, [steps(0)], lambda: len(bodies) == 2)
            held.set()
            before = store.looks
            await until(lambda: store.looks > before + 3)
            assert len(bodies) == 2
            store.is_down = False
            await until_status(runtime, RunStatus.SUCCESS, "t0")
    assert sum("down" in each.getMessage() for each in caplog.records) == 1


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the file as another program would."""
    fd = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT)
    db = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        db.execute("BEGIN IMMEDIATE")
        yield
    finally:
        db.close()
        os.close(fd)


async def test_runs_that_lost_their_store_for_a_moment_are_continued(tmp_path: Path) -> None:
    """Locked for longer than busy_timeout: what was interrupted by that is taken up again."""
    path = tmp_path / "taskflow.db"
    begun: Counter[tuple[int, int]] = Counter()
    held = anyio.Event()

    @task
    async def step(number: int, part: int) -> int:
        begun[number, part] += 1
        if part == 1:
            await held.wait()
        return part

    @workflow
    async def steps(number: int) -> int:
        return sum([await step(number, part) for part in range(3)])

    await leave(SQLiteStore(path), [steps(0), steps(1)], lambda: len(begun) == 4)
    store = SQLiteStore(path, busy_timeout=0.05)
    async with Runtime(store, workflows=[steps], recover=True, poll_interval=0.05) as runtime:
        await until(lambda: begun[0, 1] == begun[1, 1] == 2)
        with locked(path):
            held.set()
            await anyio.sleep(0.5)
        await until_status(runtime, RunStatus.SUCCESS, "t0", "t1")


async def test_one_damaged_run_does_not_keep_the_others_from_being_recovered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named in the log, once, and left alone."""
    path = tmp_path / "taskflow.db"
    held = anyio.Event()
    bodies: list[tuple[int, int]] = []
    steps = held_steps(held, bodies)
    await leave(
        SQLiteStore(path), [steps(number) for number in range(5)], lambda: len(bodies) == 10
    )
    held.set()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE run SET checksum = checksum + 1 WHERE thread_id = 't2'")
        db.commit()
    with caplog.at_level(logging.WARNING, "taskflow"):
        async with Runtime(path, workflows=[steps], recover=True, poll_interval=0.02) as runtime:
            await until_status(runtime, RunStatus.SUCCESS, "t0", "t1", "t3", "t4")
            await anyio.sleep(0.1)
    assert sum("'t2'" in each.getMessage() for each in caplog.records) == 1


async def test_suspects_are_tried_one_after_the_other_without_waiting_for_a_look(
    tmp_path: Path,
) -> None:
    """Runs that were taken over in vain before: each alone, the next one when it has ended."""
    path = tmp_path / "taskflow.db"
    gauge = Gauge()
    begun: list[int] = []
    is_mended: list[bool] = []

    @task
    async def step(number: int) -> int:
        begun.append(number)
        if not is_mended:
            await anyio.sleep_forever()
        with gauge:
            await anyio.sleep(0.01)
        return number

    @workflow
    async def one(number: int) -> int:
        return await step(number)

    await leave(SQLiteStore(path), [one(number) for number in range(6)], lambda: len(begun) == 6)
    is_mended.append(True)
    with contextlib.closing(sqlite3.connect(path)) as db:  # as if their owners had died
        db.execute("UPDATE run SET owner = 'dead', due = NULL, takeovers = 3")
        db.commit()
    async with Runtime(path, workflows=[one], recover=True, poll_interval=NEVER) as runtime:
        await until_count(runtime, RunStatus.SUCCESS, 6)
    assert (gauge.most, gauge.ever) == (1, 6)


async def test_everybody_who_waits_hears_what_another_runtime_has_made_of_his_run(
    make_store: MakeStore,
) -> None:
    """However many runs sleep here: also the last one of a hundred and fifty."""
    held = anyio.Event()
    begun: list[int] = []

    @task
    async def hold(answer: int) -> int:
        begun.append(answer)
        await held.wait()
        return answer

    @workflow
    async def asking(number: int) -> int:
        return await hold(await receive("answer", int))

    results: list[int] = []

    async def wait_for(result: Awaitable[int]) -> None:
        with contextlib.suppress(RunUnfinished):
            results.append(await result)

    other_options: dict[str, Any] = {"recover": True, "poll_interval": NEVER}
    async with (
        Runtime(make_store(), poll_interval=0.05) as runtime,
        Runtime(make_store(), workflows=[asking], **other_options) as other,
        anyio.create_task_group() as group,
    ):
        for number in range(150):
            handle = await runtime.start(asking(number), thread_id=f"t{number}")
            group.start_soon(wait_for, handle.result())
        await until_count(runtime, RunStatus.PAUSED, 150)
        await other.send("t149", "answer", 7)
        await until(lambda: begun == [7])
        held.set()
        with anyio.move_on_after(PATIENCE / 4):
            while not results:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        await runtime.drain()
    assert results == [7]


async def test_a_runtime_that_recovers_nothing_is_quiet(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """No workflows, no runs: it looks, and says nothing."""
    with caplog.at_level(logging.WARNING, "taskflow"):
        async with Runtime(make_store(), recover=True, poll_interval=0.01):
            await anyio.sleep(0.1)
    assert not caplog.records


async def test_recovery_uses_the_workflows_that_this_process_has_run(make_store: MakeStore) -> None:
    """A workflow that was run here is known from then on."""
    held = anyio.Event()
    bodies: list[tuple[int, int]] = []
    steps = held_steps(held, bodies)
    await leave(make_store(), [steps(0)], lambda: len(bodies) == 2)
    held.set()
    async with Runtime(make_store(), recover=True, poll_interval=0.02) as runtime:
        assert await runtime.run(steps(7), thread_id="mine") == 3
        await until_status(runtime, RunStatus.SUCCESS, "t0")
