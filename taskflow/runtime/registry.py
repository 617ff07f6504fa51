"""Which execution or block each thread has in this runtime, and which of them may go on."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from functools import partial
from typing import Protocol

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
from taskflow.loops.scheduler import Scheduler
from taskflow.records import RunStatus
from taskflow.runs.journal import Journal
from taskflow.runs.run import Run
from taskflow.runtime.conclusions import Cause, interrupted, retry_time
from taskflow.runtime.elsewhere import settle
from taskflow.runtime.executions import Execution
from taskflow.stores.base import Store
from taskflow.stores.batches import Finish, Sent, Signal

__all__ = ("Lookout", "Registry")

logger = logging.getLogger("taskflow")


# How a run may end here that others have continued, cancelled or deleted.
UNSURPRISING = ThreadBusy, RunPaused, RunUnfinished, RunCancelled, RunNotFound, LeaseLost


class Lookout(Protocol):
    """What is told that there may be something to continue."""

    def look_soon(self) -> None: ...
    def fill(self) -> None:
        """There is room for more runs."""
        ...


class Registry:
    """One execution for each thread, and nobody dropped untold.

    A thread has at most one execution that executes, or one ``thread()`` block; beside it, until
    the claim of the former is granted, an earlier execution of it may be asleep. An execution is
    registered from `spawn` until it calls `ended`, and whoever takes its place ends it first.

    A round that nobody asked for (a signal, a deadline or recovery has caused it) is *automatic*.
    At most ``limit`` of them execute at a time; executions that are to wake wait for their turn.
    """

    def __init__(
        self, owner: str, store: Store, journal: Journal, scheduler: Scheduler, limit: int
    ) -> None:
        self.executing: dict[str, Execution] = {}  # by thread id, until they sleep or have ended
        self.asleep: dict[str, Execution] = {}  # by thread id: paused, and somebody waits
        self.blocks: dict[str, Run | None] = {}  # by thread id; None while one is claimed
        self.is_closing = False
        self.lookout: Lookout | None = None
        self._owner = owner
        self._store = store
        self._journal = journal
        self._scheduler = scheduler
        self._limit = limit
        self._automatic: set[Execution] = set()
        self._waking: OrderedDict[Execution, None] = OrderedDict()  # until there is room for them
        self._postponed: set[str] = set()  # threads whose sleeping run could not be woken yet
        self._doubtful: dict[str, float | None] = {}  # threads: when to continue what was claimed
        self._settling: dict[Execution, object] = {}  # tasks

    @property
    def is_ending(self) -> bool:
        """Whether the runtime is being drained or closed: nothing begins any more."""
        return self.is_closing or self._scheduler.is_draining

    @property
    def is_empty(self) -> bool:
        """Whether no thread has anything here."""
        return not (self.executing or self.asleep or self.blocks)

    @property
    def runs(self) -> list[Run]:
        """The runs in hand: of executions that execute, and of blocks."""
        found = [each.run for each in self.executing.values()]
        return [run for run in (*found, *self.blocks.values()) if run is not None]

    @property
    def room(self) -> int:
        """How many more automatic rounds may begin."""
        return self._limit - len(self._automatic) - len(self._waking)

    def is_automatic(self, execution: Execution) -> bool:
        """Whether nobody asked for its present round."""
        return execution in self._automatic

    # What becomes of an execution.

    def spawn(self, execution: Execution) -> None:
        """Begin a round of it, in its first caller's context."""
        thread_id = execution.thread_id
        if self.executing.get(thread_id, execution) is not execution:
            raise RuntimeError(f"internal error: thread {thread_id!r} is executed here already")
        self._remove(execution)
        self.executing[thread_id] = execution
        execution.task = execution.context.copy().run(self._scheduler.loop.spawn, execution.main)

    def recover(self, execution: Execution) -> None:
        """Begin the round of a run that nobody asked for."""
        self._automatic.add(execution)
        execution.waiters.join_unseen()
        self.spawn(execution)

    def granted(self, execution: Execution, superseded: str | None) -> None:
        """Its run is claimed: another run of the thread that is asleep has ended before."""
        other = self.asleep.get(execution.thread_id)
        if other is None or other.run_id == execution.run_id:
            return
        if superseded is not None and other.run_id == superseded:
            other.end(RunCancelled(other.thread_id, superseded))
            return
        # It has ended elsewhere. Another one may sleep in its place before that is looked up.
        self._remove(other)
        self._settling[other] = self._scheduler.loop.spawn(partial(self._settle, other))

    async def _settle(self, execution: Execution) -> None:
        error: BaseException | None = None
        try:
            await settle(execution, self._store)
        except (StoreError, asyncio.CancelledError) as failure:
            error = failure
        self._settling.pop(execution, None)
        if execution.is_asleep:
            lost = "another run of its thread has begun"
            execution.end(error or interrupted(execution.thread_id, execution.run_id, lost))

    def fell_asleep(self, execution: Execution, due: float | None) -> None:
        """It is paused, and somebody waits on; ``due`` is the first of its deadlines."""
        self._remove(execution)
        self.asleep[execution.thread_id] = execution
        self.set_alarm(execution, due)
        self._make_room(execution)

    def set_alarm(self, execution: Execution, due: float | None) -> None:
        """Wake a sleeping execution at that time, in place of the time that was set."""
        if (sleep := execution.sleep) is not None:
            alarms = self._scheduler.alarms
            sleep.set_alarm(None if due is None else alarms.set(due, execution.ring))

    def ended(self, execution: Execution) -> None:
        """Nothing happens there any more."""
        self._remove(execution)
        error, thread_id = execution.error, execution.thread_id
        is_automatic = execution in self._automatic
        if isinstance(error, StoreError | LeaseLost) and not isinstance(error, CheckpointCorrupt):
            due = None
            if is_automatic or execution.waiters.patient:
                takeovers = 0 if execution.run is None else execution.run.row.takeovers
                due = retry_time(self._scheduler.clock.now(), takeovers)
            self.doubt(thread_id, due)
        if is_automatic and not execution.waiters.is_awaited and error is not None:
            _report(execution, error)
        if thread_id in self._postponed:
            self._postponed.discard(thread_id)
            if (asleep := self.asleep.get(thread_id)) is not None:
                self.wake(asleep)
        self._make_room(execution)

    def _remove(self, execution: Execution) -> None:
        for executions in (self.executing, self.asleep):
            if executions.get(execution.thread_id) is execution:
                del executions[execution.thread_id]
        self._waking.pop(execution, None)

    # Turns of automatic rounds.

    def wake(self, execution: Execution) -> None:
        """Let a paused run go on as soon as there is room for it."""
        if not execution.is_asleep:
            return
        is_free = execution.thread_id not in self.executing
        if execution.waiters.is_needed and is_free and not self.is_ending:
            execution.wake()  # who waits for it may take up all the room there is
        elif execution not in self._waking:
            self._waking[execution] = None
            self._wake_next()

    def _wake_next(self) -> None:
        while self._waking and len(self._automatic) < self._limit:
            execution, _ = self._waking.popitem(last=False)
            if execution.thread_id in self.executing:  # it may be superseding this one
                self._postponed.add(execution.thread_id)
            elif not self.is_ending:
                self._automatic.add(execution)
                execution.wake()

    def _make_room(self, execution: Execution) -> None:
        if execution in self._automatic:
            self._automatic.discard(execution)
            self._wake_next()
            if self.lookout is not None:
                self.lookout.fill()

    # Signals.

    def deliver(self, signal: Signal, sent: Sent) -> bool:
        """Tell whoever executes the run of a signal of this process; whether that is here."""
        thread_id = signal.thread_id
        execution = self.executing.get(thread_id) or self.asleep.get(thread_id)
        if execution is not None:
            if execution.round is None:
                self.wake(execution)
            else:
                execution.round.deliver(signal, sent)
            return True
        if (block := self.blocks.get(thread_id)) is not None:
            block.signals.deliver(signal, sent)
            return True
        return False

    def look_for_signals(self, thread_id: str) -> None:
        """The same for one that another process has sent."""
        execution = self.executing.get(thread_id) or self.asleep.get(thread_id)
        if execution is not None:
            if execution.round is None:
                self.wake(execution)
            else:
                execution.round.look_for_signals()
        elif (block := self.blocks.get(thread_id)) is not None:
            block.signals.spawn_look()

    # Claims whose answer was lost.

    def doubt(self, thread_id: str, due: float | None = None) -> None:
        """A run may have been claimed there that nobody executes: the answer to it was lost, say.

        ``due``: when it is to be continued, if nobody will ask for it.
        """
        self._doubtful[thread_id] = due
        if self.lookout is not None:
            self.lookout.look_soon()

    async def release_doubtful(self) -> None:
        """Let others continue what is this runtime's without being executed. Raises StoreError."""
        if not self._doubtful:
            return
        doubtful, self._doubtful = self._doubtful, {}
        try:
            rows = await self._store.latest(list(doubtful))
        except BaseException:
            self._doubtful = doubtful | self._doubtful
            raise
        for row in rows:
            is_served = row.thread_id in self.executing or row.thread_id in self.blocks
            if row.owner != self._owner or is_served:
                continue
            release = Finish(
                row.key,
                RunStatus.RUNNING,
                self._scheduler.clock.now(),
                due=doubtful[row.thread_id],
                takeovers=row.takeovers,
            )
            self._journal.finish(release)

    # The end of the runtime.

    def stop_executing(self) -> list[Execution]:
        """Stop everything that executes, so that anybody may continue it; what that is."""
        stopped = list(self.executing.values())
        for execution in stopped:
            execution.stop(Cause.CLOSING)
        return stopped

    def stop_sleeping(self) -> None:
        """Tell those who wait for paused runs that the runtime ends."""
        for execution in list(self.asleep.values()):
            execution.stop(Cause.CLOSING)


def _report(execution: Execution, error: BaseException) -> None:
    """Log why a run has ended that nobody waits for."""
    if not isinstance(error, UNSURPRISING):
        logger.warning(
            "run %r of %s on thread %r, which was continued in the background, has ended with "
            "%s: %s",
            execution.run_id,
            execution.workflow.name,
            execution.thread_id,
            type(error).__qualname__,
            error,
            extra={"topic": "failed run"},
        )
