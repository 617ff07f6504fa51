"""`Cache`: results that are shared between the threads of one store.

Only this module decides whether a shared result answers a call, and that one call at a time
executes for each key.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from zlib import crc32

from msgspec import Struct

from taskflow.loops.promises import Latch
from taskflow.retry import seconds
from taskflow.stores.base import Store
from taskflow.stores.checksums import details_checksum, fits
from taskflow.stores.rows import CacheEntry

__all__ = ("Cache", "CachePolicy")


logger = logging.getLogger("taskflow")


class CachePolicy(Struct, frozen=True):
    """Share a task's results across the threads of one store.

    ``key`` makes the cache key (text) from the call's arguments; without it equal arguments share
    a result. ``ttl`` is how long a result is shared (seconds or timedelta); ``None``: until
    ``clear_cache``. Failures are never shared.
    """

    key: Callable[..., str] | None = None
    ttl: float | timedelta | None = None

    def __post_init__(self) -> None:
        if self.ttl is not None:
            seconds(self.ttl, "ttl")

    def entry(self, task_name: str, key: str, payload: bytes, now: float) -> CacheEntry:
        """The row to share a result that was computed at ``now`` (seconds since the epoch)."""
        expires = None if self.ttl is None else now + seconds(self.ttl, "ttl")
        checksum = _expiry_checksum(expires) | _checksum(task_name, key, payload)
        return CacheEntry(task_name, key, payload, expires, checksum)


class Cache:
    """The shared results of a store, as one runtime sees them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._flights: dict[tuple[str, str], Latch] = {}

    @asynccontextmanager
    async def flight(self, task_name: str, key: str) -> AsyncIterator[None]:
        """One execution at a time for each key: equal calls wait, then find its result."""
        name = task_name, key
        while (landing := self._flights.get(name)) is not None:
            await landing.wait()
        landing = self._flights[name] = Latch()
        try:
            yield
        finally:
            del self._flights[name]
            landing.set_result()

    async def find(self, task_name: str, key: str, now: float) -> bytes | None:
        """The payload that is shared under ``key``; None where there is none, or it is damaged."""
        for entry in await self._store.cached(task_name, [key], now):
            # Checked against what was asked for: a damaged index may give the entry of another key.
            with contextlib.suppress(TypeError):  # a column holds what it cannot
                expected = _checksum(task_name, key, entry.payload)
                if fits(entry.checksum, expected, _expiry_checksum(entry.expires)):
                    return entry.payload
            logger.warning("a shared result of %s is damaged: it is computed anew", task_name)
        return None

    async def clear(self, task_name: str) -> int:
        """Drop a task's shared results; how many there were."""
        return await self._store.clear_cache(task_name)


def _expiry_checksum(expires: float | None) -> int:
    return details_checksum(None, "", None, 0, 0.0, expires or 0.0, None)


def _checksum(task_name: str, key: str, payload: bytes) -> int:
    return crc32(payload, crc32(f"{task_name}\0{key}\0".encode()))
