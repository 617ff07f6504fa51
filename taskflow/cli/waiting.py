"""The commands for runs that wait or were left unfinished: send, watch and recover."""

from __future__ import annotations

import signal
from typing import Annotated

import anyio
import typer
from rich.console import Console

from taskflow.cli.database import ask, check_exists
from taskflow.cli.explanations import explained, values_checked
from taskflow.cli.hints import DEFAULT_DB, in_short
from taskflow.cli.inputs import find_workflow, given_json
from taskflow.cli.options import Db, Thread, Traceback, checked_id
from taskflow.cli.progress import display_on, say
from taskflow.cli.recovery import Order, recover_runs
from taskflow.cli.watch import follow
from taskflow.records import RunStatus
from taskflow.runtime import Runtime

__all__ = ("recover", "send", "watch")


def send(
    thread: Thread,
    name: Annotated[
        str, typer.Argument(metavar="NAME", callback=checked_id, help="The signal's name.")
    ],
    value: Annotated[
        str | None,
        typer.Argument(
            metavar="JSON|@FILE",
            help="The value, as JSON; null without it. @FILE reads it from a file, @- from stdin.",
        ),
    ] = None,
    signal_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="ID",
            callback=checked_id,
            help="The signal's own id: sent again under it, the signal is still taken once.",
        ),
    ] = None,
    db: Db = DEFAULT_DB,
    traceback_asked: Traceback = False,
) -> None:
    """Send a signal to a thread's unfinished run, which receives it now or later."""

    async def hand_in(runtime: Runtime) -> str:
        record = await runtime.get(thread)
        await runtime.send(thread, name, given, id=signal_id)
        if record.status == RunStatus.ERROR:
            return "The run has failed: the signal is kept until the run is continued."
        if record.status != RunStatus.PAUSED:
            return "The signal is kept until the run asks for it."
        if not any(each.kind == "signal" and each.name == name for each in record.waits):
            waits = in_short(record.waits)
            return f"The signal is kept until the run asks for it; it waits for {waits} now."
        return (
            "An open runtime that waits for the run, or recovers runs, continues it; otherwise "
            "`taskflow resume` or `taskflow recover` does."
        )

    with explained(traceback_asked):
        given = None if value is None else given_json(value, "the value")
        then = ask(db, hand_in)
    say(f"Sent: the signal {name!r} to thread {thread!r}. {then}")


def watch(
    thread: Thread,
    after: Annotated[
        int | None,
        typer.Option(
            "--after", min=0, metavar="N", help="Only the events after the one of this number."
        ),
    ] = None,
    json_asked: Annotated[
        bool, typer.Option("--json", help="Write each event as a line of JSON.")
    ] = False,
    db: Db = DEFAULT_DB,
    traceback_asked: Traceback = False,
) -> None:
    """Show the events of a thread's run, in whatever process it executes, until it has ended.

    A line for each event, the recorded ones first. Exit code 1 if the run fails or is cancelled.

    Ctrl-C ends the command, and not the run.
    """
    with explained(traceback_asked):
        check_exists(db)
        try:
            code = anyio.run(follow, thread, after, db, json_asked)
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
    raise typer.Exit(code)


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
        int, typer.Option(min=1, metavar="N", help="Continue at most N runs at a time.")
    ] = 100,
    max_takeovers: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Give up a run that was left N times without any progress in between.",
        ),
    ] = 5,
    traceback_asked: Traceback = False,
) -> None:
    """Continue runs whose process has died, and runs whose signal or time has come.

    Ends when none of them is left, with exit code 1 if one has failed.

    Runs that still wait, and runs of other workflows, are left alone.
    """
    with explained(traceback_asked), values_checked():
        workflows = {target: find_workflow(target) for target in targets}
        if not forever:
            check_exists(db)
        order = Order(workflows, db, forever, max_concurrent_runs, max_takeovers)
        display = display_on(Console(stderr=True, highlight=False), "recovery")
        code = anyio.run(recover_runs, order, display)
    raise typer.Exit(code)
