"""taskflow makes ordinary async Python durable: tasks whose results are recorded before anybody
sees them, and workflows that can be run again after a crash without executing them twice.

Where things are; imports only point down:

    cli, fastapi, testing, examples      what people start from
    runtime, executions                  open, run, start, inspect; one run under way
    tasks, workflows, maps, calls        the decorators, and what they make
    attempts, runs, definitions          one call, one run, one decorated function
    journal, scheduler, workers, cache   group commit; slots and threads; shared results
    codec, failures, identity, stores    bytes, ids, rows
    errors, retry, records               the words that everything is said in
    promises, cancellation, loops        waking up, giving up, and what asyncio and trio do
"""

from taskflow.cache import CachePolicy
from taskflow.calls import Call
from taskflow.errors import (
    CheckpointCorrupt,
    HistoryMismatch,
    LeaseLost,
    NotInRun,
    RunCancelled,
    RunNotFound,
    RunUnfinished,
    SchemaTooNew,
    SerializationError,
    StoreError,
    TaskFailed,
    TaskflowError,
    TaskNameConflict,
    TaskTimeout,
    ThreadBusy,
    UnknownWorkflow,
)
from taskflow.executions import RunHandle
from taskflow.records import CurrentCall, Progress, RunRecord, RunStatus, TaskRecord
from taskflow.retry import RetryPolicy
from taskflow.runs import current
from taskflow.runtime import Runtime
from taskflow.stores.base import Store
from taskflow.stores.memory import MemoryStore
from taskflow.stores.sqlite import SQLiteStore
from taskflow.tasks import Task, task
from taskflow.workflows import Workflow, WorkflowCall, previous, save, workflow

__all__ = (
    "CachePolicy",
    "Call",
    "CheckpointCorrupt",
    "CurrentCall",
    "HistoryMismatch",
    "LeaseLost",
    "MemoryStore",
    "NotInRun",
    "Progress",
    "RetryPolicy",
    "RunCancelled",
    "RunHandle",
    "RunNotFound",
    "RunRecord",
    "RunStatus",
    "RunUnfinished",
    "Runtime",
    "SQLiteStore",
    "SchemaTooNew",
    "SerializationError",
    "Store",
    "StoreError",
    "Task",
    "TaskFailed",
    "TaskNameConflict",
    "TaskRecord",
    "TaskTimeout",
    "TaskflowError",
    "ThreadBusy",
    "UnknownWorkflow",
    "Workflow",
    "WorkflowCall",
    "current",
    "previous",
    "save",
    "task",
    "workflow",
)
