"""The commands: what each takes, and what it does with a `Runtime`.

Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 the run failed or the
store did, 2 wrong use, 3 the run is paused, 128 + n stopped by signal n (130: Ctrl-C).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import anyio
import typer
from rich.console import Console

from taskflow.calls.workflows import Workflow
from taskflow.cli.execution import Job, Outcome, execute, opened
from taskflow.cli.hints import DEFAULT_DB
from taskflow.cli.inputs import UsageError, find_workflow, make_call
from taskflow.cli.progress import display_on, say
from taskflow.cli.records import json_of_run, json_of_runs, print_run, print_runs
from taskflow.cli.report import as_json, exit_code, report
from taskflow.cli.timeline import page_of, timeline_of
from taskflow.cli.trace import trace_of
from taskflow.errors import RunCancelled, RunNotFound, StoreError, TaskflowError, UnknownWorkflow
from taskflow.records import RunStatus
from taskflow.runtime import Runtime
from taskflow.wire.identity import check_id

__all__ = (
    "Db",
    "RunId",
    "Thread",
    "Traceback",
    "app",
    "ask",
    "check_exists",
    "check_writable",
    "checked_id",
    "explained",
    "recorded_id",
    "say",
)

T = TypeVar("T")

STORE_FAILED: Final = 1
WRONG_USE: Final = 2
# What the errors of `Runtime.run` advise to pass, as it is spelled here.
OPTIONS: Final = {
    "wait=True": "--wait",
    "supersede=True": "--supersede",
    "another run_id": "another --run-id",
}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run durable workflows, and look at what is recorded of them.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 3 paused, 128 + n stopped by signal n.",
)


def checked_id(value: str | None) -> str | None:
    """What can be a name or an id, if anything was given. Raises BadParameter."""
    if value is None:
        return None
    try:
        return check_id(value, "name or id")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Target = Annotated[str, typer.Argument(metavar="MODULE:WORKFLOW", help="What to run.")]
Thread = Annotated[
    str, typer.Argument(metavar="THREAD", callback=checked_id, help="The thread's id.")
]
ThreadOption = Annotated[
    str, typer.Option("--thread", metavar="ID", callback=checked_id, help="The thread's id.")
]
Db = Annotated[
    str, typer.Option("--db", metavar="FILE", envvar="TASKFLOW_DB", help="The SQLite file.")
]
RunId = Annotated[
    str | None,
    typer.Option(
        "--run-id", metavar="ID", callback=checked_id, help="That run, not the thread's latest."
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


@app.command("run")
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
    supersede: Annotated[
        bool, typer.Option("--supersede", help="Cancel an unfinished run of another input.")
    ] = False,
    wait: Wait = False,
    json_asked: Json = False,
    traceback_asked: Traceback = False,
) -> None:
    """Run a workflow on a thread, or continue its run there.

    What is recorded is not executed again.

    When it pauses, it tells what it waits for, and ends with exit code 3, unless --wait is given.

    Ctrl-C cancels what executes, and SIGTERM lets that end first; either again leaves at once.
    """
    with explained(traceback_asked):
        workflow = _found(target, json_asked)
        call = make_call(workflow, input_text)
        job = Job(target, workflow, call, thread, db, run_id, supersede, wait)
        _run(job, json_asked, traceback_asked)


@app.command("resume")
def resume(
    target: Target,
    thread: ThreadOption,
    db: Db = DEFAULT_DB,
    wait: Wait = False,
    json_asked: Json = False,
    traceback_asked: Traceback = False,
) -> None:
    """Continue a thread's latest run with its recorded input."""
    with explained(traceback_asked):
        check_exists(db)
        job = Job(target, _found(target, json_asked), None, thread, db, wait=wait)
        _run(job, json_asked, traceback_asked)


