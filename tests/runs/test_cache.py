"""`CachePolicy` and who computes a shared result."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest
from msgspec import structs

from taskflow import CachePolicy, MemoryStore
from taskflow.runs.cache import Cache
from taskflow.testing.rows import batch

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Both event loops."""
    return str(request.param)


@pytest.fixture
def store(anyio_backend: object) -> MemoryStore:
    return MemoryStore()


async def test_what_was_shared_is_found(store: MemoryStore) -> None:
    """By its task and key; another key or task finds nothing."""
    entry = CachePolicy().entry("fetch", "key", b'"page"', 0.0)
    await store.commit(batch(cached=[entry]))
    cache = Cache(store)

    assert await cache.find("fetch", "key", 1e12) == b'"page"'
    assert await cache.find("fetch", "other", 0.0) is None
    assert await cache.find("parse", "key", 0.0) is None


@pytest.mark.parametrize("ttl", [60, timedelta(minutes=1)])
async def test_a_shared_result_expires_after_its_ttl(store: MemoryStore, ttl: object) -> None:
    """Seconds or timedelta, counted from when it was computed."""
    entry = CachePolicy(ttl=ttl).entry("fetch", "key", b"1", 100.0)
    await store.commit(batch(cached=[entry]))
    cache = Cache(store)

    assert await cache.find("fetch", "key", 159.0) == b"1"
    assert await cache.find("fetch", "key", 160.0) is None


@pytest.mark.parametrize("field", ["payload", "key", "task_name", "checksum"])
async def test_a_damaged_shared_result_is_as_good_as_none(store: MemoryStore, field: str) -> None:
    """Never a wrong value: it is computed again."""
    entry = CachePolicy().entry("fetch", "key", b"1", 0.0)
    damage = {"payload": b"2", "key": "yek", "task_name": "parse", "checksum": entry.checksum ^ 1}
    damaged = structs.replace(entry, **{field: damage[field]})
    await store.commit(batch(cached=[damaged]))

    assert await Cache(store).find(damaged.task_name, damaged.key, 0.0) is None


async def test_clear_drops_what_is_shared(store: MemoryStore) -> None:
    """And says how many there were."""
    await store.commit(batch(cached=[CachePolicy().entry("fetch", "key", b"1", 0.0)]))
    cache = Cache(store)

    assert (await cache.clear("fetch"), await cache.clear("fetch")) == (1, 0)
    assert await cache.find("fetch", "key", 0.0) is None


async def test_equal_calls_fly_one_after_another(store: MemoryStore) -> None:
    """One execution at a time for each key; other keys do not wait."""
    cache = Cache(store)
    events: list[str] = []
    release = anyio.Event()

    async def fly(name: str, key: str) -> None:
        async with cache.flight("fetch", key):
            events.append(f"{name} starts")
            if name == "first":
                await release.wait()
            events.append(f"{name} ends")

    async with anyio.create_task_group() as group:
        group.start_soon(fly, "first", "a")
        await anyio.wait_all_tasks_blocked()
        group.start_soon(fly, "second", "a")
        group.start_soon(fly, "stranger", "b")
        await anyio.wait_all_tasks_blocked()
        release.set()

    assert events[:3] == ["first starts", "stranger starts", "stranger ends"]
    assert events[3:] == ["first ends", "second starts", "second ends"]


async def test_a_flight_that_fails_makes_room_for_the_next(store: MemoryStore) -> None:
    """Failures are never shared: the next one computes."""
    cache = Cache(store)

    with pytest.raises(ConnectionError):
        async with cache.flight("fetch", "a"):
            raise ConnectionError

    with anyio.fail_after(1):
        async with cache.flight("fetch", "a"):
            pass


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), timedelta(0)])
def test_a_ttl_is_positive(ttl: object) -> None:
    """And finite; without one a result is shared until clear_cache."""
    with pytest.raises(ValueError, match="ttl"):
        CachePolicy(ttl=ttl)
