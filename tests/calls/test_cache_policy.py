"""Results that threads share: what `CachePolicy` promises of a task."""

from __future__ import annotations

import anyio
import pytest

from taskflow import CachePolicy, Runtime, task, workflow

pytestmark = pytest.mark.anyio


async def test_a_result_is_shared_between_threads_and_recorded_on_each(runtime: Runtime) -> None:
    """A hit is recorded on its thread like any result, as one that took no attempt."""
    bodies: list[str] = []

    @task(cache=CachePolicy())
    async def parse(digest: str) -> list[str]:
        bodies.append(digest)
        return [digest]

    for thread_id in ("one", "two", "two"):
        async with runtime.thread(thread_id):
            assert await parse("abc") == ["abc"]

    assert bodies == ["abc"]
    assert [record.attempts for record in await runtime.tasks("one")] == [1]
    assert [record.attempts for record in await runtime.tasks("two")] == [0]


async def test_equal_concurrent_calls_execute_once(runtime: Runtime) -> None:
    """The others wait for the one that executes, and find its result."""
    bodies: list[str] = []
    begun = anyio.Event()

    @task(cache=CachePolicy())
    async def parse(digest: str) -> str:
        bodies.append(digest)
        begun.set()
        await anyio.lowlevel.checkpoint()
        return digest

    @workflow
    async def run(digest: str) -> str:
        return await parse(digest)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(lambda n=number: runtime.run(run("abc"), thread_id=f"thread-{n}"))
        await begun.wait()

    assert bodies == ["abc"]


async def test_a_failure_is_never_shared(runtime: Runtime) -> None:
    """What failed for one thread is executed for the next."""
    bodies: list[int] = []

    @task(cache=CachePolicy())
    async def flaky(digest: str) -> str:
        bodies.append(len(bodies))
        if len(bodies) == 1:
            raise ConnectionError(digest)
        return digest

    with pytest.raises(ConnectionError):
        async with runtime.thread("one"):
            await flaky("abc")
    async with runtime.thread("two"):
        assert await flaky("abc") == "abc"

    assert bodies == [0, 1]


@pytest.mark.parametrize(("ttl", "executions"), [(1e-6, 2), (3600, 1), (None, 1)])
async def test_a_result_is_shared_until_it_expires(
    runtime: Runtime, ttl: float | None, executions: int
) -> None:
    """``ttl`` is how long a result is shared, from when it was computed."""
    bodies: list[str] = []

    @task(cache=CachePolicy(ttl=ttl))
    async def parse(digest: str) -> str:
        bodies.append(digest)
        return digest

    for thread_id in ("one", "two"):
        async with runtime.thread(thread_id):
            await parse("abc")

    assert len(bodies) == executions


async def test_a_key_of_its_own_says_what_is_shared(runtime: Runtime) -> None:
    """The cache key stands for the arguments; each call is still recorded by its identity."""
    bodies: list[str] = []

    @task(cache=CachePolicy(key=lambda path, digest: digest))
    async def parse(path: str, digest: str) -> str:
        bodies.append(path)
        return digest

    async with runtime.thread("one"):
        await parse("a.py", "abc")
        await parse("moved.py", "abc")

    assert bodies == ["a.py"]
    assert len(await runtime.tasks("one")) == 2


async def test_a_new_version_shares_nothing_with_the_old_one(runtime: Runtime) -> None:
    """Also with a key of its own: what an old version computed is not handed to the new one."""
    bodies: list[str] = []

    async def parse(digest: str) -> str:
        bodies.append(digest)
        return digest

    for version in ("1", "2"):
        cache = CachePolicy(key=lambda digest: digest)
        parsed = task(parse, name="parse", version=version, cache=cache)
        async with runtime.thread(f"version-{version}"):
            await parsed("abc")

    assert bodies == ["abc", "abc"]


async def test_a_cleared_cache_is_empty(runtime: Runtime) -> None:
    """`clear_cache` drops the shared results of one task, and says how many there were."""
    bodies: list[str] = []

    @task(cache=CachePolicy())
    async def parse(digest: str) -> str:
        bodies.append(digest)
        return digest

    async with runtime.thread("one"):
        await parse("abc")
    assert await runtime.clear_cache(parse.name) == 1
    async with runtime.thread("two"):
        await parse("abc")

    assert bodies == ["abc", "abc"]
    assert await runtime.clear_cache(parse.name) == 1
