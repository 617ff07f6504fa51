"""Choosing among calls: one winner, in every run the same, and nothing that outlives it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from kinds import MakeStore, every_durability, on_asyncio
from processes import ENVIRONMENT
from reruns import Crash
from waits import PATIENCE, until

import taskflow
from taskflow import (
    CachePolicy,
    RetryPolicy,
    RunPaused,
    Runtime,
    as_completed,
    emit,
    now,
    race,
    receive,
    sleep,
    task,
    workflow,
)
from taskflow.errors import NotInRun

pytestmark = pytest.mark.anyio


class Refused(Exception):
    """What an arm fails with."""


class Arms:
    """A task whose calls end when their gate is opened, and what its bodies do."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.executing: set[str] = set()
        self.crash = False
        self._gates: dict[str, anyio.Event] = defaultdict(anyio.Event)

        @task
        async def arm(name: str) -> str:
            self.begun.append(name)
            self.executing.add(name)
            try:
                await self._gates[name].wait()
            except anyio.get_cancelled_exc_class():
                self.cancelled.append(name)
                raise
            finally:
                self.executing.discard(name)
            if name.startswith("bad"):
                raise Refused(name)
            return name

        self.arm = arm

    def open(self, *names: str) -> None:
        """These may end, in the next run too."""
        for name in names:
            self._gates[name].set()

    def shut(self) -> None:
        """Nobody may end, and nothing has happened yet."""
        self._gates.clear()
        self.begun.clear()
        self.cancelled.clear()

    async def until_begun(self, count: int) -> None:
        """Wait until so many bodies execute."""
        await until(lambda: len(self.begun) >= count)


@pytest.fixture
def arms() -> Arms:
    return Arms()


# race: who wins


async def test_the_first_success_wins(runtime: Runtime, arms: Arms) -> None:
    """The others are cancelled, have ended, and are not recorded."""

    @workflow
    async def choose() -> str:
        winner = await race(arms.arm("a"), arms.arm("b"), arms.arm("c"))
        assert not arms.executing
        return winner

    arms.open("b")
    assert await runtime.run(choose(), thread_id="t") == "b"
    assert sorted(arms.cancelled) == ["a", "c"]
    assert [each.value for each in await runtime.tasks("t")] == ["b"]


async def test_a_race_of_one_is_its_result(runtime: Runtime, arms: Arms) -> None:
    """One arm wins, or its failure is in a group."""

    @workflow
    async def choose(name: str) -> str:
        return await race(arms.arm(name))

    arms.open("a", "bad")
    assert await runtime.run(choose("a"), thread_id="t") == "a"
    with pytest.raises(ExceptionGroup) as caught:
        await runtime.run(choose("bad"), thread_id="u")
    assert [str(each) for each in caught.value.exceptions] == ["bad"]


async def test_a_rerun_sees_the_same_winner_though_the_loser_would_be_faster(
    runtime: Runtime, arms: Arms
) -> None:
    """The loser is not even executed again."""

    @workflow
    async def choose() -> str:
        winner = await race(arms.arm("a"), arms.arm("b"))
        if arms.crash:
            raise Crash
        return winner

    arms.crash = True
    arms.open("a")
    with pytest.raises(Crash):
        await runtime.run(choose(), thread_id="t")
    arms.shut()
    arms.crash = False
    arms.open("b")
    assert await runtime.run(choose(), thread_id="t") == "a"
    assert arms.begun == []


async def test_another_runtime_sees_the_same_winner_after_a_pause(
    make_store: MakeStore, arms: Arms
) -> None:
    """Adverse timing in between: the loser is ready at once, the winner would never be."""

    @workflow
    async def choose() -> str:
        winner = await race(arms.arm("a"), arms.arm("b"))
        return winner + await receive("go", str)

    arms.open("b")
    async with Runtime(make_store()) as first:
        with pytest.raises(RunPaused):
            await first.run(choose(), thread_id="t")
    arms.shut()
    arms.open("a")
    async with Runtime(make_store()) as second:
        await second.send("t", "go", "!")
        assert await second.run(choose(), thread_id="t") == "b!"
    assert arms.begun == []


async def test_of_two_that_are_ready_at_once_one_is_recorded(runtime: Runtime, arms: Arms) -> None:
    """They would be in one batch; the second is refused before it gets there."""

    @workflow
    async def choose() -> str:
        return await race(arms.arm("a"), arms.arm("b"), arms.arm("c"))

    for number in range(10):
        arms.shut()
        thread_id = f"t{number}"
        async with anyio.create_task_group() as group:
            group.start_soon(open_when_begun, arms, 3, "a", "b", "c")
            winner = await runtime.run(choose(), thread_id=thread_id)
        assert [each.value for each in await runtime.tasks(thread_id)] == [winner]
        assert await runtime.run(choose(), thread_id=thread_id) == winner


async def open_when_begun(arms: Arms, count: int, *names: str) -> None:
    await arms.until_begun(count)
    arms.open(*names)


@every_durability
async def test_a_tie_is_recorded_once_in_every_durability(
    make_store: MakeStore, durability: Any
) -> None:
    """Also where a commit comes long after the result was handed on."""

    @task
    async def quick(name: str) -> str:
        return name

    @workflow
    async def choose(crash: bool) -> list[str]:
        return [await race(*(quick(f"{turn}{name}") for name in "abc")) for turn in range(20)]

    async with Runtime(make_store(), durability=durability) as runtime:
        winners = await runtime.run(choose(True), thread_id="t")
        assert [each.value for each in await runtime.tasks("t")] == winners
        for each in await runtime.tasks("t"):  # the whole run is open again, but for one winner
            await runtime.forget("t", each.task_id)
            break
    async with Runtime(make_store(), durability=durability) as runtime:
        assert (await runtime.run(choose(True), thread_id="t"))[1:] == winners[1:]
        assert len(await runtime.tasks("t")) == 20


@every_durability
async def test_a_tie_of_arms_with_other_durabilities_has_one_winner(
    make_store: MakeStore, durability: Any
) -> None:
    """What is handed on first has won, and no rerun sees it otherwise."""

    @task(durability="exit")
    async def late() -> str:
        await checkpoint()
        return "late"

    @task(durability="async")
    async def behind() -> str:
        await checkpoint()
        return "behind"

    @task(durability="sync")
    async def at_once() -> str:
        await checkpoint()
        return "at once"

    crash = True

    @workflow
    async def choose() -> list[str]:
        winners = [await race(at_once(), late(), behind()) for _ in range(5)]
        winners += [await race(late(), at_once(), behind()) for _ in range(5)]
        seen.append(winners)
        if crash:
            raise Crash
        return winners

    seen: list[list[str]] = []
    async with Runtime(make_store(), durability=durability) as runtime:
        with pytest.raises(Crash):
            await runtime.run(choose(), thread_id="t")
        crash = False
        assert await runtime.run(choose(), thread_id="t") == seen[0]
        assert len(await runtime.tasks("t")) == 10


async def test_the_winner_is_the_one_with_the_lowest_sequence(runtime: Runtime, arms: Arms) -> None:
    """Two arms that became recorded otherwise: as if a loser had been replaced by hand."""
    gathers = True

    @workflow
    async def choose() -> Any:
        first, second = arms.arm("a"), arms.arm("b")
        if gathers:
            async with as_completed(first, second) as results:
                raise Crash([each async for each in results])
        return await race(first, second)

    async with anyio.create_task_group() as group:
        group.start_soon(one_after_the_other, runtime, arms, "b", "a")
        with pytest.raises(Crash) as caught:
            await runtime.run(choose(), thread_id="t")
    assert caught.value.args == (["b", "a"],)
    gathers = False
    assert await runtime.run(choose(), thread_id="t") == "b"


