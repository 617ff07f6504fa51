"""Group commit: what is ready at the same moment is written in one trip to the store.

The journal belongs to the runtime, never to a caller, so that no cancellation can reach a commit.
Callers hand in what is to be written with a promise, and wait for that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import anyio
from msgspec import Struct

from taskflow.errors import LeaseLost, RunCancelled, StoreError
from taskflow.loops import Latch, Loop, Promise, uninterrupted
from taskflow.records import (
    Batch,
    CacheEntry,
    Checkpoint,
    Claim,
    Claimed,
    Finish,
    RunKey,
    RunStatus,
    Unrecord,
)
from taskflow.stores.base import Store

__all__ = ("Journal",)

MAX_BATCH_ROWS: Final = 1000
MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
# What may wait to be written behind the backs of callers who do not wait for it.
MAX_BACKLOG_ROWS: Final = 10_000


class _Entry(Struct):
    write: Checkpoint | Unrecord | Finish | Claim
    key: RunKey | None  # None: a claim, which carries its own fence
    promise: Promise
    cached: CacheEntry | None = None
    claimed: Claimed | None = None


class Journal:
    """The one writer of a runtime: everything is committed in the order in which it was put."""

    def __init__(self, store: Store, loop: Loop) -> None:
        self._store = store
        self._loop = loop
        self._entries: deque[_Entry] = deque()
        self._wake: Promise | None = None
        self._closing = False
        self._ended = Latch()
        self._poisoned: set[tuple[int, int]] = set()

    @property
    def is_crowded(self) -> bool:
        """Whether so much waits to be written that callers should wait for it."""
        return len(self._entries) > MAX_BACKLOG_ROWS

    def put(
        self,
        checkpoint: Checkpoint,
        key: RunKey,
        promise: Promise,
        cached: CacheEntry | None = None,
    ) -> None:
        """Have ``checkpoint`` committed; ``promise`` is kept after that, or broken."""
        self._put(_Entry(checkpoint, key, promise, cached))

    async def record(
        self, checkpoint: Checkpoint, key: RunKey, cached: CacheEntry | None = None
    ) -> None:
        """Commit ``checkpoint``. Raises LeaseLost, RunCancelled or StoreError."""
        promise = self._loop.promise()
        self._put(_Entry(checkpoint, key, promise, cached))
        await promise

    async def unrecord(self, key: RunKey, task_ids: tuple[str, ...]) -> None:
        """Drop recorded failures. Raises LeaseLost, RunCancelled or StoreError."""
        promise = self._loop.promise()
        self._put(_Entry(Unrecord(key, task_ids), key, promise))
        await promise

    async def finish(self, finish: Finish) -> None:
        """End or release a run, however often the caller is cancelled meanwhile.

        Raises LeaseLost, RunCancelled or StoreError.
        """
        latch = Latch()
        self._put(_Entry(finish, finish.key, latch))
        await uninterrupted(latch)

    async def claim(self, claim: Claim) -> Claimed:
        """Begin or continue a run, however often the caller is cancelled meanwhile.

        Raises what `taskflow.stores.base.decide` raises, or StoreError.
        """
        latch = Latch()
        entry = _Entry(claim, None, latch)
        self._put(entry)
        await uninterrupted(latch)
        assert entry.claimed is not None
        return entry.claimed

    async def run(self) -> None:
        """Commit until `close` is called and nothing is left."""
        with anyio.CancelScope(shield=True):
            while self._entries or not self._closing:
                if self._entries:
                    await self._commit(self._take())
                    continue
                self._wake = self._loop.promise()
                try:
                    await self._wake
                except asyncio.CancelledError:
                    # asyncio.run() cancels every task that is left when its main ends. Those
                    # that wait for a commit are among them; the runtime closes us when they ended.
                    continue
                finally:
                    self._wake = None
        self._ended.set_result()

    async def close(self) -> None:
        """Commit what is left, and end."""
        self._closing = True
        self._notify()
        await uninterrupted(self._ended)

    def _put(self, entry: _Entry) -> None:
        self._entries.append(entry)
        if self._wake is not None:
            self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _take(self) -> list[_Entry]:
        entries = self._entries
        taken: list[_Entry] = []
        size = 0
        while entries and len(taken) < MAX_BATCH_ROWS and size < MAX_BATCH_BYTES:
            entry = entries.popleft()
            if isinstance(entry.write, Checkpoint):
                size += len(entry.write.payload)
            taken.append(entry)
        return taken

    async def _commit(self, entries: list[_Entry]) -> None:
        if self._poisoned:
            entries = self._without_poisoned(entries)
        batch = Batch([], [], [], [], [])
        claims: list[_Entry] = []
        for entry in entries:
            write = entry.write
            if isinstance(write, Checkpoint):
                batch.checkpoints.append(write)
                if entry.cached is not None:
                    batch.cached.append(entry.cached)
            elif isinstance(write, Finish):
                batch.finishes.append(write)
            elif isinstance(write, Claim):
                batch.claims.append(write)
                claims.append(entry)
            else:
                batch.unrecords.append(write)
        try:
            committed = await self._store.commit(batch)
        except Exception as error:
            if isinstance(error, StoreError) and error.row_at_fault and len(entries) > 1:
                # One bad row hurts one caller.
                for entry in entries:
                    await self._commit([entry])
                return
            for entry in entries:
                if entry.key is not None:
                    self._poisoned.add((entry.key.number, entry.key.epoch))
                _break(entry.promise, lambda: _store_error(error, self._store.where))
            return
        for entry, answer in zip(claims, committed.claims, strict=True):
            if isinstance(answer, Claimed):
                entry.claimed = answer
            else:
                _break(entry.promise, lambda answer=answer: answer)
        refused = committed.refused
        for entry in entries:
            key = entry.key
            if refused and key is not None and (key.number, key.epoch) in refused:
                status = refused[key.number, key.epoch]
                _break(entry.promise, lambda key=key, status=status: _refusal(key, status))
            elif not entry.promise.done():
                entry.promise.set_result(None)


    def _without_poisoned(self, entries: list[_Entry]) -> list[_Entry]:
        """Refuse what rests on a write that failed: a run can only be released after that."""
        left = []
        for entry in entries:
            key, write = entry.key, entry.write
            released = isinstance(write, Finish) and write.status != RunStatus.SUCCESS
            if key is None or released or (key.number, key.epoch) not in self._poisoned:
                left.append(entry)
            else:
                text = f"{self._store.where}: an earlier write of run {key.run_id!r} has failed"
                _break(entry.promise, lambda text=text: StoreError(text))
        return left


def _break(promise: Promise, make_error: Callable[[], BaseException]) -> None:
    # An exception of its own for each: a shared one would collect everybody's traceback.
    if not promise.done():
        promise.set_exception(make_error())


def _store_error(error: Exception, where: str) -> BaseException:
    kind = type(error) if isinstance(error, StoreError) else StoreError
    text = str(error) if isinstance(error, StoreError) else f"{where}: {error!r}"
    copy = kind.__new__(kind)
    copy.args = (text,)
    copy.__cause__ = error.__cause__ if isinstance(error, StoreError) else error
    for note in getattr(error, "__notes__", ()):
        copy.add_note(note)
    return copy


def _refusal(key: RunKey, status: str) -> BaseException:
    if status == RunStatus.CANCELLED:
        return RunCancelled(key.thread_id, key.run_id)
    return LeaseLost(key.thread_id, key.run_id)
