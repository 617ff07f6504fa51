"""Every error that taskflow raises by itself, as one tree.

TaskflowError
├── NotInRun (RuntimeError)            a task was called outside a run, where nothing records it
├── ThreadBusy (RuntimeError)          the thread's run is executing, here or elsewhere
├── RunUnfinished (RuntimeError)       the thread's latest run has another input and has not ended
├── RunNotFound (LookupError)          no such thread, run or recorded call
├── ThreadExists (ValueError)          the id for a new thread is taken
├── RunCancelled (RuntimeError)        the run was cancelled for good
├── RunPaused (RuntimeError)           the run waits for signals or times, and nothing executes
├── RunSetAside (RuntimeError)         the run was taken over again and again, without any progress
├── UnknownWorkflow (LookupError)      a recorded run names a workflow this runtime does not have
├── HistoryMismatch (RuntimeError)     recorded history and the present call or code do not match
├── TaskNameConflict (ValueError)      one name for two functions in one run
├── SerializationError (TypeError)     a value that would not come back as it was
├── ImportRefused (ValueError)         the lines to import are not one whole export
├── TaskFailed (RuntimeError)          takes the place of an exception that cannot be rebuilt
├── TaskTimeout (TimeoutError)         an attempt took longer than its limit
├── LeaseLost (RuntimeError)           another runtime has taken this run over
└── StoreError (RuntimeError)          the store could not read or write
    ├── SchemaTooNew                   the file was written by a newer taskflow
    └── CheckpointCorrupt              a row is not what was written
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskflow.records import Wait

__all__ = (
    "CheckpointCorrupt",
    "HistoryMismatch",
    "ImportRefused",
    "LeaseLost",
    "NotInRun",
    "RunCancelled",
    "RunNotFound",
    "RunPaused",
    "RunSetAside",
    "RunUnfinished",
    "SchemaTooNew",
    "SerializationError",
    "StoreError",
    "TaskFailed",
    "TaskNameConflict",
    "TaskTimeout",
    "TaskflowError",
    "ThreadBusy",
    "ThreadExists",
    "UnknownWorkflow",
)


class TaskflowError(Exception):
    """Base of every error that taskflow raises by itself.

    Errors can be copied and pickled: message and attributes are kept as they are.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Not (type, args), which exceptions have by default: ``args`` is the finished message, and
        # ``__init__`` takes what the message is made of.
        return _restored, (type(self), self.args), self.__dict__ or None


def _restored(kind: type[TaskflowError], args: tuple[Any, ...]) -> TaskflowError:
    """An error with these ``args``, made without ``__init__``; its attributes are set later."""
    error = kind.__new__(kind)
    error.args = args
    return error


class NotInRun(TaskflowError, RuntimeError):
    """Raised when a function that needs a run is called outside one.

    ``plain`` is the expression that calls a task's function without a run.
    """

    def __init__(self, name: str, plain: str | None = None) -> None:
        self.name = name
        way_out = "" if plain is None else f", or call the plain function as {plain}()"
        super().__init__(
            f"{name}() was called outside a run: start one with Runtime.run() or "
            f"Runtime.thread(){way_out}"
        )


class ThreadBusy(TaskflowError, RuntimeError):
    """Raised when the thread's run is executing and this call cannot join it.

    ``same_run`` is true where an equal run executes in another process; ``run_id`` is its id then,
    and ``wait=True`` waits for it.
    """

    def __init__(
        self, thread_id: str, reason: str, *, same_run: bool = False, run_id: str | None = None
    ) -> None:
        self.thread_id = thread_id
        self.same_run = same_run
        self.run_id = run_id
        way_out = (
            "pass wait=True to wait for its result" if same_run else "try again when it has ended"
        )
        super().__init__(f"thread {thread_id!r} is busy: {reason}; {way_out}")


class RunUnfinished(TaskflowError, RuntimeError):
    """Raised when a thread whose latest run has not ended is given another call to run."""

    def __init__(self, thread_id: str, run_id: str, reason: str) -> None:
        self.thread_id = thread_id
        self.run_id = run_id
        super().__init__(f"thread {thread_id!r} holds the unfinished run {run_id!r}: {reason}")


class RunNotFound(TaskflowError, LookupError):
    """Raised when the thread, run or recorded call that was asked for is not in the store."""

    def __init__(self, thread_id: str, what: str = "run") -> None:
        self.thread_id = thread_id
        super().__init__(f"the store holds no {what} on thread {thread_id!r}")