@app.command("list")
def list_runs(
    db: Db = DEFAULT_DB,
    status: Annotated[RunStatus | None, typer.Option(help="Only those.")] = None,
    workflow: Annotated[str | None, typer.Option(metavar="NAME", help="Only its runs.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    json_asked: Json = False,
    traceback_asked: Traceback = False,
) -> None:
    """Show the runs of all threads, newest first."""
    with explained(traceback_asked):
        records = ask(db, lambda it: it.runs(status=status, workflow=workflow, limit=limit))
    if json_asked:
        sys.stdout.write(f"{as_json(json_of_runs(records))}\n")
    elif records:
        print_runs(records)
    else:
        say(f"No such runs in {db}.")


@app.command("show")
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
            help="Write a page for a browser: the run drawn.",
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


@app.command("forget")
def forget(
    thread: Thread,
    task_id: Annotated[
        str, typer.Argument(metavar="TASK_ID", help="As `show` gives it: the beginning will do.")
    ],
    db: Db = DEFAULT_DB,
    traceback_asked: Traceback = False,
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


@app.command("cancel")
def cancel(thread: Thread, db: Db = DEFAULT_DB, traceback_asked: Traceback = False) -> None:
    """End a thread's unfinished run for good, whoever executes it."""
    with explained(traceback_asked):
        ask(db, lambda runtime: runtime.cancel(thread))
    say(f"Cancelled: the run on thread {thread!r}. The next one is a new run.")


@app.command("delete")
def delete(thread: Thread, db: Db = DEFAULT_DB, traceback_asked: Traceback = False) -> None:
    """Drop a thread with everything that is recorded on it."""
    with explained(traceback_asked):
        ask(db, lambda runtime: runtime.delete(thread))
    say(f"Deleted: thread {thread!r}, with everything that was recorded on it.")


def _found(target: str, json_asked: bool) -> Workflow[..., Any, Any]:
    with _prints_aside(json_asked):
        return find_workflow(target)


def _run(job: Job, json_asked: bool, traceback_asked: bool) -> None:
    """Execute a job, say what it came to, and exit."""
    display = display_on(Console(stderr=True, highlight=False), job.title)
    try:
        with _prints_aside(json_asked):
            outcome = anyio.run(execute, job, display)
    except KeyboardInterrupt:
        # It came outside of the part that stops cleanly, or out of a worker process.
        outcome = Outcome(0.0, began=True, stopped_by=signal.SIGINT)
    if outcome.error is not None and not outcome.began:
        raise outcome.error

    report(job, outcome, json_asked=json_asked, traceback_asked=traceback_asked)
    raise typer.Exit(exit_code(outcome))


async def recorded_id(
    runtime: Runtime, thread_id: str, beginning: str, run_id: str | None = None
) -> str:
    """The recorded call whose id begins so. Raises UsageError where several do.

    ``beginning`` itself where none does: whoever asks for that is told that it is not there.
    """
    known = [each.task_id for each in await runtime.tasks(thread_id, run_id)]
    found = [each for each in known if each.startswith(beginning)]
    if len(found) > 1 and beginning not in found:
        raise UsageError(f"{beginning} begins {len(found)} task ids: " + ", ".join(found[:5]))
    return found[0] if len(found) == 1 else beginning


def ask(db: str, question: Callable[[Runtime], Awaitable[T]], *, is_made: bool = False) -> T:
    """What a runtime on an existing file answers; or on a new one, if it ``is_made``."""

    async def main() -> T:
        async with opened(Runtime(db)) as runtime:
            return await question(runtime)

    if not is_made:
        check_exists(db)
    return anyio.run(main)


def check_exists(db: str) -> None:
    if not os.path.exists(db):
        raise UsageError(f"there is no file {db}: name the database with --db, or in TASKFLOW_DB")


def check_writable(file: str) -> None:
    if os.path.isdir(file or "."):
        raise UsageError(f"cannot write {file or 'a file without a name'}: that is a folder")
    folder = os.path.dirname(file) or "."
    if not os.path.isdir(folder):
        raise UsageError(f"cannot write {file}: there is no folder {folder}")


def _write(file: str, text: str) -> None:
    """Whoever reads the file finds what was there before, or the whole text."""
    # Text that UTF-8 cannot carry stands in JSON strings only, where its escape means the same.
    content = text.encode("utf-8", "backslashreplace")
    path = Path(file)
    is_draft = path.is_file() or not path.exists()  # no pipe, and no terminal
    if is_draft:
        path = Path(f"{os.path.realpath(file)}.{os.getpid()}.part")
    try:
        path.write_bytes(content)
        if is_draft:
            path.replace(os.path.realpath(file))
    except OSError as error:
        if is_draft:
            path.unlink(missing_ok=True)
        raise UsageError(f"cannot write {file}: {error.strerror or error}") from error
    say(f"Written: {file} ({len(content) / 1000:,.0f} kB)")


@contextlib.contextmanager
def _prints_aside(json_asked: bool) -> Generator[None]:
    """What the user's code prints does not get between a program and the JSON it reads."""
    with contextlib.redirect_stdout(sys.stderr) if json_asked else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def explained(traceback_asked: bool) -> Generator[None]:
    """Say what was wrong in a line, without a traceback unless it was asked for, and exit."""
    try:
        yield
    except (UsageError, TaskflowError) as error:
        if traceback_asked:
            sys.stderr.write("".join(traceback.format_exception(error)))
        else:
            say(f"taskflow: {_explanation(error)}", "red")
        raise typer.Exit(STORE_FAILED if isinstance(error, StoreError) else WRONG_USE) from None


def _explanation(error: Exception) -> str:
    if isinstance(error, UnknownWorkflow):
        return f"thread {error.thread_id!r} was run by {error.workflow!r}: resume it with that"
    if isinstance(error, RunCancelled):
        return (
            f"run {error.run_id!r} on thread {error.thread_id!r} was cancelled, and that is final: "
            "`taskflow run` without --run-id begins a new one"
        )
    text = str(error)
    for keyword, option in OPTIONS.items():
        text = text.replace(keyword, option)
    return text
