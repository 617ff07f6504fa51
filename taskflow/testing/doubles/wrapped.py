"""A store around another one, through which each of its operations passes.

    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    import anyio

    from taskflow import MemoryStore, Runtime, task, workflow
    from taskflow.testing import WrappedStore

    T = TypeVar("T")

    class CountingStore(WrappedStore):
        commits = 0

        async def perform(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
            self.commits += operation == "commit"
            return await super().perform(operation, work)

    @task
    async def charge(order: str) -> str:
        return f"receipt for {order}"

    @workflow
    async def fulfil(order: str) -> str:
        return await charge(order)

    async def main() -> None:
        store = CountingStore(MemoryStore())
        async with Runtime(store) as runtime:
            await runtime.run(fulfil("A1"), thread_id="order-A1")
        assert store.commits == 3  # the claim, the receipt, the end

    anyio.run(main)

`FaultyStore` is one; other subclasses count, slow down or cut off what a store does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TypeVar

from taskflow.records import Pruned
from taskflow.stores.base import Snapshot, Store
from taskflow.stores.batches import Batch, Committed
from taskflow.stores.pruning import Prune
from taskflow.stores.rows import CacheEntry, CheckpointRow, Recorded, RunRow, SignalRow

__all__ = ("WrappedStore",)

T = TypeVar("T")


class WrappedStore:
    """Hands every operation on to the store ``inner``, by way of `perform`."""

    def __init__(self, store: Store) -> None:
        self.inner = store

    async def perform(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do one operation: override this, and ``await super().perform(operation, work)``.

        ``operation`` is the name of the method. Opening a snapshot is one ("snapshot"), and so is
        each read of it ("snapshot.runs", "snapshot.checkpoints") and each step of a "prune". Each
        call of ``work`` does it once more.
        """
        return await work()

    @property
    def where(self) -> str:
        return self.inner.where

    async def open(self, owner: str) -> None:
        await self.perform("open", lambda: self.inner.open(owner))

    async def close(self, owner: str) -> None:
        await self.perform("close", lambda: self.inner.close(owner))

    async def commit(self, batch: Batch) -> Committed:
        return await self.perform("commit", lambda: self.inner.commit(batch))

    async def load(self, run: RunRow, after: int, limit: int) -> Sequence[Recorded]:
        return await self.perform("load", lambda: self.inner.load(run, after, limit))

    async def signals(self, thread_id: str, run_id: str, after: int) -> Sequence[SignalRow]:
        return await self.perform("signals", lambda: self.inner.signals(thread_id, run_id, after))

    async def news(self, after: int | None) -> Sequence[tuple[int, str]]:
        return await self.perform("news", lambda: self.inner.news(after))

    async def recoverable(
        self, now: float, workflows: Sequence[str], limit: int
    ) -> Sequence[RunRow]:
        return await self.perform(
            "recoverable", lambda: self.inner.recoverable(now, workflows, limit)
        )

    async def unknown_workflows(self, now: float, workflows: Sequence[str]) -> Sequence[str]:
        return await self.perform(
            "unknown_workflows", lambda: self.inner.unknown_workflows(now, workflows)
        )

    async def run(self, thread_id: str, run_id: str | None) -> RunRow | None:
        return await self.perform("run", lambda: self.inner.run(thread_id, run_id))

    async def runs(
        self,
        status: str | None,
        workflow: str | None,
        before: int | None,
        limit: int,
        thread_id: str | None = None,
    ) -> Sequence[RunRow]:
        return await self.perform(
            "runs", lambda: self.inner.runs(status, workflow, before, limit, thread_id)
        )

    async def checkpoints(
        self, thread_id: str, run_id: str | None, after: int = 0, limit: int | None = None
    ) -> Sequence[CheckpointRow]:
        return await self.perform(
            "checkpoints", lambda: self.inner.checkpoints(thread_id, run_id, after, limit)
        )

    async def checkpoint(self, thread_id: str, task_id: str) -> CheckpointRow | None:
        return await self.perform("checkpoint", lambda: self.inner.checkpoint(thread_id, task_id))

    @asynccontextmanager
    async def snapshot(self, thread_id: str) -> AsyncGenerator[Snapshot]:
        async with AsyncExitStack() as opened:
            snapshot = await self.perform(
                "snapshot", lambda: opened.enter_async_context(self.inner.snapshot(thread_id))
            )
            yield _WrappedSnapshot(self, snapshot)

    async def cached(self, task_name: str, keys: Sequence[str], now: float) -> Sequence[CacheEntry]:
        return await self.perform("cached", lambda: self.inner.cached(task_name, keys, now))

    async def clear_cache(self, task_name: str) -> int:
        return await self.perform("clear_cache", lambda: self.inner.clear_cache(task_name))

    async def forget(self, thread_id: str, task_id: str, owner: str) -> bool:
        return await self.perform("forget", lambda: self.inner.forget(thread_id, task_id, owner))

    async def replace(self, thread_id: str, task_id: str, payload: bytes) -> bool:
        return await self.perform(
            "replace", lambda: self.inner.replace(thread_id, task_id, payload)
        )

    async def fork(
        self, thread_id: str, run_id: str | None, to: str, without: Sequence[str]
    ) -> RunRow:
        return await self.perform("fork", lambda: self.inner.fork(thread_id, run_id, to, without))

    async def adopt(self, runs: Sequence[RunRow], checkpoints: Sequence[CheckpointRow]) -> None:
        await self.perform("adopt", lambda: self.inner.adopt(runs, checkpoints))

    async def prune(self, ask: Prune) -> AsyncGenerator[Pruned]:
        async with aclosing(self.inner.prune(ask)) as steps:

            async def step() -> Pruned | None:
                return await anext(steps, None)

            while (pruned := await self.perform("prune", step)) is not None:
                yield pruned

    async def cancel(self, thread_id: str, now: float, run_id: str | None = None) -> RunRow | None:
        return await self.perform("cancel", lambda: self.inner.cancel(thread_id, now, run_id))

    async def epochs(self, numbers: Sequence[int]) -> Mapping[int, int]:
        return await self.perform("epochs", lambda: self.inner.epochs(numbers))

    async def latest(self, thread_ids: Sequence[str]) -> Sequence[RunRow]:
        return await self.perform("latest", lambda: self.inner.latest(thread_ids))

    async def delete(self, thread_id: str, owner: str) -> bool:
        return await self.perform("delete", lambda: self.inner.delete(thread_id, owner))


class _WrappedSnapshot:
    """A snapshot of the inner store, read by way of `WrappedStore.perform`."""

    def __init__(self, store: WrappedStore, snapshot: Snapshot) -> None:
        self._store = store
        self._snapshot = snapshot

    async def runs(self, after: int, limit: int) -> Sequence[RunRow]:
        return await self._store.perform("snapshot.runs", lambda: self._snapshot.runs(after, limit))

    async def checkpoints(self, run_id: str, after: int, limit: int) -> Sequence[CheckpointRow]:
        return await self._store.perform(
            "snapshot.checkpoints", lambda: self._snapshot.checkpoints(run_id, after, limit)
        )
