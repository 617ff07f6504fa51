"""The command that shows what a deploy would do to recorded runs: check."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections import Counter
from types import TracebackType
from typing import Annotated, Any, Final

import anyio
import msgspec
import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text

from taskflow.calls.workflows import Workflow
from taskflow.cli.database import check_exists
from taskflow.cli.explanations import explained, values_checked
from taskflow.cli.hints import DEFAULT_DB
from taskflow.cli.inputs import UsageError, find_workflow
from taskflow.cli.options import Db, Json, Target, ThreadFilter, Traceback
from taskflow.cli.progress import FIRST_LINE, LINE_SPACING, LONGEST_SPACING, duration, say
from taskflow.cli.report import as_json
from taskflow.records import RunStatus
from taskflow.testing import ReplayReport, RunReplay, Verdict, replay

__all__ = ("check",)

CHANGED: Final = 1
STYLES: Final = {
    Verdict.CHANGED.upper(): "bold red",
    Verdict.UNCHANGED: "green",
    Verdict.SKIPPED: "dim",
}
REFRESH: Final = 0.1  # seconds

Files = Annotated[
    list[str] | None, typer.Argument(metavar="FILE", help="More exports, as after --export.")
]
Exports = Annotated[
    list[str] | None,
    typer.Option(
        "--export",
        metavar="FILE",
        help="An export to read in place of a database, - for stdin; may be repeated.",
    ),
]
StatusFilter = Annotated[
    list[RunStatus] | None, typer.Option(help="Only runs of this status; may be repeated.")
]
Patience = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="How long a workflow may wait for something that is no call.",
    ),
]


def check(
    context: typer.Context,
    target: Target,
    files: Files = None,
    exports: Exports = None,
    db: Db = DEFAULT_DB,
    thread: ThreadFilter = None,
    status: StatusFilter = None,
    patience: Patience = 5.0,
    json_asked: Json = False,
    traceback_asked: Traceback = False,
) -> None:
    """Show what the present code would do to recorded runs, without executing any task.

    The runs are replayed: recorded calls are answered, and other calls are held and reported.

    Exit code 1 if a deploy would change something: ask for other calls, leave results out, fail.
    """
    with explained(traceback_asked):
        given = _given_files(context, files or [], exports or [])
        with contextlib.redirect_stdout(sys.stderr):
            workflow = find_workflow(target)
        if not given:
            check_exists(db)
        options = {"thread_id": thread, "status": status or None, "patience": patience}
        report = _replayed(workflow, given or [db], options)
    if json_asked:
        sys.stdout.write(f"{as_json(_json_of(report))}\n")
    else:
        _print(report)
    raise typer.Exit(0 if report.is_unchanged else CHANGED)


def _given_files(context: typer.Context, files: list[str], exports: list[str]) -> list[str]:
    """The exports to read, none where a database is meant. Raises UsageError if unclear."""
    if files and not exports:
        raise UsageError(f"what is {files[0]}? Name exports with --export, or a database: --db")
    source = context.get_parameter_source("db")
    if exports and source is not None and source.name == "COMMANDLINE":
        raise UsageError("name a database with --db, or exports with --export, not both")
    return [*exports, *files]


def _replayed(
    workflow: Workflow[..., Any, Any], files: list[str], options: dict[str, Any]
) -> ReplayReport:
    """The report of a replay that shows its progress; exits when Ctrl-C stops it."""
    try:
        with contextlib.redirect_stdout(sys.stderr), _Progress(workflow.name) as progress:
            return anyio.run(_replay, workflow, files, {**options, "report": progress})
    except KeyboardInterrupt:
        say("Stopped: nothing was executed, and nothing changed.")
        raise typer.Exit(128 + signal.SIGINT) from None


async def _replay(
    workflow: Workflow[..., Any, Any], files: list[str], options: dict[str, Any]
) -> ReplayReport:
    """`replay`, with UsageErrors for files that are neither database nor export."""
    histories = [sys.stdin.buffer if each == "-" else _Named(each) for each in files]
    try:
        with values_checked():
            return await replay(histories, workflow, **options)
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror or error}") from error


class _Named:
    """A file's name, as a path: `replay` takes a plain string in a list for a line of an export."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __fspath__(self) -> str:
        return self._name


class _Progress:
    """Shows how many runs were replayed: live on a terminal, in occasional lines elsewhere."""

    def __init__(self, title: str) -> None:
        console = Console(stderr=True, highlight=False)
        is_live = sys.stderr.isatty() and not console.is_dumb_terminal
        self._title = title
        self._live = Status(Text(title), console=console) if is_live else None
        self._begun = time.monotonic()
        self._next = self._begun + (REFRESH if is_live else FIRST_LINE)
        self._counts: Counter[Verdict] = Counter()

    def __enter__(self) -> _Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, entry: RunReplay) -> None:
        self._counts[entry.verdict] += 1
        now = time.monotonic()
        if now < self._next:
            return
        passed = now - self._begun
        counts = ", ".join(f"{self._counts[each]:,} {each}" for each in self._counts)
        text = (
            f"{self._title}: {self._counts.total():,} runs replayed in {duration(passed)}: {counts}"
        )
        if self._live is not None:
            self._next = now + REFRESH
            self._live.update(Text(text))
        else:
            self._next = now + min(LONGEST_SPACING, max(FIRST_LINE, passed * LINE_SPACING))
            say(text)


def _json_of(report: ReplayReport) -> dict[str, Any]:
    counts = Counter(each.verdict for each in report.runs)
    fields: dict[str, Any] = msgspec.to_builtins(report)
    return {
        "workflow": report.workflow,
        "is_unchanged": report.is_unchanged,
        **{str(each): counts[each] for each in Verdict},
        "runs": fields["runs"],
        "others": fields["others"],
    }


def _print(report: ReplayReport) -> None:
    console = Console(highlight=False)
    for line in report.lines():
        head, space, rest = line.partition(" ")
        console.print(Text.assemble((head, STYLES.get(head, "")), space, rest), soft_wrap=True)