async def one_after_the_other(runtime: Runtime, arms: Arms, *names: str) -> None:
    """Let them end, each after the one before it was recorded."""
    await arms.until_begun(len(names))
    for count, name in enumerate(names, 1):
        arms.open(name)
        with anyio.fail_after(PATIENCE):
            while len(await runtime.tasks("t")) < count:  # noqa: ASYNC110
                await anyio.sleep(0.002)


# race: failures


async def test_if_all_fail_a_group_of_their_failures_is_raised(
    runtime: Runtime, arms: Arms
) -> None:
    """In the order of the calls; caught, it is history, and a rerun meets the same group."""

    @workflow
    async def choose() -> list[str]:
        try:
            await race(arms.arm("bad 1"), arms.arm("bad 2"))
        except* Refused as group:
            found = [str(each) for each in group.exceptions]
        if arms.crash:
            raise Crash
        return found

    arms.crash = True
    async with anyio.create_task_group() as group:
        group.start_soon(one_after_the_other, runtime, arms, "bad 2", "bad 1")
        with pytest.raises(Crash):
            await runtime.run(choose(), thread_id="t")
    arms.shut()
    arms.crash = False
    assert await runtime.run(choose(), thread_id="t") == ["bad 1", "bad 2"]
    assert arms.begun == []


async def test_failures_before_the_winner_are_passed_over(runtime: Runtime, arms: Arms) -> None:
    """They are recorded, and the rerun passes over them too."""

    @workflow
    async def choose() -> str:
        winner = await race(arms.arm("bad"), arms.arm("a"), arms.arm("b"))
        if arms.crash:
            raise Crash
        return winner

    arms.crash = True
    async with anyio.create_task_group() as group:
        group.start_soon(one_after_the_other, runtime, arms, "bad", "a")
        with pytest.raises(Crash):
            await runtime.run(choose(), thread_id="t")
    assert [each.status for each in await runtime.tasks("t")] == ["error", "success"]
    arms.shut()
    arms.crash = False
    assert await runtime.run(choose(), thread_id="t") == "a"
    assert arms.begun == []


async def test_unhandled_failures_of_a_race_are_executed_again(
    runtime: Runtime, arms: Arms
) -> None:
    """All of them, as they ended the run together; and then one may win."""
    repaired = False

    @task
    async def flaky(name: str) -> str:
        arms.begun.append(name)
        if not repaired:
            raise Refused(name)
        return name

    @workflow
    async def choose() -> str:
        return await race(flaky("a"), flaky("b"))

    with pytest.raises(ExceptionGroup):
        await runtime.run(choose(), thread_id="t")
    assert await runtime.tasks("t") == []
    repaired = True
    assert await runtime.run(choose(), thread_id="t") in ("a", "b")


async def test_a_failure_that_was_recorded_before_a_crash_is_not_executed_again(
    runtime: Runtime, arms: Arms
) -> None:
    """The run was cut off after one arm had failed: the rerun executes the other one alone."""

    @workflow
    async def choose() -> str:
        return await race(arms.arm("bad"), arms.arm("a"))

    arms.open("bad")
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def cut_off() -> None:
                while not await recorded(runtime):  # noqa: ASYNC110
                    await anyio.sleep(0.002)
                scope.cancel()

            group.start_soon(cut_off)
            await runtime.run(choose(), thread_id="t")
    assert [each.status for each in await runtime.tasks("t")] == ["error"]
    arms.shut()
    arms.open("a")
    assert await runtime.run(choose(), thread_id="t") == "a"
    assert arms.begun == ["a"]


async def recorded(runtime: Runtime) -> list[Any]:
    """What is recorded on the thread, if there is one."""
    try:
        return list(await runtime.tasks("t"))
    except taskflow.RunNotFound:
        return []


@on_asyncio
async def test_an_arm_that_raises_cancelled_error_itself_has_failed(runtime: Runtime) -> None:
    """Nobody has cancelled it: it is a failure like any other, and another arm may win."""

    @task
    async def gives_up() -> str:
        raise asyncio.CancelledError

    @task
    async def slow() -> str:
        await anyio.sleep(0.01)
        return "slow"

    @workflow
    async def choose() -> str:
        return await race(gives_up(), slow())

    @workflow
    async def fail() -> str:
        return await race(gives_up())

    assert await runtime.run(choose(), thread_id="t") == "slow"
    with pytest.raises(ExceptionGroup):
        await runtime.run(fail(), thread_id="u")


async def test_an_arm_whose_result_cannot_be_recorded_has_failed(runtime: Runtime) -> None:
    """It is a failure of that arm, not of the race."""

    @task
    async def wrong() -> int:
        return "text"  # type: ignore[return-value]

    @task
    async def right() -> int:
        await anyio.sleep(0.01)
        return 1

    @workflow
    async def choose() -> int:
        return await race(wrong(), right())

    assert await runtime.run(choose(), thread_id="t") == 1


async def test_failures_that_are_false_are_failures(runtime: Runtime) -> None:
    """An exception may have a length, and that may be 0."""

    class Problems(Exception):
        def __len__(self) -> int:
            return 0

    @task
    async def fails(name: str) -> str:
        raise Problems(name)

    @workflow
    async def choose() -> int:
        try:
            await race(fails("a"), fails("b"))
        except ExceptionGroup as group:
            return len(group.exceptions)
        return 0

    assert await runtime.run(choose(), thread_id="t") == 2


# race: losers


async def test_losers_have_cleaned_up_before_the_race_returns(runtime: Runtime) -> None:
    """A cleanup that awaits, and one behind a shield."""
    cleaned: list[str] = []
    begun = anyio.Event()

    @task
    async def awaits() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(5):
                    await checkpoint()
                await anyio.sleep(0.02)
            cleaned.append("awaits")

    @task
    async def shields() -> str:
        with anyio.CancelScope(shield=True):
            begun.set()
            await anyio.sleep(0.05)
        cleaned.append("shields")
        await checkpoint()
        return "too late"

    @task
    async def wins() -> str:
        await begun.wait()
        return "wins"

    @workflow
    async def choose() -> tuple[str, list[str]]:
        return await race(awaits(), shields(), wins()), sorted(cleaned)

    assert await runtime.run(choose(), thread_id="t") == ("wins", ["awaits", "shields"])
    assert [each.value for each in await runtime.tasks("t")] == ["wins"]


async def test_a_loser_that_swallows_the_cancellation_is_not_recorded(runtime: Runtime) -> None:
    """Whatever it returns or raises: it has lost."""

    @task
    async def stubborn(name: str) -> str:
        try:
            await anyio.sleep_forever()
        except BaseException:
            if name == "raises":
                raise Refused(name) from None
        return name

    @task
    async def wins() -> str:
        await anyio.sleep(0.01)
        return "wins"

    @workflow
    async def choose() -> str:
        winner = await race(stubborn("returns"), stubborn("raises"), wins())
        return winner + await race(stubborn("again"), late())

    @task
    async def late() -> str:
        await anyio.sleep(0.01)
        return "late"

    with anyio.fail_after(PATIENCE):
        assert await runtime.run(choose(), thread_id="t") == "winslate"
    assert [each.value for each in await runtime.tasks("t")] == ["wins", "late"]


