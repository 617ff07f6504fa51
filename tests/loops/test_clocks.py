"""`Clock` and `Alarms`: what time it is, and being called when it is that late."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from kinds import MakeStore
from waits import PATIENCE, JumpingClock, finish, until, waits_of

from taskflow import Runtime, receive, sleep, task, workflow
from taskflow.loops.clocks import Alarms, Clock
from taskflow.loops.loop import current_loop

pytestmark = pytest.mark.anyio

HOUR = 3600.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Alarms ring on both loops; what asks for a store goes with it."""
    if "kind" in request.fixturenames:
        kind: str = request.getfixturevalue("kind")
        if kind.partition("-")[2] != request.param:
            pytest.skip("the other loop")
    return str(request.param)


@pytest.fixture
async def clock(anyio_backend: object) -> JumpingClock:
    """A clock that can be set."""
    return JumpingClock()


@pytest.fixture
async def alarms(clock: JumpingClock) -> AsyncIterator[Alarms]:
    """Alarms on that clock, which are rung."""
    alarms = Alarms(clock, current_loop())
    async with anyio.create_task_group() as group:
        group.start_soon(alarms.run)
        await checkpoint()
        yield alarms
        await alarms.close()


async def rung(rings: list[Any], count: int) -> list[Any]:
    """The rings, when there are so many."""

    async def enough() -> bool:
        return len(rings) >= count

    await until(enough)
    return rings


async def test_a_clock_tells_the_time_and_goes_on() -> None:
    """Seconds since 1970, and never backward."""
    clock = Clock()
    first = clock.now()
    assert first == pytest.approx(time.time(), abs=5)
    assert clock.now() >= first


async def test_alarms_ring_in_the_order_of_their_times(alarms: Alarms, clock: JumpingClock) -> None:
    """Equal ones in the order in which they were set; each once."""
    rings: list[str] = []
    now = clock.now()
    for name, when in (("c", 30), ("a", 10), ("d", 30), ("b", 20)):
        alarms.set(now + HOUR + when, lambda name=name: rings.append(name))
    await checkpoint()
    clock.jump(2 * HOUR)

    assert await rung(rings, 4) == ["a", "b", "c", "d"]
    clock.jump(HOUR)
    await anyio.sleep(0.02)
    assert rings == ["a", "b", "c", "d"]


async def test_an_alarm_that_is_past_rings_soon(alarms: Alarms, clock: JumpingClock) -> None:
    """Not within the call that sets it."""
    rings: list[str] = []
    for when in (clock.now() - HOUR, 0.0, clock.now()):
        alarms.set(when, lambda: rings.append("rung"))
    assert rings == []
    await rung(rings, 3)


async def test_an_earlier_alarm_is_not_kept_waiting_by_a_later_one(
    alarms: Alarms, clock: JumpingClock
) -> None:
    """Set while the alarms already sleep until the later one."""
    rings: list[str] = []
    alarms.set(clock.now() + HOUR, lambda: rings.append("late"))
    await anyio.sleep(0.02)
    alarms.set(clock.now() + 0.02, lambda: rings.append("early"))
    assert await rung(rings, 1) == ["early"]


async def test_a_cancelled_alarm_does_not_ring_and_keeps_nothing(
    alarms: Alarms, clock: JumpingClock
) -> None:
    """Neither the callback nor, for long, the alarm itself: a million cancelled ones are none."""

    class Owner:
        def ring(self) -> None:
            raise AssertionError("it was cancelled")

    owner = Owner()
    ring = alarms.set(clock.now() + HOUR, owner.ring)
    gone = weakref.ref(owner)
    ring.cancel()
    del owner
    gc.collect()
    assert gone() is None

    cancelled = [alarms.set(clock.now() + HOUR, lambda: None) for _ in range(5000)]
    for alarm in cancelled:
        alarm.cancel()
    del cancelled, alarm
    alarms.set(clock.now(), lambda: None)
    await anyio.sleep(0.02)
    gc.collect()
    alive = sum(type(each).__name__ == "Alarm" for each in gc.get_objects())
    assert alive < 2500


async def test_an_alarm_may_set_and_cancel_others(alarms: Alarms, clock: JumpingClock) -> None:
    """While it rings."""
    rings: list[str] = []
    second = alarms.set(clock.now() + HOUR + 1, lambda: rings.append("second"))

    def first() -> None:
        rings.append("first")
        second.cancel()
        alarms.set(clock.now() + HOUR, lambda: rings.append("third"))

    alarms.set(clock.now() + HOUR, first)
    clock.jump(HOUR + 2)
    await rung(rings, 1)
    clock.jump(HOUR + 2)
    assert await rung(rings, 2) == ["first", "third"]


