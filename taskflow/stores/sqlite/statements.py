"""The SQL of `SQLiteStore`: its schema, how older ones become it, and every statement, by name."""

from __future__ import annotations

from typing import Final

from taskflow.stores.rows import Checkpoint, RunRow

APPLICATION_ID: Final = 0x7461_736B  # "task"
SCHEMA: Final = 4
SAFE_WAL_VERSION: Final = (3, 51, 3)
SMALLEST_PAGE: Final = 512  # bytes
OLDEST_VERSION: Final = (3, 35, 0)  # RETURNING, UPDATE … FROM

# A failed run is not open: another one may begin, and the failed one stays as it is.
CREATE_OPEN: Final = """
CREATE UNIQUE INDEX run_open ON run (thread_id)
    WHERE status NOT IN ('success', 'error', 'cancelled')
""".strip()
# Partial indexes: rows that they do not hold cost nothing.
CREATE_WAITING: Final = """
CREATE INDEX run_due ON run (due) WHERE due IS NOT NULL;
CREATE INDEX run_owner ON run (owner) WHERE owner IS NOT NULL;
CREATE UNIQUE INDEX checkpoint_taken ON checkpoint (thread_id, signal) WHERE signal IS NOT NULL;
CREATE INDEX checkpoint_signal ON checkpoint (thread_id, run_id, sequence) WHERE kind = 'signal';
CREATE INDEX checkpoint_news ON checkpoint (sequence) WHERE kind = 'signal';
""".strip()
CREATE_SCHEMA: Final = f"""
CREATE TABLE run (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    thread_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    workflow TEXT NOT NULL,
    input BLOB NOT NULL,
    fingerprint TEXT NOT NULL,
    status TEXT NOT NULL,
    result BLOB,
    error BLOB,
    saved BLOB,
    owner TEXT,
    epoch INTEGER NOT NULL,
    created REAL NOT NULL,
    started REAL NOT NULL,
    finished REAL,
    checksum INTEGER NOT NULL,
    waits BLOB,
    due REAL,
    takeovers INTEGER NOT NULL DEFAULT 0,
    mark INTEGER NOT NULL DEFAULT 0,
    UNIQUE (thread_id, run_id),
    UNIQUE (thread_id, sequence)
);
{CREATE_OPEN};
CREATE INDEX run_status ON run (status, number);
CREATE TABLE checkpoint (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    thread_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    parent_id TEXT,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    payload BLOB NOT NULL,
    arguments TEXT,
    attempts INTEGER NOT NULL,
    started REAL NOT NULL,
    finished REAL NOT NULL,
    checksum INTEGER NOT NULL,
    signal TEXT,
    UNIQUE (thread_id, task_id)
);
CREATE INDEX checkpoint_run ON checkpoint (thread_id, run_id);
{CREATE_WAITING}
CREATE TABLE cache (
    task_name TEXT NOT NULL,
    key TEXT NOT NULL,
    payload BLOB NOT NULL,
    expires REAL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (task_name, key)
);
CREATE TABLE lease (
    owner TEXT PRIMARY KEY,
    boot_id TEXT NOT NULL,
    expires REAL NOT NULL
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA};
"""

# What makes the next schema of each older one.
MIGRATIONS: Final = {
    1: f"""
ALTER TABLE run ADD COLUMN waits BLOB;
ALTER TABLE run ADD COLUMN due REAL;
ALTER TABLE run ADD COLUMN takeovers INTEGER NOT NULL DEFAULT 0;
ALTER TABLE run ADD COLUMN mark INTEGER NOT NULL DEFAULT 0;
ALTER TABLE checkpoint ADD COLUMN signal TEXT;
{CREATE_WAITING}
PRAGMA user_version = 2;
""",
    # From schema 3 on checksums cover more. Older rows keep theirs, whose upper half is 0.
    2: "PRAGMA user_version = 3;\n",
    3: f"""
DROP INDEX run_unfinished;
{CREATE_OPEN};
PRAGMA user_version = 4;
""",
}

# The join is the fence: a row whose run has another epoch by now, or has ended, is not inserted,
# and is missing in the row count. CROSS JOIN keeps the values outside and the look-up by primary
# key inside. So are all rows where the file has a newer schema by now: one statement is a
# transaction by itself, and a look at the schema before it would be another one (and 3 µs more).
INSERT_CHECKPOINTS: Final = """
INSERT INTO checkpoint (thread_id, run_id, task_id, parent_id, name, kind, payload, arguments,
    attempts, started, finished, checksum, signal)
SELECT run.thread_id, run.run_id, new.column3, new.column4, new.column5, new.column6, new.column7,
    new.column8, new.column9, new.column10, new.column11, new.column12, new.column13
FROM (VALUES {rows}) AS new
CROSS JOIN run ON run.number = new.column1 AND run.epoch = new.column2
    AND run.status = 'running' AND (SELECT user_version FROM pragma_user_version) <= {schema}
""".replace("{schema}", str(SCHEMA))
CHECKPOINT_ROW: Final = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
MAX_ROWS: Final = 1000  # of 13 parameters each: SQLite takes 32,766 a statement

