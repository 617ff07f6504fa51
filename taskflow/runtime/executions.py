"""One run of a workflow in the hands of this runtime, and who waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import Context, copy_context
from typing import Any, Final, Generic, Protocol, TypeVar

import anyio
from msgspec import structs

from taskflow.calls.attempts import attempt_all
from taskflow.calls.workflows import Workflow
from taskflow.errors import (
    CheckpointCorrupt,
    HistoryMismatch,
    LeaseLost,
    RunCancelled,
    RunPaused,
    RunSetAside,
    RunUnfinished,
    StoreError,
    TaskflowError,
    ThreadBusy,
)
from taskflow.loops.cancellation import Interruptible
from taskflow.loops.clocks import Alarm, Clock
from taskflow.loops.promises import Latch, uninterrupted
from taskflow.records import RunStatus, Wait
from taskflow.runs.activity import again
from taskflow.runs.contests import Stake
from taskflow.runs.feeds import Feed, Feeds
from taskflow.runs.frame import FRAME, Frame
from taskflow.runs.journal import Journal
from taskflow.runs.run import Run
from taskflow.stores.batches import Claim, Claimed, Finish, Sent, Signal
from taskflow.stores.rows import RunRow
from taskflow.wire import failures
from taskflow.wire.codec import decode_waits, encode_pause

__all__ = ("Execution", "Keeper", "RunBody", "RunHandle")

T = TypeVar("T")


STORE_RETRY: Final = 1.0  # seconds after which a run is continued that the store has failed

# What has begun and is asleep need not keep a latch of its own for that.
DONE: Final = Latch()
DONE.set_result()


class Keeper(Protocol):
    """What an execution needs of the runtime that keeps it."""

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
    def spawn(self, execution: Execution) -> None: ...
    def begun(self, execution: Execution, superseded: str | None) -> None: ...
    def ended(self, execution: Execution) -> None: ...
    def fell_asleep(self, execution: Execution, due: float | None) -> None: ...
    def wake(self, execution: Execution) -> None: ...
    def given_up(self, execution: Execution) -> None: ...
    async def cancel_elsewhere(self, execution: Execution) -> None: ...
    async def waits_of(self, execution: Execution) -> list[Wait]: ...


class Execution:
    """Claims a run, executes its workflow, and ends, pauses or releases the run.

    Equal calls join it; when the last of those who wait is cancelled, so is the execution. Who
    waits is *patient* or not: the others are told when the run pauses. While somebody patient waits
    for a paused run, the execution is *asleep*: nothing is kept but this object until it is woken.
    """

    __slots__ = (
        "_attempts",
        "_body",
        "_busy",
        "_context",
        "_cut_off_until",
        "_error",
        "_error_was_raised",
        "_final",
        "_keeper",
        "_mark",
        "_pause",
        "_payload",
        "_run",
        "_unwinding",
        "_waits_for",
        "alarm",
        "begun",
        "claim",
        "ended",
        "epoch",
        "is_asleep",
        "is_automatic",
        "is_awaited",
        "is_elsewhere",
        "is_needed",
        "is_woken",
        "patient",
        "round_over",
        "run_id",
        "status",
        "task",
        "waiters",
        "workflow",
    )

    def __init__(self, claim: Claim, workflow: Workflow[..., Any, Any], keeper: Keeper) -> None:
        self.claim = claim
        self.workflow = workflow
        self.waiters = 0
        self.patient = 0  # of those
        self.begun = Latch()  # the run is ours, or answered, or refused
        self.ended = Latch()
        self.round_over: Latch | None = Latch()  # it has ended, or paused; None while asleep
        self.run_id = claim.run_id
        self.epoch = 0
        self.status = RunStatus.RUNNING
        self.task: object = None  # what executes `main`
        self.alarm: Alarm | None = None  # while asleep: when the first of its waits is over
        self.is_asleep = False
        self.is_woken = False  # while it is being paused: it is to go on at once
        self.is_automatic = False  # nobody asked for this round but its signal, time or recovery
        self.is_awaited = False  # somebody has asked for its result
        self.is_needed = False  # code of another run has waited for it
        self.is_elsewhere = False  # while asleep: somebody else has woken it
        self._context: Context = copy_context()  # the first caller's, but for the run it is in
        self._context.run(FRAME.set, None)
        self._waits_for: list[Execution] | None = None  # those that its own body waits for
        self._keeper = keeper
        self._payload: bytes | None = None
        self._error: BaseException | None = None
        self._error_was_raised = False
        self._run: Run | None = None
        self._body: Interruptible | None = None  # while the workflow executes
        self._pause: list[Wait] | None = None  # what it is paused for
        self._busy: ThreadBusy | None = None  # somebody else has woken it
        self._attempts: dict[str, int] = {}  # of the calls that were cut off by that
        self._mark = 0  # how much had happened when it was decided to pause
        self._unwinding = False
        self._final = False
        self._cut_off_until: float | None = None  # the first deadline that was open then

    @property
    def thread_id(self) -> str:
        """The thread that it is about."""
        return self.claim.thread_id

    @property
    def run(self) -> Run | None:
        """The run, once it is ours."""
        return self._run

    @property
    def error(self) -> BaseException | None:
        """What it has ended with, if that is an error."""
        return self._error

    @property
    def context(self) -> Context:
        """The context to execute in."""
        return self._context.copy()

    @property
    def is_unwinding(self) -> bool:
        """Whether it was cancelled: who comes now waits for its end, and continues the run."""
        return self._unwinding and self._pause is None

    def is_over(self, *, patient: bool) -> bool:
        """Whether it has ended, or, for one who is not patient, has paused."""
        return self.ended.done() or (not patient and self.is_asleep)

    def answers(self, claim: Claim) -> bool:
        """Whether ``claim`` asks for what is executed here."""
        same_run = claim.run_id is None or claim.run_id == self.run_id
        return same_run and claim.fingerprint == self.claim.fingerprint

    def executes(self, row: RunRow) -> bool:
        """Whether that is its run, which others may have ended or deleted by now."""
        return self._run is None or self._run.row.number == row.number

    def leads_to(self, other: Execution) -> bool:
        """Whether its body waits for ``other``, by however many steps, or is it."""
        return self is other or any(each.leads_to(other) for each in self._waits_for or ())

    def leads_to_caller(self) -> bool:
        """Whether the current code belongs to this execution, or to one that it waits for."""
        frame = FRAME.get()
        waiting = None if frame is None else frame.run.execution
        return isinstance(waiting, Execution) and self.leads_to(waiting)

    async def wait(self, *, patient: bool = True) -> Any:
        """The workflow's result, decoded anew for each who waits.

        A cancelled waiter leaves; the last one stays until the execution has been unwound. Raises
        RunPaused where it pauses and the waiter is not patient, and ThreadBusy where the waiter is
        code of a run that this one waits for.
        """
        frame = FRAME.get()
        waiting = None if frame is None else frame.run.execution
        if not isinstance(waiting, Execution):
            return await self._wait(patient)
        if self.leads_to(waiting):
            raise ThreadBusy(self.thread_id, "the run would wait for itself")
        self.is_needed = True
        if waiting._waits_for is None:
            waiting._waits_for = []
        waiting._waits_for.append(self)
        assert frame is not None
        frame.give_slot_back()
        try:
            outcome = await self._wait(patient)
        except Exception:
            await frame.regain_slot()
            raise
        finally:
            waiting._waits_for.remove(self)
        await frame.regain_slot()
        return outcome

    async def _wait(self, patient: bool) -> Any:
        self.join(patient=patient)
        self.is_awaited = True
        if self.is_asleep and not patient:
            self.waiters -= 1
            waits = await self._keeper.waits_of(self)
            raise RunPaused(self.thread_id, self.run_id or "", waits)
        # Who is not patient hears of the pause, though the run may go on by then.
        over = self.ended if patient or self.round_over is None else self.round_over
        try:
            await over.settled()
        except BaseException:
            await self.leave(patient=patient)
            raise
        self.waiters -= 1
        self.patient -= patient
        if over.error is not None:
            raise again(over.error)
        return self.outcome()

    def join(self, *, patient: bool) -> None:
        """Become somebody who waits."""
        self.waiters += 1
        self.patient += patient

    async def leave(self, *, patient: bool) -> None:
        """Wait no more; the last one unwinds the execution."""
        self.waiters -= 1
        self.patient -= patient
        if self.waiters or self.ended.done():
            return
        if self.is_asleep:
            self._keeper.given_up(self)
            return
        self.cancel()
        if self.round_over is not None:
            with contextlib.suppress(TaskflowError):  # who goes away need not hear how it ended
                await uninterrupted(self.round_over)

    async def wait_begun(self, *, patient: bool = True) -> None:
        """Become one who waits, once the run is ours or answered.

        Raises why the claim was turned down.
        """
        self.join(patient=patient)
        try:
            await self.begun.wait()
        except BaseException:
            self.waiters -= 1
            self.patient -= patient
            if self.waiters == 0 and not self.ended.done():
                self.cancel()
            raise
        if self.ended.done() and self._run is None:
            self.outcome()

    def outcome(self) -> Any:
        """What the execution came to, once it has ended."""
        if self._run is not None:
            self._run.notices.warn()
        if self._error is not None:
            if self._error_was_raised:
                raise again(self._error)
            self._error_was_raised = True
            raise self._error
        assert self._payload is not None
        return self.workflow.codec.decode(self._payload)

    def cancel(self, *, final: bool = False) -> None:
        """Unwind it; with ``final`` the run is over for good, else anybody may continue it."""
        self._final = self._final or final
        if self.is_asleep:
            self.end(self._interrupted())
        else:
            self._interrupt()

    @property
    def is_released(self) -> bool:
        """Whether it was cut off, and anybody may continue the run."""
        open_statuses = (RunStatus.RUNNING, RunStatus.PAUSED)
        return self.ended.done() and self.run_id is not None and self.status in open_statuses

    async def cancel_released(self) -> None:
        """End a run for good that nobody executes here. Raises StoreError."""
        await self._keeper.cancel_elsewhere(self)

    def pause(self) -> None:
        """Unwind it until a signal or a time comes: it is idle, and waits for nothing else."""
        run = self._run
        if run is not None and not self._unwinding and self._body is not None:
            self._pause = list(run.waiting.waits.values())
            self._attempts = run.later_attempts()
            self._mark = run.activity.counts.executed + run.signals.inbox.changes
            self._interrupt()

    def wake(self) -> None:
        """Go on with a paused run."""
        if not self.is_asleep:
            self.is_woken = True
            return
        self.is_asleep = self.is_woken = self.is_elsewhere = False
        self.set_alarm(None)
        self.claim = structs.replace(
            self.claim,
            run_id=self.run_id,
            now=self._keeper.clock.now(),
            supersede=False,
            epoch=None,
            takes_over=False,
            continues=True,
        )
        self.round_over = self.round_over or Latch()
        self._unwinding = False
        self._pause = self._cut_off_until = None
        self._keeper.spawn(self)

    def ring(self) -> None:
        """The first of its waits is over."""
        self._keeper.wake(self)

    def set_alarm(self, alarm: Alarm | None) -> None:
        """Have this alarm, or none, in place of the one that was set."""
        if self.alarm is not None:
            self.alarm.cancel()
        self.alarm = alarm

    def deliver(self, signal: Signal, sent: Sent) -> None:
        """A signal has been sent to the run in this process."""
        if self.is_asleep:
            self._keeper.wake(self)
            return
        run = self._run
        if run is None or sent.run_id != run.run_id or not self.begun.done():
            self.is_woken = True
        else:
            run.signals.deliver(signal, sent)
        if self._pause is not None:
            self.is_woken = True

    def look_for_signals(self) -> None:
        """Others have sent signals to the run."""
        if self.is_asleep:
            self._keeper.wake(self)
        elif self._run is None or self._pause is not None:
            self.is_woken = True
        else:
            self._run.signals.spawn_look()

    def retry_time(self, now: float, takeovers: int = 0) -> float | None:
        """When to continue what the store has failed, if nobody is there to run it again."""
        if not (self.is_automatic or self.patient):
            return None
        return now + STORE_RETRY * 2.0**takeovers  # the store may be well again by then

    def answer(self, payload: bytes) -> None:
        """It has succeeded elsewhere."""
        self.is_asleep = False
        self.set_alarm(None)
        self._payload = payload
        self.status = RunStatus.SUCCESS
        self._keeper.ended(self)
        self._tell_success()
        self._tell_end()

    def end(self, error: BaseException) -> None:
        """It has ended, as far as this runtime is concerned, without being executed again."""
        self.is_asleep = False
        self.set_alarm(None)
        self._fail(error)
        self._keeper.ended(self)
        if (feed := self._feed) is not None and isinstance(error, RunCancelled):
            feed.run_cancelled(self.run_id or "", self.workflow.name, True)
        self._tell_end()

    async def main(self) -> None:
        """Execute it all; what it came to is kept, not raised, but what ends the process."""
        try:
            await self._main()
        except BaseException as error:
            self._fail(error)
        finally:
            if self._is_paused():
                self._fall_asleep_or_end()
            else:
                if self._error is None and self._payload is None:
                    self._error = self._interrupted()
                self._keeper.ended(self)
                self._tell_end()
        is_unheard = not self.is_awaited and isinstance(self.task, asyncio.Task)
        if is_unheard and isinstance(self._error, KeyboardInterrupt | SystemExit):
            raise self._error  # as any task of asyncio does: it ends the process

    def abandon(self) -> None:
        """What executes it has ended: asyncio may cancel a task before its first step."""
        if not self.ended.done() and not self.is_asleep:
            self._error = self._error or self._interrupted()
            self._keeper.ended(self)
            self._tell_end()

    def _tell_end(self) -> None:
        if (run := self._run) is not None:
            run.detach()
        for latch in (self.begun, self.ended, self.round_over):
            if latch is not None and not latch.done():
                latch.set_result()
        self._keeper.feeds.wake(self.thread_id)

    def _is_paused(self) -> bool:
        return self._error is None and self._payload is None and self.status == RunStatus.PAUSED

    def _fall_asleep_or_end(self) -> None:
        """The run is paused: whoever is not patient is told so, and the others wait on."""
        run, waits = self._run, self._pause or []
        self._run = self._pause = self.task = None
        if run is not None:
            run.notices.log()
        is_ending = self._keeper.is_ending
        if ((self.is_woken and self.waiters) or self._final) and not is_ending:
            self.is_asleep = True
            self.wake()
            return
        paused: TaskflowError | None = None
        if self.waiters > self.patient or not self.patient or is_ending:
            paused = self._busy or RunPaused(self.thread_id, self.run_id or "", waits)
        self._busy = None
        if not self.patient or is_ending:
            if self.round_over is not None and paused is not None:
                self.round_over.set_exception(paused)
            self._error = self._interrupted() if self.patient else paused
            self._keeper.ended(self)
            self._tell_end()
            return
        self.is_asleep = True
        round_over, self.round_over = self.round_over, None
        deadlines = (each.deadline for each in waits if each.deadline is not None)
        self._keeper.fell_asleep(self, min(deadlines, default=None))
        if round_over is not None and paused is not None:
            round_over.set_exception(paused)
        elif round_over is not None:
            round_over.set_result()
        if not self.begun.done():
            self.begun.set_result()
        self.begun = DONE

    def _interrupt(self) -> None:
        self._unwinding = True
        if self._run is not None:
            # Its timers ring for whoever recovers, as they do once it is paused.
            deadlines = (each.deadline for each in self._run.waiting.waits.values())
            known = (each for each in deadlines if each is not None)
            self._cut_off_until = min(known, default=self._cut_off_until)
            self._run.activity.stop()
        if self._body is not None:
            self._body.cancel()

    @property
    def _feed(self) -> Feed | None:
        return self._keeper.feeds.threads.get(self.thread_id)

    async def _main(self) -> None:
        latch, answer = self._keeper.journal.claim(self.claim)
        try:
            await self._wait_for(latch)
        except ThreadBusy as error:
            if self.status != RunStatus.PAUSED:
                raise
            if self._final:
                await self._keeper.cancel_elsewhere(self)
                raise RunCancelled(self.thread_id, self.run_id or "") from None
            # Somebody else has woken it: here it sleeps on until that has come to an end.
            self._busy = error
            self.is_elsewhere = True
            return
        (claimed,) = answer
        self.run_id = claimed.row.run_id
        self.epoch = claimed.row.epoch
        if claimed.is_answer:
            self._payload = claimed.row.result
            self.status = RunStatus.SUCCESS
            self._tell_success()
            return
        self.status = RunStatus.RUNNING
        run = self._run = self._keeper.open_run(claimed)
        run.attach(self._interrupt, self.pause, self)
        self._unwinding = self._unwinding or self._final
        if self._unwinding:
            run.activity.stop()
        self._keeper.begun(self, claimed.superseded)
        if not self.begun.done():
            self.begun.set_result()
        if (feed := self._feed) is not None:
            feed.run_started(run.row)
        finish = Finish(run.key, RunStatus.RUNNING, self._keeper.clock.now())
        body = run.scheduler.loop.interruptible()
        try:
            with body:
                if not self._unwinding:
                    self._body = body
                    if not claimed.is_new:
                        await run.load()
                    if self.is_woken:  # by a signal that came between the claim and now
                        self.is_woken = False
                        await run.signals.look()
                    finish = await self._execute(run)
        except BaseException as error:
            if not isinstance(error, Exception):
                run.activity.stop()
            self._error = error
        self._body = None
        await self._conclude(run, finish)

    async def _wait_for(self, latch: Latch) -> None:
        """Wait for a commit that no cancellation may cut off; raise what it was broken with."""
        try:
            await uninterrupted(latch)
        except asyncio.CancelledError:
            # From outside: asyncio.run() cancels every task when its main has ended.
            self._unwinding = True
        if latch.error is not None:
            raise latch.error

    async def _execute(self, run: Run) -> Finish:
        """Execute the workflow's body; how the run ends by it."""
        workflow = self.workflow
        if run.row.takeovers > self._keeper.max_takeovers:
            error = RunSetAside(run.thread_id, run.run_id, run.row.takeovers - 1)
            self._error = error
            payload = failures.record(error).encode()
            return Finish(run.key, RunStatus.ERROR, self._keeper.clock.now(), error=payload)
        if run.row.epoch > 1:  # another version of the code may have begun it
            workflow.check_parameters(run.row.input)
        args, kwargs = workflow.decode_input(run.row.input)
        root = run.root()
        outcome = await attempt_all(RunBody(workflow, root.digest, args, kwargs), root)
        now = self._keeper.clock.now()
        if outcome.failure is not None:
            assert outcome.error is not None
            self._error = outcome.error
            failures.drop_mark(outcome.error)
            return Finish(
                run.key,
                RunStatus.ERROR,
                now,
                error=outcome.payload,
                unrecord=tuple(outcome.failure.ended_by),
            )
        self._payload = outcome.payload
        return Finish(run.key, RunStatus.SUCCESS, now, result=outcome.payload, saved=run.saved)

    async def _conclude(self, run: Run, finish: Finish) -> None:
        """End everything that still executes, then have the end of the run committed."""
        with contextlib.suppress(asyncio.CancelledError):
            await run.conclude()
        now = self._keeper.clock.now()
        # Who was cut off because the runtime ends is continued by whoever recovers.
        due = 0.0 if self._keeper.is_ending else self._cut_off_until
        release = Finish(run.key, RunStatus.RUNNING, now, due=due)
        if self._final:
            finish = Finish(run.key, RunStatus.CANCELLED, now)
            self._fail(RunCancelled(run.thread_id, run.run_id))
        elif run.broken is not None:
            finish = self._interruption(run, run.broken, release)
            self._fail(run.broken)
        elif self._pause is not None:
            self._payload = self._error = None
            # Something it waited for has come while it was being unwound.
            has_changed = run.activity.counts.executed + run.signals.inbox.changes > self._mark
            self.is_woken = self.is_woken or has_changed or run.signals.is_looking
            finish = self._paused(run, now)
        elif self._unwinding or run.unwinding:
            finish = release
            self._payload = None
            if self._error is None or isinstance(self._error, asyncio.CancelledError | Exception):
                self._fail(self._interrupted())
        elif finish.status == RunStatus.RUNNING and self._error is not None:
            finish = self._interruption(run, self._error, release)
        try:
            await self._wait_for(self._keeper.journal.finish(finish))
        except TaskflowError as error:
            self.status = RunStatus.RUNNING  # it was to be cancelled, maybe
            self._fail(run.broken or error)
            if finish is not release and isinstance(error, StoreError):
                # The store may take less than it was given: let others continue the run.
                release = self._interruption(run, error, release)
                with contextlib.suppress(TaskflowError):
                    await self._wait_for(self._keeper.journal.finish(release))
            self._tell_unfinished(run, final=False)
            return
        self.status = RunStatus(finish.status)
        if finish.status == RunStatus.SUCCESS:
            run.report_drift()
            self._tell_success()
        elif (feed := self._feed) is None:
            pass
        elif finish.status == RunStatus.ERROR:
            feed.run_failed(run.run_id, self.workflow.name, failures.describe(finish.error or b""))
        elif finish.status == RunStatus.PAUSED:
            feed.run_paused(run.run_id, self.workflow.name, self._pause or [])
        else:
            self._tell_unfinished(run, final=finish.status == RunStatus.CANCELLED)

    def _interruption(self, run: Run, error: BaseException, release: Finish) -> Finish:
        """How an execution ends that ``error`` has cut off, which is not the workflow's own."""
        if isinstance(error, StoreError) and not isinstance(error, CheckpointCorrupt):
            takeovers = run.row.takeovers
            due = self.retry_time(release.now, takeovers)
            if due is None:
                return release
            return structs.replace(release, due=due, takeovers=takeovers)
        if isinstance(error, LeaseLost | RunCancelled) or not isinstance(error, Exception):
            return release
        if self.is_automatic:  # it would be tried again and again, with the same result
            payload = failures.record(error).encode()
            return structs.replace(release, status=RunStatus.ERROR, error=payload, due=None)
        if run.waiting.pause_before is not None and not run.activity.counts.executed:
            # It was paused, and the code or the input does not fit it: so it stays.
            deadlines = (each.deadline for each in decode_waits(run.waiting.pause_before))
            return structs.replace(
                release,
                status=RunStatus.PAUSED,
                waits=run.waiting.pause_before,
                due=min((each for each in deadlines if each is not None), default=None),
                last_signal=run.signals.inbox.latest,
            )
        if isinstance(error, HistoryMismatch | CheckpointCorrupt):
            return release
        # What the workflow is given or gives cannot be recorded: it has failed, before or after.
        payload = failures.record(error).encode()
        return structs.replace(release, status=RunStatus.ERROR, error=payload, due=None)

    def _paused(self, run: Run, now: float) -> Finish:
        waits = self._pause or []
        deadlines = (each.deadline for each in waits if each.deadline is not None)
        return Finish(
            run.key,
            RunStatus.PAUSED,
            now,
            waits=encode_pause(waits, self._attempts),
            due=0.0 if self.is_woken else min(deadlines, default=None),
            last_signal=run.signals.inbox.latest,
        )

    def _tell_success(self) -> None:
        feed = self._feed
        if feed is not None and self._payload is not None:
            feed.run_completed(self.run_id or "", self.workflow.name, self._payload)

    def _tell_unfinished(self, run: Run, *, final: bool) -> None:
        if (feed := self._feed) is not None:
            feed.run_cancelled(run.run_id, self.workflow.name, final)

    def _interrupted(self) -> RunUnfinished:
        """What those hear who still wait for a run that was unwound."""
        return RunUnfinished(
            self.thread_id,
            self.run_id or "",
            "it was interrupted, as its runtime was closed or drained; run it again to continue",
        )

    def _fail(self, error: BaseException) -> None:
        self._payload = None
        self._error = error
        if isinstance(error, RunCancelled):
            self.status = RunStatus.CANCELLED


