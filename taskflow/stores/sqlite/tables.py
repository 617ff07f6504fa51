"""`SQLiteTables`: the rows of a SQLite file, as the rules that all stores share ask for them.

Each method runs in a connection's own thread, in a transaction of the caller's. Many rows are
written in one statement; the ones that the statement refuses are missing in its row count.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from msgspec import structs

from taskflow.records import RunStatus
from taskflow.stores.batches import Finish
from taskflow.stores.checksums import COVERED
from taskflow.stores.commits import note_refused
from taskflow.stores.edits import replaced
from taskflow.stores.kinds import wait_id
from taskflow.stores.rows import CacheEntry, Checkpoint, CheckpointRow, RunKey, RunRow, SignalRow
from taskflow.stores.sqlite import statements as sql
from taskflow.stores.sqlite.lease import Lease
from taskflow.stores.sqlite.rows import check_unknown, one_checkpoint, one_run, update_run
from taskflow.stores.tables import Refused

__all__ = ("CheckpointTable", "RunTable", "SQLiteTables")


class RunTable:
    """The run table."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def standing(self, number: int) -> tuple[int, str] | None:
        found: tuple[int, str] | None = self._db.execute(sql.SELECT_EPOCH, (number,)).fetchone()
        return found

    def run(self, thread_id: str, run_id: str) -> RunRow | None:
        return one_run(self._db, sql.SELECT_RUN, (thread_id, run_id))

    def latest(self, thread_id: str) -> RunRow | None:
        return one_run(self._db, sql.SELECT_LATEST, (thread_id,))

    def last_sequence(self, thread_id: str) -> int:
        (found,) = self._db.execute(sql.SELECT_LAST_SEQUENCE, (thread_id,)).fetchone()
        return found or 0

    def heads(self, thread_ids: Sequence[str]) -> dict[str, RunRow]:
        query = sql.SELECT_HEADS.format(rows=sql.values("(?)", len(thread_ids)))
        rows = [RunRow(*row) for row in self._db.execute(query, thread_ids).fetchall()]
        return {row.thread_id: row for row in rows}

    def check_absent(self, thread_id: str) -> None:
        check_unknown(self._db, thread_id)

    def previous(self, run: RunRow) -> RunRow | None:
        return one_run(self._db, sql.SELECT_PREVIOUS, (run.thread_id, run.sequence))

    def begin(self, runs: Sequence[RunRow]) -> Sequence[RunRow]:
        parameters: list[Any] = []
        for run in runs:
            parameters += structs.astuple(run)[1:]
        statement = sql.INSERT_RUNS.format(rows=sql.values(sql.RUN_ROW, len(runs)))
        found = self._db.execute(statement, parameters).fetchall()
        numbers = {thread_id: number for number, thread_id in found}
        return [structs.replace(run, number=numbers[run.thread_id]) for run in runs]

    def update(self, run: RunRow) -> None:
        update_run(self._db, run)

    def make_due(self, run: RunRow) -> None:
        self._db.execute(sql.SET_DUE, (run.number,))

    def finish(self, finishes: Sequence[Finish]) -> set[tuple[int, int]]:
        """Write ends and releases, of current owners; the number and epoch of each written."""
        parameters: list[Any] = []
        for each in finishes:
            key = each.key
            parameters += (key.number, key.epoch, each.status, each.result, each.error, each.saved)
            parameters += (each.finished, each.checksum, each.due, each.takeovers)
        statement = sql.FINISH_RUNS.format(rows=sql.values(sql.FINISH_ROW, len(finishes)))
        return {*self._db.execute(statement, parameters).fetchall()}

    def pause(self, finish: Finish) -> bool:
        """Write a pause; false where it was refused."""
        key = finish.key
        parameters = {
            "number": key.number,
            "epoch": key.epoch,
            "thread_id": key.thread_id,
            "run_id": key.run_id,
            "now": finish.now,
            "result": finish.result,
            "error": finish.error,
            "saved": finish.saved,
            "checksum": finish.checksum,
            "waits": finish.waits,
            "due": finish.due,
            "last_signal": finish.last_signal,
        }
        return bool(self._db.execute(sql.PAUSE_RUN, parameters).rowcount)