async def test_a_loser_in_a_worker_thread_has_ended_and_is_not_recorded(runtime: Runtime) -> None:
    """A thread cannot be cut off: the race waits for it, and ignores what it returns."""
    begun, go_on = threading.Event(), threading.Event()
    ended: list[str] = []

    @task
    def in_thread() -> str:
        begun.set()
        go_on.wait(PATIENCE)
        ended.append("thread")
        return "thread"

    @task
    async def wins() -> str:
        await until(begun.is_set)
        go_on.set()
        return "wins"

    @workflow
    async def choose() -> tuple[str, list[str]]:
        return await race(in_thread(), wins()), list(ended)

    winner, then = await runtime.run(choose(), thread_id="t")
    assert [each.value for each in await runtime.tasks("t")] == [winner]
    assert then == ["thread"]


async def test_children_of_a_loser_that_are_about_to_commit_do_not(runtime: Runtime) -> None:
    """Once one has won, nothing of another arm is recorded: no call in it, no emitted value."""
    both = anyio.Event()

    @task
    async def leaf(name: str) -> str:
        await both.wait()
        return name

    @task
    async def parent(name: str) -> str:
        await leaf(name)
        await emit(name)
        await leaf.map([f"{name}{number}" for number in range(3)])
        return name

    @task
    async def wins() -> str:
        both.set()
        return "wins"

    @workflow
    async def choose() -> str:
        return await race(parent("a"), parent("b"), wins())

    for number in range(5):
        thread_id = f"t{number}"
        both = anyio.Event()
        assert await runtime.run(choose(), thread_id=thread_id) == "wins"
        rows = await runtime.tasks(thread_id)
        sequence = next(each.sequence for each in rows if each.value == "wins")
        assert [each for each in rows if each.sequence > sequence] == []


async def test_what_a_loser_has_recorded_before_it_lost_is_no_drift(
    runtime: Runtime, arms: Arms, caplog: pytest.LogCaptureFixture
) -> None:
    """Its children are recorded, and no rerun asks for them: that is as it should be."""

    @task
    async def parent() -> str:
        await arms.arm("child")
        await arms.arm("never")
        return "parent"

    @workflow
    async def choose() -> str:
        winner = await race(parent(), arms.arm("a"))
        if arms.crash:
            raise Crash
        return winner

    arms.crash = True
    async with anyio.create_task_group() as group:
        group.start_soon(one_after_the_other, runtime, arms, "child", "a")
        with pytest.raises(Crash):
            await runtime.run(choose(), thread_id="t")
    arms.crash = False
    assert await runtime.run(choose(), thread_id="t") == "a"
    assert "recorded results" not in caplog.text


async def test_cleanup_of_a_loser_that_calls_a_task_does_not_hang(runtime: Runtime) -> None:
    """No call starts in an arm that has lost: it raises the cancellation again."""
    bodies: list[str] = []

    @task
    async def release() -> None:
        bodies.append("release")

    @task
    async def loses() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            await release()
        return "loses"

    @task
    async def wins() -> str:
        await anyio.sleep(0.01)
        return "wins"

    @workflow
    async def choose() -> str:
        return await race(loses(), wins())

    with anyio.fail_after(PATIENCE):
        assert await runtime.run(choose(), thread_id="t") == "wins"
    assert bodies == []
    assert len(await runtime.tasks("t")) == 1


async def test_a_loser_that_waits_for_its_next_attempt_is_cut_off(runtime: Runtime) -> None:
    """A delay between attempts is no shelter."""

    @task(retry=RetryPolicy(max_attempts=5, initial_interval=1000, max_interval=1000))
    async def flaky() -> str:
        raise Refused

    @task
    async def wins() -> str:
        await anyio.sleep(0.02)
        return "wins"

    @workflow
    async def choose() -> str:
        return await race(flaky(), wins())

    with anyio.fail_after(PATIENCE):
        assert await runtime.run(choose(), thread_id="t") == "wins"


async def test_a_loser_does_not_share_its_result(runtime: Runtime) -> None:
    """What a cache is given is given with a commit, and a loser has none."""
    bodies: list[str] = []

    @task(cache=CachePolicy())
    async def shared(name: str) -> str:
        bodies.append(name)
        try:
            await anyio.sleep_forever() if name == "loses" and len(bodies) < 3 else None
        except BaseException:
            return name
        await anyio.sleep(0.01)
        return name

    @workflow
    async def choose() -> str:
        return await race(shared("loses"), shared("wins"))

    @workflow
    async def ask() -> str:
        return await shared("loses")

    assert await runtime.run(choose(), thread_id="t") == "wins"
    assert await runtime.run(ask(), thread_id="u") == "loses"
    assert sorted(bodies) == ["loses", "loses", "wins"]


async def test_a_race_at_a_width_of_one_has_room_for_its_arms(make_store: MakeStore) -> None:
    """A body that waits for a race holds no slot, and a loser gives its own back."""

    @task
    async def leaf(name: str) -> str:
        await checkpoint()
        return name

    @task
    async def parent(name: str) -> str:
        first = await race(leaf(f"{name}1"), leaf(f"{name}2"))
        async with as_completed(leaf(f"{name}3"), leaf(f"{name}4")) as results:
            return first + "".join(sorted([each async for each in results]))

    @workflow
    async def choose() -> str:
        winner = await race(parent("a"), parent("b"))
        return winner + await leaf("end")

    async with Runtime(make_store(), max_concurrency=1) as runtime:
        with anyio.fail_after(PATIENCE):
            for number in range(5):
                found = await runtime.run(choose(), thread_id=f"t{number}")
                assert found[2:] in ("a3a4end", "b3b4end")


# race: receives, sleeps, child workflows


async def test_receives_race_and_the_signal_that_comes_decides(runtime: Runtime) -> None:
    """The wait for the other one is over; its signal, if it comes, stays for the next receive."""

    @workflow
    async def decide() -> tuple[str, str]:
        first = await race(receive("yes", str), receive("no", str))
        return first, await receive("yes", str)

    handle = await runtime.start(decide(), thread_id="t")
    await runtime.send("t", "no", "refused")
    await runtime.send("t", "yes", "granted")
    with anyio.fail_after(PATIENCE):
        assert await handle.result() == ("refused", "granted")


async def test_two_receives_of_one_name_take_one_signal_between_them(runtime: Runtime) -> None:
    """The earliest call gets it, and the other has lost without taking one."""

    @workflow
    async def decide() -> list[str]:
        return [
            await race(receive("go", str), receive("go", str)),
            await race(receive("go", str), receive("go", str)),
            await receive("go", str),
        ]

    handle = await runtime.start(decide(), thread_id="t")
    for value in "abc":
        await runtime.send("t", "go", value)
    with anyio.fail_after(PATIENCE):
        assert await handle.result() == ["a", "b", "c"]