class RunBody:
    """The run's own body, as something to be attempted."""

    id: str | None = None
    stake: Stake | None = None
    is_held = False
    is_behind = False

    def __init__(
        self,
        workflow: Workflow[..., Any, Any],
        digest: bytes,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.definition = workflow
        self.digest = digest
        self.args = args
        self.kwargs = kwargs
        self.body: Frame[Run] | None = None


class RunHandle(Generic[T]):
    """A run that was started: to wait for, to look at, to cancel."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @property
    def thread_id(self) -> str:
        """The thread that it runs on."""
        return self._execution.thread_id

    @property
    def run_id(self) -> str:
        """The run's id, on that thread."""
        return self._execution.run_id or ""

    @property
    def status(self) -> RunStatus:
        """How far it is, as far as this runtime knows."""
        return self._execution.status

    async def result(self) -> T:
        """Wait for the result, through pauses. Raises what the workflow raised, or RunCancelled."""
        return await self._execution.wait()  # type: ignore[no-any-return]

    async def cancel(self) -> None:
        """End the run for good, and wait until nothing of it executes any more.

        Raises StoreError.
        """
        execution = self._execution
        if not execution.is_asleep and not execution.ended.done():
            execution.cancel(final=True)
            if execution.leads_to_caller():
                await anyio.sleep_forever()  # which the cancellation ends: this is code of that run
            await uninterrupted(execution.ended)
        # Also where the end could not be recorded, or somebody else has taken the run over.
        if execution.is_asleep or execution.is_released:
            await execution.cancel_released()
