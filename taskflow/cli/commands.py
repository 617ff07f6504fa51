"""The commands for one run or thread: run, resume, list, show, forget, cancel and delete.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 the run or the store
failed, 2 wrong use, 3 the run is paused, 128 + n stopped by signal n (130: Ctrl-C).
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Generator
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console

from taskflow.calls.workflows import Workflow
from taskflow.cli.database import ask, check_exists, recorded_id
from taskflow.cli.execution import Job, Outcome, execute
from taskflow.cli.explanations import explained
from taskflow.cli.files import check_writable, writing
from taskflow.cli.hints import DEFAULT_DB
from taskflow.cli.inputs import UsageError, find_workflow, make_call
from taskflow.cli.options import (
    Db,
    Json,
    RunId,
    Target,
    TaskId,
    Thread,
    ThreadFilter,
    ThreadOption,
    Traceback,
    Wait,
)
from taskflow.cli.progress import display_on, say
from taskflow.cli.records import json_of_run, json_of_runs, print_run, print_runs
from taskflow.cli.report import as_json, exit_code, report
from taskflow.cli.timeline import page_of, timeline_of
from taskflow.cli.trace import trace_of
from taskflow.errors import RunNotFound
from taskflow.records import RunStatus
from taskflow.runtime import Runtime

__all__ = ("cancel", "delete", "forget", "list_runs", "resume", "run", "show")


def run(
    target: Target,
    thread: ThreadOption,
    input_text: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="JSON|@FILE",
            help="An object of the workflow's parameters, or an array of positional arguments. "
            "@FILE reads it from a file, @- from stdin.",
        ),
    ] = None,
    db: Db = DEFAULT_DB,
    run_id: RunId = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="A new run, though the latest has ended with this input."),
    ] = False,
    supersede: Annotated[
        bool,
        typer.Option(
            "--supersede",
            help="Cancel a run of another input that has not ended; with --fresh, of any.",
        ),
    ] = False,
    wait: Wait = False,
    json_asked: Json = False,
    traceback_asked: Traceback = False,
) -> None:
    """Run a workflow on a thread, or continue its run there.

    Recorded calls are not executed again.

    Timers are waited for. A run that waits for an answer prints what it asks, and ends with exit
    code 3, unless --wait is given.

    Ctrl-C cancels the executing tasks, SIGTERM lets them end first; a second signal exits at once.
    """
    with explained(traceback_asked):
        if fresh and run_id is not None:
            raise UsageError(
                "--run-id names one run, and --fresh asks for a new one: give one of them"
            )
        workflow = _found(target, json_asked)
        call = make_call(workflow, input_text)
        job = Job(target, workflow, call, thread, db, run_id, fresh, supersede, wait)
        _run(job, json_asked, traceback_asked)


def resume(
    target: Target,
    thread: ThreadOption,
    db: Db = DEFAULT_DB,
    run_id: RunId = None,
    wait: Wait = False,
    json_asked: Json = False,
    traceback_asked: Traceback = False,
) -> None:
    """Continue a thread's run, the latest or a failed one, with its recorded input."""
    with explained(traceback_asked):
        check_exists(db)
        job = Job(target, _found(target, json_asked), None, thread, db, run_id, wait=wait)
        _run(job, json_asked, traceback_asked)


def list_runs(
    db: Db = DEFAULT_DB,
    status: Annotated[RunStatus | None, typer.Option(help="Only runs of this status.")] = None,
    workflow: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only runs of this workflow.")
    ] = None,
    thread: ThreadFilter = None,
    limit: Annotated[int, typer.Option(min=1, help="The largest number of runs.")] = 20,
    json_asked: Json = False,
    traceback_asked: Traceback = False,
) -> None:
    """Show the runs of all threads, or of one, newest first."""
    with explained(traceback_asked):
        records = ask(
            db,
            lambda it: it.runs(thread_id=thread, status=status, workflow=workflow, limit=limit),
        )
    if json_asked:
        sys.stdout.write(f"{as_json(json_of_runs(records))}\n")
    elif records:
        print_runs(records)
    else:
        say(f"No such runs in {db}.")