async def test_signals_that_are_there_already_race_in_the_order_of_the_calls(
    runtime: Runtime, arms: Arms
) -> None:
    """Both are ready: one is taken, the other one stays."""

    @workflow
    async def decide() -> list[str]:
        await arms.arm("ready")
        return [
            await race(receive("x", str), receive("y", str)),
            await race(receive("x", str), receive("y", str)),
        ]

    handle = await runtime.start(decide(), thread_id="t")
    await runtime.send("t", "y", "y")
    await runtime.send("t", "x", "x")
    arms.open("ready")
    with anyio.fail_after(PATIENCE):
        assert sorted(await handle.result()) == ["x", "y"]


async def test_a_signal_that_comes_as_another_arm_wins_stays_for_the_next_receive(
    runtime: Runtime,
) -> None:
    """Sent from inside of the arm that wins: taken by this receive, or by the next, once."""

    @task
    async def wins(number: int) -> int:
        await runtime.send("t", "go", number)
        return number

    @task
    async def wins_later(number: int) -> int:
        await runtime.send("t", "go", number)
        for _ in range(number % 7):
            await checkpoint()
        return number

    @workflow
    async def tagged(number: int) -> list[int]:
        return [await (wins(number) if number % 2 else wins_later(number))]

    @workflow
    async def gather_all() -> list[int]:
        taken: list[int] = []
        for number in range(60):
            ended: Any = await race(tagged(number), receive("go", int))
            if isinstance(ended, int):
                taken.append(ended)
        while len(taken) < 60:
            taken.append(await receive("go", int, timeout=PATIENCE))
        return taken

    with anyio.fail_after(60):
        assert await runtime.run(gather_all(), thread_id="t", wait=True) == list(range(60))


@every_durability
async def test_a_signal_that_a_loser_gave_back_is_taken_after_a_rerun_too(
    make_store: MakeStore, durability: Any, arms: Arms
) -> None:
    """The race's loser has left nothing in the store that names the signal."""

    @workflow
    async def decide() -> tuple[str, str]:
        first = await race(arms.arm("a"), receive("go", str))
        if arms.crash:
            raise Crash
        return first, await receive("go", str)

    arms.crash = True
    async with Runtime(make_store(), durability=durability) as runtime:
        handle = await runtime.start(decide(), thread_id="t")
        await arms.until_begun(1)
        async with anyio.create_task_group() as group:
            arms.open("a")
            group.start_soon(runtime.send, "t", "go", "now")
            with pytest.raises(Crash):
                await handle.result()
    arms.crash = False
    async with Runtime(make_store(), durability=durability) as runtime:
        with anyio.move_on_after(0.2):
            await runtime.send("t", "go", "then")
        first, second = await runtime.run(decide(), thread_id="t", wait=True)
    assert (first, second) in (("a", "now"), ("now", "then"))


async def test_a_deadline_by_race_with_sleep(runtime: Runtime) -> None:
    """The timer wins where nobody answers; the rerun does not wait again."""
    crash = True

    @workflow
    async def decide() -> str | None:
        found = await race(receive("go", str), sleep(0.05))
        if crash:
            raise Crash
        return found

    with pytest.raises(Crash):
        await runtime.run(decide(), thread_id="t")
    crash = False
    await runtime.send("t", "go", "too late")
    assert await runtime.run(decide(), thread_id="t") is None


async def test_a_sleep_that_has_lost_delays_nobody(runtime: Runtime, arms: Arms) -> None:
    """Neither the first run nor a rerun waits for it."""

    @workflow
    async def decide() -> str | None:
        found = await race(sleep(10_000), arms.arm("a"))
        if arms.crash:
            raise Crash
        return found

    arms.open("a")
    arms.crash = True
    with anyio.fail_after(PATIENCE):
        with pytest.raises(Crash):
            await runtime.run(decide(), thread_id="t")
        arms.crash = False
        assert await runtime.run(decide(), thread_id="t") == "a"
    assert (await runtime.get("t")).waits == []


async def test_none_wins_too(runtime: Runtime) -> None:
    """A result that is None, or false, is a success like any other."""

    @task
    async def nothing() -> None: ...

    @workflow
    async def choose() -> list[Any]:
        return [await race(nothing(), sleep(100)), await race(receive("x"), receive("y"))]

    handle = await runtime.start(choose(), thread_id="t")
    await runtime.send("t", "y", False)
    with anyio.fail_after(PATIENCE):
        assert await handle.result() == [None, False]


async def test_a_race_that_waits_pauses_and_goes_on(runtime: Runtime) -> None:
    """All of its waits are shown; the one that is over decides."""

    @workflow
    async def decide() -> Any:
        return await race(receive("yes", bool), receive("no", str), sleep(10_000))

    with pytest.raises(RunPaused) as caught:
        await runtime.run(decide(), thread_id="t")
    assert sorted(each.name for each in caught.value.waits) == ["no", "sleep", "yes"]
    await runtime.send("t", "no", "never")
    assert await runtime.run(decide(), thread_id="t") == "never"
    assert (await runtime.get("t")).waits == []


async def test_child_workflows_race_with_races_of_their_own(runtime: Runtime, arms: Arms) -> None:
    """The inner losers and everything in the outer loser are cancelled; a rerun agrees."""

    @workflow
    async def inner(name: str) -> str:
        first = await race(arms.arm(f"{name}1"), arms.arm(f"{name}2"))
        return first + await race(arms.arm(f"{name}3"), arms.arm(f"{name}4"))

    @workflow
    async def outer() -> str:
        winner = await race(inner("a"), inner("b"))
        if arms.crash:
            raise Crash(winner)
        return winner

    arms.crash = True
    arms.open("a1", "b2", "b4")
    with pytest.raises(Crash):
        await runtime.run(outer(), thread_id="t")
    assert not arms.executing
    arms.shut()
    arms.open("a1", "a2", "a3", "a4", "b1", "b3")
    arms.crash = False
    assert await runtime.run(outer(), thread_id="t") == "b2b4"
    assert arms.begun == []


async def test_inner_winners_of_an_outer_loser_are_kept_until_it_has_lost(
    runtime: Runtime, arms: Arms
) -> None:
    """Cut off before anybody has won outside: the rerun does not repeat the inner race."""

    @workflow
    async def inner() -> str:
        first = await race(arms.arm("a"), arms.arm("b"))
        return first + await arms.arm("c")

    @workflow
    async def outer() -> str:
        return await race(inner(), arms.arm("d"))

    arms.open("b")
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def cut_off() -> None:
                await until(lambda: "c" in arms.begun)
                scope.cancel()

            group.start_soon(cut_off)
            await runtime.run(outer(), thread_id="t")
    arms.shut()
    arms.open("a", "c")
    assert await runtime.run(outer(), thread_id="t") == "bc"
    assert sorted(arms.begun) == ["c", "d"]


async def test_a_mixed_race(runtime: Runtime, arms: Arms) -> None:
    """Tasks, waits, values and workflows compete; whatever is ready wins."""

    @workflow
    async def child() -> str:
        return await arms.arm("child")

    @workflow
    async def choose() -> Any:
        return await race(child(), arms.arm("task"), receive("x"), sleep(100), slow_now())

    @workflow
    async def slow_now() -> str:
        await sleep(100)
        return str(await now())

    handle = await runtime.start(choose(), thread_id="t")
    await arms.until_begun(2)
    arms.open("child")
    with anyio.fail_after(PATIENCE):
        assert await handle.result() == "child"


# race: in retried bodies


