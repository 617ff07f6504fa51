"""The events of an executing run: small structs in one tagged union, `Event`.

Each encodes to JSON with a ``type``, such as ``"task_completed"``. Some events are *durable*:
`TaskCompleted` and `TaskFailed` of a call that was executed, and `Emitted` of a value given to
``emit``. They carry the number of their commit, which grows along a thread, and can be read again
later. The other events carry the last such number and are delivered once.
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
    number: int  # of the event's commit, or of the last one before where it is not durable
    time: float  # wall clock, seconds since the epoch
    thread_id: str
    run_id: str
    task_id: str | None  # None: the run itself
    parent_id: str | None  # the call whose body made this call; None: the run's own body
    name: str  # of the task or workflow


class RunStarted(_Event, frozen=True, tag="run_started"):
    """A run begins, or is continued."""


class TaskStarted(_Event, frozen=True, tag="task_started", gc=False):
    """A call's body begins to execute."""

    attempt: int = 1


class TaskRetrying(_Event, frozen=True, tag="task_retrying"):
    """An attempt has failed, and another one follows after ``delay`` seconds."""

    attempt: int  # the number of the attempt that failed
    delay: float
    error: str  # type and message


class TaskCompleted(_Event, frozen=True, tag="task_completed", gc=False):
    """A call has its result; ``replayed`` is true where it was recorded before."""

    replayed: bool
    attempts: int  # 0: answered from the cache
    duration: float  # seconds


class TaskFailed(_Event, frozen=True, tag="task_failed"):
    """A call has failed for good; ``replayed`` is true where the failure was recorded before."""

    replayed: bool
    attempts: int
    duration: float
    error: str


class Emitted(_Event, frozen=True, tag="emitted"):
    """A value given to ``emit``, or an item that an executing async generator yields.

    ``task_id`` and ``name`` are those of the emitting body. Items are not durable.
    """

    value: Any
    durable: bool = True


class Waiting(_Event, frozen=True, tag="waiting"):
    """A call waits for a signal or a time."""

    wait: Wait


class RunCompleted(_Event, frozen=True, tag="run_completed"):
    """The run has succeeded."""

    result: Any  # in its JSON form


class RunFailed(_Event, frozen=True, tag="run_failed"):
    """The run has failed; running it again continues it."""

    error: str


class RunPaused(_Event, frozen=True, tag="run_paused"):
    """The run is paused: nothing of it executes until one of ``waits`` is over."""

    waits: list[Wait]


class RunCancelled(_Event, frozen=True, tag="run_cancelled"):
    """The execution was cut off: for good if ``final``, else running it again continues it."""

    final: bool


class Dropped(_Event, frozen=True, tag="dropped"):
    """A reader was too slow, and ``count`` events were dropped.

    The durable ones among them can be read again: ``subscribe(after=number)`` does so by itself.
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