async def test_a_jump_forward_is_over_at_once(make_store: MakeStore, clock: JumpingClock) -> None:
    """A sleeping run wakes when its time has come, however that came about."""

    @workflow
    async def night() -> str:
        await sleep(8 * HOUR)
        await sleep(8 * HOUR)
        return "morning"

    async with Runtime(make_store(), clock=clock) as runtime:
        handle = await runtime.start(night(), thread_id="t")
        for _ in range(2):

            async def is_paused() -> bool:
                return handle.status == "paused"

            await until(is_paused)
            clock.jump(4 * HOUR)
            await anyio.sleep(0.02)
            assert handle.status == "paused"
            clock.jump(4 * HOUR + 1)
            if len(await runtime.tasks("t")) < 1:
                await until(lambda: _has_ended(runtime, 1))
        with anyio.fail_after(PATIENCE):
            assert await handle.result() == "morning"


async def _has_ended(runtime: Runtime, count: int) -> bool:
    return len(await runtime.tasks("t")) >= count


async def test_a_jump_backward_shortens_nothing(make_store: MakeStore, clock: JumpingClock) -> None:
    """What is to last until a time lasts until then."""

    @workflow
    async def night() -> str:
        await sleep(HOUR)
        return "morning"

    async with Runtime(make_store(), clock=clock) as runtime:
        handle = await runtime.start(night(), thread_id="t")

        async def is_paused() -> bool:
            return handle.status == "paused"

        await until(is_paused)
        clock.jump(-3 * HOUR)
        clock.jump(2 * HOUR)
        await anyio.sleep(0.02)
        assert await runtime.tasks("t") == []
        clock.jump(2 * HOUR + 1)
        with anyio.fail_after(PATIENCE):
            assert await handle.result() == "morning"


async def test_a_jump_backward_does_not_keep_a_run_from_pausing(
    make_store: MakeStore, clock: JumpingClock
) -> None:
    """How long a run is idle is no matter of what time it is."""

    @task
    async def set_back() -> None:
        clock.jump(-5 * HOUR)

    @workflow
    async def ask() -> list[Any]:
        return [await receive("x"), await set_back(), await receive("y"), await receive("z")]

    async with Runtime(make_store(), clock=clock) as runtime:
        await waits_of(runtime, ask())
        await runtime.send("t", "x")
        await waits_of(runtime, ask())
        handle = await runtime.start(ask(), thread_id="t")

        async def executes() -> bool:
            progress = runtime._progress("t")
            return progress is not None and "taskflow.receive" in progress.executing

        await until(executes)
        clock.jump(-5 * HOUR)

        async def is_paused() -> bool:
            return handle.status == "paused"

        await until(is_paused)


async def test_a_jump_backward_does_not_keep_a_runtime_from_looking(
    make_store: MakeStore, clock: JumpingClock
) -> None:
    """What another process has sent is seen within the poll interval, whatever time it is."""

    @workflow
    async def ask() -> Any:
        return await receive("x")

    async with (
        Runtime(make_store(), clock=clock, poll_interval=0.2) as here,
        Runtime(make_store()) as there,
    ):
        handle = await here.start(ask(), thread_id="t")

        async def is_paused() -> bool:
            return handle.status == "paused"

        await until(is_paused)
        clock.jump(-5 * HOUR)
        await there.send("t", "x", 1)
        with anyio.fail_after(PATIENCE):
            assert await handle.result() == 1


async def test_durations_are_not_negative_whatever_the_clock_does(
    make_store: MakeStore, clock: JumpingClock
) -> None:
    """A task during which the clock was set back."""

    @task
    async def step() -> None:
        clock.jump(-HOUR)

    @workflow
    async def main() -> None:
        await step()

    async with Runtime(make_store(), clock=clock) as runtime:
        await finish(runtime, main())
        assert all(each.duration >= 0 for each in await runtime.tasks("t"))


async def test_many_sleeping_runs_wake_in_the_order_of_their_times(
    make_store: MakeStore, clock: JumpingClock
) -> None:
    """One jump for each of them: the others sleep on."""
    woken: list[int] = []

    @workflow
    async def nap(hours: int) -> None:
        await sleep(hours * HOUR)
        woken.append(hours)

    async with Runtime(make_store(), clock=clock) as runtime:
        handles = [
            await runtime.start(nap(hours), thread_id=str(hours)) for hours in (5, 3, 8, 1, 2)
        ]

        async def all_paused() -> bool:
            return all(each.status == "paused" for each in handles)

        await until(all_paused)
        by_hours = dict(zip((5, 3, 8, 1, 2), handles, strict=True))
        now = 0
        for hours in (1, 2, 3, 5):
            clock.jump((hours - now) * HOUR + 1)
            now = hours
            with anyio.fail_after(PATIENCE):
                await by_hours[hours].result()
        assert by_hours[8].status == "paused"

    assert woken == [1, 2, 3, 5]


class WholeSeconds(Clock):
    """A clock of somebody's who counts in whole numbers."""

    def now(self) -> float:
        return int(super().now())


async def test_a_clock_may_give_whole_numbers(make_store: MakeStore) -> None:
    """What is recorded is read back as it was, on every store."""

    @task
    async def work() -> str:
        return "done"

    @workflow
    async def working() -> str:
        await sleep(0)
        return await work()

    async with Runtime(make_store(), clock=WholeSeconds()) as runtime:
        assert await runtime.run(working(), thread_id="t") == "done"
        assert [each.value for each in await runtime.tasks("t")] == [None, "done"]
        assert (await runtime.get("t")).result == "done"
