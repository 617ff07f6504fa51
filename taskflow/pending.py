"""`Wait`: what a run waits for while nothing of it executes."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

__all__ = ("Wait",)


class Wait(Struct, frozen=True):
    """One open ``receive``, or one timer."""

    kind: Literal["signal", "timer"]
    name: str  # of the signal; "sleep" for a timer
    task_id: str
    since: float  # wall clock, seconds since the epoch
    deadline: float | None = None  # the same; None: it waits for as long as it takes
    prompt: Any = None
    type: str | None = None  # of the value, as it is written
    schema: dict[str, Any] | None = None  # of the value, as JSON Schema
    parent_id: str | None = None  # the call that waits for it; None: the run's own body
