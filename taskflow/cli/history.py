"""The commands that work on recorded history: fork, replace, prune, export and import.

They are commands of the same ``app`` as those of `taskflow.cli.commands`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import anyio
import typer

from taskflow.cli.commands import (
    Db,
    RunId,
    Thread,
    Traceback,
    app,
    ask,
    check_writable,
    explained,
    recorded_id,
    say,
)
from taskflow.cli.execution import DEFAULT_DB
from taskflow.cli.inputs import UsageError, given_json
from taskflow.cli.progress import duration
from taskflow.errors import RunNotFound, TaskflowError
from taskflow.records import Pruned, RunStatus
from taskflow.runtime import Runtime
from taskflow.stores.memory import MemoryStore
from taskflow.wire.identity import check_id

__all__ = ("app",)

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}  # seconds
REPORT_INTERVAL: Final = 1.0  # seconds

To = Annotated[
    str, typer.Option("--to", metavar="ID", help="The id of the new thread; it must be free.")
]


@app.command("fork")
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
            help="Leave this recorded call out, and those it was made by; may be repeated. The "
            "beginning of an id will do.",
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

    with explained(traceback_asked), _wrong_use():
        status = ask(db, copy)
    then = (
        "It has its result, too."
        if status == RunStatus.SUCCESS
        else "The same call continues it there, and executes what is not recorded."
    )
    say(f"Forked: thread {thread!r} to thread {to!r}. {then}")


@app.command("replace")
def replace(
    thread: Thread,
    task_id: Annotated[
        str, typer.Argument(metavar="TASK_ID", help="As `show` gives it: the beginning will do.")
    ],
    value: Annotated[
        str,
        typer.Argument(
            metavar="JSON|@FILE", help="The result, as JSON. @FILE reads it, @- from stdin."
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

    with explained(traceback_asked), _wrong_use():
        result = given_json(value, "the value")
        replaced = ask(db, write)
    say(f"Replaced: {replaced} on thread {thread!r}. The next run executes what depends on it.")


@app.command("prune")
def prune(
    db: Db = DEFAULT_DB,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Ended so long ago: 30d, 12h, 90m, 2w."),
    ] = None,
    status: Annotated[
        list[RunStatus] | None,
        typer.Option(help="Only those; may be repeated. Without it: success and cancelled."),
    ] = None,
    keep_last: Annotated[
        int | None,
        typer.Option("--keep-last", min=0, metavar="N", help="Keep the last N runs of a thread."),
    ] = None,
    traceback_asked: Traceback = False,
) -> None:
    """Delete runs that have ended, with their calls, beside live work."""
    with explained(traceback_asked), _wrong_use():
        if older_than is None and keep_last is None:
            raise UsageError("say which runs are to go: --older-than 30d, --keep-last 1, or both")
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


@app.command("export")
def export(
    thread: Thread,
    output: Annotated[
        str, typer.Option("--output", metavar="FILE", help="Write to a file, as a whole.")
    ] = "-",
    db: Db = DEFAULT_DB,
    traceback_asked: Traceback = False,
) -> None:
    """Write a thread with all that is recorded of it as lines of JSON."""

    async def write(runtime: Runtime) -> int:
        count = 0
        async with contextlib.aclosing(runtime.export(thread)) as lines:
            first = await anext(lines)  # nothing is written of a thread that is not there
            with _file_for(output) as file:
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


@app.command("import")
def import_thread(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="What `export` has written.")],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="ID", help="Under this id, in place of the thread's own."),
    ] = None,
    db: Db = DEFAULT_DB,
    traceback_asked: Traceback = False,
) -> None:
    """Make a thread of what was exported, here or elsewhere."""

    async def read(runtime: Runtime) -> str:
        return await runtime.import_thread(lines, to=to)

    async def check() -> None:
        async with Runtime(MemoryStore()) as runtime:
            await read(runtime)

    with explained(traceback_asked), _wrong_use():
        if to is not None:
            check_id(to, "thread id")
        lines = _content(file).split(b"\n")
        if not os.path.exists(db):
            anyio.run(check)  # before a file is made for it
        thread = ask(db, read, is_made=True)
    say(f"Imported: thread {thread!r} into {db}.")


class _Reports:
    """Says now and then how much was deleted."""

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
        raise UsageError(f"--older-than takes a number and a unit, as 30d, 12h, 90m: got {text}")
    try:
        return timedelta(seconds=float(match[1]) * UNITS[match[2]])
    except OverflowError as error:
        raise UsageError(f"--older-than {text} is longer than time is counted") from error


def _content(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error


@contextlib.contextmanager
def _file_for(output: str) -> Generator[BinaryIO]:
    """Where to write. Whoever reads a file finds what was there before, or all of it."""
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return

    path = os.path.realpath(output)
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe, or a terminal
        with open(path, "wb") as file:
            yield file
        return
    draft = f"{path}.{os.getpid()}.part"
    try:
        with open(draft, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        if isinstance(error, OSError):
            raise UsageError(f"cannot write {output}: {error.strerror or error}") from error
        raise


@contextlib.contextmanager
def _wrong_use() -> Generator[None]:
    """What the library calls a bad value was given on the command line."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, TaskflowError):
            raise
        raise UsageError(str(error)) from error
