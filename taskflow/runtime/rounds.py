"""One round of an execution: what exists from the claim of a run until it sleeps or ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Protocol

from taskflow.calls.workflows import Workflow
from taskflow.errors import StoreError, TaskflowError
from taskflow.loops.cancellation import Interruptible
from taskflow.loops.clocks import Clock
from taskflow.loops.promises import Latch, uninterrupted
from taskflow.records import RunStatus, Wait
from taskflow.runs.feeds import Feeds
from taskflow.runs.journal import Journal
from taskflow.runs.run import Run
from taskflow.runtime.body import Ending, execute_body
from taskflow.runtime.conclusions import Cause, Conclusion
from taskflow.runtime.waiters import Waiters
from taskflow.stores.base import Store
from taskflow.stores.batches import Claim, Claimed, Finish, Sent, Signal
from taskflow.wire.pauses import encode_pause

__all__ = ("Engine", "Pause", "Round", "earliest", "needs_answer", "released", "settled")


class Engine(Protocol):
    """What executions need of the open runtime that they execute in."""

    @property
    def store(self) -> Store: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def feeds(self) -> Feeds: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def max_takeovers(self) -> int: ...
    @property
    def is_ending(self) -> bool:
        """Whether the runtime is being drained or closed."""
        ...

    def open_run(self, claimed: Claimed) -> Run: ...


class Pause:
    """What a round is paused for, as it was when the pause was decided."""

    __slots__ = ("attempts", "mark", "waits")

    def __init__(self, run: Run) -> None:
        self.waits = list(run.waiting.waits.values())
        self.attempts = run.later_attempts()  # of the calls that the pause cuts off
        self.mark = run.activity.counts.executed + run.signals.inbox.changes

    def has_passed(self, run: Run) -> bool:
        """Whether something that it waits for has come while the run was being unwound."""
        changes = run.activity.counts.executed + run.signals.inbox.changes
        return changes > self.mark or run.signals.is_looking


class Round:
    """One way from a claim to the commit of how it ended, and why nothing more may start in it.

    A signal that comes while no body could take it (before the run is opened, or while it is being
    unwound for a pause) is *missed*: it is looked up before the body begins, and a pause that has
    missed one is over at once.
    """

    __slots__ = ("_body", "_cut_off_until", "_engine", "cause", "has_missed", "pause", "run")

    def __init__(self, engine: Engine, cause: Cause = Cause.NONE) -> None:
        self.cause = cause
        self.run: Run | None = None  # once it is claimed
        self.pause: Pause | None = None  # also where a higher cause was met after it
        self.has_missed = False  # a signal
        self._engine = engine
        self._body: Interruptible | None = None  # while the workflow executes
        self._cut_off_until: float | None = None  # the first deadline that was open then

    # Why nothing more may start.

    def stop(self, cause: Cause) -> None:
        """Let no call start any more, for ``cause`` or for a higher one that is known.

        A body that executes is cancelled; one that has not begun will not.
        """
        self.cause = max(self.cause, cause)
        if (run := self.run) is not None:
            # Its timers ring for whoever recovers, as they do once it is paused.
            first = earliest(run.waiting.waits.values())
            self._cut_off_until = self._cut_off_until if first is None else first
            run.activity.stop()
        if self._body is not None:
            self._body.cancel()

    def stop_for_pause(self) -> None:
        """Stop, as the run waits for nothing but signals and deadlines.

        Not where the body has ended meanwhile, or was stopped for another cause.
        """
        if self.run is not None and self._body is not None and self.cause is Cause.NONE:
            self.pause = Pause(self.run)
            self.stop(Cause.PAUSED)

    def lose(self) -> None:
        """Stop, as the run cannot be continued here: `Run.broken` says why."""
        self.stop(Cause.LOST)

    # Signals.

    def deliver(self, signal: Signal, sent: Sent) -> None:
        """A signal was sent to the thread's run by this process."""
        run = self.run
        if run is None or sent.run_id != run.run_id:
            self.has_missed = True
            return
        run.signals.deliver(signal, sent)
        # The pause may be committed already, without it.
        self.has_missed = self.has_missed or self.pause is not None

    def look_for_signals(self) -> None:
        """Other processes have sent signals to the run."""
        if self.run is None or self.pause is not None:
            self.has_missed = True
        else:
            self.run.signals.spawn_look()

    # The steps of a round.

    async def claim(self, claim: Claim) -> Claimed:
        """Claim the run. Raises why the claim is refused, or StoreError."""
        latch, answer = self._engine.journal.claim(claim)
        if await settled(latch):
            self.stop(Cause.CLOSING)
        return answer[0]

    def open(self, claimed: Claimed, execution: object) -> Run:
        """The run that was claimed: it can be stopped and paused from now on."""
        run = self.run = self._engine.open_run(claimed)
        run.attach(self.lose, self.stop_for_pause, execution)
        if self.cause is not Cause.NONE:
            run.activity.stop()
        return run

    async def execute(self, run: Run, workflow: Workflow[..., Any, Any], *, is_new: bool) -> Ending:
        """Execute the workflow's body until it ends or is cancelled; what it came to.

        That is a release of the run where the body has no outcome of its own.
        """
        ending = released(run)
        body = run.scheduler.loop.interruptible()
        try:
            with body:
                self._body = body
                if not is_new:
                    await run.load()
                if self.has_missed:  # a signal came between the claim and now
                    self.has_missed = False
                    await run.signals.look()
                ending = await execute_body(run, workflow, self._engine.max_takeovers)
        except BaseException as error:
            ending.error = error
            if not isinstance(error, Exception):  # it ends the task, or the process
                run.activity.stop()
                self.cause = self.cause or Cause.CLOSING
        self._body = None
        return ending

    async def conclude(
        self, run: Run, ending: Ending, waiters: Waiters, *, is_automatic: bool
    ) -> Ending:
        """End everything that still executes, and commit the end of the round; how it has ended."""
        with contextlib.suppress(asyncio.CancelledError):
            await run.conclude()
        engine = self._engine
        # A run that is cut off as the runtime ends is continued by whoever recovers.
        due = 0.0 if engine.is_ending else self._cut_off_until
        now = engine.clock.now()
        conclusion = Conclusion(run, now, due, waiters, is_automatic=is_automatic)
        if run.broken is not None:
            self.cause = max(self.cause, Cause.BROKEN)
        if self.cause is Cause.PAUSED:
            ending = self._paused(run, now)
        else:
            ending = conclusion.of(self.cause, ending)
        try:
            if await settled(engine.journal.finish(ending.finish)):
                self.stop(Cause.CLOSING)
        except TaskflowError as error:
            if ending.finish is not conclusion.release and isinstance(error, StoreError):
                # The store may take less than it was given: let others continue the run.
                with contextlib.suppress(TaskflowError):
                    await settled(engine.journal.finish(conclusion.cut_off_by(error)))
            return Ending(conclusion.release, error=run.broken or error)
        if ending.finish.status == RunStatus.SUCCESS:
            run.report_drift()
        return ending

    def _paused(self, run: Run, now: float) -> Ending:
        pause = self.pause
        assert pause is not None
        self.has_missed = self.has_missed or pause.has_passed(run)
        finish = Finish(
            run.key,
            RunStatus.PAUSED,
            now,
            waits=encode_pause(pause.waits, pause.attempts),
            due=0.0 if self.has_missed else earliest(pause.waits),
            last_signal=run.signals.inbox.latest,
        )
        return Ending(finish)

    def let_go(self) -> None:
        """The run can be stopped and paused no more: else it and the round keep each other."""
        if (run := self.run) is not None:
            run.detach()


def released(run: Run) -> Ending:
    """The end of a round whose body has come to nothing."""
    return Ending(Finish(run.key, RunStatus.RUNNING, run.scheduler.clock.now()))


def earliest(waits: Iterable[Wait]) -> float | None:
    """The first deadline of these waits, if one has any."""
    return min((each.deadline for each in waits if each.deadline is not None), default=None)


def needs_answer(waits: Iterable[Wait]) -> bool:
    """Whether one of these waits is for a signal."""
    return any(each.kind == "signal" for each in waits)


async def settled(latch: Latch) -> bool:
    """Wait for a commit that no cancellation may cut off. Raises what the latch was broken with.

    Returns whether the waiting task was cancelled from outside meanwhile, as ``asyncio.run()``
    cancels every task that is left when its main has ended.
    """
    is_cancelled = False
    try:
        await uninterrupted(latch)
    except asyncio.CancelledError:
        is_cancelled = True
    if latch.error is not None:
        raise latch.error
    return is_cancelled
