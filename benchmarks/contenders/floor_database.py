"""The tables that floors b and f write: taskflow's own, column by column, with its pragmas.

Only this module knows the schema, which it copies from `taskflow/stores/sqlite/statements.py`.
"""

import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from random import getrandbits
from zlib import crc32

import aiosqlite
import msgspec

__all__ = (
    "Arguments",
    "Operation",
    "Row",
    "checkpoint_of",
    "connected",
    "continue_run",
    "end_of",
    "end_runs",
    "insert_checkpoints",
    "insert_runs",
    "pause_run",
    "random_id",
    "run_of",
    "select_latest_runs",
)

CREATE_TABLES = """
CREATE TABLE IF NOT EXISTS run (
    number INTEGER PRIMARY KEY AUTOINCREMENT, thread_id TEXT NOT NULL, run_id TEXT NOT NULL,
    sequence INTEGER NOT NULL, workflow TEXT NOT NULL, input BLOB NOT NULL,
    fingerprint TEXT NOT NULL, status TEXT NOT NULL, result BLOB, error BLOB, saved BLOB,
    owner TEXT, epoch INTEGER NOT NULL, created REAL NOT NULL, started REAL NOT NULL, finished REAL,
    checksum INTEGER NOT NULL, waits BLOB, due REAL, takeovers INTEGER NOT NULL DEFAULT 0,
    mark INTEGER NOT NULL DEFAULT 0,
    UNIQUE (thread_id, run_id), UNIQUE (thread_id, sequence)
);
CREATE UNIQUE INDEX IF NOT EXISTS run_unfinished ON run (thread_id)
    WHERE status NOT IN ('success', 'cancelled');
CREATE INDEX IF NOT EXISTS run_status ON run (status, number);
CREATE INDEX IF NOT EXISTS run_due ON run (due) WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS run_owner ON run (owner) WHERE owner IS NOT NULL;
CREATE TABLE IF NOT EXISTS checkpoint (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, thread_id TEXT NOT NULL, run_id TEXT NOT NULL,
    task_id TEXT NOT NULL, parent_id TEXT, name TEXT NOT NULL, kind TEXT NOT NULL,
    payload BLOB NOT NULL, arguments TEXT, attempts INTEGER NOT NULL, started REAL NOT NULL,
    finished REAL NOT NULL, checksum INTEGER NOT NULL, signal TEXT, UNIQUE (thread_id, task_id)
);
CREATE INDEX IF NOT EXISTS checkpoint_run ON checkpoint (thread_id, run_id);
CREATE UNIQUE INDEX IF NOT EXISTS checkpoint_taken ON checkpoint (thread_id, signal)
    WHERE signal IS NOT NULL;
CREATE INDEX IF NOT EXISTS checkpoint_signal ON checkpoint (thread_id, run_id, sequence)
    WHERE kind = 'signal';
CREATE INDEX IF NOT EXISTS checkpoint_news ON checkpoint (sequence) WHERE kind = 'signal';
"""

INSERT_CHECKPOINTS = """
INSERT INTO checkpoint (
    thread_id, run_id, task_id, parent_id, name, kind, payload, arguments, attempts, started,
    finished, checksum, signal
) VALUES {rows}
"""
CHECKPOINT_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

SELECT_LATEST_RUNS = """
SELECT number, thread_id, run_id, sequence, workflow, input, fingerprint, status, result, error,
    saved, owner, epoch, created, started, finished, checksum, waits, due, takeovers, mark
FROM run WHERE number IN (
    SELECT (SELECT number FROM run WHERE thread_id = asked.column1 ORDER BY sequence DESC LIMIT 1)
    FROM (VALUES {rows}) AS asked
)
"""
THREAD_ROW = "(?)"
INSERT_RUNS = """
INSERT INTO run (
    thread_id, run_id, sequence, workflow, input, fingerprint, status, owner, epoch, created,
    started, checksum
) VALUES {rows}
"""
RUN_ROW = "(?, ?, 1, ?, ?, ?, 'running', ?, 1, ?, ?, ?)"
END_RUNS = """
UPDATE run SET status = 'success', result = ended.column3, finished = ended.column4,
    checksum = ended.column5, owner = NULL, takeovers = 0, waits = NULL, due = NULL
FROM (VALUES {rows}) AS ended
WHERE run.thread_id = ended.column1 AND run.run_id = ended.column2 AND run.epoch = 1
"""
END_ROW = "(?, ?, ?, ?, ?)"

