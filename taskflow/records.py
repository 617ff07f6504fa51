"""What a `Runtime` shows: frozen structs of builtin values, which encode to JSON as they are.

`RunRecord` and `TaskRecord` are what ``Runtime.get``, ``runs`` and ``tasks`` return, `Wait` is one
thing that a paused run waits for, `CurrentCall` what ``current()`` returns, and `Pruned` what
``Runtime.prune`` has deleted. The rows that a store keeps are in `taskflow.stores.rows`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct

__all__ = (
    "CurrentCall",
    "Progress",
    "Pruned",
    "RunRecord",
    "RunStatus",
    "TaskRecord",
    "Wait",
)


class RunStatus(StrEnum):
    """How far a run is: the last two are final."""

    RUNNING = "running"
    PAUSED = "paused"
    ERROR = "error"
    SUCCESS = "success"
    CANCELLED = "cancelled"


class Wait(Struct, frozen=True):
    """One open ``receive``, or one timer."""

    kind: Literal["signal", "timer"]
    name: str  # of the signal; "sleep" for a timer
    task_id: str
    since: float  # wall clock, seconds since the epoch
    deadline: float | None = None  # the same; None: without a limit
    prompt: Any = None
    type: str | None = None  # of the value, as it is written
    schema: dict[str, Any] | None = None  # of the value, as JSON Schema
    parent_id: str | None = None  # the call that waits for it; None: the run's own body


class RunRecord(Struct, frozen=True):
    """One run, as ``Runtime.get`` and ``Runtime.runs`` show it."""

    thread_id: str
    run_id: str
    number: int  # newer runs have larger ones; `runs(before=number)` continues a page
    sequence: int  # from 1, on its thread
    workflow: str
    status: RunStatus
    input: Any
    result: Any
    error: str | None  # type and message
    owner: str | None  # the runtime that executes it
    created: float  # wall clock, seconds since the epoch
    started: float  # when it was last begun or continued
    finished: float | None
    waits: list[Wait] = []  # while it is paused: what for


class TaskRecord(Struct, frozen=True):
    """One recorded call, as ``Runtime.tasks`` shows it."""

    name: str
    task_id: str
    parent_id: str | None
    run_id: str
    sequence: int  # commit order, over the whole store
    status: Literal["success", "error"]
    attempts: int  # 0: answered from the cache
    started: float  # wall clock, seconds since the epoch
    duration: float  # seconds
    arguments: Any  # as JSON carries them; text with an ellipsis where they were capped
    value: Any = None  # as JSON carries it
    error: str | None = None  # type and message


class Pruned(Struct, frozen=True):
    """What was deleted: what ``Runtime.prune`` returns."""

    runs: int = 0
    checkpoints: int = 0
    cached: int = 0  # shared results that had expired

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(
            self.runs + other.runs,
            self.checkpoints + other.checkpoints,
            self.cached + other.cached,
        )


class Progress(Struct, frozen=True):
    """How far a run is that this runtime executes: what ``Runtime.progress`` returns."""

    executing: list[str]  # the names of the tasks that execute now
    executed: int  # calls that have ended since this execution began, with whatever outcome
    replayed: int  # calls answered from their records
    failed: int  # of those executed
    retried: int  # attempts that were followed by another one


class CurrentCall(Struct, frozen=True):
    """Where the code that asks is executing: what ``current()`` returns."""

    thread_id: str
    run_id: str
    task_id: str | None  # None in the run's own body
    attempt: int  # from 1
    idempotency_key: str  # the same over retries, reruns and take-overs
