"""The arguments and options that several commands share, as annotations of their parameters."""

from __future__ import annotations

from typing import Annotated

import typer

from taskflow.wire.identity import check_id

__all__ = (
    "Db",
    "Json",
    "RunId",
    "Target",
    "TaskId",
    "Thread",
    "ThreadFilter",
    "ThreadOption",
    "Traceback",
    "Wait",
    "checked_id",
)


def checked_id(value: str | None) -> str | None:
    """``value`` if it is absent or a valid name or id. Raises BadParameter otherwise."""
    if value is None:
        return None
    try:
        return check_id(value, "name or id")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Target = Annotated[
    str, typer.Argument(metavar="MODULE:WORKFLOW", help="The workflow, as `import` finds it.")
]
Thread = Annotated[
    str, typer.Argument(metavar="THREAD", callback=checked_id, help="The thread's id.")
]
ThreadOption = Annotated[
    str, typer.Option("--thread", metavar="ID", callback=checked_id, help="The thread's id.")
]
ThreadFilter = Annotated[
    str | None,
    typer.Option(
        "--thread", metavar="ID", callback=checked_id, help="Only the runs of this thread."
    ),
]
TaskId = Annotated[
    str,
    typer.Argument(metavar="TASK_ID", help="The call's id, or its beginning, as `show` prints it."),
]
Db = Annotated[
    str, typer.Option("--db", metavar="FILE", envvar="TASKFLOW_DB", help="The SQLite file.")
]
RunId = Annotated[
    str | None,
    typer.Option(
        "--run-id", metavar="ID", callback=checked_id, help="This run, not the thread's latest."
    ),
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait", help="Wait through pauses, and where another process executes the same run."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Traceback = Annotated[
    bool,
    typer.Option("--traceback", envvar="TASKFLOW_TRACEBACK", help="Show errors in full."),
]