class CheckpointTable:
    """The checkpoint table."""

    def __init__(
        self, db: sqlite3.Connection, runs: RunTable, check_schema: Callable[[], None]
    ) -> None:
        self._db = db
        self._runs = runs
        self._check_schema = check_schema  # of rows that were refused

    def row(self, thread_id: str, task_id: str) -> CheckpointRow | None:
        return one_checkpoint(self._db, thread_id, task_id)

    def place_of(self, thread_id: str, task_id: str) -> tuple[str, int] | None:
        row = self._db.execute(sql.SELECT_RUN_OF_CALL, (thread_id, task_id)).fetchone()
        return None if row is None else (row[0], row[2])

    def latest_of(self, run: RunRow) -> int:
        return self._sequence(sql.SELECT_LATEST_CHECKPOINT, run)

    def insert(self, checkpoints: Sequence[Checkpoint], refused: Refused) -> Sequence[int]:
        if len(checkpoints) > sql.MAX_ROWS:
            starts = range(0, len(checkpoints), sql.MAX_ROWS)
            chunks = (checkpoints[start : start + sql.MAX_ROWS] for start in starts)
            return [each for chunk in chunks for each in self.insert(chunk, refused)]

        parameters: list[Any] = []
        for checkpoint in checkpoints:
            parameters += structs.astuple(checkpoint)
        rows = sql.values(sql.CHECKPOINT_ROW, len(checkpoints))
        cursor = self._db.execute(sql.INSERT_CHECKPOINTS.format(rows=rows), parameters)
        # Rows of one statement are numbered one by one, in the order of its values.
        end = (cursor.lastrowid or 0) + 1
        first = end - cursor.rowcount
        if cursor.rowcount == len(checkpoints):
            return range(first, end)
        self._check_schema()
        note_refused({(each.number, each.epoch) for each in checkpoints}, self._runs, refused)
        numbers = count(first)
        return [
            0 if (each.number, each.epoch) in refused else next(numbers) for each in checkpoints
        ]

    def replace_result(self, thread_id: str, run_id: str, task_id: str, payload: bytes) -> bool:
        row = self.row(thread_id, task_id)
        if row is None:
            return False
        checksum = replaced(row.checkpoint, thread_id, run_id, payload).checksum & COVERED
        asked = payload, checksum, thread_id, task_id
        return bool(self._db.execute(sql.REPLACE_RESULT, asked).rowcount)

    def drop(self, thread_id: str, task_id: str) -> None:
        self._db.execute(sql.DELETE_CALL, (thread_id, task_id, wait_id(task_id)))

    def unrecord(self, key: RunKey, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            parameters = {
                "thread_id": key.thread_id,
                "task_id": task_id,
                "wait_id": wait_id(task_id),
                "number": key.number,
                "epoch": key.epoch,
            }
            self._db.execute(sql.UNRECORD, parameters)

    def add_signal(self, run: RunRow, row: Checkpoint) -> int:
        parameters = run.thread_id, run.run_id, *structs.astuple(row)[2:]
        return self._db.execute(sql.INSERT_CHECKPOINT, parameters).lastrowid or 0

    def is_taken(self, thread_id: str, signal: str) -> bool:
        return self._db.execute(sql.SELECT_TAKER, (thread_id, signal)).fetchone() is not None

    def last_signal(self, run: RunRow) -> int:
        return self._sequence(sql.SELECT_LAST_SIGNAL, run)

    def waiting_signals(self, run: RunRow) -> Sequence[SignalRow]:
        place = run.thread_id, run.run_id, 0
        return [SignalRow(*row) for row in self._db.execute(sql.SELECT_SIGNALS, place)]

    def _sequence(self, query: str, run: RunRow) -> int:
        row = self._db.execute(query, (run.thread_id, run.run_id)).fetchone()
        return row[0] if row else 0


class SQLiteTables:
    """The tables, by one connection, and the leases as one owner judges them."""

    def __init__(
        self, db: sqlite3.Connection, lease: Lease, check_schema: Callable[[], None]
    ) -> None:
        self.db = db
        self.runs = RunTable(db)
        self.checkpoints = CheckpointTable(db, self.runs, check_schema)
        self._lease = lease

    def is_gone(self, owner: str) -> bool:
        return self._lease.is_gone(self.db, owner)

    def finish(self, finishes: Sequence[Finish], refused: Refused) -> None:
        ends: list[Finish] = []
        missing: list[Finish] = []
        for finish in finishes:
            if finish.unrecord:
                self.checkpoints.unrecord(finish.key, finish.unrecord)
            if finish.status != RunStatus.PAUSED:
                ends.append(finish)
            elif not self.runs.pause(finish):
                missing.append(finish)
        if ends:
            written = self.runs.finish(ends)
            if len(written) < len(ends):
                missing += [
                    each for each in ends if (each.key.number, each.key.epoch) not in written
                ]
        note_refused([(each.key.number, each.key.epoch) for each in missing], self.runs, refused)

    def put_cached(self, entries: Sequence[CacheEntry]) -> None:
        self.db.executemany(sql.PUT_CACHED, map(structs.astuple, entries))
