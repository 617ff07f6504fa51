"""Single rows of a SQLite file, as the structs that they are; in a transaction of the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import structs

from taskflow.errors import CheckpointCorrupt, RunNotFound
from taskflow.records import RunStatus
from taskflow.stores.kinds import SIGNAL, WAIT, wait_id
from taskflow.stores.rows import Checkpoint, CheckpointRow, RunRow
from taskflow.stores.sqlite import statements as sql
from taskflow.stores.transitions import reopened

__all__ = (
    "calls_up_from",
    "check_unknown",
    "checkpoint_row",
    "drop_call",
    "one_checkpoint",
    "one_run",
    "reopen",
    "update_run",
)


def one_run(db: sqlite3.Connection, query: str, parameters: Iterable[object]) -> RunRow | None:
    """The first row that ``query`` finds: of this thread, and this run where one is named.

    Raises CheckpointCorrupt where an index leads to the row of another one.
    """
    thread_id, *others = parameters
    row = db.execute(query, (thread_id, *others)).fetchone()
    if row is None:
        return None

    run = RunRow(*row)
    if run.thread_id != thread_id or (query is sql.SELECT_RUN and run.run_id != others[0]):
        raise CheckpointCorrupt(str(thread_id), run.run_id, None, "it is not the one asked for")
    return run


def one_checkpoint(db: sqlite3.Connection, thread_id: str, task_id: str) -> CheckpointRow | None:
    """The row of any kind that a thread has under this id."""
    row = db.execute(sql.SELECT_CHECKPOINT, (thread_id, task_id)).fetchone()
    return checkpoint_row(row) if row else None


def checkpoint_row(row: Sequence[Any]) -> CheckpointRow:
    """A row as the statements give it that select all of a checkpoint."""
    return CheckpointRow(row[0], row[1], Checkpoint(*row[2:]))


def check_unknown(db: sqlite3.Connection, thread_id: str) -> None:
    """Raise CheckpointCorrupt where one index knows a thread that another one does not."""
    row = db.execute(sql.SELECT_KNOWN_RUN, (thread_id,)).fetchone()
    if row is not None:
        raise CheckpointCorrupt(thread_id, row[0], None, "an index of the file has lost it")


def update_run(db: sqlite3.Connection, row: RunRow) -> RunRow:
    """Write what may change of a run."""
    db.execute(sql.UPDATE_RUN, structs.asdict(row))
    return row


def calls_up_from(db: sqlite3.Connection, thread_id: str, task_id: str) -> tuple[str, list[str]]:
    """The run that has recorded a call, and the recorded calls from that one up to the run itself.

    Raises RunNotFound where it is not recorded, or is a signal or a deadline, and
    CheckpointCorrupt where it is not known which they are.
    """
    found = one_checkpoint(db, thread_id, task_id)
    if found is None or found.checkpoint.kind in (SIGNAL, WAIT):
        raise RunNotFound(thread_id, f"recorded call {task_id!r}")

    run_id = found.run_id
    if one_run(db, sql.SELECT_RUN, (thread_id, run_id)) is None:
        raise CheckpointCorrupt(thread_id, run_id, None, f"no run has recorded {task_id}")
    chain: list[str] = []
    next_id: str | None = task_id
    while next_id is not None and found is not None and next_id not in chain:
        chain.append(next_id)
        if not found.checkpoint.has_sound_details:
            reason = f"who has called {next_id} is not known any more"
            raise CheckpointCorrupt(thread_id, run_id, None, reason)
        next_id = found.checkpoint.parent_id
        found = None if next_id is None else one_checkpoint(db, thread_id, next_id)
    return run_id, chain


def drop_call(db: sqlite3.Connection, thread_id: str, task_id: str) -> None:
    """Delete what is recorded of a call."""
    db.execute(sql.DELETE_CALL, (thread_id, task_id, wait_id(task_id)))


def reopen(db: sqlite3.Connection, thread_id: str, run_id: str) -> None:
    """Open a run again, if it is its thread's latest and had succeeded."""
    latest = one_run(db, sql.SELECT_LATEST, (thread_id,))
    if latest and latest.run_id == run_id and latest.status == RunStatus.SUCCESS:
        update_run(db, reopened(latest.verified()))
