"""`Request`: a claim to a run, put to this runtime until an execution answers it.

The rule: the execution of the thread in this runtime answers a claim to its run, and ThreadBusy
one to another run; where there is none, a new execution claims the run. A run that another runtime
executes is ThreadBusy, or, for a caller that waits, claimed again until it has ended or is free.
"""

from __future__ import annotations

import contextlib
from itertools import count
from typing import Any, Final

import anyio
from msgspec import structs

from taskflow.calls.workflows import Workflow
from taskflow.errors import RunUnfinished, StoreError, ThreadBusy
from taskflow.loops.promises import check_call_room
from taskflow.runtime.executions import Execution, State
from taskflow.runtime.services import Service
from taskflow.stores.batches import Claim
from taskflow.stores.claims import decide
from taskflow.stores.rows import RunRow
from taskflow.wire import failures

__all__ = ("POLL_INTERVAL", "Request", "check_serving", "opened")

POLL_INTERVAL: Final = 0.1  # seconds between looks at a run that another runtime executes


def opened(service: Service | None) -> Service:
    """The service of an open runtime.

    Raises RuntimeError where the runtime is not open, or was opened on another event loop.
    """
    if service is None or service.is_closing:
        raise RuntimeError("this Runtime is not open: use it inside 'async with Runtime(…)'")
    service.check_loop()

    return service


def check_serving(service: Service, thread_id: str, run_id: str | None) -> None:
    """Raise RunUnfinished where the runtime is being drained or closed."""
    if service.is_ending:
        raise RunUnfinished(
            thread_id, run_id or "", "this runtime is drained or closed, and begins nothing more"
        )


def _may_be_answered(execution: Execution) -> bool:
    """Whether its first claim is under way: the record of a run that has ended may answer it."""
    is_claiming = execution.state is State.CLAIMING and not execution.waiters.begun.done()
    return is_claiming and not execution.claim.fresh


class Request:
    """One caller's claim, and whether the caller waits for what another runtime executes."""

    def __init__(
        self, service: Service, claim: Claim, workflow: Workflow[..., Any, Any], *, wait: bool
    ) -> None:
        self._service = service
        self._claim = claim
        self._workflow = workflow
        self._wait = wait
        self._is_followed = False  # the claim names a run that another runtime has executed
        self._looks = count(1)

    async def result(self) -> Any:
        """The result of the run; with ``wait``, through its pauses."""
        while True:
            try:
                execution = await self._execution()
                return await execution.waiters.wait(patient=self._wait)
            except ThreadBusy as busy:  # of this claim, or of another thread that the run asks for
                if busy.thread_id != self._claim.thread_id or not self._may_follow(busy):
                    raise
                self._follow(busy, awaits=True)
            row = await self._look_again()
            if row is None or row.owner is not None or not row.error:
                continue
            if row.fingerprint == self._claim.fingerprint:
                # It executed at the look before, and has failed since: that is its result.
                raise failures.rebuild(failures.Failure.parse(row.error))

    async def begun(self, *, patient: bool) -> Execution:
        """The execution, once its run is recorded or answered; the caller is one of its waiters."""
        while True:
            try:
                execution = await self._execution()
                await execution.waiters.wait_begun(patient=patient)
                return execution
            except ThreadBusy as busy:
                if not self._may_follow(busy):
                    raise
                self._follow(busy)
            await self._look_again()

    def _may_follow(self, busy: ThreadBusy) -> bool:
        # A run of another input may have begun in place of the one that is followed.
        return self._wait and (busy.same_run or self._is_followed)

    def _follow(self, busy: ThreadBusy, *, awaits: bool = False) -> None:
        """Claim the run that another runtime executes from now on, and never a new one."""
        if not busy.same_run:
            return
        self._is_followed = True
        if busy.run_id is not None:
            self._claim = structs.replace(
                self._claim, run_id=busy.run_id, fresh=False, supersede=False, continues=True
            )
        if awaits:
            self._claim = structs.replace(self._claim, awaits=True)

    async def _look_again(self) -> RunRow | None:
        """The row of the run that another runtime executes, after a while.

        Raises RunUnfinished where this runtime is drained or closed meanwhile.
        """
        service, thread_id, run_id = self._service, self._claim.thread_id, self._claim.run_id
        await anyio.sleep(service.clock.pause(POLL_INTERVAL, next(self._looks)))
        check_serving(service, thread_id, run_id)
        try:
            row = await service.store.run(thread_id, run_id)
        except StoreError:
            check_serving(service, thread_id, run_id)  # the store was closed: it has not failed
            raise
        check_serving(service, thread_id, run_id)
        return row

    async def _execution(self) -> Execution:
        """The execution that answers the claim: one that is under way, or a new one."""
        service, claim = self._service, self._claim
        thread_id = claim.thread_id
        check_call_room()
        while True:
            opened(service)
            check_serving(service, thread_id, claim.run_id)
            execution = service.registry.executing.get(thread_id)
            if execution is None:
                break
            if execution.waiters.belong_to_caller():
                raise ThreadBusy(thread_id, "the run would wait for itself")
            if execution.cause.is_unwinding:
                await execution.waiters.ended.settled()
                continue
            if claim.fresh and _may_be_answered(execution):
                with contextlib.suppress(Exception):  # its own callers are told
                    await execution.waiters.begun.wait()
                continue
            if not execution.answers(claim):
                if (answer := await self._answer()) is not None:
                    return answer
                raise ThreadBusy(thread_id, f"it executes run {execution.run_id or ''!r} here")
            return execution
        if thread_id in service.registry.blocks:
            raise ThreadBusy(thread_id, "a Runtime.thread() block is open on it")
        asleep = service.registry.asleep.get(thread_id)
        if asleep is not None and asleep.answers(claim) and not (claim.fresh and claim.supersede):
            asleep.wake()
            return asleep
        execution = Execution(claim, self._workflow, service)
        service.registry.spawn(execution)
        return execution

    async def _answer(self) -> Execution | None:
        """An execution that answers a claim to a run that has ended for good; None for others.

        Raises RunCancelled, or HistoryMismatch for another input.
        """
        claim = self._claim
        if claim.run_id is None:
            return None
        known = await self._service.store.run(claim.thread_id, claim.run_id)
        if known is None or not known.is_final:
            return None
        decide(claim, None, known, lambda _: False)
        execution = Execution(claim, self._workflow, opened(self._service))
        execution.answer(known.verified().result or b"null")
        return execution
