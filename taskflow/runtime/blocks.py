"""`Block`: the tasks that are awaited in ``Runtime.thread()`` are recorded without a workflow.

The run of a block has the id ``""``. It never finishes: a block claims it, executes in its
caller's own task, and releases it, and the next block on the thread continues it.
"""

from __future__ import annotations

import contextlib
from contextvars import Token
from types import TracebackType

from taskflow.errors import StoreError, TaskflowError, ThreadBusy
from taskflow.loops.promises import uninterrupted
from taskflow.records import RunStatus
from taskflow.runs.frame import FRAME, Frame
from taskflow.runs.run import Run
from taskflow.runtime.requests import check_serving
from taskflow.runtime.services import Service
from taskflow.stores.base import BLOCK_RUN_ID
from taskflow.stores.batches import Claim, Claimed, Finish
from taskflow.stores.rows import RunKey
from taskflow.wire import failures
from taskflow.wire.identity import marked_input

__all__ = ("Block",)


class Block:
    """One ``Runtime.thread()`` block: an asynchronous context manager, entered once.

    Its thread stands in ``Registry.blocks`` from the claim until the release is committed, so no
    other block or execution begins there meanwhile.
    """

    def __init__(self, service: Service, thread_id: str) -> None:
        self._service = service
        self._thread_id = thread_id
        self._run: Run | None = None
        self._token: Token[Frame[Run] | None] | None = None

    async def __aenter__(self) -> None:
        """Claim the thread's run and record into it.

        Raises ThreadBusy, RunUnfinished, HistoryMismatch or StoreError.
        """
        self._reserve()
        try:
            claimed = await self._claim()
            run = self._run = self._service.open_run(claimed)
            self._service.registry.blocks[self._thread_id] = run
            try:
                if not claimed.is_new:
                    await run.load()
            except BaseException as error:
                await self._conclude(run, _unanswered(run, error))
                raise
            self._token = FRAME.set(run.root())
        except BaseException:
            self._give_back()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        run = self._run
        assert run is not None
        try:
            self._leave_frame()
            await self._conclude(run, _unanswered(run, error))
            if error is not None:
                return
            if run.broken is not None:
                raise run.broken
            run.notices.warn()
        finally:
            self._give_back()

    def _reserve(self) -> None:
        service, thread_id = self._service, self._thread_id
        check_serving(service, thread_id, BLOCK_RUN_ID)
        if thread_id in service.registry.blocks or thread_id in service.registry.executing:
            raise ThreadBusy(thread_id, "this runtime has it open already")
        service.registry.blocks[thread_id] = None

    def _give_back(self) -> None:
        del self._service.registry.blocks[self._thread_id]

    async def _claim(self) -> Claimed:
        service, thread_id = self._service, self._thread_id
        now = service.clock.now()
        claim = Claim(
            thread_id, BLOCK_RUN_ID, BLOCK_RUN_ID, "", marked_input(b"{}"), "", service.owner, now
        )
        latch, answer = service.journal.claim(claim)
        try:
            await uninterrupted(latch)
        except BaseException:
            if answer:  # the caller was cancelled, and the run is ours all the same
                await self._release(answer[0].row.key)
            elif isinstance(latch.error, StoreError):
                service.registry.doubt(thread_id)
            raise
        return answer[0]

    def _leave_frame(self) -> None:
        assert self._token is not None
        try:
            FRAME.reset(self._token)
        except ValueError:  # left in another context, as fixtures of pytest are
            FRAME.set(None)

    async def _conclude(self, run: Run, unrecord: tuple[str, ...]) -> None:
        """End the calls that still execute, then release the run."""
        try:
            await run.conclude()
        finally:
            with contextlib.suppress(*([TaskflowError] if run.broken else [])):
                await self._release(run.key, unrecord)
            if run.broken is not None:
                self._service.registry.doubt(self._thread_id)

    async def _release(self, key: RunKey, unrecord: tuple[str, ...] = ()) -> None:
        now = self._service.clock.now()
        release = Finish(key, RunStatus.RUNNING, now, unrecord=unrecord)
        await uninterrupted(self._service.journal.finish(release))


def _unanswered(run: Run, error: BaseException | None) -> tuple[str, ...]:
    """The ids of the recorded failures that ``error`` has carried out of the block."""
    if error is None:
        return ()
    marks = failures.marks_in(error, run.serial)
    return tuple(each for mark in marks for each in (mark.task_id, *mark.ended_by))
