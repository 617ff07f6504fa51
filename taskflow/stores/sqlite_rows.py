"""Single rows of a SQLite file, as the structs that they are; in a transaction of the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from msgspec import structs

from taskflow.errors import RunNotFound
from taskflow.records import SIGNAL, WAIT, RunRow, RunStatus
from taskflow.stores import statements as sql
from taskflow.stores.base import reopened, wait_id

__all__ = ("calls_up_from", "drop_call", "one_run", "reopen", "update_run")


def one_run(db: sqlite3.Connection, query: str, parameters: Iterable[object]) -> RunRow | None:
    """The first row that ``query`` finds."""
    row = db.execute(query, tuple(parameters)).fetchone()
    return RunRow(*row) if row else None


def update_run(db: sqlite3.Connection, row: RunRow) -> RunRow:
    """Write what may change of a run."""
    db.execute(sql.UPDATE_RUN, structs.asdict(row))
    return row


def calls_up_from(db: sqlite3.Connection, thread_id: str, task_id: str) -> tuple[str, list[str]]:
    """The run that has recorded a call, and the recorded calls from that one up to the run itself.

    Raises RunNotFound where it is not recorded, or is a signal or a deadline.
    """
    kind = db.execute(sql.SELECT_KIND, (thread_id, task_id)).fetchone()
    found = db.execute(sql.SELECT_RUN_OF_CALL, (thread_id, task_id)).fetchone()
    if found is None or kind[0] in (SIGNAL, WAIT):
        raise RunNotFound(thread_id, f"recorded call {task_id!r}")

    run_id = str(found[0])
    chain: list[str] = []
    next_id: str | None = task_id
    while next_id is not None and found is not None and next_id not in chain:
        chain.append(next_id)
        next_id = found[1]
        found = db.execute(sql.SELECT_RUN_OF_CALL, (thread_id, next_id)).fetchone()
    return run_id, chain


def drop_call(db: sqlite3.Connection, thread_id: str, task_id: str) -> None:
    """Delete what is recorded of a call."""
    db.execute(sql.DELETE_CALL, (thread_id, task_id, wait_id(task_id)))


def reopen(db: sqlite3.Connection, thread_id: str, run_id: str) -> None:
    """Open a run again, if it is its thread's latest and had succeeded."""
    latest = one_run(db, sql.SELECT_LATEST, (thread_id,))
    if latest and latest.run_id == run_id and latest.status == RunStatus.SUCCESS:
        update_run(db, reopened(latest.verified()))
