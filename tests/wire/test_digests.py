"""Which calls a run has made: kept in little memory, and as exactly as in a set."""

from __future__ import annotations

import random
import warnings

import anyio
import pytest

from taskflow import Call, Runtime, task, workflow
from taskflow.runs.occurrences import FEW_CALLS, FEW_REPEATS
from taskflow.wire.digests import DIGEST_SIZE, Digests


def test_it_holds_what_was_added_and_nothing_else() -> None:
    """At any size, while buckets are divided one after the other."""
    rng = random.Random(1)
    digests, held = Digests(), set[bytes]()
    for size in (0, 1, 100, 5_000, 20_000):
        new = {rng.randbytes(DIGEST_SIZE) for _ in range(size)}
        digests.update(new)
        held |= new
        assert len(digests) == len(held)
        assert all(each in digests for each in held)
        assert not any(rng.randbytes(DIGEST_SIZE) in digests for _ in range(1000))


def test_the_end_of_one_and_the_beginning_of_another_are_none() -> None:
    """They lie end to end, and only whole ones count."""
    rng = random.Random(1)
    found = 0
    while found < 3:
        first, second = rng.randbytes(DIGEST_SIZE), rng.randbytes(DIGEST_SIZE)
        between = first[8:] + second[:8]
        if hash(first) % 64 == hash(second) % 64 == hash(between) % 64:  # they share a bucket
            found += 1
            digests = Digests()
            digests.update([first, second])
            assert between not in digests
            assert second in digests


async def ids_of(runtime: Runtime, *, between: int) -> list[str]:
    """The ids of equal calls, with so many others made twice between the third and the fourth."""
    ids: list[str] = []

    @task
    async def f(number: int) -> int:
        return number

    @workflow
    async def shop(between: int) -> None:
        for _ in range(3):
            call = f(-1)
            ids.append(call.id)
            await call
        for _ in range(2):
            for number in range(between):
                f(number).close()
        for _ in range(3):
            call = f(-1)
            ids.append(call.id)
            await call

    await runtime.run(shop(between), thread_id=str(between), run_id="the same")
    return ids


@pytest.mark.anyio
async def test_very_many_other_calls_do_not_change_who_a_call_is(runtime: Runtime) -> None:
    """Nor its number among equal ones, long after it was made, and forgotten to be repeated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        many = await ids_of(runtime, between=max(FEW_CALLS, FEW_REPEATS) + 1000)

    assert many == await ids_of(runtime, between=0)
    assert len(set(many)) == 6


@pytest.mark.anyio
async def test_equal_calls_in_flight_are_told_after_very_many_repeats(runtime: Runtime) -> None:
    """That others were repeated meanwhile does not hide that two are in flight."""

    @task
    async def f(number: int) -> int:
        return number

    @workflow
    async def shop() -> None:
        twins = [f(-1), f(-1)]
        for _ in range(2):
            for number in range(FEW_REPEATS * 2):
                f(number).close()

        async def wait_for(call: Call[int]) -> None:
            await call

        async with anyio.create_task_group() as group:
            for twin in twins:
                group.start_soon(wait_for, twin)

    with pytest.warns(RuntimeWarning, match="two equal calls"):
        await runtime.run(shop(), thread_id="t")