class ThreadExists(TaskflowError, ValueError):
    """Raised by a fork or an import when the id of its new thread is taken."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        super().__init__(
            f"thread {thread_id!r} exists already, and nothing was written to it: choose another "
            "id, or delete() that thread first"
        )


class RunCancelled(TaskflowError, RuntimeError):
    """Raised by the calls that wait for, or ask again for, a run that was cancelled for good."""

    def __init__(self, thread_id: str, run_id: str) -> None:
        self.thread_id = thread_id
        self.run_id = run_id
        super().__init__(
            f"run {run_id!r} on thread {thread_id!r} was cancelled; that is final: "
            "run the workflow again without this run_id to begin a new run"
        )


class RunPaused(TaskflowError, RuntimeError):
    """Raised by a call for a run's result when the run executes nothing until a wait is over.

    ``waits`` are all open waits. The run goes on when it is run again or resumed after its signal
    was sent or its time has come.
    """

    def __init__(self, thread_id: str, run_id: str, waits: Sequence[Wait]) -> None:
        self.thread_id = thread_id
        self.run_id = run_id
        self.waits = tuple(waits)
        pending = ", ".join(
            f"the signal {each.name!r}" if each.kind == "signal" else "a timer"
            for each in self.waits[:5]
        )
        super().__init__(
            f"run {run_id!r} on thread {thread_id!r} is paused, and waits for {pending}: send "
            "the signal with Runtime.send() and run it again, or wait for it with wait=True"
        )


class RunSetAside(TaskflowError, RuntimeError):
    """The failure recorded for a run that recovery has given up.

    It was taken over ``takeovers`` times from runtimes that died, without any progress.
    """

    def __init__(self, thread_id: str, run_id: str, takeovers: int) -> None:
        self.thread_id = thread_id
        self.run_id = run_id
        self.takeovers = takeovers
        super().__init__(
            f"run {run_id!r} on thread {thread_id!r} was taken over {takeovers} times from "
            "runtimes that died, and recorded nothing in between: it is set aside; find what ends "
            "its process, then resume it"
        )


class UnknownWorkflow(TaskflowError, LookupError):
    """Raised when a runtime is asked to continue a run of a workflow that it was not given."""

    def __init__(self, thread_id: str, workflow: str) -> None:
        self.thread_id = thread_id
        self.workflow = workflow
        super().__init__(
            f"thread {thread_id!r} was run by the workflow {workflow!r}, which this runtime does "
            f"not know: open it as Runtime(…, workflows=[{workflow}])"
        )


class HistoryMismatch(TaskflowError, RuntimeError):
    """Raised when recorded history and the present call or code do not match."""

    def __init__(self, thread_id: str, reason: str) -> None:
        self.thread_id = thread_id
        super().__init__(f"thread {thread_id!r}: {reason}")


class TaskNameConflict(TaskflowError, ValueError):
    """Raised by a call when its run already has another function under the task's name."""

    def __init__(self, name: str, first: str, second: str) -> None:
        self.name = name
        super().__init__(
            f"the task name {name!r} means {first} in this run and cannot mean {second} too: "
            f"give one of them a name of its own, @task(name=…)"
        )


class SerializationError(TaskflowError, TypeError):
    """Raised when a value would not come back from its record unchanged."""


class ImportRefused(TaskflowError, ValueError):
    """Raised when an import's lines are not one whole export that this taskflow reads.

    Nothing was written. ``line`` counts from 1.
    """

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        super().__init__(
            f"line {line} of the export: {reason}; nothing was imported: export the thread again"
        )


class TaskFailed(TaskflowError, RuntimeError):
    """Raised in place of a recorded exception that cannot be rebuilt in this process.

    ``exception_type`` is the original's ``module:qualname``, ``message`` its text.
    """

    def __init__(self, exception_type: str, message: str) -> None:
        self.exception_type = exception_type
        self.message = message
        super().__init__(f"{exception_type}: {message}")


class TaskTimeout(TaskflowError, TimeoutError):
    """Raised when an attempt took longer than its ``limit`` (both in seconds)."""

    def __init__(self, task_name: str, limit: float, elapsed: float) -> None:
        self.task_name = task_name
        self.limit = limit
        self.elapsed = elapsed
        super().__init__(
            f"{task_name} was stopped after {elapsed:.3g} s: its timeout is {limit:g} s an attempt"
        )


class LeaseLost(TaskflowError, RuntimeError):
    """Raised when a commit is refused because another runtime has taken the run over."""

    def __init__(self, thread_id: str, run_id: str) -> None:
        self.thread_id = thread_id
        self.run_id = run_id
        super().__init__(
            f"run {run_id!r} on thread {thread_id!r} was taken over by another runtime; nothing "
            "more is written here: its result comes from there, or from running it again"
        )


class StoreError(TaskflowError, RuntimeError):
    """Raised when the store cannot read or write.

    ``row_at_fault`` is true where the cause is a row of the batch, and not the store: another batch
    may succeed.
    """

    row_at_fault = False


class SchemaTooNew(StoreError):
    """Raised when a database was written by a newer taskflow; it is left untouched.

    Also while it is open: a newer taskflow that opens it gives it its own schema.
    """

    def __init__(self, where: str, found: int, supported: int, *, was_open: bool = False) -> None:
        self.found = found
        self.supported = supported
        has = "was given" if was_open else "has"
        way_out = (
            "stop the old processes, of which this is one: it writes nothing more, and new ones "
            "continue its runs"
            if was_open
            else "upgrade taskflow, or use another file"
        )
        super().__init__(
            f"{where} {has} schema {found}, and this taskflow reads schemas up to {supported}: "
            f"{way_out}"
        )


class CheckpointCorrupt(StoreError):
    """Raised when a row is not what was written: its checksum or its JSON is wrong."""

    def __init__(self, thread_id: str, run_id: str, task_id: str | None, reason: str) -> None:
        self.thread_id = thread_id
        self.run_id = run_id
        self.task_id = task_id
        what = f"the record of {task_id}" if task_id else "the record"
        way_out = (
            f"restore the file, or drop the record with forget({thread_id!r}, {task_id!r})"
            if task_id
            else "restore the file from a backup"
        )
        super().__init__(
            f"{what} in run {run_id!r} on thread {thread_id!r} is damaged ({reason}): {way_out}"
        )
