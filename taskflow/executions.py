"""One run of a workflow while this runtime executes it, and who waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import anyio

from taskflow import failures
from taskflow.attempts import attempt_all
from taskflow.cancellation import Interruptible
from taskflow.errors import (
    RunCancelled,
    RunUnfinished,
    StoreError,
    TaskflowError,
    ThreadBusy,
)
from taskflow.journal import Journal
from taskflow.promises import Latch, uninterrupted
from taskflow.records import Claim, Claimed, Finish, RunStatus
from taskflow.runs import FRAME, Run, again
from taskflow.workflows import Workflow

__all__ = ("Execution", "RunHandle")

T = TypeVar("T")


class Execution:
    """Claims a run, executes its workflow, and ends or releases the run.

    Equal calls join it; when the last of those who wait is cancelled, so is the execution.
    """

    def __init__(
        self,
        claim: Claim,
        workflow: Workflow[..., Any, Any],
        journal: Journal,
        open_run: Callable[[Claimed], Run],
    ) -> None:
        self.claim = claim
        self.workflow = workflow
        self.waiters = 0
        self.waits_for: list[Execution] = []  # those that its own body waits for
        self.begun = Latch()  # the run is ours, or answered, or refused
        self.ended = Latch()
        self.run_id = claim.run_id
        self.status = RunStatus.RUNNING
        self._journal = journal
        self._open_run = open_run
        self.task: object = None  # what executes `main`
        self.when_ended: Callable[[], object] = lambda: None  # before anybody is told
        self._payload: bytes | None = None
        self._error: BaseException | None = None
        self._error_was_raised = False
        self._run: Run | None = None
        self._body: Interruptible | None = None  # while the workflow executes
        self._unwinding = False
        self._final = False

    @property
    def run(self) -> Run | None:
        """The run, once it is ours."""
        return self._run

    @property
    def is_unwinding(self) -> bool:
        """Whether it was cancelled: who comes now waits for its end, and continues the run."""
        return self._unwinding

    def answers(self, claim: Claim) -> bool:
        """Whether ``claim`` asks for what is executed here."""
        same_run = claim.run_id is None or claim.run_id == self.run_id
        return same_run and claim.fingerprint == self.claim.fingerprint

    def leads_to(self, other: Execution) -> bool:
        """Whether its body waits for ``other``, by however many steps, or is it."""
        return self is other or any(each.leads_to(other) for each in self.waits_for)

    async def wait(self) -> Any:
        """The workflow's result, decoded anew for each who waits.

        A cancelled waiter leaves; the last one stays until the execution has been unwound. Raises
        ThreadBusy where the waiter is code of a run that this one waits for.
        """
        frame = FRAME.get()
        waiting = None if frame is None else frame.run.execution
        if isinstance(waiting, Execution):
            if self.leads_to(waiting):
                raise ThreadBusy(self.claim.thread_id, "the run would wait for itself")
            waiting.waits_for.append(self)
        try:
            return await self._wait()
        finally:
            if isinstance(waiting, Execution):
                waiting.waits_for.remove(self)

    def leads_to_caller(self) -> bool:
        """Whether the current code belongs to this execution, or to one that it waits for."""
        frame = FRAME.get()
        waiting = None if frame is None else frame.run.execution
        return isinstance(waiting, Execution) and self.leads_to(waiting)

    async def _wait(self) -> Any:
        self.waiters += 1
        try:
            await self.ended.wait()
        except BaseException:
            self.waiters -= 1
            if self.waiters == 0 and not self.ended.done():
                self.cancel()
                await uninterrupted(self.ended)
            raise
        self.waiters -= 1
        return self.outcome()

    async def wait_begun(self) -> None:
        """Become a waiter until the runtime closes, once the run is ours or answered.

        Raises why the claim was turned down.
        """
        self.waiters += 1
        try:
            await self.begun.wait()
        except BaseException:
            self.waiters -= 1
            if self.waiters == 0 and not self.ended.done():
                self.cancel()
            raise
        if self.ended.done() and self._run is None:
            self.outcome()

    def outcome(self) -> Any:
        """What the execution came to, once it has ended."""
        if self._run is not None:
            self._run.warn()
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
        self._interrupt()

    def _interrupt(self) -> None:
        self._unwinding = True
        if self._run is not None:
            self._run.unwinding = True
        if self._body is not None:
            self._body.cancel()

    async def main(self) -> None:
        """Execute it all; what it came to is kept, never raised."""
        try:
            await self._main()
        except BaseException as error:
            self._fail(error)
        finally:
            if self._error is None and self._payload is None:
                self._error = self._interrupted()
            self.when_ended()
            if not self.begun.done():
                self.begun.set_result()
            self.ended.set_result()

    def abandon(self) -> None:
        """What executes it has ended: asyncio may cancel a task before its first step."""
        if not self.ended.done():
            self._error = self._error or self._interrupted()
            self.when_ended()
            self.begun.set_result()
            self.ended.set_result()

    async def _main(self) -> None:
        latch, answer = self._journal.claim(self.claim)
        await self._wait_for(latch)
        (claimed,) = answer
        self.run_id = claimed.row.run_id
        if claimed.is_answer:
            self._payload = claimed.row.result
            self.status = RunStatus.SUCCESS
            return
        run = self._run = self._open_run(claimed)
        run.interrupt = self._interrupt
        run.execution = self
        run.unwinding = self._unwinding
        self.begun.set_result()
        finish = Finish(run.key, RunStatus.RUNNING, time.time())
        body = run.scheduler.loop.interruptible()
        try:
            with body:
                if not self._unwinding:
                    self._body = body
                    if not claimed.is_new:
                        await run.load()
                    finish = await self._execute(run)
        except BaseException as error:
            run.unwinding = run.unwinding or not isinstance(error, Exception)
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
        args, kwargs = workflow.decode_input(run.row.input)
        root = run.root()
        outcome = await attempt_all(_Body(workflow, root.digest, args, kwargs), root)
        if outcome.failure is not None:
            assert outcome.error is not None
            self._error = outcome.error
            failures.drop_mark(outcome.error)
            return Finish(
                run.key,
                RunStatus.ERROR,
                time.time(),
                error=outcome.payload,
                unrecord=tuple(outcome.failure.ended_by),
            )
        self._payload = outcome.payload
        return Finish(
            run.key, RunStatus.SUCCESS, time.time(), result=outcome.payload, saved=run.saved
        )

    async def _conclude(self, run: Run, finish: Finish) -> None:
        """End everything that still executes, then have the end of the run committed."""
        with contextlib.suppress(asyncio.CancelledError):
            await run.end_strays()
        run.has_ended = True
        release = Finish(run.key, RunStatus.RUNNING, time.time())
        if self._final:
            finish = Finish(run.key, RunStatus.CANCELLED, time.time())
            self._fail(RunCancelled(run.thread_id, run.run_id))
        elif run.broken is not None:
            finish = release
            self._fail(run.broken)
        elif self._unwinding or run.unwinding:
            finish = release
            self._payload = None
            if self._error is None or isinstance(self._error, asyncio.CancelledError | Exception):
                self._fail(self._interrupted())
        run.flush()
        try:
            await self._wait_for(self._journal.finish(finish))
        except TaskflowError as error:
            self._fail(run.broken or error)
            if finish is not release and isinstance(error, StoreError):
                # The store may take less than it was given: let others continue the run.
                with contextlib.suppress(TaskflowError):
                    await self._wait_for(self._journal.finish(release))
            return
        self.status = RunStatus(finish.status)
        if finish.status == RunStatus.SUCCESS:
            run.report_drift()

    def _interrupted(self) -> RunUnfinished:
        """What those hear who still wait for a run that was unwound."""
        return RunUnfinished(
            self.claim.thread_id,
            self.run_id or "",
            "it was interrupted, as its runtime was closed; run it again to continue",
        )

    def _fail(self, error: BaseException) -> None:
        self._payload = None
        self._error = error
        if isinstance(error, RunCancelled):
            self.status = RunStatus.CANCELLED


class _Body:
    """The run's own body, as something to be attempted."""

    id: str | None = None

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


class RunHandle(Generic[T]):
    """A run that was started: to wait for, to look at, to cancel."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @property
    def thread_id(self) -> str:
        """The thread that it runs on."""
        return self._execution.claim.thread_id

    @property
    def run_id(self) -> str:
        """The run's id, on that thread."""
        return self._execution.run_id or ""

    @property
    def status(self) -> RunStatus:
        """How far it is, as far as this runtime knows."""
        return self._execution.status

    async def result(self) -> T:
        """Wait for the result. Raises what the workflow raised, or RunCancelled."""
        return await self._execution.wait()  # type: ignore[no-any-return]

    async def cancel(self) -> None:
        """End the run for good, and wait until nothing of it executes any more."""
        execution = self._execution
        if execution.ended.done():
            return
        execution.cancel(final=True)
        if execution.leads_to_caller():
            await anyio.sleep_forever()  # which the cancellation ends: this is code of that run
        await uninterrupted(execution.ended)