FINISH_RUNS: Final = """
UPDATE run SET status = done.column3, result = done.column4, error = done.column5,
    saved = done.column6, finished = done.column7, checksum = done.column8, owner = NULL,
    takeovers = done.column10, waits = NULL, due = done.column9
FROM (VALUES {rows}) AS done
WHERE run.number = done.column1 AND run.epoch = done.column2 AND run.status = 'running'
RETURNING run.number, run.epoch
"""
FINISH_ROW: Final = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
# A pause: a signal that it does not know of makes it due at once.
PAUSE_RUN: Final = """
UPDATE run SET status = 'paused', result = :result, error = :error, saved = :saved,
    finished = :now, checksum = :checksum, owner = NULL, takeovers = 0, waits = :waits,
    due = CASE WHEN EXISTS (SELECT 1 FROM checkpoint WHERE thread_id = :thread_id
        AND run_id = :run_id AND kind = 'signal' AND sequence > :last_signal)
        THEN 0 ELSE :due END
WHERE number = :number AND epoch = :epoch AND status = 'running'
"""

SELECT_EPOCH: Final = "SELECT epoch, status FROM run WHERE number = ?"
SELECT_EPOCHS: Final = "SELECT number, epoch FROM run WHERE number IN ({rows})"
UNRECORD: Final = """
DELETE FROM checkpoint WHERE thread_id = :thread_id AND task_id IN (:task_id, :wait_id)
AND EXISTS (SELECT 1 FROM run WHERE number = :number AND epoch = :epoch AND status = 'running')
"""
PUT_CACHED: Final = "INSERT OR REPLACE INTO cache VALUES (?, ?, ?, ?, ?)"
SELECT_CACHED: Final = """
SELECT task_name, key, payload, expires, checksum FROM cache
WHERE task_name = ? AND (expires IS NULL OR expires > ?) AND key IN ({rows})
"""
CLEAR_CACHE: Final = "DELETE FROM cache WHERE task_name = ?"