PAUSE_RUN = """
UPDATE run SET status = 'paused', owner = NULL, waits = ? WHERE thread_id = ? AND run_id = ?
"""
CONTINUE_RUN = """
UPDATE run SET status = 'running', owner = ?, waits = NULL WHERE thread_id = ? AND run_id = ?
"""

OWNER = f"{1:032x}"

Value = str | bytes | int | float | None
Row = tuple[Value, ...]
Operation = tuple[str, Row]
"""A statement and its parameters."""


class Arguments(msgspec.Struct):
    """The arguments of a recorded call."""

    number: int


@asynccontextmanager
async def connected(
    path: Path, synchronous: str, factory: type[sqlite3.Connection] = sqlite3.Connection
) -> AsyncGenerator[aiosqlite.Connection, None]:
    """A connection as taskflow's store opens it; one statement is one commit."""
    async with aiosqlite.connect(path, isolation_level=None, factory=factory) as connection:
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute(f"PRAGMA synchronous = {synchronous}")
        await connection.execute("PRAGMA wal_autocheckpoint = 10000")
        await connection.execute("PRAGMA cache_size = -32000")
        await connection.execute("PRAGMA busy_timeout = 5000")
        await connection.executescript(CREATE_TABLES)
        yield connection


def select_latest_runs(thread_ids: Sequence[str]) -> Operation:
    """The query for the latest run of each of these threads."""
    return filled(SELECT_LATEST_RUNS, THREAD_ROW, len(thread_ids)), tuple(thread_ids)


def insert_runs(rows: Sequence[Row]) -> Operation:
    """The statement that inserts these runs."""
    return filled(INSERT_RUNS, RUN_ROW, len(rows)), tuple(chain.from_iterable(rows))


def insert_checkpoints(rows: Sequence[Row]) -> Operation:
    """The statement that inserts these results."""
    return filled(INSERT_CHECKPOINTS, CHECKPOINT_ROW, len(rows)), tuple(chain.from_iterable(rows))


def end_runs(rows: Sequence[Row]) -> Operation:
    """The statement that ends these runs."""
    return filled(END_RUNS, END_ROW, len(rows)), tuple(chain.from_iterable(rows))


@cache
def filled(statement: str, row: str, rows: int) -> str:
    return statement.format(rows=", ".join([row] * rows))


def pause_run(thread_id: str, run_id: str, waits: bytes) -> Operation:
    """The statement that pauses a run."""
    return PAUSE_RUN, (waits, thread_id, run_id)


def continue_run(thread_id: str, run_id: str) -> Operation:
    """The statement that gives a paused run an owner again."""
    return CONTINUE_RUN, (OWNER, thread_id, run_id)


def random_id() -> str:
    """An id as long as a 128-bit digest in hex, and as scattered over the index."""
    return f"{getrandbits(128):032x}"


def checkpoint_of(
    thread_id: str,
    run_id: str,
    name: str,
    number: int,
    payload: bytes,
    started: float,
    encode: Callable[[Arguments], bytes],
    kind: str = "value",
    signal: str | None = None,
) -> Row:
    """The row of one result, of a signal, or of the receive that takes one."""
    return (
        thread_id,
        run_id,
        f"{name}:{getrandbits(128):032x}",
        None,
        name,
        kind,
        payload,
        encode(Arguments(number)).decode(),
        1,
        started,
        time.time(),
        crc32(payload),
        signal,
    )


def run_of(thread_id: str, run_id: str, workflow: str, arguments: bytes) -> Row:
    """The row of a run that begins."""
    now = time.time()
    return (
        thread_id,
        run_id,
        workflow,
        arguments,
        random_id(),
        OWNER,
        now,
        now,
        crc32(arguments),
    )


def end_of(thread_id: str, run_id: str, result: bytes) -> Row:
    """The row that ends a run with its result."""
    return (thread_id, run_id, result, time.time(), crc32(result))
