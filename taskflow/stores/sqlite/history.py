"""How `SQLiteStore` copies threads: what a fork and an import insert.

Each function is called in a connection's own thread, in a transaction of the caller's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from msgspec import structs

from taskflow.errors import CheckpointCorrupt, RunNotFound, ThreadExists
from taskflow.stores.edits import checksum_on, left_out
from taskflow.stores.rows import Checkpoint, CheckpointRow, RunRow
from taskflow.stores.sqlite import statements as sql
from taskflow.stores.sqlite.tables import SQLiteTables
from taskflow.stores.transitions import forked

__all__ = ("adopt", "fork")


def fork(
    tables: SQLiteTables, thread_id: str, run_id: str | None, to: str, without: Sequence[str]
) -> RunRow:
    """Copy one run to a new thread."""
    db = tables.db
    if db.execute(sql.SELECT_HEAD, (to,)).fetchone():
        raise ThreadExists(to)
    runs = tables.runs
    row = runs.latest(thread_id) if run_id is None else runs.run(thread_id, run_id)
    if row is None:
        raise RunNotFound(thread_id, "run" if run_id is None else f"run {run_id!r}")

    source = row.verified()
    dropped = left_out(tables, source, without)
    earlier = runs.previous(source)
    if earlier is not None:
        _insert_run(db, forked(earlier.verified(), to, is_whole=True))
    made = _insert_run(db, forked(source, to, is_whole=not dropped))
    _copy_checkpoints(db, source, to, dropped)
    return made


def _copy_checkpoints(db: sqlite3.Connection, source: RunRow, to: str, dropped: set[str]) -> None:
    thread_id, run_id = source.thread_id, source.run_id
    damage: list[CheckpointCorrupt] = []

    def checksum(*columns: Any) -> int:
        try:
            return checksum_on(to, thread_id, CheckpointRow(0, run_id, Checkpoint(0, 0, *columns)))
        except CheckpointCorrupt as error:
            damage.append(error)  # SQLite passes on only that something was raised
            raise

    columns = len(Checkpoint.__struct_fields__) - 2
    db.create_function("checksum_on", columns, checksum)
    db.create_function("is_copied", 1, lambda task_id: task_id not in dropped)
    try:
        place = {"to": to, "thread_id": thread_id, "run_id": run_id}
        db.execute(sql.COPY_CHECKPOINTS, place)
    except sqlite3.OperationalError:
        if damage:
            raise damage[0] from None
        raise
    finally:
        db.create_function("checksum_on", columns, None)
        db.create_function("is_copied", 1, None)


def adopt(
    db: sqlite3.Connection, runs: Sequence[RunRow], checkpoints: Sequence[CheckpointRow]
) -> None:
    """Insert a thread that comes from elsewhere."""
    thread_id = runs[0].thread_id
    if db.execute(sql.SELECT_HEAD, (thread_id,)).fetchone():
        raise ThreadExists(thread_id)

    for row in runs:
        _insert_run(db, row)
    db.executemany(
        sql.INSERT_CHECKPOINT,
        ((thread_id, row.run_id, *structs.astuple(row.checkpoint)[2:]) for row in checkpoints),
    )


def _insert_run(db: sqlite3.Connection, row: RunRow) -> RunRow:
    number = db.execute(sql.INSERT_RUN, structs.astuple(row)[1:]).lastrowid
    return structs.replace(row, number=number or 0)
