"""taskflow makes ordinary async Python durable.

Functions with ``@task`` do the work, functions with ``@workflow`` call them, and a `Runtime` runs
a workflow on a *thread*, an id of your choice. The result of each task is recorded before its
caller sees it: run the same call again, after a crash, a deploy or a Ctrl-C, and completed tasks
are not executed a second time.

    import anyio
    from taskflow import Runtime, task, workflow

    @task
    async def charge(order: str) -> str:
        return f"receipt for {order}"

    @workflow
    async def fulfil(order: str) -> str:
        return await charge(order)

    async def main() -> None:
        async with Runtime("orders.db") as runtime:
            print(await runtime.run(fulfil("A1"), thread_id="order-A1"))

    anyio.run(main)

Where to read on: ``help(taskflow.task)``, ``help(taskflow.workflow)`` and
``help(taskflow.Runtime)`` for what each takes and raises; `taskflow.errors`, `taskflow.events` and
`taskflow.records` for what is raised, told and shown; `taskflow.testing` for tests;
`taskflow.fastapi` for services.

Where the code is. Imports run down this list; each wing's docstring names its modules in reading
order, and the rule that it alone decides:

    examples, cli, testing, fastapi     programs, and what programs start from
    runtime                             Runtime: a store, a scheduler, work in the background
    calls                               @task, @workflow, and all that a workflow awaits
    runs                                one run: recorded, executing, waiting, written
    stores                              the store protocol; memory and SQLite
    wire, loops                         bytes and ids; asyncio and trio
    events, errors, records, retry      the words that everything is said in
"""

import typing as _typing

if _typing.TYPE_CHECKING:
    from taskflow.calls.call import Call
    from taskflow.calls.emits import emit
    from taskflow.calls.races import as_completed, race
    from taskflow.calls.tasks import Task, task
    from taskflow.calls.values import now, random, uuid
    from taskflow.calls.waits import receive, sleep, sleep_until
    from taskflow.calls.workflows import Workflow, WorkflowCall, previous, save, workflow
    from taskflow.errors import (
        RunCancelled,
        RunNotFound,
        RunPaused,
        RunUnfinished,
        TaskFailed,
        TaskflowError,
        TaskTimeout,
        ThreadBusy,
    )
    from taskflow.retry import RetryPolicy
    from taskflow.runs.cache import CachePolicy
    from taskflow.runs.frame import current
    from taskflow.runtime import Runtime
    from taskflow.runtime.handle import RunHandle
    from taskflow.stores.base import Store
    from taskflow.stores.memory import MemoryStore
    from taskflow.stores.sqlite import SQLiteStore

