"""taskflow makes ordinary async Python durable: tasks whose results are recorded before anybody
sees them, and workflows that can be run again after a crash without executing them twice.

Where things are; imports only point down:

    cli, fastapi, testing, examples       what people start from
    runtime, subscriptions, recovery      open, run, start, inspect; watch; what others left
    services, executions, history         the background of a runtime; one run; records put right
    values, races                         recorded values; choosing among calls
    tasks, workflows, maps, waits, emits  the decorators, and other calls
    calls                                 one use of a task or workflow
    attempts, runs, definitions           one call's executions, one run, one decorated function
    journal, scheduler, workers, cache    group commit; slots and threads; shared results
    feeds, inboxes, contests              who is told; signals that wait; calls that compete
    codec, failures, identity, stores     bytes, ids, rows
    digests                               which calls were made, in little memory
    events, clocks                        what a run tells; what time it is
    errors, retry, records, pending       the words that everything is said in
    promises, cancellation, loops, steps  waking up, giving up, what asyncio and trio do; bodies
"""

from taskflow.calls.call import Call
from taskflow.calls.emits import emit
from taskflow.calls.races import AsCompleted, as_completed, race
from taskflow.calls.tasks import Task, task
from taskflow.calls.values import now, random, uuid
from taskflow.calls.waits import receive, sleep, sleep_until
from taskflow.calls.workflows import Workflow, WorkflowCall, previous, save, workflow
from taskflow.errors import (
    CheckpointCorrupt,
    HistoryMismatch,
    ImportRefused,
    LeaseLost,
    NotInRun,
    RunCancelled,
    RunNotFound,
    RunPaused,
    RunSetAside,
    RunUnfinished,
    SchemaTooNew,
    SerializationError,
    StoreError,
    TaskFailed,
    TaskflowError,
    TaskNameConflict,
    TaskTimeout,
    ThreadBusy,
    ThreadExists,
    UnknownWorkflow,
)
from taskflow.events import (
    Dropped,
    Emitted,
    Event,
    RunCancelledEvent,
    RunCompleted,
    RunFailed,
    RunPausedEvent,
    RunStarted,
    TaskCompleted,
    TaskFailedEvent,
    TaskRetrying,
    TaskStarted,
    Waiting,
)
from taskflow.loops.clocks import Clock
from taskflow.pending import Wait
from taskflow.records import CurrentCall, Progress, Pruned, RunRecord, RunStatus, TaskRecord
from taskflow.retry import RetryPolicy
from taskflow.runs.cache import CachePolicy
from taskflow.runs.run import current
from taskflow.runtime import Runtime
from taskflow.runtime.executions import RunHandle
from taskflow.runtime.subscriptions import Stream, Subscription
from taskflow.stores.base import Store
from taskflow.stores.memory import MemoryStore
from taskflow.stores.sqlite import SQLiteStore

__all__ = (
    "AsCompleted",
    "CachePolicy",
    "Call",
    "CheckpointCorrupt",
    "Clock",
    "CurrentCall",
    "Dropped",
    "Emitted",
    "Event",
    "HistoryMismatch",
    "ImportRefused",
    "LeaseLost",
    "MemoryStore",
    "NotInRun",
    "Progress",
    "Pruned",
    "RetryPolicy",
    "RunCancelled",
    "RunCancelledEvent",
    "RunCompleted",
    "RunFailed",
    "RunHandle",
    "RunNotFound",
    "RunPaused",
    "RunPausedEvent",
    "RunRecord",
    "RunSetAside",
    "RunStarted",
    "RunStatus",
    "RunUnfinished",
    "Runtime",
    "SQLiteStore",
    "SchemaTooNew",
    "SerializationError",
    "Store",
    "StoreError",
    "Stream",
    "Subscription",
    "Task",
    "TaskCompleted",
    "TaskFailed",
    "TaskFailedEvent",
    "TaskNameConflict",
    "TaskRecord",
    "TaskRetrying",
    "TaskStarted",
    "TaskTimeout",
    "TaskflowError",
    "ThreadBusy",
    "ThreadExists",
    "UnknownWorkflow",
    "Wait",
    "Waiting",
    "Workflow",
    "WorkflowCall",
    "as_completed",
    "current",
    "emit",
    "now",
    "previous",
    "race",
    "random",
    "receive",
    "save",
    "sleep",
    "sleep_until",
    "task",
    "uuid",
    "workflow",
)