async def test_a_race_in_a_retried_task_is_not_repeated(runtime: Runtime, arms: Arms) -> None:
    """The next attempt sees the same winner; the loser is not executed again."""
    attempts: list[str] = []

    @task(retry=RetryPolicy(max_attempts=3, initial_interval=0))
    async def parent() -> str:
        attempts.append(await race(arms.arm("a"), arms.arm("b")))
        if len(attempts) < 3:
            arms.open("b")
            raise Refused
        return attempts[-1]

    @workflow
    async def choose() -> str:
        return await parent()

    arms.open("a")
    assert await runtime.run(choose(), thread_id="t") == "a"
    assert attempts == ["a"] * 3
    assert sorted(arms.begun) == ["a", "b"]


async def test_a_race_that_failed_altogether_is_repeated_by_the_next_attempt(
    runtime: Runtime,
) -> None:
    """All failures ended the attempt: all are un-recorded."""
    bodies: list[str] = []

    @task
    async def flaky(name: str) -> str:
        bodies.append(name)
        if len(bodies) <= 2:
            raise Refused(name)
        await anyio.sleep(0 if name == "b" else 0.1)
        return name

    @task(retry=RetryPolicy(max_attempts=2, initial_interval=0))
    async def parent() -> str:
        return await race(flaky("a"), flaky("b"))

    @workflow(retry=RetryPolicy(max_attempts=2, initial_interval=0))
    async def choose() -> str:
        return await parent()

    assert await runtime.run(choose(), thread_id="t") == "b"
    assert sorted(bodies) == ["a", "a", "b", "b"]


# race: crashes and cancellations

PROGRAM = """
import sys, anyio
from pathlib import Path
from taskflow import Runtime, race, task, workflow

folder, fast, block, durability = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]


def log(text):
    with (folder / "log").open("a") as file:
        file.write(text + "\\n")


@task
async def arm(name: str) -> str:
    log("begun " + name)
    if name != fast:
        await anyio.sleep(0.3)
    return name


@workflow
async def choose() -> str:
    winner = await race(arm("a"), arm("b"))
    log("won " + winner)
    if block == "block":
        await anyio.sleep_forever()
    return winner


async def main():
    async with Runtime(folder / "taskflow.db", durability=durability) as runtime:
        print(await runtime.run(choose(), thread_id="t"))


anyio.run(main)
"""


def test_killed_after_the_commit_of_the_winner_a_rerun_has_the_same_one(tmp_path: Path) -> None:
    """``kill -9`` between that commit and the end of the run, and then the loser is faster."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    log = tmp_path / "log"
    log.touch()

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(program), str(tmp_path), *arguments, "sync"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )

    with start("a", "block") as killed:
        deadline = time.monotonic() + PATIENCE
        while "won a" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    assert "won a" in log.read_text()
    log.write_text("")
    with start("b", "go on") as second:
        out, err = second.communicate(timeout=PATIENCE)
    assert out.decode().strip() == "a", err.decode()
    assert log.read_text() == "won a\n"


async def test_a_cancelled_race_has_ended_and_a_rerun_decides_anew(
    runtime: Runtime, arms: Arms
) -> None:
    """Cut off at each of its awaits: either somebody had won, or nobody had."""

    @task
    async def stepping(name: str) -> str:
        arms.executing.add(name)
        try:
            for _ in range(3):
                await checkpoint()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            arms.executing.discard(name)
        return name

    seen: list[str] = []

    @workflow
    async def choose() -> str:
        winner = await race(stepping("a"), stepping("b"), stepping("c"))
        seen.append(winner)
        return winner

    for steps in range(40):
        seen.clear()
        thread_id = f"t{steps}"
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def cut_off(steps: int = steps, scope: anyio.CancelScope = scope) -> None:
                    for _ in range(steps):
                        await checkpoint()
                    scope.cancel()

                group.start_soon(cut_off)
                await runtime.run(choose(), thread_id=thread_id)
        assert not arms.executing
        winner = await runtime.run(choose(), thread_id=thread_id)
        assert set(seen) == {winner}
        assert [each.value for each in await runtime.tasks(thread_id)] == [winner]


@on_asyncio
async def test_a_natively_cancelled_race_has_ended(runtime: Runtime, arms: Arms) -> None:
    """The workflow cancels a task of asyncio that waits for a race, at each of its steps."""

    @task
    async def stepping(name: str, steps: int) -> str:
        arms.executing.add(name)
        try:
            for _ in range(3):
                await checkpoint()
        except asyncio.CancelledError:
            # It is cancelled once, and may await what it likes after that.
            await asyncio.sleep(0)
            arms.executing.discard(name)
            raise
        arms.executing.discard(name)
        return name

    @workflow
    async def choose(steps: int) -> list[str]:
        waiting = asyncio.create_task(wait(steps))
        for _ in range(steps):
            await checkpoint()
        waiting.cancel()
        waiting.cancel()
        try:
            return [await waiting]
        except asyncio.CancelledError:
            assert not arms.executing
            return []

    async def wait(steps: int) -> str:
        return await race(stepping("a", steps), stepping("b", steps))

    for steps in range(25):
        found = await runtime.run(choose(steps), thread_id=f"t{steps}")
        assert not arms.executing
        recorded = [each.value for each in await runtime.tasks(f"t{steps}")]
        assert len(recorded) <= 1
        assert found in ([], recorded)


async def test_a_race_inside_of_a_deadline_is_cut_off_by_it(runtime: Runtime, arms: Arms) -> None:
    """A scope of the workflow's own cancels a race like any await."""

    @workflow
    async def choose() -> str:
        with anyio.move_on_after(0.05):
            return await race(arms.arm("a"), arms.arm("b"))
        assert not arms.executing
        return await race(arms.arm("c"), arms.arm("d"))

    arms.open("d")
    assert await runtime.run(choose(), thread_id="t") == "d"
    assert sorted(arms.cancelled) == ["a", "b", "c"]


@on_asyncio
async def test_a_race_that_is_left_executing_is_cancelled_with_its_run(
    runtime: Runtime, arms: Arms
) -> None:
    """Nothing outlives its scope: the arms are strays, and are warned about."""
    left: list[asyncio.Task[str]] = []

    @workflow
    async def forget() -> str:
        left.append(asyncio.create_task(wait()))
        await arms.until_begun(2)
        return "done"

    async def wait() -> str:
        return await race(arms.arm("a"), arms.arm("b"))

    with pytest.warns(RuntimeWarning, match="left executing"):
        assert await runtime.run(forget(), thread_id="t") == "done"
    assert not arms.executing
    await asyncio.wait(left)
    assert left[0].cancelled()


