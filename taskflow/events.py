"""What a run tells while it executes: small structs in one tagged union, `Event`.

Each encodes to JSON with a ``type`` (``"task_completed"``, say). Some are *durable*:
`TaskCompleted` and `TaskFailed` of a call that was executed, and `Emitted` of what ``emit``
was given. They carry the number of their commit, which grows along a thread, and can be asked for
again. The others repeat the last such number and are told once.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import Struct

from taskflow.records import Wait

__all__ = (
    "Dropped",
    "Emitted",
    "Event",
    "RunCancelled",
    "RunCompleted",
    "RunFailed",
    "RunPaused",
    "RunStarted",
    "TaskCompleted",
    "TaskFailed",
    "TaskRetrying",
    "TaskStarted",
    "Waiting",
)


class _Event(Struct, frozen=True, tag_field="type"):
    number: int  # of the commit; of the one before where this is not durable
    time: float  # wall clock, seconds since the epoch
    thread_id: str
    run_id: str
    task_id: str | None  # None: the run itself
    parent_id: str | None  # the call that made it; None: the run's own body
    name: str  # of the task or workflow


class RunStarted(_Event, frozen=True, tag="run_started"):
    """A run was begun, or is continued."""


class TaskStarted(_Event, frozen=True, tag="task_started", gc=False):
    """A call's body begins to execute."""

    attempt: int = 1


class TaskRetrying(_Event, frozen=True, tag="task_retrying"):
    """An attempt has failed, and another one follows after ``delay`` seconds."""

    attempt: int  # that failed
    delay: float
    error: str  # type and message


class TaskCompleted(_Event, frozen=True, tag="task_completed", gc=False):
    """A call has its result; ``replayed`` where that was recorded before."""

    replayed: bool
    attempts: int  # 0: answered from the cache
    duration: float  # seconds


class TaskFailed(_Event, frozen=True, tag="task_failed"):
    """A call has failed for good; ``replayed`` where that was recorded before."""

    replayed: bool
    attempts: int
    duration: float
    error: str


class Emitted(_Event, frozen=True, tag="emitted"):
    """A value that was given to ``emit``, or an item of an async generator that executes.

    ``task_id`` and ``name`` are those of the body that emits it. Items are not durable.
    """

    value: Any
    durable: bool = True


class Waiting(_Event, frozen=True, tag="waiting"):
    """A call waits for a signal or a time."""

    wait: Wait


class RunCompleted(_Event, frozen=True, tag="run_completed"):
    """The run has succeeded."""

    result: Any  # as JSON carries it


class RunFailed(_Event, frozen=True, tag="run_failed"):
    """The run has failed; running it again continues it."""

    error: str


class RunPaused(_Event, frozen=True, tag="run_paused"):
    """Nothing of the run executes until one of ``waits`` is over."""

    waits: list[Wait]


class RunCancelled(_Event, frozen=True, tag="run_cancelled"):
    """The execution was cut off: for good where ``final``, else anybody may continue the run."""

    final: bool


class Dropped(_Event, frozen=True, tag="dropped"):
    """So many events were not kept for a reader that was too slow.

    Durable ones among them can be read with ``subscribe(after=number)``, which does so by itself.
    """

    count: int


Event: TypeAlias = (
    RunStarted
    | TaskStarted
    | TaskRetrying
    | TaskCompleted
    | TaskFailed
    | Emitted
    | Waiting
    | RunCompleted
    | RunFailed
    | RunPaused
    | RunCancelled
    | Dropped
)
