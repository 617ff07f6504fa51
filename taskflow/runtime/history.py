"""Putting records right: replace, forget, copy, move, cancel and delete what is recorded.

The rule: what is being executed is not changed. A run that executes in this runtime is ThreadBusy
here, and the store turns down what another runtime executes; only `cancel` ends an execution. The
executions that sleep here are told when their run is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, Callable, Iterable
from datetime import datetime, timedelta

from taskflow.calls.definitions import definitions_of
from taskflow.errors import RunNotFound, SerializationError, TaskflowError, ThreadBusy
from taskflow.loops.promises import check_call_room
from taskflow.records import Pruned, RunRecord, RunStatus
from taskflow.runtime import exports, lookups
from taskflow.runtime.services import Service
from taskflow.stores.base import BLOCK_RUN_ID
from taskflow.stores.kinds import EMIT, OUTCOMES, SIGNAL, WAIT
from taskflow.stores.pruning import Prune
from taskflow.wire.identity import check_id, check_text
from taskflow.wire.json import encode_plain
from taskflow.wire.plain import check_exact, is_plain

__all__ = ("adopt", "cancel", "delete", "forget", "fork", "prune", "replace")

NO_CALLS = {EMIT: "an emitted value", SIGNAL: "a signal", WAIT: "a deadline"}


async def forget(service: Service, thread_id: str, task_id: str) -> None:
    """Drop a recorded call, and the calls whose bodies made it.

    Raises RunNotFound and ThreadBusy.
    """
    _check_idle(service, check_id(thread_id, "thread id"))
    check_text(task_id, "task id")
    if not await service.store.forget(thread_id, task_id, service.owner):
        raise RunNotFound(thread_id, f"recorded call {task_id!r}")


async def replace(service: Service, thread_id: str, task_id: str, value: object) -> None:
    """Make ``value`` the recorded result of a call.

    Raises RunNotFound, SerializationError and ThreadBusy, and ValueError for what is no call.
    """
    _check_idle(service, check_id(thread_id, "thread id"))
    check_text(task_id, "task id")
    row = await service.store.checkpoint(thread_id, task_id)
    if row is None:
        raise RunNotFound(thread_id, f"recorded call {task_id!r}")
    kind = row.checkpoint.kind
    if kind not in OUTCOMES:
        raise ValueError(
            f"{task_id} is {NO_CALLS.get(kind, kind)} on thread {thread_id!r}: only the result of "
            "a call can be replaced"
        )

    payload = _payload_of(row.checkpoint.name, value)
    if not await service.store.replace(thread_id, task_id, payload):
        raise RunNotFound(thread_id, f"recorded call {task_id!r}")


async def fork(
    service: Service, thread_id: str, to: str, run_id: str | None, without: Iterable[str]
) -> RunRecord:
    """Copy a run (None: the latest) to the new thread ``to``, but for the calls ``without``.

    Raises ThreadExists, RunNotFound and CheckpointCorrupt.
    """
    check_id(thread_id, "thread id")
    check_id(to, "thread id")
    if isinstance(without, str):
        raise TypeError(f"without takes several task ids, got one text: [{without!r}]")
    if run_id is not None:
        check_text(run_id, "run id")
    left_out = [check_text(each, "task id") for each in without]
    return lookups.run_record(await service.store.fork(thread_id, run_id, to, left_out))


async def adopt(
    service: Service,
    lines: Iterable[str | bytes] | AsyncIterable[str | bytes],
    to: str | None,
) -> str:
    """Make a thread of exported lines, under its own id or ``to``; the id.

    Raises ImportRefused and ThreadExists.
    """
    if to is not None:
        check_id(to, "thread id")
    runs, checkpoints = await exports.read_export(lines, to)
    await service.store.adopt(runs, checkpoints)
    return runs[0].thread_id


async def prune(
    service: Service,
    *,
    finished_before: datetime | timedelta | None,
    status: str | Iterable[str],
    keep_last: int | None,
    report: Callable[[Pruned], object] | None,
) -> Pruned:
    """Delete runs that have ended; how much there was of each.

    Raises ValueError or TypeError for options that make no sense.
    """
    order = _prune_of(finished_before, status, keep_last, service.clock.now())
    total = Pruned()
    async with contextlib.aclosing(service.store.prune(order)) as steps:
        async for pruned in steps:
            total += pruned
            if report is not None:
                report(total)
    for thread_id, asleep in list(service.registry.asleep.items()):
        row = await service.store.run(thread_id, asleep.run_id)
        is_gone = row is None or row.status == RunStatus.CANCELLED
        if is_gone and asleep.is_asleep:  # it may have been woken meanwhile
            asleep.end(RunNotFound(thread_id))
    return total


async def cancel(service: Service, thread_id: str, run_id: str | None) -> None:
    """End a thread's run (None: the latest) for good, whichever process executes it.

    Raises RunNotFound.
    """
    check_call_room()
    check_id(thread_id, "thread id")
    if run_id is not None:
        check_text(run_id, "run id")
    # The run that sleeps or executes here may have been ended elsewhere, and another one begun.
    if await _cancel_asleep(service, thread_id, run_id):
        return
    if await _cancel_executing(service, thread_id, run_id):
        return
    row = await service.store.run(thread_id, run_id)
    if row is not None and row.run_id == BLOCK_RUN_ID:
        raise RunNotFound(thread_id, "run of a workflow, but thread() blocks: delete() it")
    row = await service.store.cancel(thread_id, service.clock.now(), run_id)
    if row is None or row.status == RunStatus.SUCCESS:
        raise _none_to_cancel(thread_id, run_id)


def _none_to_cancel(thread_id: str, run_id: str | None) -> RunNotFound:
    named = "" if run_id is None else f" {run_id!r}"
    return RunNotFound(thread_id, f"unfinished run{named}")


async def _cancel_asleep(service: Service, thread_id: str, run_id: str | None) -> bool:
    """Cancel the run that sleeps here; whether it is the one that was asked for.

    Raises RunNotFound where that one has succeeded elsewhere.
    """
    asleep = service.registry.asleep.get(thread_id)
    if asleep is None or run_id not in (None, asleep.run_id):
        return False
    row = await service.store.run(thread_id, run_id)
    await asleep.cancel()
    if row is None or asleep.run_id != row.run_id:
        return False
    if asleep.status == RunStatus.SUCCESS:
        raise _none_to_cancel(thread_id, run_id)
    return True


async def _cancel_executing(service: Service, thread_id: str, run_id: str | None) -> bool:
    """Cancel the run that executes here; whether it is the one that was asked for."""
    execution = service.registry.executing.get(thread_id)
    if execution is None:
        return False
    with contextlib.suppress(TaskflowError):
        await execution.waiters.begun.wait()
    if execution.waiters.ended.done() or run_id not in (None, execution.run_id):
        return False
    row = await service.store.run(thread_id, run_id)
    await execution.cancel()
    run = execution.run  # others may have ended or deleted the one of the row
    return row is not None and (run is None or run.row.number == row.number)


async def delete(service: Service, thread_id: str) -> None:
    """Delete a thread with everything that is recorded on it. Raises RunNotFound and ThreadBusy."""
    _check_idle(service, check_id(thread_id, "thread id"))
    if not await service.store.delete(thread_id, service.owner):
        raise RunNotFound(thread_id)
    if (asleep := service.registry.asleep.get(thread_id)) is not None:
        asleep.end(RunNotFound(thread_id))


def _check_idle(service: Service, thread_id: str) -> None:
    if thread_id in service.registry.executing or thread_id in service.registry.blocks:
        raise ThreadBusy(thread_id, "this runtime executes it")


def _payload_of(name: str, value: object) -> bytes:
    """``value`` as a result of the task ``name``, by its annotation where that is known."""
    refusal: SerializationError | None = None
    for definition in definitions_of(name):
        try:
            return definition.codec.round_trip(value)[0]
        except SerializationError as error:  # another task of that name may be meant
            refusal = refusal or error
    if refusal is not None:
        raise refusal

    try:
        check_exact(value)
    except (ValueError, RecursionError) as error:
        raise SerializationError(f"the value cannot be recorded as JSON: {error}") from error
    if not is_plain(value):
        raise SerializationError(
            f"the value ({type(value).__qualname__}) would not come back from JSON as it is, and "
            f"no task {name!r} is known in this process whose annotation could tell: import the "
            "module that defines it, or give builtin values"
        )
    return encode_plain(value)


def _prune_of(
    finished_before: datetime | timedelta | None,
    status: str | Iterable[str],
    keep_last: int | None,
    now: float,
) -> Prune:
    """The order for the store. Raises ValueError or TypeError for options that make no sense."""
    if finished_before is None and keep_last is None:
        raise ValueError("say which runs are to go: finished_before=, keep_last=, or both")
    if keep_last is not None and keep_last < 0:
        raise ValueError(f"keep_last is not negative, got {keep_last}")
    statuses = tuple(RunStatus(each) for each in ([status] if isinstance(status, str) else status))
    if RunStatus.RUNNING in statuses:
        raise ValueError("a run that has not ended is not pruned: cancel() or delete() it")
    if isinstance(finished_before, datetime):
        if finished_before.tzinfo is None:
            raise ValueError("finished_before has no time zone: write datetime.now(UTC), say")
        before = finished_before.timestamp()
    elif isinstance(finished_before, timedelta):
        if finished_before < timedelta(0):
            raise ValueError(f"finished_before is how long ago, not negative: {finished_before!r}")
        before = now - finished_before.total_seconds()
    elif finished_before is None:
        before = float("inf")
    else:
        raise TypeError(f"finished_before is a datetime or timedelta, got {finished_before!r}")
    return Prune(statuses, before, keep_last or 0, now)
