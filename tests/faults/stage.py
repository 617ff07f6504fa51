"""Two runtimes on one store, whose event loop goes on only while something is asked of them."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.abc import TaskGroup
from model import PENDING, RAISES, VALUE, Death, Key, Outcome
from scripts import WORKFLOWS, Broken

from taskflow import Runtime, SQLiteStore, Store
from taskflow.errors import StoreError
from taskflow.stores.batches import Batch, Committed
from taskflow.stores.kinds import OUTCOMES
from taskflow.testing import VirtualClock, WrappedStore

SETTLE = 2.0  # virtual seconds after which nothing happens any more
PATIENCE = 60.0  # real ones


class SteadyClock(VirtualClock):
    """Looks at what others do as often as a real clock."""

    def pause(self, interval: float, looks: int) -> float:
        return interval


class MortalStore(WrappedStore):
    """The store of a runtime whose process may die: then nothing is written any more."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.inner = store
        self.is_dead = False
        self.death: Death | None = None  # at which record from now on

    async def die(self) -> None:
        self.is_dead = True
        if isinstance(self.inner, SQLiteStore):
            await self.inner.abandon()

    async def commit(self, batch: Batch) -> Committed:
        if self.is_dead:
            raise StoreError("this process has died")
        death = self.death
        if death is not None:
            death.countdown -= sum(each.kind in OUTCOMES for each in batch.checkpoints)
            if death.countdown > 0:
                death = None
        if death is not None and not death.is_after:
            await self.die()
            raise StoreError("this process has died")
        committed = await super().commit(batch)
        if death is not None:
            await self.die()
            raise StoreError("this process has died")
        return committed


class Caller:
    """Somebody who calls a runtime, and may be cancelled while he waits."""

    def __init__(self, ask: Callable[[], Awaitable[Any]]) -> None:
        self._ask = ask
        self._scope = anyio.CancelScope()
        self._task: asyncio.Task[Any] | None = None
        self._is_cancelled = False
        self.outcome: Outcome = (PENDING, None)
        self.error: Exception | None = None

    async def run(self) -> None:
        with self._scope:
            if is_asyncio():
                self._task = asyncio.current_task()
            try:
                self.outcome = VALUE, await self._ask()
            except Exception as error:
                self.error = error
                self.outcome = RAISES, said_by(error)
            except asyncio.CancelledError:
                if not self._is_cancelled or self._scope.cancel_called:
                    raise

    def cancel(self, *, natively: bool) -> None:
        self._is_cancelled = True
        if natively and self._task is not None:
            self._task.cancel()
        else:
            self._scope.cancel()


def is_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def said_by(error: Exception) -> str:
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, Broken) else name


class Stage:
    """Two runtimes in an event loop of their own, which goes on only while something is done."""

    def __init__(self, backend: str, make_store: Callable[[], Store]) -> None:
        self._backend = backend
        self._make_store = make_store
        self._asked: queue.SimpleQueue[Callable[[], Awaitable[Any]] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.callers: dict[int, Caller] = {}
        self.stores: list[MortalStore] = []
        self.runtimes: list[Runtime] = []
        self.executed: list[Key] = []
        self.clock: SteadyClock
        self._group: TaskGroup
        self._thread.start()
        self._answer()

    def do(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do this, and wait for the answer."""
        self._asked.put(work)
        return self._answer()

    def end(self) -> None:
        self._asked.put(None)
        self._answer()
        self._thread.join(PATIENCE)

    def _answer(self) -> Any:
        value, error = self._answers.get(timeout=PATIENCE)
        if error is not None:
            raise error
        return value

    def _serve(self) -> None:
        options: dict[str, Any] = {}
        if self._backend == "trio":
            import trio.testing

            options["clock"] = trio.testing.MockClock()
        try:
            anyio.run(self._main, backend=self._backend, backend_options=options)
        except BaseException as error:
            self._answers.put((None, error))
        else:
            self._answers.put((None, None))

    async def _main(self) -> None:
        with SteadyClock() as self.clock:
            async with anyio.create_task_group() as self._group:
                for _ in range(2):
                    store, runtime = await self._opened()
                    self.stores.append(store)
                    self.runtimes.append(runtime)
                self._answers.put((None, None))
                # Nothing passes while the loop is held up here.
                while (work := self._asked.get()) is not None:
                    try:
                        self._answers.put((await work(), None))
                    except Exception as error:
                        self._answers.put((None, error))
                for runtime in self.runtimes:
                    await runtime.aclose()
                self._group.cancel_scope.cancel()

    async def _opened(self) -> tuple[MortalStore, Runtime]:
        store = MortalStore(self._make_store())
        runtime = Runtime(store, workflows=WORKFLOWS.values(), poll_interval=0.3)
        await runtime.open()
        return store, runtime

    def now(self) -> float:
        return self.clock.now()

    async def settle(self, seconds: float = 0.0) -> None:
        await anyio.sleep(seconds + SETTLE)

    async def ask(self, caller_id: int, ask: Callable[[], Awaitable[Any]]) -> Caller:
        """Have somebody ask this, and let him wait; what he has heard by then."""
        caller = self.callers[caller_id] = Caller(ask)
        self.send(caller)
        await self.settle()
        return caller

    def send(self, caller: Caller) -> None:
        """Let him ask."""
        self._group.start_soon(caller.run)

    async def reopen(self, number: int, *, dies: bool) -> None:
        if dies:
            await self.stores[number].die()
        await self.runtimes[number].aclose()
        self.stores[number], self.runtimes[number] = await self._opened()
        await self.settle()
