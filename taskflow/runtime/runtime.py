"""`Runtime`: opens a store, runs workflows on threads, and shows what is recorded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Sequence,
)
from datetime import datetime, timedelta
from itertools import count
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

import anyio
import anyio.lowlevel
from msgspec import structs

from taskflow.calls.waits import spelled
from taskflow.calls.workflows import Workflow, WorkflowCall
from taskflow.errors import (
    CheckpointCorrupt,
    RunNotFound,
    RunUnfinished,
    SerializationError,
    StoreError,
    TaskflowError,
    ThreadBusy,
    UnknownWorkflow,
)
from taskflow.loops.clocks import Clock
from taskflow.loops.promises import check_call_room, uninterrupted
from taskflow.records import Progress, Pruned, RunRecord, RunStatus, TaskRecord
from taskflow.runs.run import FRAME
from taskflow.runtime import history
from taskflow.runtime.executions import Execution, RunHandle
from taskflow.runtime.recovery import Watch, claim_of
from taskflow.runtime.services import Service, Settings
from taskflow.runtime.subscriptions import Stream, Subscription
from taskflow.stores.base import BLOCK_RUN_ID, Store
from taskflow.stores.batches import Claim, Durability, Finish, Signal
from taskflow.stores.claims import decide
from taskflow.stores.kinds import OUTCOMES, RESULT
from taskflow.stores.rows import CheckpointRow, RunRow
from taskflow.wire import failures
from taskflow.wire.codec import Codec, decode_plain, decode_waits
from taskflow.wire.identity import check_id, check_text, exact_json, signal_id

__all__ = ("Runtime",)

T = TypeVar("T")
X = TypeVar("X")

POLL_INTERVAL: Final = 0.1  # seconds between looks at a run that another process executes
BUFFER: Final = 10_000  # events that are kept for a reader
ROWS_AT_ONCE: Final = 1000  # that are decoded before others have their turn (7 µs each)


class Runtime:
    """Ties a store to a scheduler: open one for each process, for as long as the process lives.

    ``store``: a store, or the path of a SQLite file. ``workflows``: those that `resume` may
    continue. ``max_concurrency``: how many task bodies execute at the same time. ``durability``:
    ``"sync"`` hands a task's result on after it was committed, ``"async"`` commits behind the
    caller's back, ``"exit"`` when the run ends. ``on_drift``: what to do with a rerun that asks for
    something new while it leaves out what is recorded: ``"log"`` it when the run ends, or, with
    ``"error"``, raise HistoryMismatch before anything new executes.

    ``recover``: continue, on opening and while it is open, runs of these workflows whose owner has
    died or was closed, and paused ones whose signal or time has come; at most
    ``max_concurrent_runs`` at a time. One that was taken over ``max_takeovers`` times without any
    progress is set aside with the error RunSetAside. ``poll_interval``: after how many seconds at
    most it is seen what other processes have sent or left. ``clock``: what time it is.
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
        self._workflows = {each.name: each for each in workflows}
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
        self._watch: Watch | None = None

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

        service = self._service = Service(self._store, self._settings, self._clock)
        self._watch = service.watch = Watch(service, self._workflows)
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
        service.check_loop()

        try:
            await service.end()
        finally:
            self._service = None

    async def drain(self, timeout: float = 30.0) -> None:
        """Start no task any more, let those end that execute, then release every run.

        After ``timeout`` seconds what still executes is cancelled. Whoever waits for a run gets
        RunUnfinished; running it again, or a runtime with ``recover=True``, continues it. What is
        recorded may still be looked at until the runtime is closed.
        """
        await self._open().drain(timeout)

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
        run of another input. ``wait`` waits through pauses, until signals and times have come; and
        for an equal run of another process, which it takes over if that process dies.

        Raises what the workflow raises; RunPaused, ThreadBusy, RunUnfinished, RunCancelled,
        HistoryMismatch, LeaseLost or StoreError.
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
        return RunHandle(await self._begun(claim, call.definition, wait=wait, patient=True))

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

        service = self._open()
        claim = claim_of(row, service.owner, service.clock.now())
        return await self._run(claim, definition, wait)

    async def send(
        self,
        thread_id: str,
        name: str,
        value: object = None,
        *,
        id: str | None = None,  # noqa: A002
    ) -> None:
        """Send the signal ``name`` to the thread's unfinished run; it is durable on return.

        It may come before the run asks for it with `taskflow.receive`. With an ``id`` (a message's,
        say) it is taken once, however often it is sent. ``value`` is anything that JSON carries.

        Raises RunNotFound where the thread has no unfinished run, and SerializationError where
        JSON cannot carry the value, or where the run waits for this signal now and its type is
        known here, and the value does not fit it.
        """
        service = self._open()
        check_call_room()
        check_id(thread_id, "thread id")
        check_id(name, "signal's name")
        if id is not None:
            check_id(id, "signal's id")
        payload = exact_json(value, f"the signal {name!r}")
        await self._check_fit(service, thread_id, name, payload)
        task_id = signal_id(name, os.urandom(16).hex() if id is None else f"={id}")
        signal = Signal(thread_id, task_id, name, payload, service.clock.now())
        latch, answer = service.journal.send(signal)
        await uninterrupted(latch)
        (sent,) = answer
        assert self._watch is not None
        if not sent.is_new:
            self._watch.look_soon()  # the answer to the first one may have been lost
            return
        self._watch.sent(sent.sequence)
        if not service.deliver(signal, sent) and self._settings.recover:
            self._watch.look_soon()

    @contextlib.asynccontextmanager
    async def stream(
        self,
        call: WorkflowCall[T],
        *,
        thread_id: str,
        run_id: str | None = None,
        supersede: bool = False,
        wait: bool = False,
        buffer: int = BUFFER,
    ) -> AsyncIterator[Stream[T]]:
        """Do what `run` does, and tell what happens: an asynchronous iterator of events.

        It ends when the run has ended or, without ``wait``, has paused; ``result()`` of what the
        block is given then returns or raises what `run` would. Who leaves the block earlier is a
        waiter that went away. At most ``buffer`` events are kept for a reader that is slow.
        """
        claim = self._claim_of(call, thread_id, run_id, supersede)
        service = self._open()
        listener = service.feeds.listen(thread_id, buffer)
        try:
            execution = await self._begun(claim, call.definition, wait=wait, patient=wait)
            execution.is_awaited = True
            try:
                yield Stream(service, execution, listener, wait)
            finally:
                await execution.leave(patient=wait)
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
        """Watch a thread's latest run, without touching it: an asynchronous iterator of events.

        It begins with what is recorded, ``after`` the event of that number if one is given, goes
        on with what happens, and ends when the run has. Without a run it waits for one. What other
        processes execute is seen within the poll interval, as far as it is recorded.
        """
        service = self._open()
        check_id(thread_id, "thread id")
        if run_id is not None:
            check_text(run_id, "run id")
        return Subscription(service, thread_id, run_id, after, buffer)

    @contextlib.asynccontextmanager
    async def thread(self, thread_id: str) -> AsyncIterator[None]:
        """Record the tasks that are awaited in this block on a thread, without any workflow.

        The next block on the same thread answers them from their records. Raises ThreadBusy where
        another block is open on it, and HistoryMismatch where it holds runs of workflows.
        """
        service = self._open()
        check_call_room()
        check_id(thread_id, "thread id")
        now = service.clock.now
        _check_serving(service, thread_id, BLOCK_RUN_ID)
        if thread_id in service.blocks or thread_id in service.executions:
            raise ThreadBusy(thread_id, "this runtime has it open already")
        service.blocks[thread_id] = None
        try:
            claim = Claim(
                thread_id, BLOCK_RUN_ID, BLOCK_RUN_ID, "", b"{}", "", service.owner, now()
            )
            latch, answer = service.journal.claim(claim)
            try:
                await uninterrupted(latch)
            except BaseException:
                if answer:  # who was cancelled meanwhile leaves what he was given
                    released = service.journal.finish(
                        Finish(answer[0].row.key, RunStatus.RUNNING, now())
                    )
                    await uninterrupted(released)
                elif isinstance(latch.error, StoreError):
                    service.doubt(thread_id)
                raise
            (claimed,) = answer
            run = service.blocks[thread_id] = service.open_run(claimed)
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
                    release = Finish(run.key, RunStatus.RUNNING, now(), unrecord=unrecord)
                    with contextlib.suppress(*([TaskflowError] if run.broken else [])):
                        await uninterrupted(service.journal.finish(release))
                    if run.broken is not None:
                        service.doubt(thread_id)
            if run.broken is not None:
                raise run.broken
            run.warn()
        finally:
            del service.blocks[thread_id]

    async def get(self, thread_id: str, run_id: str | None = None) -> RunRecord:
        """A thread's run, the latest where no id is given. Raises RunNotFound.

        ``waits`` are those of a paused run, and those that are open now of one that executes here.
        """
        record = _run_record(await self._row(thread_id, run_id))
        execution = self._open().executions.get(thread_id)
        run = None if execution is None else execution.run
        if run is not None and run.run_id == record.run_id:
            record = structs.replace(record, waits=list(run.waits.values()))
        return record

    def progress(self, thread_id: str) -> Progress | None:
        """How far a thread's run is; ``None`` where this runtime does not execute it."""
        service = self._service
        execution = None if service is None else service.executions.get(thread_id)
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
        if name is not None:
            check_text(name, "workflow's name")
        asked = None if status is None else RunStatus(status)
        rows = await self._store.runs(asked, name, before, limit)
        return await _in_turns(rows, _run_record)

    async def tasks(self, thread_id: str, run_id: str | None = None) -> list[TaskRecord]:
        """Every call that is recorded on a thread, or in one of its runs, in commit order.

        Raises RunNotFound, and CheckpointCorrupt for a damaged record.
        """
        await self._row(thread_id, run_id)
        rows = await self._store.checkpoints(thread_id, run_id)
        sound = await _in_turns(rows, lambda row: row.verified(thread_id))
        outcomes = [row for row in sound if row.checkpoint.kind in OUTCOMES]
        return await _in_turns(outcomes, _task_record)

    async def forget(self, thread_id: str, task_id: str) -> None:
        """Drop a recorded call, and the calls that it was made by: a rerun executes them again.

        If its run is the thread's latest and has succeeded, that run is open again. Raises
        RunNotFound, or ThreadBusy while the thread's run is being executed.
        """
        service = self._open()
        self._check_idle(check_id(thread_id, "thread id"))
        check_text(task_id, "task id")
        if not await self._store.forget(thread_id, task_id, service.owner):
            raise RunNotFound(thread_id, f"recorded call {task_id!r}")

    async def replace(self, thread_id: str, task_id: str, value: object) -> None:
        """Make ``value`` the recorded result of a call, also of one that has failed.

        A rerun executes what depends on it: the calls that it was made by are dropped, and its run
        is open again, as with `forget`. The value has to fit the task's return annotation, if the
        task is known in this process; else it is one that JSON carries exactly. The result of a
        `receive` can be replaced too.

        Raises SerializationError for the value; ValueError for what is no call (an emitted value, a
        deadline, a signal); RunNotFound, or ThreadBusy while the thread's run is being executed.
        """
        self._open()
        self._check_idle(check_id(thread_id, "thread id"))
        check_text(task_id, "task id")
        await history.replace(self._store, thread_id, task_id, value)

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
        the same. ``without`` leaves out recorded calls by their ids, with those that they were made
        by; a signal that one of them had taken is free again. A run that had succeeded, and of
        which nothing is left out, is copied with its result; any other is unfinished, and begins
        only when it is run. The thread itself is left as it is; while it executes, what is
        committed by now is copied.

        Raises ThreadExists; RunNotFound for a run or a call that is not there; CheckpointCorrupt.
        """
        self._open()
        check_id(thread_id, "thread id")
        check_id(to, "thread id")
        if isinstance(without, str):
            raise TypeError(f"without takes several task ids, got one text: [{without!r}]")
        if run_id is not None:
            check_text(run_id, "run id")
        left_out = [check_text(each, "task id") for each in without]
        row = await self._store.fork(thread_id, run_id, to, left_out)
        return _run_record(row)

    async def prune(
        self,
        *,
        finished_before: datetime | timedelta | None = None,
        status: str | Iterable[str] = (RunStatus.SUCCESS, RunStatus.CANCELLED),
        keep_last: int | None = None,
        report: Callable[[Pruned], object] | None = None,
    ) -> Pruned:
        """Delete runs that have ended, with their calls; how much there was of each.

        ``finished_before``: a datetime with a time zone, or how long ago. ``status``: one or
        several; ``"error"`` and ``"paused"`` runs go only where that is asked, and running ones
        never. ``keep_last``: so many of the latest runs of each thread stay, whatever they are. At
        least one of the first and the last is needed. ``report`` is given what was deleted until
        then, now and then.

        A thread of which nothing stays is gone, as after `delete`. What `previous` gives stays: of
        the successful run before one that stays, and of the latest if any run stays or if it had
        called `save`, only the calls are deleted. Shared results that have expired go too.

        Other commits get through in between. SQLite files give their free pages back, if they were
        made by this version or later.
        """
        service = self._open()
        ask = history.prune_of(finished_before, status, keep_last, service.clock.now())
        total = Pruned()
        async with contextlib.aclosing(self._store.prune(ask)) as steps:
            async for pruned in steps:
                total += pruned
                if report is not None:
                    report(total)
        for thread_id, asleep in list(service.asleep.items()):
            row = await self._store.run(thread_id, asleep.run_id)
            if row is None or row.status == RunStatus.CANCELLED:
                asleep.end(RunNotFound(thread_id))
        return total

    def export(self, thread_id: str) -> AsyncGenerator[str]:
        """A thread as lines of JSON, each with its line break: as it is at the first one.

        Raises RunNotFound, and CheckpointCorrupt for a damaged row. Use ``contextlib.aclosing``
        where not all lines may be read.
        """
        self._open()
        return history.export(self._store, check_id(thread_id, "thread id"))

    async def import_thread(
        self,
        lines: Iterable[str | bytes] | AsyncIterable[str | bytes],
        *,
        to: str | None = None,
    ) -> str:
        """Make a thread of exported lines, under its own id or ``to``; the id.

        They may come from any store: an open file will do. A run that had not ended is nobody's,
        and the same call continues it.

        Raises ImportRefused where they are not one whole export, of a version that is known here,
        and ThreadExists; then nothing was written.
        """
        self._open()
        if to is not None:
            check_id(to, "thread id")
        runs, checkpoints = await history.read_export(lines, to)
        await self._store.adopt(runs, checkpoints)
        return runs[0].thread_id

    async def cancel(self, thread_id: str) -> None:
        """End a thread's unfinished run for good, whoever executes it.

        Raises RunNotFound where the thread has no run, or its latest has succeeded.
        """
        service = self._open()
        check_call_room()
        check_id(thread_id, "thread id")
        # What is here may have been ended elsewhere before, and another run begun in its place.
        asleep = service.asleep.get(thread_id)
        if asleep is not None:
            row = await self._store.run(thread_id, None)
            await asleep.cancel_released()
            if row is not None and asleep.run_id == row.run_id:
                if asleep.status == RunStatus.SUCCESS:
                    raise RunNotFound(thread_id, "unfinished run")
                return
        execution = service.executions.get(thread_id)
        if execution is not None:
            with contextlib.suppress(TaskflowError):
                await execution.begun.wait()
            if not execution.ended.done():
                row = await self._store.run(thread_id, None)
                await RunHandle[Any](execution).cancel()
                if row is not None and execution.executes(row):
                    return
        row = await self._store.run(thread_id, None)
        if row is not None and row.run_id == BLOCK_RUN_ID:
            raise RunNotFound(thread_id, "run of a workflow, but thread() blocks: delete() it")
        row = await self._store.cancel(thread_id, service.clock.now())
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
        if (asleep := service.asleep.get(thread_id)) is not None:
            asleep.end(RunNotFound(thread_id))

    async def clear_cache(self, task_name: str) -> int:
        """Drop the results that a task's CachePolicy shares; how many there were."""
        return await self._open().cache.clear(check_text(task_name, "task's name"))

    async def _check_fit(self, service: Service, thread_id: str, name: str, payload: bytes) -> None:
        """Raise SerializationError where every open receive of that name is known to refuse it."""
        codecs: Iterable[Codec]
        execution = service.executions.get(thread_id)
        if execution is not None and execution.run is not None:
            # Usually the first one takes it, of however many.
            codecs = (each.codec for each in execution.run.open_receivers(name))
        elif types := service.signal_types.of(name):
            row = await self._store.run(thread_id, None)
            waits = decode_waits(None if row is None else row.waits)
            asked = [each.type for each in waits if each.name == name and each.kind == "signal"]
            if not all(each in types for each in asked if each is not None):
                return
            codecs = [codec for each in asked if each is not None for codec in types[each]]
        else:
            return
        misfit: Exception | None = None
        refused: list[Codec] = []
        for codec in codecs:
            try:
                codec.decode(payload)
                return
            except SerializationError as error:
                misfit = error
                refused.append(codec)
        if misfit is not None:
            sent = payload[:200].decode(errors="replace")
            expected = " or ".join(sorted({spelled(codec.annotation) for codec in refused}))
            raise SerializationError(
                f"thread {thread_id!r} waits for a signal {name!r} of type {expected}, and "
                f"{sent} is none: {misfit.__cause__ or misfit!r}"
            ) from misfit

    def _open(self) -> Service:
        if self._service is None or self._service.is_closing:
            raise RuntimeError("this Runtime is not open: use it inside 'async with Runtime(…)'")
        self._service.check_loop()

        return self._service

    def _check_idle(self, thread_id: str) -> None:
        service = self._open()
        if thread_id in service.executions or thread_id in service.blocks:
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
            service.clock.now(),
            supersede,
        )

    async def _run(self, claim: Claim, workflow: Workflow[..., Any, Any], wait: bool) -> Any:
        service = self._open()
        looks = count(1)
        is_known = False  # which run it is that another runtime executes, and we wait for
        while True:
            try:
                execution = await self._execution(claim, workflow)
                return await execution.wait(patient=wait)
            except ThreadBusy as error:
                if not wait or error.thread_id != claim.thread_id:
                    raise
                if not (error.same_run or is_known):  # else another one has begun here meanwhile
                    raise
                if error.same_run:
                    claim, is_known = _claim_to(error, claim), True
                    claim = structs.replace(claim, awaits=True)
            row = await self._look_again(service, claim, next(looks))
            ended = row is not None and row.owner is None
            if ended and row and row.error and row.fingerprint == claim.fingerprint:
                # It executed when we looked before, and has failed: that is its result.
                raise failures.rebuild(failures.Failure.parse(row.error))

    async def _begun(
        self, claim: Claim, workflow: Workflow[..., Any, Any], *, wait: bool, patient: bool
    ) -> Execution:
        """The execution that answers ``claim``, with us as one who waits for it."""
        service = self._open()
        looks = count(1)
        is_known = False
        while True:
            try:
                execution = await self._execution(claim, workflow)
                await execution.wait_begun(patient=patient)
                return execution
            except ThreadBusy as error:
                if not wait or not (error.same_run or is_known):
                    raise
                if error.same_run:
                    claim, is_known = _claim_to(error, claim), True
            await self._look_again(service, claim, next(looks))

    async def _look_again(self, service: Service, claim: Claim, looks: int) -> RunRow | None:
        """A run that somebody else executes, after a while.

        Raises RunUnfinished where this runtime is drained or closed meanwhile.
        """
        thread_id, run_id = claim.thread_id, claim.run_id
        await anyio.sleep(service.clock.pause(POLL_INTERVAL, looks))
        _check_serving(service, thread_id, run_id)
        try:
            row = await self._store.run(thread_id, run_id)
        except StoreError:
            _check_serving(
                service, thread_id, run_id
            )  # so the store was closed, and has not failed
            raise
        _check_serving(service, thread_id, run_id)
        return row

    async def _execution(self, claim: Claim, workflow: Workflow[..., Any, Any]) -> Execution:
        """The execution that answers ``claim``: one that is under way, or a new one."""
        thread_id = claim.thread_id
        check_call_room()
        while True:
            service = self._open()
            _check_serving(service, thread_id, claim.run_id)
            execution = service.executions.get(thread_id)
            if execution is None:
                break
            if execution.leads_to_caller():
                raise ThreadBusy(thread_id, "the run would wait for itself")
            if execution.is_unwinding:
                await execution.ended.settled()
                continue
            if not execution.answers(claim):
                if (answer := await self._answer(claim, workflow)) is not None:
                    return answer
                raise ThreadBusy(thread_id, f"it executes run {execution.run_id or ''!r} here")
            return execution
        if thread_id in service.blocks:
            raise ThreadBusy(thread_id, "a Runtime.thread() block is open on it")
        asleep = service.asleep.get(thread_id)
        if asleep is not None and asleep.answers(claim):
            asleep.wake()
            return asleep
        execution = Execution(claim, workflow, service)
        service.spawn(execution)
        return execution

    async def _answer(self, claim: Claim, workflow: Workflow[..., Any, Any]) -> Execution | None:
        """What answers a claim to a run that has ended for good, whatever else executes here.

        Raises RunCancelled, or HistoryMismatch for another input.
        """
        if claim.run_id is None:
            return None
        known = await self._store.run(claim.thread_id, claim.run_id)
        if known is None or not known.is_final:
            return None
        decide(claim, None, known, lambda _: False)
        execution = Execution(claim, workflow, self._open())
        execution.answer(known.verified().result or b"null")
        return execution

    async def _row(self, thread_id: str, run_id: str | None) -> RunRow:
        self._open()
        check_id(thread_id, "thread id")
        if run_id is not None:
            check_text(run_id, "run id")
        row = await self._store.run(thread_id, run_id)
        if row is None:
            raise RunNotFound(thread_id, "run" if run_id is None else f"run {run_id!r}")
        return row


