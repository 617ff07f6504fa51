"""`Activity`: what executes in a run, and why nothing more may start.

Only this module decides whether a call may start. Nothing more starts once a commit has failed
(the run is *broken*), once everything that executes is being cancelled (the run is *unwound*), and
once the run's body has ended. The other parts of a run know this one; it knows none of them, so
that no cycle keeps a run in memory that has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import anyio
import anyio.lowlevel

from taskflow.errors import CheckpointCorrupt, LeaseLost, RunCancelled, RunUnfinished
from taskflow.loops.promises import Latch, check_call_room, uninterrupted
from taskflow.loops.scheduler import Scheduler, Slots
from taskflow.runs.frame import Frame
from taskflow.runs.notices import Notices
from taskflow.runs.progress import Progress
from taskflow.stores.base import BLOCK_RUN_ID
from taskflow.stores.checksums import run_checksum
from taskflow.stores.rows import RunRow
from taskflow.wire import failures

__all__ = ("Activity", "Counts", "Executing", "Gate", "Held", "again")


class Held(Protocol):
    """A call that does not execute while others do."""

    is_held: bool


class Executing(Protocol):
    """A call that executes."""

    id: str
    frame: Frame[Any]  # of the body that made it
    is_behind: bool  # it waits for a time or another call, and then executes
    is_held: bool
    body: Frame[Any] | None  # of the present attempt

    @property
    def is_quiet(self) -> bool:
        """Whether no body of its own executes: it waits, or its body waits for other calls."""
        ...

    def cancel(self) -> None:
        """Cancel the task that executes it."""

    def shown_arguments(self) -> str | None:
        """Its arguments as JSON, capped, to be shown."""
        ...


class Gate(Protocol):
    """Where calls wait that are not recorded, before they execute."""

    opens: bool  # some time; else nothing ever executes behind it

    async def wait(self, call: Executing) -> None:
        """Wait until ``call`` may execute."""
        ...


class Counts:
    """How many calls a run has begun, executed, replayed, failed; how many attempts it retried."""

    __slots__ = ("begun", "executed", "failed", "replayed", "retried")

    def __init__(self) -> None:
        self.begun = self.executed = self.replayed = self.failed = self.retried = 0


class Activity:
    """The calls of one run that execute, and whether further ones may start."""

    __slots__ = (
        "_notices",
        "_queued",
        "_scheduler",
        "_stray_ended",
        "broken",
        "counts",
        "executing",
        "gate",
        "has_ended",
        "interrupt",
        "is_open",
        "row",
        "seed",
        "unwinding",
    )

    def __init__(self, row: RunRow, scheduler: Scheduler, notices: Notices) -> None:
        self.row = row
        self.seed = run_checksum(row.thread_id, row.run_id)  # of the checksums of its rows
        self.counts = Counts()
        self.executing: dict[str, Executing] = {}  # by their ids
        self.gate: Gate | None = None
        self.is_open = True  # calls may start and be answered: none of the following holds
        self.broken: BaseException | None = None
        self.unwinding = False
        self.has_ended = False
        self.interrupt: Callable[[], None] | None = None  # None: a block, in its caller's own task
        self._scheduler = scheduler
        self._notices = notices
        self._queued: set[str | None] = set()
        self._stray_ended: Latch | None = None

    @property
    def is_block(self) -> bool:
        """Whether it is that of a ``Runtime.thread()`` block, which has no workflow."""
        return self.row.run_id == BLOCK_RUN_ID

    @property
    def is_quiet(self) -> bool:
        """Whether no body of a call executes, or is about to."""
        return all(call.is_quiet for call in self.executing.values())

    @property
    def is_drained(self) -> bool:
        """Whether no body of a call executes."""
        return all(call.is_quiet or call.is_behind for call in self.executing.values())

    def begin(self, call: Executing) -> None:
        """``call`` executes from now on.

        Raises RecursionError where the stack has no room for all that it takes to end it.
        """
        check_call_room()
        self.executing[call.id] = call
        self.counts.begun += 1
        if (later := call.frame.later) is not None:
            call.frame.later = None
            for start in later:
                start()

    def end(self, call: Executing) -> None:
        """``call`` does not execute any more."""
        del self.executing[call.id]
        if self._stray_ended is not None:
            self._stray_ended.set_result()

    async def queue(self, call_id: str | None, slots: Slots) -> None:
        """Wait for a slot: the call has begun, and does not execute yet."""
        self._queued.add(call_id)
        try:
            await slots.take()
        finally:
            self._queued.discard(call_id)

    async def pass_gate(self, call: Executing) -> None:
        """Wait where new calls may not start: until a rerun's drift is known, or for ever."""
        if self.gate is not None:
            await self.gate.wait(call)
            await self.check_open(call.frame)
        if self._scheduler.is_draining:
            await self.hold(call)

    async def hold(self, call: Held, body: Frame[Any] | None = None) -> None:
        """Wait to be cut off, as nothing starts any more; raise where nothing would do that.

        ``body`` is the call's, if it has one already.
        """
        if body is not None:
            body.give_slot_back()
        if self.is_block:
            raise RunUnfinished(self.row.thread_id, self.row.run_id, "its runtime is being drained")

        call.is_held = True
        try:
            await anyio.sleep_forever()
        finally:
            call.is_held = False

    async def back_off(self, seconds: float) -> None:
        """Wait before the next attempt of a call; not where it would execute nothing."""
        await anyio.sleep(seconds if self.gate is None or self.gate.opens else 0)

    def progress(self) -> Progress:
        """What executes now, and how many calls did."""
        ids = self.executing.keys() - self._queued
        names = [call_id.partition(":")[0] for call_id in ids]
        counts = self.counts
        return Progress(names, counts.executed, counts.replayed, counts.failed, counts.retried)

    def later_attempts(self) -> dict[str, int]:
        """The attempts under way that are not the first of their call, by its id."""
        bodies = ((call.id, call.body) for call in self.executing.values())
        return {name: body.attempt for name, body in bodies if body and body.attempt > 1}

    def executing_in(self, frame: Frame[Any]) -> list[Executing]:
        """The calls made by one body that execute now."""
        return [call for call in self.executing.values() if call.frame is frame]

    async def end_strays(self, frame: Frame[Any] | None = None) -> None:
        """Cancel, and wait for, calls that user code left executing; keep a warning about them.

        Those of one body, or all of them where ``frame`` is None.
        """
        cancelled: set[str] = set()
        interruption: BaseException | None = None
        while strays := self.executing_in(frame) if frame else list(self.executing.values()):
            if not cancelled and not self.unwinding:
                ids = [call.id for call in strays]
                self._notices.keep_strays(ids, frame.call_id if frame else None)
            self._stray_ended = Latch()
            for call in strays:
                if call.id not in cancelled:
                    cancelled.add(call.id)
                    call.cancel()
            try:
                await uninterrupted(self._stray_ended)
            except BaseException as error:
                interruption = error
        self._stray_ended = None
        if interruption is not None:
            raise interruption

    async def check_open(self, frame: Frame[Any]) -> None:
        """Raise what keeps a call from starting here: a failed commit, or a cancellation."""
        row = self.row
        if self.unwinding or frame.interruption is not None:
            frame.is_cut_off = True
            await anyio.lowlevel.checkpoint_if_cancelled()
            if self._scheduler.loop.is_asyncio:
                raise asyncio.CancelledError(f"run {row.run_id!r} is being unwound")
            # Behind a shield trio has no cancellation to raise.
            raise RuntimeError(f"run {row.run_id!r} is being unwound: no call starts any more")
        if self.broken is not None:
            raise again(self.broken)
        if self.has_ended or frame.has_ended:
            raise RuntimeError(
                f"a call belongs to the body in which it was made: {frame.call_id or 'the run'} "
                f"on thread {row.thread_id!r} has ended"
            )

    def break_off(self, error: BaseException) -> None:
        """A commit has failed: nothing more may start, and the run cannot succeed."""
        if self.broken is None:
            self.broken = error
            self.is_open = False
        if isinstance(error, LeaseLost | RunCancelled):
            self.unwind()

    def damaged(self, task_id: str, reason: str) -> CheckpointCorrupt:
        """The error to raise for a damaged row, which breaks the run off."""
        place = self.row.thread_id, self.row.run_id, task_id, reason
        self.break_off(CheckpointCorrupt(*place))
        return CheckpointCorrupt(*place)

    def unwind(self) -> None:
        """Cancel everything that executes in this run."""
        if self.interrupt is not None:
            self.stop()
            self.interrupt()

    def stop(self) -> None:
        """Everything that executes is being cancelled: nothing more may start."""
        self.unwinding = True
        self.is_open = False

    def close(self) -> None:
        """The run's body has ended: nothing more may start."""
        self.has_ended = True
        self.is_open = False


def again(error: BaseException) -> BaseException:
    """A copy of an error that was raised before, to be raised by another caller."""
    return failures.copied(error)
