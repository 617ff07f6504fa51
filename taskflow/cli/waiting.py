"""The commands for runs that wait, and runs that were left: send, watch and recover.

They are commands of the same ``app`` as those of `taskflow.cli.history`.
"""

from __future__ import annotations

import signal
from typing import Annotated

import anyio
import typer
from rich.console import Console

from taskflow.cli.commands import (
    Db,
    Thread,
    Traceback,
    ask,
    check_exists,
    checked_id,
    explained,
    say,
)
from taskflow.cli.hints import DEFAULT_DB, in_short
from taskflow.cli.history import app
from taskflow.cli.inputs import UsageError, find_workflow, given_json
from taskflow.cli.progress import display_on
from taskflow.cli.recovery import Order, recover_runs
from taskflow.cli.watch import follow
from taskflow.records import RunStatus
from taskflow.runtime import Runtime

__all__ = ("app",)


# A negative number is a value here, and no option.
@app.command("send", context_settings={"ignore_unknown_options": True})
def send(
    thread: Thread,
    name: Annotated[
        str, typer.Argument(metavar="NAME", callback=checked_id, help="The signal's name.")
    ],
    value: Annotated[
        str | None,
        typer.Argument(
            metavar="JSON|@FILE",
            help="The value, as JSON; null without it. @FILE reads it, @- from stdin.",
        ),
    ] = None,
    signal_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="ID",
            callback=checked_id,
            help="The signal is taken once, however often it is sent under this id.",
        ),
    ] = None,
    db: Db = DEFAULT_DB,
    traceback_asked: Traceback = False,
) -> None:
    """Send a signal to a thread's unfinished run: it is kept until the run receives it."""

    async def hand_in(runtime: Runtime) -> str:
        record = await runtime.get(thread)
        await runtime.send(thread, name, given, id=signal_id)
        if record.status == RunStatus.ERROR:
            return "The run has failed: it is kept for when that is continued."
        if record.status != RunStatus.PAUSED:
            return "It is kept until the run asks for it."
        if not any(each.kind == "signal" and each.name == name for each in record.waits):
            waits = in_short(record.waits)
            return f"It is kept until the run asks for it, which waits for {waits} now."
        return (
            "An open runtime that waits for the run, or recovers, continues it; else `taskflow "
            "resume` or `taskflow recover` does."
        )

    with explained(traceback_asked):
        given = None if value is None else given_json(value, "the value")
        then = ask(db, hand_in)
    say(f"Sent: the signal {name!r} to thread {thread!r}. {then}")


@app.command("watch")
def watch(
    thread: Thread,
    after: Annotated[
        int | None,
        typer.Option(
            "--after", min=0, metavar="N", help="Only what comes after the event of this number."
        ),
    ] = None,
    json_asked: Annotated[
        bool, typer.Option("--json", help="Write each event as a line of JSON.")
    ] = False,
    db: Db = DEFAULT_DB,
    traceback_asked: Traceback = False,
) -> None:
    """Show what happens in a thread's run, whoever executes it, until it has ended.

    A line for each event, the recorded ones first. Exit code 1 if the run fails or is cancelled.

    Ctrl-C leaves the run alone.
    """
    with explained(traceback_asked):
        check_exists(db)
        try:
            code = anyio.run(follow, thread, after, db, json_asked)
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
    raise typer.Exit(code)


@app.command("recover")
def recover(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="MODULE:WORKFLOW", help="The workflows whose runs to continue."),
    ],
    db: Db = DEFAULT_DB,
    forever: Annotated[
        bool, typer.Option("--forever", help="Go on until Ctrl-C or SIGTERM.")
    ] = False,
    max_concurrent_runs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Continue at most so many at a time.")
    ] = 100,
    max_takeovers: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Give up a run that was left so often without any progress in between.",
        ),
    ] = 5,
    traceback_asked: Traceback = False,
) -> None:
    """Continue runs whose process has died, and those whose signal or time has come.

    It ends when none of them is left, with exit code 1 if one has failed.

    Runs that still wait, and those of other workflows, are left alone.
    """
    with explained(traceback_asked):
        workflows = {target: find_workflow(target) for target in targets}
        if not forever:
            check_exists(db)
        order = Order(workflows, db, forever, max_concurrent_runs, max_takeovers)
        display = display_on(Console(stderr=True, highlight=False), "recovery")
        try:
            code = anyio.run(recover_runs, order, display)
        except ValueError as error:
            raise UsageError(str(error)) from error
    raise typer.Exit(code)