@pytest.mark.parametrize("shape", ["race", "as_completed"])
def test_a_process_that_ends_while_a_race_begins_does_not_hang(shape: str) -> None:
    """``asyncio.run`` cancels every task that is left, those too that had no first step."""
    program = f"""
import asyncio, warnings
from taskflow import MemoryStore, Runtime, as_completed, race, task, workflow
warnings.simplefilter("ignore")

@task
async def arm(name: str) -> str:
    await asyncio.sleep(1000)
    return name

@workflow
async def choose(shape: str) -> str:
    if shape == "race":
        return await race(*(arm(str(n)) for n in range(3)))
    async with as_completed(*(arm(str(n)) for n in range(3))) as results:
        return [each async for each in results][0]

async def main(steps):
    runtime = await Runtime(MemoryStore()).open()
    await runtime.start(choose({shape!r}), thread_id="t")
    for _ in range(steps):
        await asyncio.sleep(0)

for steps in range(30):
    asyncio.run(main(steps))
print("ended")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        timeout=60,
        env=ENVIRONMENT,
    )
    assert done.stdout.decode().strip() == "ended", done.stderr.decode()


# race: wrong uses


async def test_a_race_outside_of_a_run_is_refused() -> None:
    """There is nothing to record the arms in."""
    with pytest.raises(NotInRun):
        race()
    with pytest.raises(NotInRun):
        as_completed()


async def test_wrong_arms_are_told_at_once(runtime: Runtime, arms: Arms) -> None:
    """No arm at all, no call, a race in a race, a call twice, a call that was awaited."""

    @workflow
    async def choose() -> str:
        with pytest.raises(ValueError, match="at least one"):
            race()
        for each in (race, as_completed):
            with pytest.raises(TypeError, match="takes calls"):
                each(anyio.sleep)  # type: ignore[arg-type]
        first = race(arms.arm("a"))
        with pytest.raises(TypeError, match="of its own"):
            race(first)
        await first
        call = arms.arm("a")
        with pytest.raises(RuntimeError, match="awaited already"):
            race(call, call)
        with pytest.raises(RuntimeError, match="awaited already"):
            await call
        call = arms.arm("a")
        await call
        with pytest.raises(RuntimeError, match="awaited already"):
            as_completed(call)
        return "ended"

    arms.open("a")
    assert await runtime.run(choose(), thread_id="t") == "ended"


async def test_a_race_that_is_never_awaited_warns(runtime: Runtime, arms: Arms) -> None:
    """Once, for the race, and not for each of its arms."""

    @workflow
    async def choose() -> None:
        with pytest.warns(RuntimeWarning, match="never awaited") as warned:
            race(arms.arm("a"), arms.arm("b"))
        assert len(warned) == 1

    await runtime.run(choose(), thread_id="t")
    assert arms.begun == []


async def test_a_race_can_be_awaited_once(runtime: Runtime, arms: Arms) -> None:
    """As any call."""

    @workflow
    async def choose() -> str:
        call = race(arms.arm("a"), arms.arm("b"))
        found = await call
        with pytest.raises(RuntimeError, match="awaited already"):
            await call
        return found

    arms.open("a")
    assert await runtime.run(choose(), thread_id="t") == "a"


async def test_equal_arms_are_two_calls(runtime: Runtime) -> None:
    """They are warned about as twins, unless a key tells them apart; one of them wins."""

    @task(key=lambda url, mirror: mirror)
    async def fetch(url: str, mirror: str) -> str:
        await checkpoint()
        return url

    @workflow
    async def choose() -> str:
        return await race(fetch("a", "1"), fetch("a", "2"))

    assert await runtime.run(choose(), thread_id="t") == "a"
    assert len(await runtime.tasks("t")) == 1


async def test_a_race_in_a_block_without_a_workflow(runtime: Runtime, arms: Arms) -> None:
    """The next block is answered with the same winner."""
    arms.open("b")
    async with runtime.thread("t"):
        assert await race(arms.arm("a"), arms.arm("b")) == "b"
    arms.shut()
    arms.open("a")
    async with runtime.thread("t"):
        assert await race(arms.arm("a"), arms.arm("b")) == "b"
    assert arms.begun == []


async def test_a_race_in_a_def_workflow(runtime: Runtime, arms: Arms) -> None:
    """``result()`` waits for it in a worker thread."""

    @workflow
    def choose() -> str:
        return race(arms.arm("a"), arms.arm("b")).result()

    arms.open("b")
    assert await runtime.run(choose(), thread_id="t") == "b"


async def test_races_with_drift_as_an_error_are_rerun(make_store: MakeStore, arms: Arms) -> None:
    """A loser that was never recorded is not something new."""

    @workflow
    async def choose() -> str:
        winner = await race(arms.arm("a"), arms.arm("b"))
        async with as_completed(arms.arm("c"), arms.arm("d")) as results:
            async for each in results:
                winner += each
                if arms.crash:
                    raise Crash
        return winner

    arms.crash = True
    arms.open("b", "d")
    async with Runtime(make_store(), on_drift="error") as runtime:
        with pytest.raises(Crash):
            await runtime.run(choose(), thread_id="t")
        arms.shut()
        arms.crash = False
        arms.open("a", "c")
        with anyio.fail_after(PATIENCE):
            assert await runtime.run(choose(), thread_id="t") == "bdc"
    assert arms.begun == ["c"]


# as_completed


class Collector:
    """A workflow that collects results as they come, and may crash after so many."""

    def __init__(self, arms: Arms, *names: str) -> None:
        self.seen: list[str] = []
        self.crash_after: int | None = None

        @workflow
        async def collect() -> list[str]:
            self.seen.clear()
            async with as_completed(*(arms.arm(name) for name in names)) as results:
                while True:
                    if len(self.seen) == self.crash_after:
                        raise Crash
                    try:
                        self.seen.append(await anext(results))
                    except Refused as error:
                        self.seen.append(str(error))
                    except StopAsyncIteration:
                        return list(self.seen)

        self.workflow = collect


async def test_results_come_in_the_order_of_their_commits(runtime: Runtime, arms: Arms) -> None:
    """And in the same order from the records, executing nothing."""
    collector = Collector(arms, "a", "b", "c")
    collector.crash_after = 3
    async with anyio.create_task_group() as group:
        group.start_soon(one_after_the_other, runtime, arms, "c", "a", "b")
        with pytest.raises(Crash):
            await runtime.run(collector.workflow(), thread_id="t")
    assert collector.seen == ["c", "a", "b"]
    arms.shut()
    collector.crash_after = None
    assert await runtime.run(collector.workflow(), thread_id="t") == ["c", "a", "b"]
    assert [each.value for each in await runtime.tasks("t")] == ["c", "a", "b"]
    assert arms.begun == []


@every_durability
async def test_the_order_is_that_of_the_commits_in_every_durability(
    make_store: MakeStore, durability: Any
) -> None:
    """All are ready at about the same moment, and the rerun would have it the other way round."""
    order: list[list[int]] = []
    backwards = False
    crash = True

    @task
    async def step(number: int) -> int:
        for _ in range(20 - number if backwards else (number * 7) % 5):
            await checkpoint()
        return number

    @workflow
    async def collect() -> list[int]:
        async with as_completed(*(step(number) for number in range(20))) as results:
            order.append([each async for each in results])
        if crash:
            raise Crash
        return order[-1]

    async with Runtime(make_store(), durability=durability) as runtime:
        with pytest.raises(Crash):
            await runtime.run(collect(), thread_id="t")
        backwards = True
        crash = False
    async with Runtime(make_store(), durability=durability) as runtime:
        assert await runtime.run(collect(), thread_id="t") == order[0]
        assert [each.value for each in await runtime.tasks("t")] == order[0]


async def test_a_rerun_begins_with_what_is_recorded_and_executes_the_rest(
    make_store: MakeStore, arms: Arms
) -> None:
    """The inverted timing changes the order of the rest alone."""
    collector = Collector(arms, "a", "b", "c", "d")
    collector.crash_after = 2
    async with Runtime(make_store()) as runtime, anyio.create_task_group() as group:
        group.start_soon(one_after_the_other, runtime, arms, *"dc")
        # Only two of four are let through.
        with pytest.raises(Crash):
            await runtime.run(collector.workflow(), thread_id="t")
    assert sorted(arms.cancelled) == ["a", "b"]
    arms.shut()
    collector.crash_after = None
    arms.open("a", "b", "c", "d")
    async with Runtime(make_store()) as runtime:
        found = await runtime.run(collector.workflow(), thread_id="t")
    assert found[:2] == ["d", "c"]
    assert sorted(found[2:]) == ["a", "b"]
    assert sorted(arms.begun) == ["a", "b"]


async def test_failures_come_in_their_place(runtime: Runtime, arms: Arms) -> None:
    """Who catches one goes on with the next, and so on the rerun."""
    collector = Collector(arms, "a", "bad", "c")
    collector.crash_after = 3
    async with anyio.create_task_group() as group:
        group.start_soon(one_after_the_other, runtime, arms, "c", "bad", "a")
        with pytest.raises(Crash):
            await runtime.run(collector.workflow(), thread_id="t")
    assert collector.seen == ["c", "bad", "a"]
    arms.shut()
    collector.crash_after = None
    assert await runtime.run(collector.workflow(), thread_id="t") == ["c", "bad", "a"]
    assert arms.begun == []


async def test_an_unhandled_failure_is_executed_again(runtime: Runtime, arms: Arms) -> None:
    """Only that one; the results beside it are kept, and come first now."""
    repaired = False

    @task
    async def flaky() -> str:
        if not repaired:
            raise Refused
        return "repaired"

    @workflow
    async def collect() -> list[str]:
        async with as_completed(arms.arm("a"), flaky_later(), arms.arm("b")) as results:
            return [each async for each in results]

    @workflow
    async def flaky_later() -> str:
        await until(lambda: len(arms.begun) >= 2)
        return await flaky()

    with pytest.raises(Refused):
        await runtime.run(collect(), thread_id="t")
    assert sorted(arms.cancelled) == ["a", "b"]
    repaired = True
    arms.open("a", "b")
    assert sorted(await runtime.run(collect(), thread_id="t")) == ["a", "b", "repaired"]


async def test_who_leaves_by_break_has_ended_the_others(runtime: Runtime, arms: Arms) -> None:
    """They are cancelled, have ended, and a rerun does not execute them."""

    @workflow
    async def first_two() -> list[str]:
        found: list[str] = []
        async with as_completed(*(arms.arm(name) for name in "abcd")) as results:
            async for each in results:
                found.append(each)
                if len(found) == 2:
                    break
        assert not arms.executing
        if arms.crash:
            raise Crash
        return found

    arms.crash = True
    async with anyio.create_task_group() as group:
        group.start_soon(one_after_the_other, runtime, arms, *"cb", "a", "d")
        with pytest.raises(Crash):
            await runtime.run(first_two(), thread_id="t")
        group.cancel_scope.cancel()
    arms.shut()
    arms.crash = False
    arms.open("a", "b", "c", "d")
    assert await runtime.run(first_two(), thread_id="t") == ["c", "b"]
    assert arms.begun == []


async def test_who_is_cancelled_inside_has_ended_the_others(runtime: Runtime, arms: Arms) -> None:
    """By a scope around the block, and by one inside of it."""

    @workflow
    async def collect() -> list[str]:
        found: list[str] = []
        with anyio.move_on_after(0.05):
            async with as_completed(arms.arm("a"), arms.arm("b")) as results:
                found += [each async for each in results]
        assert not arms.executing
        async with as_completed(arms.arm("c"), arms.arm("d")) as results:
            with anyio.move_on_after(0.05):
                found += [each async for each in results]
            arms.open("d")
            found.append(await anext(results))
        return found

    assert await runtime.run(collect(), thread_id="t") == ["d"]
    assert not arms.executing


async def test_a_cancelled_as_completed_has_ended_at_each_of_its_awaits(
    runtime: Runtime, arms: Arms
) -> None:
    """Nothing executes any more, and the rerun begins with what was seen."""
    seen: list[list[int]] = []
    executing: set[int] = set()

    @task
    async def stepping(number: int) -> int:
        executing.add(number)
        try:
            for _ in range(number):
                await checkpoint()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            executing.discard(number)
        return number

    @workflow
    async def collect() -> list[int]:
        found: list[int] = []
        seen.append(found)
        async with as_completed(*(stepping(number) for number in (3, 1, 2))) as results:
            async for each in results:
                found.append(each)  # noqa: PERF401
        return found

    for steps in range(0, 60, 2):
        seen.clear()
        thread_id = f"t{steps}"
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def cut_off(steps: int = steps, scope: anyio.CancelScope = scope) -> None:
                    for _ in range(steps):
                        await checkpoint()
                    scope.cancel()

                group.start_soon(cut_off)
                await runtime.run(collect(), thread_id=thread_id)
        assert not executing
        found = await runtime.run(collect(), thread_id=thread_id)
        assert sorted(found) == [1, 2, 3]
        for each in seen:
            assert found[: len(each)] == each


async def test_a_rerun_waits_for_the_rest_inside_of_a_deadline(
    runtime: Runtime, arms: Arms
) -> None:
    """What was not recorded is executed late: in the scope of the block, not of that await."""

    @workflow
    async def collect() -> list[str]:
        found: list[str] = []
        async with as_completed(arms.arm("a"), arms.arm("b"), arms.arm("c")) as results:
            found.append(await anext(results))
            if arms.crash:
                raise Crash
            with anyio.fail_after(PATIENCE):
                found.append(await anext(results))
            with anyio.fail_after(PATIENCE):
                found.append(await anext(results))
        return found

    arms.crash = True
    arms.open("a")
    with pytest.raises(Crash):
        await runtime.run(collect(), thread_id="t")
    arms.crash = False
    arms.open("b", "c")
    assert sorted(await runtime.run(collect(), thread_id="t")) == ["a", "b", "c"]


async def test_a_rerun_is_cut_off_by_a_deadline_while_it_executes_the_rest(
    runtime: Runtime, arms: Arms
) -> None:
    """A deadline around one await ends that await, not the arms: as on the first run."""

    @workflow
    async def collect() -> list[str]:
        found: list[str] = []
        async with as_completed(arms.arm("a"), arms.arm("b")) as results:
            found.append(await anext(results))
            if arms.crash:
                raise Crash
            with anyio.move_on_after(0.05):
                found.append(await anext(results))
            assert "b" in arms.executing
            arms.open("b")
            found.append(await anext(results))
        return found

    arms.crash = True
    arms.open("a")
    with pytest.raises(Crash):
        await runtime.run(collect(), thread_id="t")
    arms.crash = False
    assert await runtime.run(collect(), thread_id="t") == ["a", "b"]


async def test_a_pause_in_the_middle_of_as_completed(make_store: MakeStore, arms: Arms) -> None:
    """Receives are answered one after another, each by another runtime; the order is kept."""

    @workflow
    async def collect() -> list[str]:
        names = ("x", "y", "z")
        async with as_completed(*(receive(name, str) for name in names)) as results:
            return [each async for each in results]

    for name in ("z", "x", "y"):
        async with Runtime(make_store()) as runtime:
            with pytest.raises(RunPaused):
                await runtime.run(collect(), thread_id="t")
            await runtime.send("t", name, name)
    async with Runtime(make_store()) as runtime:
        assert await runtime.run(collect(), thread_id="t") == ["z", "x", "y"]


async def test_open_receives_of_as_completed_are_visible_after_a_pause_too(
    runtime: Runtime,
) -> None:
    """The body waits for something else in between; what is open beside it is shown as before."""

    @workflow
    async def collect() -> list[str]:
        found: list[str] = []
        async with as_completed(receive("a", str), receive("b", str)) as results:
            async for each in results:
                found += [each, await receive(f"more {each}", str)]
        return found

    async def waits() -> list[str]:
        with pytest.raises(RunPaused) as caught:
            await runtime.run(collect(), thread_id="t")
        return sorted(each.name for each in caught.value.waits)

    assert await waits() == ["a", "b"]
    await runtime.send("t", "a", "1")
    assert await waits() == ["b", "more 1"]
    await runtime.send("t", "something else")
    assert await waits() == ["b", "more 1"]


async def test_a_rerun_executes_the_rest_while_the_body_waits_for_it(
    runtime: Runtime, arms: Arms
) -> None:
    """Between two results the body waits for what another arm does: no rerun hangs there."""

    @task
    async def tell() -> None:
        await runtime.send("t", "go", "went")

    @workflow
    async def worker() -> str:
        await arms.arm("a")
        await tell()
        return "worker"

    @workflow
    async def collect() -> list[str]:
        found: list[str] = []
        async with as_completed(arms.arm("first"), worker()) as results:
            found.append(await anext(results))
            if arms.crash:
                raise Crash
            found += [await receive("go", str), await anext(results)]
        return found

    arms.crash = True
    arms.open("first")
    with pytest.raises(Crash):
        await runtime.run(collect(), thread_id="t")
    arms.crash = False
    arms.open("a")
    assert await runtime.run(collect(), thread_id="t") == ["first", "went", "worker"]


async def test_as_completed_of_nothing_has_no_results(runtime: Runtime) -> None:
    """As many results as calls."""

    @workflow
    async def collect() -> list[Any]:
        async with as_completed() as results:
            return [each async for each in results]

    assert await runtime.run(collect(), thread_id="t") == []


async def test_as_completed_that_is_never_entered_warns(runtime: Runtime, arms: Arms) -> None:
    """Once; nothing executes."""

    @workflow
    async def collect() -> None:
        with pytest.warns(RuntimeWarning, match="never entered") as warned:
            as_completed(arms.arm("a"), arms.arm("b"))
        assert len(warned) == 1

    await runtime.run(collect(), thread_id="t")
    assert arms.begun == []


async def test_as_completed_without_async_with_is_told(runtime: Runtime, arms: Arms) -> None:
    """An ``async for`` over what was not entered would execute nothing, and end at once."""

    @workflow
    async def collect() -> list[str]:
        results = as_completed(arms.arm("a"))
        with pytest.raises(RuntimeError):
            return [each async for each in results]
        async with results:
            return [each async for each in results]

    arms.open("a")
    assert await runtime.run(collect(), thread_id="t") == ["a"]


async def test_as_completed_is_entered_once(runtime: Runtime, arms: Arms) -> None:
    """The second time is an error, and nothing executes again."""

    @workflow
    async def collect() -> list[str]:
        results = as_completed(arms.arm("a"))
        async with results:
            found = [each async for each in results]
        with pytest.raises(RuntimeError):
            async with results:
                pass
        return found

    arms.open("a")
    assert await runtime.run(collect(), thread_id="t") == ["a"]
    assert arms.begun == ["a"]


async def test_results_of_a_block_that_was_left_are_refused(runtime: Runtime, arms: Arms) -> None:
    """Asking for more after the end of the block does not wait for ever."""

    @workflow
    async def collect() -> str:
        async with as_completed(arms.arm("a"), arms.arm("b")) as results:
            found = await anext(results)
        with anyio.fail_after(PATIENCE), pytest.raises((RuntimeError, StopAsyncIteration)):
            await anext(results)
        return found

    arms.open("a")
    assert await runtime.run(collect(), thread_id="t") == "a"
    arms.shut()


async def test_as_completed_in_a_retried_task(runtime: Runtime, arms: Arms) -> None:
    """The next attempt sees the same order, and executes what is left."""
    attempts: list[list[str]] = []

    @task(retry=RetryPolicy(max_attempts=2, initial_interval=0))
    async def parent() -> list[str]:
        found: list[str] = []
        attempts.append(found)
        async with as_completed(*(arms.arm(name) for name in "abc")) as results:
            async for each in results:
                found.append(each)
                if len(attempts) == 1 and len(found) == 2:
                    raise Refused
        return found

    @workflow
    async def collect() -> list[str]:
        return await parent()

    async with anyio.create_task_group() as group:
        group.start_soon(one_after_the_other, runtime, arms, "b", "a")
        group.start_soon(open_when_begun, arms, 4, "c")
        assert await runtime.run(collect(), thread_id="t") == ["b", "a", "c"]
    assert attempts == [["b", "a"], ["b", "a", "c"]]
    assert sorted(arms.begun) == ["a", "b", "c", "c"]


async def test_as_completed_in_an_arm_that_loses(runtime: Runtime, arms: Arms) -> None:
    """Its arms are cancelled with it, and none of them is recorded after that."""

    @workflow
    async def loses() -> list[str]:
        async with as_completed(arms.arm("a"), arms.arm("b")) as results:
            return [each async for each in results]

    @workflow
    async def choose() -> Any:
        return await race(loses(), arms.arm("c"))

    async with anyio.create_task_group() as group:
        group.start_soon(one_after_the_other, runtime, arms, "a", "c")
        group.start_soon(arms.until_begun, 3)
        assert await runtime.run(choose(), thread_id="t") == "c"
    assert [each.value for each in await runtime.tasks("t")] == ["a", "c"]
    assert arms.cancelled == ["b"]


async def test_twenty_seeds_of_random_timings_never_change_the_history(
    make_store: MakeStore,
) -> None:
    """Whatever order things happen in, a rerun in another order tells the same story."""
    from random import Random

    @task
    async def step(name: str) -> str:
        for _ in range(random.randrange(4)):
            await checkpoint()
        if random.random() < 0.2:
            raise Refused(name)
        return name

    @workflow
    async def inner(name: str) -> list[str]:
        found: list[str] = []
        try:
            found.append(await race(*(step(f"{name}r{number}") for number in range(3))))
        except ExceptionGroup as group:
            found += [str(each) for each in group.exceptions]
        async with as_completed(*(step(f"{name}c{number}") for number in range(3))) as results:
            for _ in range(3):
                try:
                    found.append(await anext(results))
                except Refused as error:
                    found.append(f"!{error}")
        return found

    told: list[Any] = []

    @workflow
    async def outer() -> Any:
        story: list[Any] = []
        told.append(story)
        for turn in range(3):
            story.append(await race(inner(f"{turn}a"), inner(f"{turn}b")))
            if len(told) < 10 and random.random() < 0.5:
                raise Crash
        return story

    for seed in range(20):
        random = Random(seed)
        told.clear()
        for _ in range(50):
            async with Runtime(make_store(), durability=random.choice(DURABILITIES)) as runtime:
                try:
                    await runtime.run(outer(), thread_id=f"t{seed}")
                    break
                except Crash:
                    pass
        for each in told:
            assert told[-1][: len(each)] == each


DURABILITIES: Any = ("sync", "async", "exit")
