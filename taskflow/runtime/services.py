"""What an open runtime consists of, and how its background is opened, drained and closed.

The background lives in tasks of its own, so a runtime can be opened in one task and closed in
another, and no error of the user's is ever wrapped in a group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import warnings
import weakref
from collections.abc import Callable
from contextvars import copy_context
from typing import Final, Literal, Protocol

import anyio
from anyio.lowlevel import current_token
from msgspec import Struct

from taskflow.errors import StoreError
from taskflow.loops.clocks import Clock, exact, present
from taskflow.loops.loop import Loop, current_loop
from taskflow.loops.promises import Latch, uninterrupted
from taskflow.loops.scheduler import Scheduler
from taskflow.runs.cache import Cache
from taskflow.runs.feeds import Feeds
from taskflow.runs.frame import FRAME
from taskflow.runs.inbox import SignalTypes
from taskflow.runs.journal import Journal
from taskflow.runs.run import Run, RunServices
from taskflow.runtime.registry import Lookout, Registry
from taskflow.stores.base import Store
from taskflow.stores.batches import Claimed, Durability

__all__ = ("Service", "Settings")


# Seconds that a process which never closed its runtime waits for threads, and for locks.
PATIENCE: Final = 1.0


class Settings(Struct, frozen=True):
    """How a runtime was told to work."""

    max_concurrency: int
    durability: Durability
    on_drift: Literal["log", "error"]
    recover: bool
    max_concurrent_runs: int  # that nobody asked for now: recovered ones, and those that wake
    max_takeovers: int
    poll_interval: float  # seconds


class Background(Protocol):
    """Something that works for as long as the runtime is open."""

    async def run(self) -> None: ...
    async def close(self) -> None: ...


class Watcher(Background, Lookout, Protocol):
    """The same that looks at what other processes do."""

    async def begin(self) -> None: ...
    def sent(self, sequence: int) -> None: ...


class Service:
    """One open runtime: its journal, scheduler and registry, and the tasks that serve them."""

    def __init__(self, store: Store, settings: Settings, clock: Clock | None) -> None:
        self.owner = os.urandom(8).hex()
        self.store = store
        self.settings = settings
        self.clock = present.clock or Clock() if clock is None else exact(clock)
        self.feeds = Feeds(self.clock)
        self.scheduler = Scheduler(current_loop(), settings.max_concurrency, self.clock)
        self.journal = Journal(store, self.loop, self.feeds)
        self.registry = Registry(
            self.owner, store, self.journal, self.scheduler, settings.max_concurrent_runs
        )
        self.shared = RunServices(
            self.scheduler,
            self.journal,
            store,
            Cache(store),
            self.feeds,
            SignalTypes(),
            settings.durability,
            settings.on_drift,
        )
        self.watch: Watcher | None = None  # for what other processes do
        self._task: object = None  # which executes `_serve`
        self._ready = Latch()
        self._closing = Latch()
        self._closed = Latch()
        self._unclosed: weakref.finalize[..., Service] | None = None  # warns, once

    @property
    def loop(self) -> Loop:
        """The event loop that is served."""
        return self.scheduler.loop

    @property
    def max_takeovers(self) -> int:
        """How often a run may be taken over without any progress."""
        return self.settings.max_takeovers

    @property
    def is_ending(self) -> bool:
        """Whether the runtime is being drained or closed."""
        return self.registry.is_ending

    @property
    def is_closing(self) -> bool:
        """Whether the runtime is being closed."""
        return self.registry.is_closing

    async def begin(self) -> None:
        """Open the store and begin to serve. Raises StoreError."""
        self.registry.lookout = self.watch
        copy_context().run(self._spawn_outside_runs)
        try:
            await uninterrupted(self._ready)
        except BaseException:
            await self.end()
            raise

    def check_loop(self) -> None:
        """Raise RuntimeError in code of another event loop, which nothing here could ever wake."""
        token = self.loop.token
        try:  # current_token() takes 4 µs, and this 0.1
            if asyncio.get_running_loop() is token.native_token:
                return
        except RuntimeError:
            pass
        try:
            running = current_token()
        except RuntimeError:  # code of a worker thread, say: nothing can be awaited there
            return
        if running != token and not self._closed.done():
            raise RuntimeError(
                f"this Runtime on {self.store.where} serves the event loop on which it was opened, "
                "and another one runs here: open one Runtime on each event loop, or hand the call "
                "to the first with asyncio.run_coroutine_threadsafe()"
            )

    async def end(self) -> None:
        """Cancel what executes, commit what is left, close the store."""
        self.registry.is_closing = True
        if self._unclosed is not None:
            self._unclosed.detach()
        self._closing.set_result()
        await uninterrupted(self._closed)

    async def drain(self, timeout: float) -> None:
        """Let the bodies that execute end, and start no more; then release every run."""
        self.scheduler.is_draining = True
        with anyio.move_on_after(timeout):
            while self._is_held_up():  # noqa: ASYNC110 - once in a life
                await anyio.sleep(0.005)
        self.registry.stop_sleeping()
        for execution in self.registry.stop_executing():
            if execution.waiters.belong_to_caller():
                await anyio.sleep_forever()  # which the cancellation ends: this is code of that run
            await uninterrupted(execution.waiters.ended)

    def _is_held_up(self) -> bool:
        """Whether a body of a call executes, other than the code that asks."""
        return any(
            each.run is not None
            and not each.run.activity.is_drained
            and not each.waiters.belong_to_caller()
            for each in self.registry.executing.values()
        )

    def open_run(self, claimed: Claimed) -> Run:
        """The run that was claimed."""
        return Run(claimed, self.shared)

    def _spawn_outside_runs(self) -> None:
        FRAME.set(None)
        self._task = self.loop.spawn(self._serve)
        self.loop.when_done(self._task, self._abandon)

    def _abandon(self) -> None:
        """What executes `_serve` has ended: asyncio may cancel a task before its first step."""
        if not self._ready.done():
            self._ready.set_exception(StoreError(f"{self.store.where} was not opened"))
        self._closed.set_result()

    async def _serve(self) -> None:
        try:
            await self.store.open(self.owner)
            if self.watch is not None:
                await self.watch.begin()
        except BaseException as error:
            self._ready.set_exception(error)
            try:
                # It may be open, and have failed to say so.
                with contextlib.suppress(Exception), anyio.CancelScope(shield=True):
                    await self.store.close(self.owner)
            finally:
                self._closed.set_result()
            return
        # Where nobody unwinds the loop: when this is collected, or the interpreter ends.
        self._unclosed = weakref.finalize(self, _warn_unclosed, self.store.where)
        jobs: list[Background] = [self.scheduler.alarms, self.scheduler.timers, self.journal]
        if self.watch is not None:
            jobs.insert(0, self.watch)
        background = [(self.loop.spawn(each.run), each) for each in jobs]
        self.loop.when_done(background[-1][0], self.journal.abandon)
        self._ready.set_result()
        is_unclosed = False
        try:
            await self._closing.wait()
        except BaseException:
            # asyncio.run() and trio.run() cancel what is left when their main has ended.
            self.registry.is_closing = is_unclosed = True
            self._unclosed()
            self.loop.call_later(PATIENCE, self._leave)
        finally:
            with anyio.CancelScope(shield=True):
                await self._unwind(background, is_unclosed)

    def _leave(self) -> None:
        """Wait for no lock any longer."""
        leave: Callable[[], None] | None = getattr(self.store, "leave", None)
        if leave is not None and not self._closed.done():
            leave()

    async def _unwind(self, background: list[tuple[object, Background]], is_unclosed: bool) -> None:
        executions = self.registry.stop_executing()
        for execution in executions:  # before any of them may have ended: that leaves no task
            self.loop.when_done(execution.task, execution.abandon)
        if is_unclosed:  # the process ends: it waits for no thread for long
            with contextlib.suppress(asyncio.CancelledError), anyio.move_on_after(PATIENCE):
                for execution in executions:
                    await execution.waiters.ended.settled()
            self.scheduler.threads.abandon()
        for execution in executions:
            with contextlib.suppress(asyncio.CancelledError):
                await uninterrupted(execution.waiters.ended)
        self.registry.stop_sleeping()
        self.feeds.wake_all()
        for task, job in background:
            if not self.loop.has_ended(task):
                with contextlib.suppress(asyncio.CancelledError):
                    await job.close()
        self.scheduler.threads.close()
        try:
            await self.store.close(self.owner)
        except Exception as error:  # a task of ours must not raise: who closes the runtime is told
            self._closed.set_exception(error)
        finally:
            if not self._closed.done():
                self._closed.set_result()


def _warn_unclosed(where: str) -> None:
    warnings.warn(f"a Runtime on {where} was never closed", ResourceWarning, stacklevel=1)
