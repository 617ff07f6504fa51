"""The body of a task in a worker process, and what both sides of that say to each other.

The process finds the function by module and qualified name. It answers with the recorded form of
what the body came to, which is decoded here as on a rerun.
"""

from __future__ import annotations

import traceback
from typing import Any

from taskflow.calls.definitions import Definition
from taskflow.loops.workers import call_in_process
from taskflow.records import CurrentCall
from taskflow.runs.frame import REMOTE
from taskflow.wire import failures

__all__ = ("execute_in_process",)


async def execute_in_process(
    definition: Definition[..., Any, Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    position: CurrentCall,
) -> Any:
    """Execute a body in a worker process, where `current` gives ``position``; its result.

    Raises what the body raised, rebuilt.
    """
    module, qualname = definition.fn.__module__, definition.fn.__qualname__
    succeeded, payload, trace = await call_in_process(
        _execute_remotely, module, qualname, args, kwargs, position
    )
    if succeeded is None:
        raise SystemExit(trace)
    if succeeded:
        return definition.codec.decode(payload)
    error = failures.rebuild(failures.Failure.parse(payload))
    error.add_note(f"In the worker process:\n{trace}")
    raise error


def _execute_remotely(
    found: Any, args: tuple[Any, ...], kwargs: dict[str, Any], position: CurrentCall
) -> tuple[bool | None, bytes, str]:
    """What a worker process does: the body, and the encoding of what it came to."""
    definition = found if isinstance(found, Definition) else Definition(found)
    REMOTE.set(position)
    try:
        return True, definition.codec.round_trip(definition.fn(*args, **kwargs))[0], ""
    except SystemExit as error:
        # It is raised where the task was awaited: here it would end a process that others use.
        return None, b"", str(error)
    except Exception as error:
        return False, failures.record(error).encode(), traceback.format_exc()