__all__ = (
    "CachePolicy",
    "Call",
    "MemoryStore",
    "RetryPolicy",
    "RunCancelled",
    "RunHandle",
    "RunNotFound",
    "RunPaused",
    "RunUnfinished",
    "Runtime",
    "SQLiteStore",
    "Store",
    "Task",
    "TaskFailed",
    "TaskTimeout",
    "TaskflowError",
    "ThreadBusy",
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

# Each name is imported from its module when it is first asked for: a program that needs only
# the decorators loads neither SQLite nor a runtime.
_MODULES = {
    "CachePolicy": "taskflow.runs.cache",
    "Call": "taskflow.calls.call",
    "MemoryStore": "taskflow.stores.memory",
    "RetryPolicy": "taskflow.retry",
    "RunCancelled": "taskflow.errors",
    "RunHandle": "taskflow.runtime.handle",
    "RunNotFound": "taskflow.errors",
    "RunPaused": "taskflow.errors",
    "RunUnfinished": "taskflow.errors",
    "Runtime": "taskflow.runtime",
    "SQLiteStore": "taskflow.stores.sqlite",
    "Store": "taskflow.stores.base",
    "Task": "taskflow.calls.tasks",
    "TaskFailed": "taskflow.errors",
    "TaskTimeout": "taskflow.errors",
    "TaskflowError": "taskflow.errors",
    "ThreadBusy": "taskflow.errors",
    "Workflow": "taskflow.calls.workflows",
    "WorkflowCall": "taskflow.calls.workflows",
    "as_completed": "taskflow.calls.races",
    "current": "taskflow.runs.frame",
    "emit": "taskflow.calls.emits",
    "now": "taskflow.calls.values",
    "previous": "taskflow.calls.workflows",
    "race": "taskflow.calls.races",
    "random": "taskflow.calls.values",
    "receive": "taskflow.calls.waits",
    "save": "taskflow.calls.workflows",
    "sleep": "taskflow.calls.waits",
    "sleep_until": "taskflow.calls.waits",
    "task": "taskflow.calls.tasks",
    "uuid": "taskflow.calls.values",
    "workflow": "taskflow.calls.workflows",
}

# Names that stood here in 0.3, and where they are. They go with 0.5.
_MOVED = {
    "AsCompleted": "taskflow.calls.races.AsCompleted",
    "CheckpointCorrupt": "taskflow.errors.CheckpointCorrupt",
    "Clock": "taskflow.loops.clocks.Clock",
    "CurrentCall": "taskflow.records.CurrentCall",
    "Dropped": "taskflow.events.Dropped",
    "Emitted": "taskflow.events.Emitted",
    "Event": "taskflow.events.Event",
    "HistoryMismatch": "taskflow.errors.HistoryMismatch",
    "ImportRefused": "taskflow.errors.ImportRefused",
    "LeaseLost": "taskflow.errors.LeaseLost",
    "NotInRun": "taskflow.errors.NotInRun",
    "Progress": "taskflow.runs.progress.Progress",
    "Pruned": "taskflow.records.Pruned",
    "RunCancelledEvent": "taskflow.events.RunCancelled",
    "RunCompleted": "taskflow.events.RunCompleted",
    "RunFailed": "taskflow.events.RunFailed",
    "RunPausedEvent": "taskflow.events.RunPaused",
    "RunRecord": "taskflow.records.RunRecord",
    "RunSetAside": "taskflow.errors.RunSetAside",
    "RunStarted": "taskflow.events.RunStarted",
    "RunStatus": "taskflow.records.RunStatus",
    "SchemaTooNew": "taskflow.errors.SchemaTooNew",
    "SerializationError": "taskflow.errors.SerializationError",
    "StoreError": "taskflow.errors.StoreError",
    "Stream": "taskflow.runtime.subscriptions.Stream",
    "Subscription": "taskflow.runtime.subscriptions.Subscription",
    "TaskCompleted": "taskflow.events.TaskCompleted",
    "TaskFailedEvent": "taskflow.events.TaskFailed",
    "TaskNameConflict": "taskflow.errors.TaskNameConflict",
    "TaskRecord": "taskflow.records.TaskRecord",
    "TaskRetrying": "taskflow.events.TaskRetrying",
    "TaskStarted": "taskflow.events.TaskStarted",
    "ThreadExists": "taskflow.errors.ThreadExists",
    "UnknownWorkflow": "taskflow.errors.UnknownWorkflow",
    "Wait": "taskflow.records.Wait",
    "Waiting": "taskflow.events.Waiting",
}

# Type checkers do not see it: with a `__getattr__`, every misspelled name would be right.
if not _typing.TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """The public object ``name``, from its module. Raises AttributeError for other names.

        A name that has moved comes with a DeprecationWarning.
        """
        from importlib import import_module

        if name in _MODULES:
            found = globals()[name] = getattr(import_module(_MODULES[name]), name)
            return found
        if name not in _MOVED:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

        from warnings import warn

        place = _MOVED[name]
        warn(
            f"taskflow.{name} is {place} now; the old name goes with taskflow 0.5",
            DeprecationWarning,
            stacklevel=2,
        )
        module, _, attribute = place.rpartition(".")
        return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