def _claim_to(busy: ThreadBusy, claim: Claim) -> Claim:
    """The claim of who waits for the run that is executed elsewhere: that one, and no new one."""
    if busy.run_id is None:
        return claim
    return structs.replace(claim, run_id=busy.run_id, supersede=False, continues=True)


def _check_serving(service: Service, thread_id: str, run_id: str | None) -> None:
    if service.is_ending:
        raise RunUnfinished(
            thread_id, run_id or "", "this runtime is drained or closed, and begins nothing more"
        )


def _store(store: Store | str | os.PathLike[str]) -> Store:
    if not isinstance(store, str | os.PathLike):
        if not hasattr(store, "commit"):
            raise TypeError(f"a store, or the path of a SQLite file, is needed, got {store!r}")
        return store
    from taskflow.stores.sqlite import SQLiteStore

    return SQLiteStore(store)


async def _in_turns(rows: Sequence[X], make: Callable[[X], T]) -> list[T]:
    """What ``make`` makes of each row; others have their turns in between."""
    records: list[T] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        records += map(make, rows[start : start + ROWS_AT_ONCE])
        await anyio.lowlevel.checkpoint()
    return records


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
            decode_waits(row.waits),
        )
    except ValueError as error:
        raise CheckpointCorrupt(row.thread_id, row.run_id, None, str(error)) from error


def _task_record(row: CheckpointRow) -> TaskRecord:
    each = row.checkpoint
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