RUN_COLUMNS: Final = ", ".join(RunRow.__struct_fields__)
# The number of a thread's open run, or of its newest where none is open.
LATEST: Final = """coalesce(
    (SELECT number FROM run
        WHERE thread_id = {thread} AND status NOT IN ('success', 'error', 'cancelled')),
    (SELECT number FROM run WHERE thread_id = {thread} ORDER BY sequence DESC LIMIT 1))
""".strip()
SELECT_LATEST: Final = f"""
SELECT {RUN_COLUMNS} FROM run WHERE number = (
    SELECT {LATEST.format(thread="asked.column1")} FROM (VALUES (?)) AS asked)
"""
SELECT_LAST_SEQUENCE: Final = "SELECT max(sequence) FROM run WHERE thread_id = ?"
SELECT_RUN: Final = f"SELECT {RUN_COLUMNS} FROM run WHERE thread_id = ? AND run_id = ?"
# By another index than the latest run of a thread is found by.
SELECT_KNOWN_RUN: Final = """
SELECT run_id FROM run INDEXED BY sqlite_autoindex_run_1 WHERE thread_id = ? LIMIT 1
"""
SELECT_RUNS: Final = f"""
SELECT {RUN_COLUMNS} FROM run
WHERE (:status IS NULL OR status = :status) AND (:workflow IS NULL OR workflow = :workflow)
    AND (:before IS NULL OR number < :before)
ORDER BY number DESC LIMIT :limit
"""
# Of one thread: by its own index, from the newest on.
SELECT_RUNS_ON: Final = f"""
SELECT {RUN_COLUMNS} FROM run
WHERE thread_id = :thread_id AND (:status IS NULL OR status = :status)
    AND (:workflow IS NULL OR workflow = :workflow) AND (:before IS NULL OR number < :before)
ORDER BY sequence DESC LIMIT :limit
"""
# The latest run of each of several threads.
SELECT_HEADS: Final = f"""
SELECT {RUN_COLUMNS} FROM run WHERE number IN (
    SELECT {LATEST.format(thread="asked.column1")} FROM (VALUES {{rows}}) AS asked)
"""
INSERT_RUNS: Final = f"""
INSERT INTO run ({RUN_COLUMNS.removeprefix("number, ")}) VALUES {{rows}} RETURNING number, thread_id
"""
RUN_ROW: Final = f"({', '.join('?' * (len(RunRow.__struct_fields__) - 1))})"
UPDATE_RUN: Final = """
UPDATE run SET status = :status, result = :result, error = :error, saved = :saved, owner = :owner,
    epoch = :epoch, started = :started, finished = :finished, checksum = :checksum, waits = :waits,
    due = :due, takeovers = :takeovers, mark = :mark
WHERE number = :number
"""
SELECT_DUE: Final = f"""
SELECT {RUN_COLUMNS} FROM run
WHERE due <= ? AND owner IS NULL AND workflow IN ({{names}}) ORDER BY due LIMIT ?
"""
SELECT_OWNED: Final = f"""
SELECT {RUN_COLUMNS} FROM run WHERE owner = ? AND workflow IN ({{names}})
ORDER BY takeovers, number LIMIT ?
"""
SELECT_OWNERS: Final = "SELECT DISTINCT owner FROM run WHERE owner IS NOT NULL"
SELECT_DUE_NAMES: Final = "SELECT DISTINCT workflow FROM run WHERE due <= ? AND owner IS NULL"
SELECT_OWNED_NAMES: Final = "SELECT DISTINCT workflow FROM run WHERE owner = ?"
SELECT_LATEST_CHECKPOINT: Final = """
SELECT sequence FROM checkpoint WHERE thread_id = ? AND run_id = ? AND kind != 'signal'
ORDER BY sequence DESC LIMIT 1
"""
# Also of a run whose caller went away before it paused: it waits as that one does.
SET_DUE: Final = """
UPDATE run SET due = 0 WHERE number = ? AND status IN ('paused', 'running') AND owner IS NULL
"""
SELECT_PREVIOUS: Final = f"""
SELECT {RUN_COLUMNS} FROM run WHERE thread_id = ? AND sequence < ? AND status = 'success'
ORDER BY sequence DESC LIMIT 1
"""
# A payload that was edited by hand is text, and its checksum is that of bytes.
LOAD: Final = """
SELECT sequence, task_id, parent_id, kind, CAST(payload AS BLOB), checksum, signal FROM checkpoint
WHERE thread_id = ? AND run_id = ? AND sequence > ? AND kind != 'signal' ORDER BY sequence LIMIT ?
"""
INSERT_CHECKPOINT: Final = f"""
INSERT INTO checkpoint (thread_id, run_id, {", ".join(Checkpoint.__struct_fields__[2:])})
VALUES (?, ?{", ?" * (len(Checkpoint.__struct_fields__) - 2)})
"""
SELECT_TAKER: Final = "SELECT 1 FROM checkpoint WHERE thread_id = ? AND signal = ?"
SELECT_LAST_SIGNAL: Final = """
SELECT sequence FROM checkpoint WHERE thread_id = ? AND run_id = ? AND kind = 'signal'
ORDER BY sequence DESC LIMIT 1
"""
SELECT_SIGNALS: Final = """
SELECT sequence, task_id, name, CAST(payload AS BLOB), finished, checksum FROM checkpoint AS sent
WHERE thread_id = ? AND run_id = ? AND kind = 'signal' AND sequence > ? AND NOT EXISTS (
    SELECT 1 FROM checkpoint WHERE thread_id = sent.thread_id AND signal = sent.task_id)
ORDER BY sequence
"""
SELECT_NEWS: Final = """
SELECT sequence, thread_id FROM checkpoint WHERE kind = 'signal' AND sequence > ? ORDER BY sequence
"""
SELECT_LATEST_NEWS: Final = """
SELECT sequence, thread_id FROM checkpoint WHERE kind = 'signal' ORDER BY sequence DESC LIMIT 1
"""
CHECKPOINT_COLUMNS: Final = ", ".join(
    "CAST(checkpoint.payload AS BLOB)" if name == "payload" else f"checkpoint.{name}"
    for name in Checkpoint.__struct_fields__
    if name not in ("number", "epoch")
)
# Also rows whose run is not there: these are damaged, and are not to be left out.
SELECT_CHECKPOINTS: Final = f"""
SELECT checkpoint.sequence, checkpoint.run_id, run.number, run.epoch, {CHECKPOINT_COLUMNS}
FROM checkpoint LEFT JOIN run ON run.thread_id = checkpoint.thread_id
    AND run.run_id = checkpoint.run_id
WHERE checkpoint.thread_id = ? AND checkpoint.sequence > ?
ORDER BY checkpoint.sequence LIMIT ?
"""
# Of one run: by an index that a page after another does not read from its beginning.
SELECT_PAGE: Final = f"""
SELECT sequence, run_id, 0, 0, {CHECKPOINT_COLUMNS}
FROM checkpoint WHERE thread_id = ? AND run_id = ? AND sequence > ? ORDER BY sequence LIMIT ?
"""
SELECT_RUN_OF_CALL: Final = """
SELECT run_id, parent_id, sequence FROM checkpoint WHERE thread_id = ? AND task_id = ?
"""
SELECT_CHECKPOINT: Final = f"""
SELECT checkpoint.sequence, checkpoint.run_id, run.number, run.epoch, {CHECKPOINT_COLUMNS}
FROM checkpoint LEFT JOIN run ON run.thread_id = checkpoint.thread_id
    AND run.run_id = checkpoint.run_id
WHERE checkpoint.thread_id = ? AND checkpoint.task_id = ?
"""
REPLACE_RESULT: Final = """
UPDATE checkpoint SET kind = 'result', payload = ?, checksum = (checksum & ~0xFFFFFFFF) | ?
WHERE thread_id = ? AND task_id = ? AND kind IN ('result', 'error')
"""
DELETE_CALL: Final = "DELETE FROM checkpoint WHERE thread_id = ? AND task_id IN (?, ?)"
DELETE_CHECKPOINTS: Final = "DELETE FROM checkpoint WHERE thread_id = ?"
DELETE_RUNS: Final = "DELETE FROM run WHERE thread_id = ?"

