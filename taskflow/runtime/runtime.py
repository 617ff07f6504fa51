"""`Runtime`: opens a store, runs workflows on threads, and shows what is recorded.

The face of the library: each method documents and delegates. Runs are claimed in `requests`,
``thread()`` blocks are in `blocks`, records are read in `lookups` and changed in `history`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
)
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

from taskflow.calls.workflows import Workflow, WorkflowCall
from taskflow.errors import RunNotFound, UnknownWorkflow
from taskflow.loops.clocks import Clock
from taskflow.loops.promises import check_call_room
from taskflow.records import Pruned, RunRecord, RunStatus, TaskRecord
from taskflow.runs.progress import Progress
from taskflow.runtime import exports, history, lookups, signals
from taskflow.runtime.blocks import Block
from taskflow.runtime.handle import RunHandle
from taskflow.runtime.recovery import claim_of
from taskflow.runtime.requests import Request, opened
from taskflow.runtime.services import Service, Settings
from taskflow.runtime.subscriptions import Stream, Subscription
from taskflow.runtime.watch import Watch
from taskflow.stores.base import BLOCK_RUN_ID, Store
from taskflow.stores.batches import Claim, Durability
from taskflow.wire.identity import check_id, check_text, marked_input

__all__ = ("Runtime",)

T = TypeVar("T")

BUFFER: Final = 10_000  # events that are kept for a reader


class Runtime:
    """Ties a store to a scheduler: open one for each process, for as long as the process lives.

    ``store``: a store, or the path of a SQLite file. ``workflows``: those that `resume` may
    continue. ``max_concurrency``: how many task bodies execute at the same time. ``durability``:
    ``"sync"`` hands a task's result on after its commit, ``"async"`` commits behind the caller,
    ``"exit"`` when the run ends. ``on_drift``: a rerun that makes new calls while it leaves out
    recorded ones is logged when the run ends (``"log"``), or is HistoryMismatch before anything new
    executes (``"error"``).

    ``recover``: continue, on opening and while it is open, runs of these workflows whose owner has
    died or was closed, and paused ones whose signal or time has come; at most
    ``max_concurrent_runs`` at a time. A run that was taken over ``max_takeovers`` times without
    progress is set aside with the error RunSetAside. ``poll_interval``: seconds after which, at
    most, signals and runs of other processes are seen. ``clock``: the source of time.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        *,
        workflows: Iterable[Workflow[..., Any, Any]] = (),
        max_concurrency: int = 100,
        durability: Durability = "sync",
        on_drift: Literal["log", "error"] = "log",
        recover: bool = False,
        max_concurrent_runs: int = 100,
        max_takeovers: int = 5,
        poll_interval: float = 1.0,
        clock: Clock | None = None,
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
        if max_concurrent_runs < 1 or max_takeovers < 1:
            raise ValueError("max_concurrent_runs and max_takeovers are at least 1")
        if poll_interval <= 0:
            raise ValueError(f"poll_interval is a positive number of seconds, got {poll_interval}")
        self._store = _store(store)
        self._workflows = {each.name: each.unbound for each in workflows}
        self._settings = Settings(
            max_concurrency,
            durability,
            on_drift,
            recover,
            max_concurrent_runs,
            max_takeovers,
            poll_interval,
        )
        self._clock = clock
        self._service: Service | None = None

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
        """Open the store and begin to serve; `aclose` may be called from another asyncio task.

        Raises StoreError, or RuntimeError where the runtime is open already.
        """
        if self._service is not None:
            raise RuntimeError("this Runtime is open already")

        service = self._service = Service(self._store, self._settings, self._clock)
        service.watch = Watch(service, self._workflows)
        try:
            await service.begin()
        except BaseException:
            self._service = None
            raise
        return self

    async def aclose(self) -> None:
        """Cancel executing runs, which any runtime may continue; commit what is left, and close."""
        service = self._service
        if service is None:
            return
        service.check_loop()

        try:
            await service.end()
        finally:
            self._service = None

    async def drain(self, timeout: float = 30.0) -> None:
        """Start no more tasks, let the executing ones end, then release every run.

        After ``timeout`` seconds, tasks that still execute are cancelled. Callers that wait for a
        run get RunUnfinished; running it again, or a runtime with ``recover=True``, continues it.
        Records can be looked up until the runtime is closed.
        """
        await self._open().drain(timeout)

    async def run(
        self,
        call: WorkflowCall[T],
        *,
        thread_id: str,
        run_id: str | None = None,
        fresh: bool = False,
        supersede: bool = False,
        wait: bool = False,
    ) -> T:
        """Run a workflow on a thread; continue or join its run, or return its recorded result.

        ``run_id`` names the run (a message's id, an idempotency key); without it the thread's
        latest run is meant, and another input makes a new one. A run that has failed is continued
        by the same input. ``fresh`` makes a new run though the latest has ended with the same
        input; one that has not ended is continued all the same. ``supersede`` cancels a run of
        another input (with ``fresh``, of any) that has not ended.

        Timers are waited for, however long. Where the run waits for an answer, RunPaused is raised;
        with ``wait`` its signal is waited for, and so is an equal run of another process, which is
        taken over if that process dies.

        Raises what the workflow raises; RunPaused, ThreadBusy, RunUnfinished, RunCancelled,
        HistoryMismatch, LeaseLost or StoreError. ValueError for ``fresh`` with a ``run_id``.
        """
        request = self._request(call, thread_id, run_id, fresh, supersede, wait)
        return await request.result()  # type: ignore[no-any-return]

    async def start(
        self,
        call: WorkflowCall[T],
        *,
        thread_id: str,
        run_id: str | None = None,
        fresh: bool = False,
        supersede: bool = False,
        wait: bool = False,
    ) -> RunHandle[T]:
        """Begin what `run` does, and return when the run is recorded; the runtime executes it.

        A caller that is cancelled after that does not stop it. With ``wait`` it returns when an
        equal run of another process has ended, or its process has. Raises what `run` raises before
        it executes anything.
        """
        request = self._request(call, thread_id, run_id, fresh, supersede, wait)
        return RunHandle(await request.begun(patient=True))

    async def resume(self, thread_id: str, *, run_id: str | None = None, wait: bool = False) -> Any:
        """Continue a thread's run (the latest) with its recorded input; the result.

        Raises RunNotFound, UnknownWorkflow, and what `run` raises.
        """
        service = self._open()
        row = await lookups.run_row(service, thread_id, run_id)
        if row.run_id == BLOCK_RUN_ID:
            raise RunNotFound(thread_id, "run of a workflow, but thread() blocks: enter one again")
        definition = self._workflows.get(row.workflow)
        if definition is None:
            raise UnknownWorkflow(thread_id, row.workflow)

        claim = claim_of(row, service.owner, service.clock.now())
        return await Request(opened(service), claim, definition, wait=wait).result()

    async def send(
        self,
        thread_id: str,
        name: str,
        value: object = None,
        *,
        id: str | None = None,  # noqa: A002
    ) -> None:
        """Send the signal ``name`` to the thread's latest run; it is durable on return.

        It may be sent before the run asks for it with `taskflow.receive`. With an ``id`` (a
        message's, say) it is taken once, however often it is sent. ``value`` is anything that JSON
        carries.

        Raises RunNotFound where that run has succeeded or was cancelled, or there is none (one that
        has failed keeps the signal until it is continued); and SerializationError where
        JSON cannot carry the value, or where the run waits for this signal, its type is known in
        this process, and the value does not fit it.
        """
        await signals.send(self._open(), thread_id, name, value, id)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        call: WorkflowCall[T],
        *,
        thread_id: str,
        run_id: str | None = None,
        fresh: bool = False,
        supersede: bool = False,
        wait: bool = False,
        buffer: int = BUFFER,
    ) -> AsyncIterator[Stream[T]]:
        """Do what `run` does, for a block that reads its events: an asynchronous iterator.

        It ends when the run has ended or, without ``wait``, waits for an answer; its ``result()``
        then returns or raises what `run` would. Leaving the block earlier cancels the run, unless
        others wait for it. At most ``buffer`` events are kept for a slow reader.
        """
        request = self._request(call, thread_id, run_id, fresh, supersede, wait)
        service = self._open()
        listener = service.feeds.listen(thread_id, buffer)
        try:
            execution = await request.begun(patient=wait)
            execution.waiters.is_awaited = True
            try:
                yield Stream(service, execution, listener, wait)
            finally:
                await execution.waiters.leave(patient=wait)
        finally:
            service.feeds.leave(thread_id, listener)

    def subscribe(
        self,
        thread_id: str,
        *,
        run_id: str | None = None,
        after: int | None = None,
        buffer: int = BUFFER,
    ) -> Subscription:
        """The events of a thread's latest run, which goes on as if unwatched: an async iterator.

        It begins with the recorded events, ``after`` the one of that number if it is given, goes
        on with those that happen, and ends when the run has. Without a run it waits for one. What
        other processes execute is seen within the poll interval, as far as it is recorded.
        """
        service = self._open()
        check_id(thread_id, "thread id")
        if run_id is not None:
            check_text(run_id, "run id")
        return Subscription(service, thread_id, run_id, after, buffer)

    @contextlib.asynccontextmanager
    async def thread(self, thread_id: str) -> AsyncIterator[None]:
        """Record the tasks that are awaited in a block on a thread, without any workflow.

        The next block on the thread answers them from their records. Raises ThreadBusy where
        another block is open on it, and HistoryMismatch where it holds runs of workflows.
        """
        service = self._open()
        check_call_room()
        async with Block(service, check_id(thread_id, "thread id")):
            yield

    async def get(self, thread_id: str, run_id: str | None = None) -> RunRecord:
        """A thread's run, the latest where no id is given. Raises RunNotFound.

        ``waits`` are the open waits of a run that is paused, or that this runtime executes.
        """
        return await lookups.run(self._open(), thread_id, run_id)

    async def runs(
        self,
        *,
        thread_id: str | None = None,
        status: str | None = None,
        workflow: str | Workflow[..., Any, Any] | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[RunRecord]:
        """At most ``limit`` runs, newest first; ``before=runs[-1].number`` gives the next page.

        Those of all threads, or of one; of any status and workflow, or of one.
        """
        return await lookups.runs(
            self._open(),
            thread_id=thread_id,
            status=status,
            workflow=workflow,
            before=before,
            limit=limit,
        )

    async def tasks(self, thread_id: str, run_id: str | None = None) -> list[TaskRecord]:
        """The recorded calls on a thread, or in one of its runs, in commit order.

        Raises RunNotFound, and CheckpointCorrupt for a damaged record.
        """
        return await lookups.tasks(self._open(), thread_id, run_id)

    async def forget(self, thread_id: str, task_id: str) -> None:
        """Drop a recorded call, and the calls whose bodies made it: a rerun executes them again.

        If its run is the thread's latest and has succeeded, that run is open again. Raises
        RunNotFound, or ThreadBusy while the thread's run is being executed.
        """
        await history.forget(self._open(), thread_id, task_id)

    async def replace(self, thread_id: str, task_id: str, value: object) -> None:
        """Make ``value`` the recorded result of a call, also of one that has failed.

        A rerun executes what depends on it: the calls whose bodies made it are dropped, and its run
        is open again, as with `forget`. The value has to fit the task's return annotation, if the
        task is known in this process; else it is one that JSON carries exactly. The result of a
        `receive` can be replaced too.

        Raises SerializationError for the value; ValueError where the id is that of an emitted
        value, a deadline or a signal; RunNotFound, or ThreadBusy while the thread's run is being
        executed.
        """
        await history.replace(self._open(), thread_id, task_id, value)

    async def fork(
        self,
        thread_id: str,
        *,
        to: str,
        run_id: str | None = None,
        without: Iterable[str] = (),
    ) -> RunRecord:
        """Copy a run (the latest) with all that is recorded of it to the new thread ``to``.

        The same call continues it there, and executes nothing that is recorded; `previous` gives
        the same. ``without`` leaves out recorded calls by their ids, with the calls whose bodies
        made them; a signal that one of them had taken is free again. A run that had succeeded, and
        of which nothing is left out, is copied with its result; any other is unfinished, and begins
        only when it is run. The original does not change; of one that executes, what is committed
        by now is copied.

        Raises ThreadExists; RunNotFound for a run or a call that is not there; CheckpointCorrupt.
        """
        return await history.fork(self._open(), thread_id, to, run_id, without)

    async def prune(
        self,
        *,
        finished_before: datetime | timedelta | None = None,
        status: str | Iterable[str] = (RunStatus.SUCCESS, RunStatus.CANCELLED),
        keep_last: int | None = None,
        report: Callable[[Pruned], object] | None = None,
    ) -> Pruned:
        """Delete runs that have ended, with their calls; the number of rows of each kind.

        ``finished_before``: a datetime with a time zone, or how long ago. ``status``: one or
        several; ``"error"`` and ``"paused"`` runs are deleted only where they are named, and
        running ones never. ``keep_last``: how many of the latest runs of each thread stay, whatever
        their status. ``finished_before``, ``keep_last`` or both are needed. ``report`` is called
        with the total so far, after each of several steps.

        A thread of which no run stays is gone, as after `delete`. What `previous` gives stays: of
        the successful run before one that stays, and of the latest if any run stays or if it had
        called `save`, only the calls are deleted. Expired shared results are deleted too.

        Commits of running workflows go through between the steps. SQLite files that were made by
        taskflow 0.2 or later become smaller.
        """
        return await history.prune(
            self._open(),
            finished_before=finished_before,
            status=status,
            keep_last=keep_last,
            report=report,
        )

    def export(self, thread_id: str) -> AsyncGenerator[str]:
        """A thread as lines of JSON, each with its line break, as it is when the first is read.

        Raises RunNotFound, and CheckpointCorrupt for a damaged row. Use ``contextlib.aclosing``
        where not all lines may be read.
        """
        return exports.export(self._open().store, check_id(thread_id, "thread id"))

    async def import_thread(
        self,
        lines: Iterable[str | bytes] | AsyncIterable[str | bytes],
        *,
        to: str | None = None,
    ) -> str:
        """Make a thread of exported lines, under its own id or ``to``; the id.

        The lines may come from any store; an open file will do. A run that had not ended has no
        owner, and the same call continues it.

        Raises ImportRefused where the lines are not one whole export of a known version, and
        ThreadExists; nothing is written then.
        """
        return await history.adopt(self._open(), lines, to)

    async def cancel(self, thread_id: str, *, run_id: str | None = None) -> None:
        """End a thread's run (the latest) for good, whichever process executes it, or none.

        A body that executes in another process is cancelled within that one's poll interval. A run
        that has failed is not continued any more.

        Raises RunNotFound where there is no such run, or it has succeeded.
        """
        await history.cancel(self._open(), thread_id, run_id)

    async def delete(self, thread_id: str) -> None:
        """Delete a thread with everything that is recorded on it.

        Raises RunNotFound, or ThreadBusy while its run is being executed.
        """
        await history.delete(self._open(), thread_id)

    async def clear_cache(self, task_name: str) -> int:
        """Delete the results that a task's CachePolicy shares; how many there were."""
        return await self._open().shared.cache.clear(check_text(task_name, "task's name"))

    def _progress(self, thread_id: str) -> Progress | None:
        """How far a thread's run is, for the command line; None where nothing executes here."""
        return None if self._service is None else lookups.progress(self._service, thread_id)

    def _open(self) -> Service:
        return opened(self._service)

    def _request(
        self,
        call: WorkflowCall[Any],
        thread_id: str,
        run_id: str | None,
        fresh: bool,
        supersede: bool,
        wait: bool,
    ) -> Request:
        if not isinstance(call, WorkflowCall):
            raise TypeError(
                f"run() takes the call of a workflow, such as digest(['a.org']), got {call!r}"
            )
        call.use()
        service = self._open()
        check_id(thread_id, "thread id")
        if run_id is not None:
            check_id(run_id, "run id")
            if fresh:
                raise ValueError(
                    f"run_id={run_id!r} names one run, and fresh=True asks for a new one under an "
                    "id of its own: pass one of them"
                )
        self._workflows.setdefault(call.definition.name, call.definition)
        claim = Claim(
            thread_id,
            run_id,
            os.urandom(8).hex(),
            call.definition.name,
            marked_input(call.input),
            call.fingerprint,
            service.owner,
            service.clock.now(),
            supersede,
            fresh=fresh,
        )
        return Request(service, claim, call.definition, wait=wait)


def _store(store: Store | str | os.PathLike[str]) -> Store:
    if not isinstance(store, str | os.PathLike):
        if not hasattr(store, "commit"):
            raise TypeError(f"a store, or the path of a SQLite file, is needed, got {store!r}")
        return store
    from taskflow.stores.sqlite import SQLiteStore

    return SQLiteStore(store)
