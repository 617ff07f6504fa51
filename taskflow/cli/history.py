"""The commands that change or move recorded history: fork, replace, prune, export and import."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Generator
from datetime import timedelta
from typing import Annotated, BinaryIO, Final

import anyio
import typer

from taskflow.cli.database import ask, recorded_id
from taskflow.cli.explanations import explained, values_checked
from taskflow.cli.files import check_writable, content_of, writing
from taskflow.cli.hints import DEFAULT_DB
from taskflow.cli.inputs import UsageError, given_json
from taskflow.cli.options import Db, RunId, TaskId, Thread, Traceback
from taskflow.cli.progress import duration, say
from taskflow.errors import RunNotFound
from taskflow.records import Pruned, RunStatus
from taskflow.runtime import Runtime
from taskflow.stores.memory import MemoryStore
from taskflow.wire.identity import check_id

__all__ = ("export", "fork", "import_thread", "prune", "replace")

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}  # seconds
REPORT_INTERVAL: Final = 1.0  # seconds

To = Annotated[
    str, typer.Option("--to", metavar="ID", help="The id of the new thread; it must be free.")
]


def fork(
    thread: Thread,
    to: To,
    db: Db = DEFAULT_DB,
    run_id: RunId = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="TASK_ID",
            help="Leave out this recorded call, and the calls in whose bodies it was made; the "
            "beginning of its id is enough. May be repeated.",
        ),
    ] = None,
    traceback_asked: Traceback = False,
) -> None:
    """Copy a thread's run to a new thread, where the same call continues it."""

    async def copy(runtime: Runtime) -> RunStatus:
        source = await runtime.get(thread, run_id)
        left_out = [
            await recorded_id(runtime, thread, each, source.run_id) for each in without or []
        ]
        record = await runtime.fork(thread, to=to, run_id=run_id, without=left_out)
        return record.status

    with explained(traceback_asked), values_checked():
        status = ask(db, copy)
    then = (
        "The copy has the result, too."
        if status == RunStatus.SUCCESS
        else "The same call continues the run there, and executes what is not recorded."
    )
    say(f"Forked: thread {thread!r} to thread {to!r}. {then}")


def replace(
    thread: Thread,
    task_id: TaskId,
    value: Annotated[
        str,
        typer.Argument(
            metavar="JSON|@FILE",
            help="The result, as JSON. @FILE reads it from a file, @- from stdin.",
        ),
    ],
    db: Db = DEFAULT_DB,
    traceback_asked: Traceback = False,
) -> None:
    """Give a recorded call another result: the next run executes what depends on it."""

    async def write(runtime: Runtime) -> str:
        try:
            await runtime.replace(thread, task_id, result)
        except RunNotFound:
            found = await recorded_id(runtime, thread, task_id)
            await runtime.replace(thread, found, result)
            return found
        return task_id

    with explained(traceback_asked), values_checked():
        result = given_json(value, "the value")
        replaced = ask(db, write)
    say(f"Replaced: {replaced} on thread {thread!r}. The next run executes what depends on it.")


def prune(
    db: Db = DEFAULT_DB,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than", metavar="AGE", help="Only runs that ended before: 30d, 12h, 90m, 2w."
        ),
    ] = None,
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(
            help="Only runs of this status; may be repeated. Without it: success and cancelled."
        ),
    ] = None,
    keep_last: Annotated[
        int | None,
        typer.Option("--keep-last", min=0, metavar="N", help="Keep the last N runs of a thread."),
    ] = None,
    traceback_asked: Traceback = False,
) -> None:
    """Delete runs that have ended, with their calls; other runs may execute meanwhile."""
    with explained(traceback_asked), values_checked():
        if older_than is None and keep_last is None:
            raise UsageError("name the runs to delete: --older-than 30d, --keep-last 1, or both")
        age = None if older_than is None else _age(older_than)
        report = _Reports()
        statuses = status or (RunStatus.SUCCESS, RunStatus.CANCELLED)
        pruned = ask(
            db,
            lambda runtime: runtime.prune(
                finished_before=age, status=statuses, keep_last=keep_last, report=report
            ),
        )
    say(f"Deleted: {_counts(pruned)}.")


def export(
    thread: Thread,
    output: Annotated[
        str, typer.Option("--output", metavar="FILE", help="Write to this file, not to stdout.")
    ] = "-",
    db: Db = DEFAULT_DB,
    traceback_asked: Traceback = False,
) -> None:
    """Write a thread, with everything that is recorded on it, as lines of JSON."""

    async def write(runtime: Runtime) -> int:
        count = 0
        async with contextlib.aclosing(runtime.export(thread)) as lines:
            first = await anext(lines)  # raises for an unknown thread, before a file is made
            with _stdout() if output == "-" else writing(output) as file:
                file.write(first.encode())
                async for line in lines:
                    file.write(line.encode())
                    count += 1
        return count - 1

    with explained(traceback_asked):
        if output != "-":
            check_writable(output)
        records = ask(db, write)
    where = "" if output == "-" else f" to {output}"
    say(f"Exported: thread {thread!r}{where}, {records:,} records.")


def import_thread(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="An export; - reads stdin.")],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="ID", help="Another id for the thread than its own."),
    ] = None,
    db: Db = DEFAULT_DB,
    traceback_asked: Traceback = False,
) -> None:
    """Make a thread from an export."""

    async def read(runtime: Runtime) -> str:
        return await runtime.import_thread(lines, to=to)

    async def check() -> None:
        async with Runtime(MemoryStore()) as runtime:
            await read(runtime)

    with explained(traceback_asked), values_checked():
        if to is not None:
            check_id(to, "thread id")
        lines = content_of(file).split(b"\n")
        if not os.path.exists(db):
            anyio.run(check)  # so that a refused import leaves no new file
        thread = ask(db, read, may_create=True)
    say(f"Imported: thread {thread!r} into {db}.")


class _Reports:
    """Reports how much was deleted so far, about once a second."""

    def __init__(self) -> None:
        self._begun = self._said = time.monotonic()

    def __call__(self, pruned: Pruned) -> None:
        now = time.monotonic()
        if now - self._said >= REPORT_INTERVAL:
            self._said = now
            say(f"{duration(now - self._begun)}: {_counts(pruned)}")


def _counts(pruned: Pruned) -> str:
    counts = f"{pruned.runs:,} runs, {pruned.checkpoints:,} records"
    return f"{counts}, {pruned.cached:,} shared results" if pruned.cached else counts


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if match is None:
        raise UsageError(f"--older-than takes a number and a unit, as 30d, 12h, 90m; got {text}")
    try:
        return timedelta(seconds=float(match[1]) * UNITS[match[2]])
    except OverflowError as error:
        raise UsageError(f"--older-than {text} is too long a time") from error


@contextlib.contextmanager
def _stdout() -> Generator[BinaryIO]:
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()
