"""The kinds of rows in the checkpoint table.

The ``result`` or ``error`` of a call; the ``emit`` of a value; the deadline of a ``wait``, from its
first call on; and a ``signal`` that was sent to a run. The call that takes a signal names it in its
own row.
"""

from __future__ import annotations

__all__ = ("EMIT", "ERROR", "OUTCOMES", "RESULT", "SIGNAL", "WAIT", "wait_id")

RESULT = "result"
ERROR = "error"
EMIT = "emit"
WAIT = "wait"
SIGNAL = "signal"
OUTCOMES = (RESULT, ERROR)


def wait_id(task_id: str) -> str:
    """The id of the row that holds a call's deadline; no call can have it."""
    return f"{task_id}@"
