"""Looking up what is recorded: rows of the store become records of builtin values.

Only this module decides what `RunRecord` and `TaskRecord` show of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import anyio.lowlevel
from msgspec import structs

from taskflow.calls.workflows import Workflow
from taskflow.errors import CheckpointCorrupt, RunNotFound
from taskflow.records import RunRecord, RunStatus, TaskRecord
from taskflow.runs.progress import Progress
from taskflow.runtime.services import Service
from taskflow.stores.kinds import OUTCOMES, RESULT
from taskflow.stores.rows import CheckpointRow, RunRow
from taskflow.wire import failures
from taskflow.wire.identity import check_id, check_text
from taskflow.wire.json import decode_plain
from taskflow.wire.pauses import decode_waits

__all__ = ("progress", "run", "run_record", "run_row", "runs", "tasks")

T = TypeVar("T")
X = TypeVar("X")

ROWS_AT_ONCE: Final = 1000  # decoded before other tasks have their turn (7 µs each)


async def run(service: Service, thread_id: str, run_id: str | None) -> RunRecord:
    """A thread's run, the latest where ``run_id`` is None. Raises RunNotFound."""
    record = run_record(await run_row(service, thread_id, run_id))
    execution = service.registry.executing.get(thread_id)
    executing = None if execution is None else execution.run
    if executing is None or record.status != RunStatus.RUNNING:
        return record  # a pause that is committed has its waits in the row
    if executing.run_id == record.run_id:
        record = structs.replace(record, waits=list(executing.waiting.waits.values()))
    return record


async def runs(
    service: Service,
    *,
    thread_id: str | None,
    status: str | None,
    workflow: str | Workflow[..., Any, Any] | None,
    before: int | None,
    limit: int,
) -> list[RunRecord]:
    """At most ``limit`` runs with a number below ``before``, newest first."""
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    name = workflow.name if isinstance(workflow, Workflow) else workflow
    if name is not None:
        check_text(name, "workflow's name")
    asked = None if status is None else RunStatus(status)
    if thread_id is None:
        rows = await service.store.runs(asked, name, before, limit)
    else:
        check_id(thread_id, "thread id")
        rows = await service.store.runs(asked, name, before, limit, thread_id)
    return await _in_turns(rows, run_record)


async def tasks(service: Service, thread_id: str, run_id: str | None) -> list[TaskRecord]:
    """The recorded calls on a thread, or in one of its runs, in commit order.

    Raises RunNotFound, and CheckpointCorrupt for a damaged record.
    """
    await run_row(service, thread_id, run_id)
    rows = await service.store.checkpoints(thread_id, run_id)
    sound = await _in_turns(rows, lambda row: row.verified(thread_id))
    outcomes = [row for row in sound if row.checkpoint.kind in OUTCOMES]
    return await _in_turns(outcomes, _task_record)


def progress(service: Service, thread_id: str) -> Progress | None:
    """How far a thread's run is; None where this runtime does not execute it."""
    execution = service.registry.executing.get(thread_id)
    executing = None if execution is None else execution.run
    return None if executing is None else executing.activity.progress()


async def run_row(service: Service, thread_id: str, run_id: str | None) -> RunRow:
    """The row of a thread's run, the latest where ``run_id`` is None. Raises RunNotFound."""
    check_id(thread_id, "thread id")
    if run_id is not None:
        check_text(run_id, "run id")
    row = await service.store.run(thread_id, run_id)
    if row is None:
        raise RunNotFound(thread_id, "run" if run_id is None else f"run {run_id!r}")
    return row


def run_record(row: RunRow) -> RunRecord:
    """A run as it is shown. Raises CheckpointCorrupt where its JSON is damaged."""
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


async def _in_turns(rows: Sequence[X], make: Callable[[X], T]) -> list[T]:
    """``make(row)`` of each row; other tasks have their turns in between."""
    made: list[T] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        made += map(make, rows[start : start + ROWS_AT_ONCE])
        await anyio.lowlevel.checkpoint()
    return made