SELECT_RUNS_OF_THREAD: Final = f"""
SELECT {RUN_COLUMNS} FROM run WHERE thread_id = ? AND sequence > ? ORDER BY sequence LIMIT ?
"""
INSERT_RUN: Final = INSERT_RUNS.format(rows=RUN_ROW).replace(" RETURNING number, thread_id", "")
# `checksum_on` and `is_copied` are functions of Python.
COPY_CHECKPOINTS: Final = f"""
INSERT INTO checkpoint (thread_id, run_id, task_id, parent_id, name, kind, payload, arguments,
    attempts, started, finished, checksum, signal)
SELECT :to, run_id, task_id, parent_id, name, kind, CAST(payload AS BLOB), arguments, attempts,
    started, finished, checksum_on({CHECKPOINT_COLUMNS}), signal
FROM checkpoint WHERE thread_id = :thread_id AND run_id = :run_id AND is_copied(task_id)
ORDER BY sequence
"""

# What may be pruned, thread by thread.
SELECT_THREADS_TO_PRUNE: Final = """
SELECT DISTINCT thread_id FROM run
WHERE thread_id > ? AND finished < ? AND owner IS NULL AND status IN ({statuses})
ORDER BY thread_id LIMIT ?
"""
SELECT_OUTLINES: Final = """
SELECT number, run_id, epoch, status, finished, owner, saved IS NOT NULL, EXISTS (
    SELECT 1 FROM checkpoint WHERE thread_id = run.thread_id AND run_id = run.run_id)
FROM run WHERE thread_id = ? ORDER BY sequence
"""
SELECT_HEAD: Final = """
SELECT number, epoch, status FROM run WHERE thread_id = ? ORDER BY sequence DESC LIMIT 1
"""
DELETE_SOME_CHECKPOINTS: Final = """
DELETE FROM checkpoint WHERE sequence IN (
    SELECT sequence FROM checkpoint WHERE thread_id = ? AND run_id = ? LIMIT ?)
"""
DELETE_RUN: Final = "DELETE FROM run WHERE number = ?"
SELECT_EXPIRED: Final = """
SELECT rowid FROM cache WHERE expires <= ? AND rowid > ? ORDER BY rowid LIMIT ?
"""
DELETE_EXPIRED: Final = "DELETE FROM cache WHERE rowid = ? AND expires <= ?"

RENEW_LEASE: Final = "INSERT OR REPLACE INTO lease VALUES (?, ?, ?)"
SELECT_LEASE: Final = "SELECT boot_id, expires FROM lease WHERE owner = ?"
DROP_LEASE: Final = "DELETE FROM lease WHERE owner = ?"
SELECT_LEASES: Final = "SELECT owner FROM lease"


def values(row: str, count: int) -> str:
    """``count`` rows of placeholders, for a statement that has ``{rows}``."""
    return ", ".join([row] * count)
