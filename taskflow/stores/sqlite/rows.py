"""Single rows of a SQLite file, as the structs that they are; in a transaction of the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import structs

from taskflow.errors import CheckpointCorrupt
from taskflow.stores.rows import Checkpoint, CheckpointRow, RunRow
from taskflow.stores.sqlite import statements as sql

__all__ = (
    "check_unknown",
    "checkpoint_row",
    "one_checkpoint",
    "one_run",
    "run_row",
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


def run_row(row: Sequence[Any]) -> RunRow:
    """A row as the statements give it that select all of a run. Raises CheckpointCorrupt."""
    return RunRow(*row).verified()


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
