"""`Runtime`: opens a store, runs workflows on threads, and shows what is recorded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import warnings
from collections.abc import AsyncIterator, Iterable
from contextvars import copy_context
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

import anyio

from taskflow import failures
from taskflow.cache import Cache
from taskflow.codec import decode_plain
from taskflow.errors import (
    CheckpointCorrupt,
    RunNotFound,
    TaskflowError,
    ThreadBusy,
    UnknownWorkflow,
)
from taskflow.executions import Execution, RunHandle
from taskflow.identity import check_id
from taskflow.journal import Journal
from taskflow.loops import Loop, current_loop
from taskflow.promises import Latch, uninterrupted
from taskflow.records import (
    RESULT,
    CheckpointRow,
    Claim,
    Claimed,
    Durability,
    Finish,
    Progress,
    RunRecord,
    RunRow,
    RunStatus,
    TaskRecord,
    checkpoint_checksum,
    run_checksum,
)
from taskflow.runs import FRAME, Run
from taskflow.scheduler import Scheduler
from taskflow.stores.base import BLOCK_RUN_ID, Store
from taskflow.workflows import Workflow, WorkflowCall

__all__ = ("Runtime",)

T = TypeVar("T")

POLL_INTERVAL: Final = 0.1  # seconds between looks at a run that another process executes


class Runtime:
    """Ties a store to a scheduler: open one for each process, for as long as the process lives.

    ``store``: a store, or the path of a SQLite file. ``workflows``: those that `resume` may
    continue. ``max_concurrency``: how many task bodies execute at the same time. ``durability``:
    ``"sync"`` hands a task's result on after it was committed, ``"async"`` commits behind the
    caller's back, ``"exit"`` when the run ends. ``on_drift``: what to do with a rerun that asks for
    something new while it leaves out what is recorded: ``"log"`` it when the run ends, or, with
    ``"error"``, raise HistoryMismatch before anything new executes.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        *,
        workflows: Iterable[Workflow[..., Any, Any]] = (),
        max_concurrency: int = 100,
        durability: Durability = "sync",
        on_drift: Literal["log", "error"] = "log",
    ) -> None:
        workflows = list(workflows)
        for each in workflows:
            if not isinstance(each, Workflow):
                raise TypeError(f"workflows= takes workflows, got {each!r}")
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, got {max_concurrency}")
        if durability not in ("sync", "async", "exit"):
            raise ValueError(f'durability is "sync", "async" or "exit", got {durability!r}')
        if on_drift not in ("log", "error"):
            raise ValueError(f'on_drift is "log" or "error", got {on_drift!r}')
        self._store = _store(store)
        self._workflows = {each.name: each for each in workflows}
        self._max_concurrency = max_concurrency
        self._durability: Durability = durability
        self._on_drift: Literal["log", "error"] = on_drift
        self._executions: dict[str, Execution] = {}
        self._blocks: set[str] = set()
        self._service: _Service | None = None

    async def __aenter__(self) -> Runtime:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def open(self) -> Runtime:
        """Open the store and begin to serve; `aclose` may be called from another task.

        Raises StoreError, or RuntimeError if it is open already.
        """
        if self._service is not None:
            raise RuntimeError("this Runtime is open already")

        service = self._service = _Service(self._store, self._max_concurrency, self._executions)
        try:
            await service.begin()
        except BaseException:
            self._service = None
            raise
        return self

    async def aclose(self) -> None:
        """Cancel what still executes (anybody may continue it), commit what is left, close."""
        service = self._service
        if service is None:
            return

        try:
            await service.end()
        finally:
            self._service = None

    async def run(
        self,
        call: WorkflowCall[T],
        *,
        thread_id: str,
        run_id: str | None = None,
        supersede: bool = False,
        wait: bool = False,
    ) -> T:
        """Run a workflow on a thread, or continue, join or be answered by its run there.

        ``run_id`` means that run (a message's id, an idempotency key); without it the thread's
        latest run is meant, and another input makes a new one. ``supersede`` cancels an unfinished
        run of another input. ``wait`` waits for an equal run of another process, and takes it over
        if that process dies.

        Raises what the workflow raises; ThreadBusy, RunUnfinished, RunCancelled, HistoryMismatch,
        LeaseLost or StoreError.
        """
        claim = self._claim_of(call, thread_id, run_id, supersede)
        return await self._run(claim, call.definition, wait)  # type: ignore[no-any-return]

    async def start(
        self,
        call: WorkflowCall[T],
        *,
        thread_id: str,
        run_id: str | None = None,
        supersede: bool = False,
        wait: bool = False,
    ) -> RunHandle[T]:
        """Begin what `run` does, and return when the run is recorded; the runtime executes it.

        Whoever goes away after that stops nothing. With ``wait`` it returns when an equal run of
        another process has ended, or its process has. Raises what `run` raises before it executes
        anything.
        """
        claim = self._claim_of(call, thread_id, run_id, supersede)
        while True:
            execution = await self._execution(claim, call.definition)
            try:
                await execution.wait_begun()
                return RunHandle(execution)
            except ThreadBusy as error:
                if not (wait and error.same_run):
                    raise
            await anyio.sleep(POLL_INTERVAL)

    async def resume(self, thread_id: str, *, wait: bool = False) -> Any:
        """Continue a thread's latest run with its recorded input; its result.

        Raises RunNotFound, UnknownWorkflow, and what `run` raises.
        """
        row = await self._row(thread_id, None)
        if row.run_id == BLOCK_RUN_ID:
            raise RunNotFound(thread_id, "run of a workflow, but thread() blocks: enter one again")
        definition = self._workflows.get(row.workflow)
        if definition is None:
            raise UnknownWorkflow(thread_id, row.workflow)

        claim = Claim(
            thread_id,
            row.run_id,
            row.run_id,
            row.workflow,
            row.input,
            row.fingerprint,
            self._open().owner,
            time.time(),
        )
        return await self._run(claim, definition, wait)

    @contextlib.asynccontextmanager
    async def thread(self, thread_id: str) -> AsyncIterator[None]:
        """Record the tasks that are awaited in this block on a thread, without any workflow.

        The next block on the same thread answers them from their records. Raises ThreadBusy where
        another block is open on it, and HistoryMismatch where it holds runs of workflows.
        """
        service = self._open()
        check_id(thread_id, "thread id")
        if thread_id in self._blocks or thread_id in self._executions:
            raise ThreadBusy(thread_id, "this runtime has it open already")
        self._blocks.add(thread_id)
        try:
            claim = Claim(
                thread_id, BLOCK_RUN_ID, BLOCK_RUN_ID, "", b"{}", "", service.owner, time.time()
            )
            latch, answer = service.journal.claim(claim)
            try:
                await uninterrupted(latch)
            except BaseException:
                if answer:  # who was cancelled meanwhile leaves what he was given
                    released = service.journal.finish(
                        Finish(answer[0].row.key, RunStatus.RUNNING, time.time())
                    )
                    await uninterrupted(released)
                raise
            (claimed,) = answer
            run = self._run_of(claimed)
            unrecord: tuple[str, ...] = ()
            try:
                if not claimed.is_new:
                    await run.load()
                token = FRAME.set(run.root())
                try:
                    yield
                finally:
                    try:
                        FRAME.reset(token)
                    except ValueError:  # left in another context, as fixtures of pytest are
                        FRAME.set(None)
            except BaseException as error:
                marks = failures.marks_in(error, run.serial)
                unrecord = tuple(each for mark in marks for each in (mark.task_id, *mark.ended_by))
                raise
            finally:
                try:
                    await run.end_strays()
                finally:
                    run.has_ended = True
                    run.flush()
                    release = Finish(run.key, RunStatus.RUNNING, time.time(), unrecord=unrecord)
                    with contextlib.suppress(*([TaskflowError] if run.broken else [])):
                        await uninterrupted(service.journal.finish(release))
            if run.broken is not None:
                raise run.broken
            run.warn()
        finally:
            self._blocks.discard(thread_id)

    async def get(self, thread_id: str, run_id: str | None = None) -> RunRecord:
        """A thread's run, the latest where no id is given. Raises RunNotFound."""
        return _run_record(await self._row(thread_id, run_id))

    def progress(self, thread_id: str) -> Progress | None:
        """How far a thread's run is; ``None`` where this runtime does not execute it."""
        execution = self._executions.get(thread_id)
        run = None if execution is None else execution.run
        return None if run is None else run.progress()

    async def runs(
        self,
        *,
        status: str | None = None,
        workflow: str | Workflow[..., Any, Any] | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[RunRecord]:
        """At most ``limit`` runs, newest first; ``before=runs[-1].number`` gives the next page."""
        self._open()
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        name = workflow.name if isinstance(workflow, Workflow) else workflow
        asked = None if status is None else RunStatus(status)
        return [_run_record(row) for row in await self._store.runs(asked, name, before, limit)]

    async def tasks(self, thread_id: str, run_id: str | None = None) -> list[TaskRecord]:
        """Every call that is recorded on a thread, or in one of its runs, in commit order.

        Raises RunNotFound, and CheckpointCorrupt for a damaged record.
        """
        await self._row(thread_id, run_id)
        rows = await self._store.checkpoints(thread_id, run_id)
        return [_task_record(thread_id, row) for row in rows]

    async def forget(self, thread_id: str, task_id: str) -> None:
        """Drop a recorded call, and the calls that it was made by: a rerun executes them again.

        If its run is the thread's latest and has succeeded, that run is open again. Raises
        RunNotFound, or ThreadBusy while the thread's run is being executed.
        """
        service = self._open()
        self._check_idle(check_id(thread_id, "thread id"))
        if not await self._store.forget(thread_id, task_id, service.owner):
            raise RunNotFound(thread_id, f"recorded call {task_id!r}")

    async def cancel(self, thread_id: str) -> None:
        """End a thread's unfinished run for good, whoever executes it.

        Raises RunNotFound where the thread has no run, or its latest has succeeded.
        """
        self._open()
        execution = self._executions.get(check_id(thread_id, "thread id"))
        if execution is not None:
            await execution.begun.wait()
            await RunHandle[Any](execution).cancel()
            return
        row = await self._store.run(thread_id, None)
        if row is not None and row.run_id == BLOCK_RUN_ID:
            raise RunNotFound(thread_id, "run of a workflow, but thread() blocks: delete() it")
        row = await self._store.cancel(thread_id, time.time())
        if row is None or row.status == RunStatus.SUCCESS:
            raise RunNotFound(thread_id, "unfinished run")

    async def delete(self, thread_id: str) -> None:
        """Drop a thread with everything that is recorded on it.

        Raises RunNotFound, or ThreadBusy while its run is being executed.
        """
        service = self._open()
        self._check_idle(check_id(thread_id, "thread id"))
        if not await self._store.delete(thread_id, service.owner):
            raise RunNotFound(thread_id)

    async def clear_cache(self, task_name: str) -> int:
        """Drop the results that a task's CachePolicy shares; how many there were."""
        return await self._open().cache.clear(task_name)

    def _open(self) -> _Service:
        if self._service is None or self._service.is_closing:
            raise RuntimeError("this Runtime is not open: use it inside 'async with Runtime(…)'")

        return self._service

    def _check_idle(self, thread_id: str) -> None:
        if thread_id in self._executions or thread_id in self._blocks:
            raise ThreadBusy(thread_id, "this runtime executes it")

    def _claim_of(
        self, call: WorkflowCall[Any], thread_id: str, run_id: str | None, supersede: bool
    ) -> Claim:
        if not isinstance(call, WorkflowCall):
            raise TypeError(
                f"run() takes the call of a workflow, such as digest(['a.org']), got {call!r}"
            )
        call.use()
        service = self._open()
        check_id(thread_id, "thread id")
        if run_id is not None:
            check_id(run_id, "run id")
        self._workflows.setdefault(call.definition.name, call.definition)
        return Claim(
            thread_id,
            run_id,
            os.urandom(8).hex(),
            call.definition.name,
            call.input,
            call.fingerprint,
            service.owner,
            time.time(),
            supersede,
        )

    async def _run(self, claim: Claim, workflow: Workflow[..., Any, Any], wait: bool) -> Any:
        begun = time.time()
        while True:
            execution = await self._execution(claim, workflow)
            try:
                return await execution.wait()
            except ThreadBusy as error:
                if not (wait and error.same_run and error.thread_id == claim.thread_id):
                    raise
            await anyio.sleep(POLL_INTERVAL)
            row = await self._store.run(claim.thread_id, claim.run_id)
            ended = row is not None and row.owner is None and begun <= (row.finished or 0)
            if ended and row and row.error and row.fingerprint == claim.fingerprint:
                # The run that we waited for has failed: that is its result.
                raise failures.rebuild(failures.Failure.parse(row.error))

    async def _execution(self, claim: Claim, workflow: Workflow[..., Any, Any]) -> Execution:
        """The execution that answers ``claim``: one that is under way, or a new one."""
        thread_id = claim.thread_id
        while True:
            service = self._open()
            execution = self._executions.get(thread_id)
            if execution is None:
                break
            if execution.leads_to_caller():
                raise ThreadBusy(thread_id, "the run would wait for itself")
            if execution.is_unwinding:
                await execution.ended.wait()
                continue
            if not execution.answers(claim):
                raise ThreadBusy(thread_id, f"it executes run {execution.run_id or ''!r} here")
            return execution
        if thread_id in self._blocks:
            raise ThreadBusy(thread_id, "a Runtime.thread() block is open on it")
        execution = Execution(claim, workflow, service.journal, self._run_of)
        self._executions[thread_id] = execution
        execution.when_ended = lambda: self._executions.pop(thread_id)
        execution.task = service.loop.spawn(execution.main)
        return execution

    def _run_of(self, claimed: Claimed) -> Run:
        service = self._open()
        return Run(
            claimed.row,
            claimed.previous,
            scheduler=service.scheduler,
            journal=service.journal,
            store=self._store,
            cache=service.cache,
            durability=self._durability,
            on_drift=self._on_drift,
        )

    async def _row(self, thread_id: str, run_id: str | None) -> RunRow:
        self._open()
        check_id(thread_id, "thread id")
        row = await self._store.run(thread_id, run_id)
        if row is None:
            raise RunNotFound(thread_id, "run" if run_id is None else f"run {run_id!r}")
        return row


class _Service:
    """Everything that works in the background while a runtime is open, in one task of its own.

    So the runtime can be opened in one task and closed in another, and no error of the user's is
    ever wrapped in a group.
    """

    def __init__(
        self, store: Store, max_concurrency: int, executions: dict[str, Execution]
    ) -> None:
        self.owner = os.urandom(8).hex()
        self.loop: Loop = current_loop()
        self.scheduler = Scheduler(self.loop, max_concurrency)
        self.journal = Journal(store, self.loop)
        self.cache = Cache(store)
        self.is_closing = False
        self._store = store
        self._executions = executions
        self._tasks: list[object] = []
        self._ready = Latch()
        self._closing = Latch()
        self._closed = Latch()

    async def begin(self) -> None:
        copy_context().run(self._spawn_outside_runs)
        try:
            await uninterrupted(self._ready)
        except BaseException:
            await self.end()
            raise

    async def end(self) -> None:
        self.is_closing = True
        self._closing.set_result()
        await uninterrupted(self._closed)

    def _spawn_outside_runs(self) -> None:
        FRAME.set(None)
        self._tasks.append(self.loop.spawn(self._serve))

    async def _serve(self) -> None:
        try:
            await self._store.open(self.owner)
        except BaseException as error:
            self._ready.set_exception(error)
            self._closed.set_result()
            return
        self._tasks.append(self.loop.spawn(self.journal.run))
        self._ready.set_result()
        try:
            await self._closing.wait()
        except BaseException:
            # asyncio.run() and trio.run() cancel what is left when their main has ended.
            self.is_closing = True
            warnings.warn(
                f"a Runtime on {self._store.where} was never closed", ResourceWarning, stacklevel=2
            )
        finally:
            with anyio.CancelScope(shield=True):
                await self._unwind()

    async def _unwind(self) -> None:
        executions = list(self._executions.values())
        for execution in executions:
            execution.cancel()
        for execution in executions:
            self.loop.when_done(execution.task, execution.abandon)
            with contextlib.suppress(asyncio.CancelledError):
                await uninterrupted(execution.ended)
        with contextlib.suppress(asyncio.CancelledError):
            await self.journal.close()
        self.scheduler.threads.close()
        try:
            await self._store.close(self.owner)
        finally:
            self._closed.set_result()


def _store(store: Store | str | os.PathLike[str]) -> Store:
    if not isinstance(store, str | os.PathLike):
        if not hasattr(store, "commit"):
            raise TypeError(f"a store, or the path of a SQLite file, is needed, got {store!r}")
        return store
    from taskflow.stores.sqlite import SQLiteStore  # SQLite and asyncio, only where they are used

    return SQLiteStore(store)


def _run_record(row: RunRow) -> RunRecord:
    try:
        return RunRecord(
            row.thread_id,
            row.run_id,
            row.number,
            row.sequence,
            row.workflow,
            RunStatus(row.status),
            decode_plain(row.input),
            None if row.result is None else decode_plain(row.result),
            None if row.error is None else failures.describe(row.error),
            row.owner,
            row.created,
            row.started,
            row.finished,
        )
    except ValueError as error:
        raise CheckpointCorrupt(row.thread_id, row.run_id, None, str(error)) from error


def _task_record(thread_id: str, row: CheckpointRow) -> TaskRecord:
    each = row.checkpoint
    seed = run_checksum(thread_id, row.run_id)
    if each.checksum != checkpoint_checksum(seed, each.task_id, each.kind, each.payload):
        raise CheckpointCorrupt(thread_id, row.run_id, each.task_id, "its checksum does not fit")
    succeeded = each.kind == RESULT
    return TaskRecord(
        each.name,
        each.task_id,
        each.parent_id,
        row.run_id,
        row.sequence,
        "success" if succeeded else "error",
        each.attempts,
        each.started,
        max(0.0, each.finished - each.started),
        None if each.arguments is None else decode_plain(each.arguments.encode()),
        decode_plain(each.payload) if succeeded else None,
        None if succeeded else failures.describe(each.payload),
    )
