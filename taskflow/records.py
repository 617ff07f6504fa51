"""The records that a `Runtime` returns: frozen structs of builtin values, ready to encode to JSON.

`RunRecord` and `TaskRecord` describe runs and recorded calls (``Runtime.get``, ``runs``,
``tasks``), `Wait` one open wait of a paused run, `CurrentCall` the executing call (``current()``),
and `Pruned` the deletions of ``Runtime.prune``. The rows that a store keeps are in
`taskflow.stores.rows`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct

__all__ = (
    "CurrentCall",
    "Pruned",
    "RunRecord",
    "RunStatus",
    "TaskRecord",
    "Wait",
)


class RunStatus(StrEnum):
    """The status of a run; the last two are final."""

    RUNNING = "running"
    PAUSED = "paused"
    ERROR = "error"
    SUCCESS = "success"
    CANCELLED = "cancelled"


class Wait(Struct, frozen=True):
    """One open ``receive`` or timer of a run."""

    kind: Literal["signal", "timer"]
    name: str  # of the signal; "sleep" for a timer
    task_id: str
    since: float  # wall clock, seconds since the epoch
    deadline: float | None = None  # the same; None: no limit
    prompt: Any = None
    type: str | None = None  # the value's annotation, as Python source
    schema: dict[str, Any] | None = None  # the value's JSON Schema
    parent_id: str | None = None  # the call whose body waits; None: the run's own body


class RunRecord(Struct, frozen=True):
    """One run, as ``Runtime.get`` and ``Runtime.runs`` return it."""

    thread_id: str
    run_id: str
    number: int  # larger for newer runs; `runs(before=number)` returns the next page
    sequence: int  # position on its thread, from 1
    workflow: str
    status: RunStatus
    input: Any
    result: Any
    error: str | None  # type and message
    owner: str | None  # the runtime that executes it
    created: float  # wall clock, seconds since the epoch
    started: float  # when it was last begun or continued
    finished: float | None
    waits: list[Wait] = []  # the open waits of a paused run


class TaskRecord(Struct, frozen=True):
    """One recorded call, as ``Runtime.tasks`` returns it."""

    name: str
    task_id: str
    parent_id: str | None
    run_id: str
    sequence: int  # commit order, over the whole store
    status: Literal["success", "error"]
    attempts: int  # 0: answered from the cache
    started: float  # wall clock, seconds since the epoch
    duration: float  # seconds
    arguments: Any  # in their JSON form; text that ends in an ellipsis where they were capped
    value: Any = None  # in its JSON form
    error: str | None = None  # type and message


class Pruned(Struct, frozen=True):
    """The numbers of deleted rows, as ``Runtime.prune`` returns them."""

    runs: int = 0
    checkpoints: int = 0
    cached: int = 0  # shared results that had expired

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(
            self.runs + other.runs,
            self.checkpoints + other.checkpoints,
            self.cached + other.cached,
        )


class CurrentCall(Struct, frozen=True):
    """The call whose body executes, as ``current()`` returns it."""

    thread_id: str
    run_id: str
    task_id: str | None  # None in the run's own body
    attempt: int  # from 1
    idempotency_key: str  # the same in every retry, rerun and take-over