def show(
    thread: Thread,
    db: Db = DEFAULT_DB,
    run_id: RunId = None,
    whole: Annotated[bool, typer.Option("--all", help="Every call, and whole values.")] = False,
    page: Annotated[
        str | None,
        typer.Option(
            "--timeline",
            metavar="FILE.html",
            help="Write a page for a browser that draws the run.",
        ),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(
            "--trace", metavar="FILE.json", help="Write a trace for Perfetto or chrome://tracing."
        ),
    ] = None,
    json_asked: Json = False,
    traceback_asked: Traceback = False,
) -> None:
    """Show a thread's run: its calls as a tree, with durations, attempts and errors."""

    async def look(runtime: Runtime) -> Any:
        record = await runtime.get(thread, run_id)
        return record, await runtime.tasks(thread, record.run_id)

    with explained(traceback_asked):
        files = [file for file in (page, trace) if file is not None]
        for file in files:
            check_writable(file)
        record, tasks = ask(db, look)
        timeline = timeline_of(record, tasks, now=time.time())
        if page is not None:
            _write(page, page_of(timeline))
        if trace is not None:
            _write(trace, trace_of(timeline))
    if json_asked:
        sys.stdout.write(f"{as_json(json_of_run(record, tasks))}\n")
    elif not files:
        print_run(record, tasks, db, whole=whole)


def forget(
    thread: Thread, task_id: TaskId, db: Db = DEFAULT_DB, traceback_asked: Traceback = False
) -> None:
    """Drop a recorded call: the next run executes it again, and what depends on its result."""

    async def drop(runtime: Runtime) -> str:
        try:
            await runtime.forget(thread, task_id)
        except RunNotFound:
            found = await recorded_id(runtime, thread, task_id)
            await runtime.forget(thread, found)
            return found
        return task_id

    with explained(traceback_asked):
        forgotten = ask(db, drop)
    say(f"Forgotten: {forgotten} on thread {thread!r}. The next run executes it again.")


def cancel(
    thread: Thread,
    db: Db = DEFAULT_DB,
    run_id: RunId = None,
    traceback_asked: Traceback = False,
) -> None:
    """End a thread's run for good: the latest, in whatever process it executes, or a failed one."""
    with explained(traceback_asked):
        ask(db, lambda runtime: runtime.cancel(thread, run_id=run_id))
    named = "the run" if run_id is None else f"run {run_id!r}"
    say(f"Cancelled: {named} on thread {thread!r}. It is not continued any more.")


def delete(thread: Thread, db: Db = DEFAULT_DB, traceback_asked: Traceback = False) -> None:
    """Drop a thread with everything that is recorded on it."""
    with explained(traceback_asked):
        ask(db, lambda runtime: runtime.delete(thread))
    say(f"Deleted: thread {thread!r}, with everything that was recorded on it.")


def _found(target: str, json_asked: bool) -> Workflow[..., Any, Any]:
    with _prints_aside(json_asked):
        return find_workflow(target)


def _run(job: Job, json_asked: bool, traceback_asked: bool) -> None:
    """Execute a job, report its outcome, and exit."""
    display = display_on(Console(stderr=True, highlight=False), job.title)
    try:
        with _prints_aside(json_asked):
            outcome = anyio.run(execute, job, display)
    except KeyboardInterrupt:
        # Raised outside of the part that stops cleanly, or by a worker process.
        outcome = Outcome(0.0, began=True, stopped_by=signal.SIGINT)
    if outcome.error is not None and not outcome.began:
        raise outcome.error

    report(job, outcome, json_asked=json_asked, traceback_asked=traceback_asked)
    raise typer.Exit(exit_code(outcome))


@contextlib.contextmanager
def _prints_aside(json_asked: bool) -> Generator[None]:
    """Send what user code prints to stderr if stdout is to hold JSON alone."""
    with contextlib.redirect_stdout(sys.stderr) if json_asked else contextlib.nullcontext():
        yield


def _write(file: str, text: str) -> None:
    # Lone surrogates occur in JSON strings only, where their escape has the same meaning.
    content = text.encode("utf-8", "backslashreplace")
    with writing(file) as stream:
        stream.write(content)
    say(f"Written: {file} ({len(content) / 1000:,.0f} kB)")
