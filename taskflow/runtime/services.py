"""What works in the background while a runtime is open: the journal, the alarms, and who is asleep.

All of it lives in tasks of its own, so a runtime can be opened in one task and closed in another,
and no error of the user's is ever wrapped in a group.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Final, Literal, Protocol

import anyio
from anyio.lowlevel import current_token
from msgspec import Struct

from taskflow.errors import (
    CheckpointCorrupt,
    LeaseLost,
    RunCancelled,
    RunNotFound,
    RunPaused,
    RunUnfinished,
    StoreError,
    ThreadBusy,
)
from taskflow.loops.clocks import Clock, exact, present
from taskflow.loops.loop import Loop, current_loop
from taskflow.loops.promises import Latch, uninterrupted
from taskflow.loops.scheduler import Scheduler
from taskflow.records import RunStatus, Wait
from taskflow.runs.cache import Cache
from taskflow.runs.feeds import Feeds
from taskflow.runs.frame import FRAME
from taskflow.runs.inbox import SignalTypes
from taskflow.runs.journal import Journal
from taskflow.runs.run import Run, RunServices
from taskflow.runtime.executions import Execution
from taskflow.stores.base import Store
from taskflow.stores.batches import Claimed, Durability, Finish, Sent, Signal
from taskflow.wire.codec import decode_waits

__all__ = ("Service", "Settings")

logger = logging.getLogger("taskflow")

# Seconds that a process which never closed its runtime waits for threads, and for locks.
PATIENCE: Final = 1.0

# How a run may end here that others have continued, cancelled or deleted.
UNSURPRISING = ThreadBusy, RunPaused, RunUnfinished, RunCancelled, RunNotFound, LeaseLost


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


class Watcher(Background, Protocol):
    """The same that looks at what other processes do."""

    async def begin(self) -> None: ...
    def sent(self, sequence: int) -> None: ...
    def look_soon(self) -> None: ...
    def fill(self) -> None: ...


class Service:
    """Keeps the executions of one open runtime."""

    def __init__(self, store: Store, settings: Settings, clock: Clock | None) -> None:
        self.owner = os.urandom(8).hex()
        self.store = store
        self.settings = settings
        self.clock = present.clock or Clock() if clock is None else exact(clock)
        self.loop: Loop = current_loop()
        self.feeds = Feeds(self.clock)
        self.scheduler = Scheduler(self.loop, settings.max_concurrency, self.clock)
        self.journal = Journal(store, self.loop, self.feeds)
        self.cache = Cache(store)
        self.executions: dict[str, Execution] = {}  # by thread id, as they execute
        self.asleep: dict[str, Execution] = {}  # by thread id: paused, and somebody waits
        self.blocks: dict[str, Run | None] = {}  # thread() blocks, by thread id
        self.signal_types = SignalTypes()
        self._run_services = RunServices(
            self.scheduler,
            self.journal,
            store,
            self.cache,
            self.feeds,
            self.signal_types,
            settings.durability,
            settings.on_drift,
        )
        self.is_closing = False
        self.watch: Watcher | None = None  # for what other processes do
        self.automatic = 0  # how many of those execute that nobody asked for now
        self._postponed: set[str] = set()  # threads whose sleeping run could not be woken yet
        self._doubtful: dict[str, float | None] = {}  # threads: when to continue what was claimed
        self._waking: deque[Execution] = deque()  # until there is room for them
        self._tasks: list[object] = []
        self._background: list[tuple[object, Background]] = []  # tasks, and what they execute
        self._ready = Latch()
        self._closing = Latch()
        self._closed = Latch()
        self._unclosed: weakref.finalize[..., Service] | None = None  # warns, once

    @property
    def max_takeovers(self) -> int:
        """How often a run may be taken over without any progress."""
        return self.settings.max_takeovers

    @property
    def is_ending(self) -> bool:
        """Whether the runtime is being drained or closed."""
        return self.is_closing or self.scheduler.is_draining

    @property
    def room(self) -> int:
        """How many more runs may go on without being asked for."""
        return self.settings.max_concurrent_runs - self.automatic - len(self._waking)

    async def begin(self) -> None:
        """Open the store and begin to serve. Raises StoreError."""
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
        self.is_closing = True
        if self._unclosed is not None:
            self._unclosed.detach()
        self._closing.set_result()
        await uninterrupted(self._closed)

    async def drain(self, timeout: float) -> None:
        """Let the bodies that execute end, and start no more; then release every run."""
        self.scheduler.is_draining = True
        with anyio.move_on_after(timeout):
            while any(map(self._holds_up, self._executing())):  # noqa: ASYNC110 - once in a life
                await anyio.sleep(0.005)
        for execution in list(self.asleep.values()):
            execution.cancel()
        executing = self._executing()
        for execution in executing:
            execution.cancel()
        for execution in executing:
            if execution.leads_to_caller():
                await anyio.sleep_forever()  # which the cancellation ends: this is code of that run
            await uninterrupted(execution.ended)

    def _holds_up(self, execution: Execution) -> bool:
        """Whether a body of it executes, other than the code that asks."""
        run = execution.run
        return run is not None and not run.activity.is_drained and not execution.leads_to_caller()

    # What executions ask for.

    def deliver(self, signal: Signal, sent: Sent) -> bool:
        """Tell whoever executes the run of a signal, if that is here."""
        thread_id = signal.thread_id
        execution = self.executions.get(thread_id) or self.asleep.get(thread_id)
        if execution is not None:
            execution.deliver(signal, sent)
            return True
        if (block := self.blocks.get(thread_id)) is not None:
            block.signals.deliver(signal, sent)
            return True
        return False

    def look_for_signals(self, thread_id: str) -> None:
        """The same for one that another process has sent."""
        execution = self.executions.get(thread_id) or self.asleep.get(thread_id)
        if execution is not None:
            execution.look_for_signals()
        elif (block := self.blocks.get(thread_id)) is not None:
            block.signals.spawn_look()

    def open_run(self, claimed: Claimed) -> Run:
        """The run that was claimed."""
        return Run(claimed, self._run_services)

    def spawn(self, execution: Execution) -> None:
        """Execute it, in its first caller's context."""
        thread_id = execution.thread_id
        if self.asleep.get(thread_id) is execution:
            del self.asleep[thread_id]
        self.executions[thread_id] = execution
        execution.task = execution.context.run(self.loop.spawn, execution.main)

    def begun(self, execution: Execution, superseded: str | None) -> None:
        """A run is ours: another one of its thread that was asleep has been superseded."""
        other = self.asleep.get(execution.thread_id)
        if other is None or other.run_id == execution.run_id:
            return
        if superseded is not None and other.run_id == superseded:
            other.end(RunCancelled(other.thread_id, superseded))
            return
        # It has ended elsewhere before. Another one may sleep in its place from now on.
        del self.asleep[other.thread_id]
        self._tasks.append(self.loop.spawn(partial(self._settle, other)))

    async def _settle(self, execution: Execution) -> None:
        try:
            await self.settle(execution)
        except (StoreError, asyncio.CancelledError) as error:
            execution.end(error)

    def ended(self, execution: Execution) -> None:
        """It does not execute any more."""
        for executions in (self.executions, self.asleep):
            if executions.get(execution.thread_id) is execution:
                del executions[execution.thread_id]
        error = execution.error
        if isinstance(error, StoreError | LeaseLost) and not isinstance(error, CheckpointCorrupt):
            takeovers = 0 if execution.run is None else execution.run.row.takeovers
            self.doubt(execution.thread_id, execution.retry_time(self.clock.now(), takeovers))
        if execution.is_automatic and not execution.is_awaited and error is not None:
            self._report(execution, error)
        if execution.thread_id in self._postponed:
            self._postponed.discard(execution.thread_id)
            if (asleep := self.asleep.get(execution.thread_id)) is not None:
                self.wake(asleep)
        self._make_room(execution)

    def doubt(self, thread_id: str, due: float | None = None) -> None:
        """A run may have been claimed there that nobody executes: the answer to it was lost, say.

        ``due``: when it is to be continued, if nobody will ask for it.
        """
        self._doubtful[thread_id] = due
        if self.watch is not None:
            self.watch.look_soon()

    async def release_doubtful(self) -> None:
        """Let others continue what is this runtime's without being executed. Raises StoreError."""
        if not self._doubtful:
            return
        doubtful, self._doubtful = self._doubtful, {}
        try:
            rows = await self.store.latest(list(doubtful))
        except BaseException:
            self._doubtful = doubtful | self._doubtful
            raise
        for row in rows:
            is_served = row.thread_id in self.executions or row.thread_id in self.blocks
            if row.owner != self.owner or is_served:
                continue
            release = Finish(
                row.key,
                RunStatus.RUNNING,
                self.clock.now(),
                due=doubtful[row.thread_id],
                takeovers=row.takeovers,
            )
            self.journal.finish(release)

    def _report(self, execution: Execution, error: BaseException) -> None:
        """Log why a run has ended that nobody waits for."""
        if isinstance(error, UNSURPRISING):
            return
        logger.warning(
            "run %r of %s on thread %r, which was continued in the background, has ended with "
            "%s: %s",
            execution.run_id,
            execution.workflow.name,
            execution.thread_id,
            type(error).__qualname__,
            error,
        )

    def fell_asleep(self, execution: Execution, due: float | None) -> None:
        """It is paused, and somebody waits on."""
        if self.executions.get(execution.thread_id) is execution:
            del self.executions[execution.thread_id]
        self.asleep[execution.thread_id] = execution
        alarms = self.scheduler.alarms
        execution.set_alarm(None if due is None else alarms.set(due, execution.ring))
        self._make_room(execution)

    def given_up(self, execution: Execution) -> None:
        """Nobody waits for it any more."""
        execution.is_asleep = False
        execution.set_alarm(None)
        self.asleep.pop(execution.thread_id, None)

    async def cancel_elsewhere(self, execution: Execution) -> None:
        """End the run for good, whoever executes it, unless it has ended already."""
        await self.store.cancel(execution.thread_id, self.clock.now(), execution.run_id)
        await self.settle(execution)

    async def waits_of(self, execution: Execution) -> list[Wait]:
        """What a sleeping run waits for."""
        row = await self.store.run(execution.thread_id, execution.run_id)
        return decode_waits(None if row is None else row.waits)

    async def settle(self, execution: Execution) -> None:
        """Tell those who wait for a sleeping run what has become of it elsewhere, if it ended."""
        try:
            row = await self.store.run(execution.thread_id, execution.run_id)
        except CheckpointCorrupt as damage:
            execution.end(damage)
            return
        if not execution.is_asleep:
            return
        if row is None:
            execution.end(RunNotFound(execution.thread_id))
        elif row.status == RunStatus.CANCELLED:
            execution.end(RunCancelled(execution.thread_id, row.run_id))
        elif row.status == RunStatus.SUCCESS:
            execution.answer(row.verified().result or b"null")

    def wake(self, execution: Execution) -> None:
        """Let a paused run go on as soon as there is room for it."""
        is_free = execution.thread_id not in self.executions
        if execution.is_asleep and execution.is_needed and is_free and not self.is_ending:
            execution.wake()  # who waits for it may take up all the room there is
        elif execution.is_asleep and not execution.is_woken:
            execution.is_woken = True
            self._waking.append(execution)
            self._wake_next()

    def _wake_next(self) -> None:
        while self._waking and self.automatic < self.settings.max_concurrent_runs:
            execution = self._waking.popleft()
            thread_id = execution.thread_id
            if thread_id in self.executions:  # it may be superseding this one
                execution.is_woken = False
                self._postponed.add(thread_id)
            elif execution.is_asleep and not self.is_ending:
                self.automatic += 1
                execution.is_automatic = True
                execution.wake()

    def recover(self, execution: Execution) -> None:
        """Execute what nobody asked for now."""
        self.automatic += 1
        execution.is_automatic = True
        execution.join(patient=False)  # whoever joins and leaves again does not end it
        self.spawn(execution)

    def _make_room(self, execution: Execution) -> None:
        if execution.is_automatic:
            execution.is_automatic = False
            self.automatic -= 1
            self._wake_next()
            if self.watch is not None:
                self.watch.fill()

    def _executing(self) -> list[Execution]:
        return list(self.executions.values())

    def _spawn_outside_runs(self) -> None:
        FRAME.set(None)
        task = self.loop.spawn(self._serve)
        self._tasks.append(task)
        self.loop.when_done(task, self._abandon)

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
        background: list[Background] = [self.scheduler.alarms, self.scheduler.timers, self.journal]
        if self.watch is not None:
            background.insert(0, self.watch)
        self._background = [(self.loop.spawn(each.run), each) for each in background]
        self.loop.when_done(self._background[-1][0], self.journal.abandon)
        self._ready.set_result()
        is_unclosed = False
        try:
            await self._closing.wait()
        except BaseException:
            # asyncio.run() and trio.run() cancel what is left when their main has ended.
            self.is_closing = is_unclosed = True
            self._unclosed()
            self.loop.call_later(PATIENCE, self._leave)
        finally:
            with anyio.CancelScope(shield=True):
                await self._unwind(is_unclosed)

    def _leave(self) -> None:
        """Wait for no lock any longer."""
        leave: Callable[[], None] | None = getattr(self.store, "leave", None)
        if leave is not None and not self._closed.done():
            leave()

    async def _unwind(self, is_unclosed: bool) -> None:
        executions = self._executing()
        for execution in executions:
            execution.cancel()
        if is_unclosed:  # the process ends: it waits for no thread for long
            with contextlib.suppress(asyncio.CancelledError), anyio.move_on_after(PATIENCE):
                for execution in executions:
                    await execution.ended.settled()
            self.scheduler.threads.abandon()
        for execution in executions:
            self.loop.when_done(execution.task, execution.abandon)
            with contextlib.suppress(asyncio.CancelledError):
                await uninterrupted(execution.ended)
        for execution in list(self.asleep.values()):
            execution.cancel()
        self.feeds.wake_all()
        for task, background in self._background:
            if not self.loop.has_ended(task):
                with contextlib.suppress(asyncio.CancelledError):
                    await background.close()
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
