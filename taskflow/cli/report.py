"""The report of a run that the command line has executed: result or failure, and how to go on."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from msgspec import structs
from rich.console import Console
from rich.text import Text

import taskflow
from taskflow.cli.execution import Job, Outcome
from taskflow.cli.hints import how_to_answer
from taskflow.cli.progress import counts, duration
from taskflow.records import RunStatus

__all__ = ("as_json", "exit_code", "report")

PAUSED: Final = 3  # exit code
MEMBERS_SHOWN: Final = 5  # of a group of failures
NOT_THE_USERS: Final = (
    sysconfig.get_path("stdlib"),
    sysconfig.get_path("purelib"),
    os.path.dirname(os.path.abspath(taskflow.__file__)),
)


def exit_code(outcome: Outcome) -> int:
    """0 done, 1 the run failed, 3 it is paused, 128 + n stopped by signal n."""
    if outcome.stopped_by is not None:
        return 128 + outcome.stopped_by
    if outcome.waits is not None:
        return PAUSED
    return 0 if outcome.error is None else 1


def report(job: Job, outcome: Outcome, *, json_asked: bool, traceback_asked: bool) -> None:
    """Print the result to stdout, everything else to stderr."""
    console = Console(stderr=True, highlight=False)

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    if outcome.stopped_by is not None:
        say(f"Stopped: {job.title}{_summary(outcome)}", "bold yellow")
        _say_how_to_go_on(job, outcome, say)
    elif outcome.error is not None:
        say(f"Failed: {job.title}{_summary(outcome)}", "bold red")
        if traceback_asked:
            say("".join(traceback.format_exception(outcome.error)).rstrip())
        else:
            for line in _failure(outcome.error, "  "):
                say(line)
        _say_how_to_go_on(job, outcome, say)
    elif outcome.waits is not None:
        say(f"Paused: {job.title}{_summary(outcome)}", "bold yellow")
        _say_how_to_go_on(job, outcome, say)
    else:
        say(f"Done: {job.title}{_summary(outcome)}", "bold green")
    if json_asked:
        _print(as_json(_result(job, outcome)))
    elif outcome.record is not None and outcome.record.result is not None:
        result = outcome.record.result
        _print(result if isinstance(result, str) else as_json(result))


def as_json(value: Any) -> str:
    """JSON for people and programs; escaped to ASCII unless stdout is UTF-8."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return json.dumps(value, indent=2, ensure_ascii=encoding != "utf8")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _summary(outcome: Outcome) -> str:
    if outcome.progress is None:
        is_answer = outcome.error is None and outcome.stopped_by is None
        return ", answered from its record: nothing was executed" if is_answer else ""
    summary = f", {counts(outcome.progress)}, in {duration(outcome.seconds)}"
    rate = outcome.progress.executed / outcome.seconds
    return f"{summary} ({rate:,.1f}/s)" if rate else summary


def _result(job: Job, outcome: Outcome) -> dict[str, Any]:
    record, progress, error = outcome.record, outcome.progress, outcome.error
    failed = None
    if error is not None:
        failed = {"type": type(error).__qualname__, "message": str(error)}
    status = RunStatus.PAUSED if outcome.waits is not None else record and record.status
    return {
        "thread_id": job.thread_id,
        "run_id": record and record.run_id,
        "workflow": job.workflow.name,
        "status": status,
        "result": record and record.result,
        "error": failed,
        "waits": [structs.asdict(each) for each in outcome.waits or ()],
        "executed": progress.executed if progress else 0,
        "replayed": progress.replayed if progress else 0,
        "failed": progress.failed if progress else 0,
        "retried": progress.retried if progress else 0,
        "seconds": round(outcome.seconds, 6),
    }


def _say_how_to_go_on(job: Job, outcome: Outcome, say: Callable[[str], None]) -> None:
    if outcome.record is not None and outcome.record.status == "cancelled":
        say("The run was cancelled for good: run the workflow again to begin a new one.")
        return
    if outcome.stopped_by is not None and not outcome.began:
        say("Nothing was executed: the same command begins again.")
        return
    if outcome.waits is None:
        say(job.how_to_go_on)
        return
    for line in how_to_answer(job.thread_id, outcome.waits, job.db):
        say(line)
    say(
        f"Completed calls are kept in {job.db} and are not executed again. To go on after the "
        f"answer, or, with --wait, to wait for it:\n  {job.command}"
    )


def _failure(error: BaseException, indent: str) -> Iterator[str]:
    """An exception in a few lines: its message, its place in user code, and its causes."""
    seen: set[int] = set()
    each: BaseException | None = error
    lead = ""
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        message = str(each).replace("\n", f"\n{indent}  ")
        kind = type(each).__qualname__
        yield f"{indent}{lead}{kind}: {message}" if message else f"{indent}{lead}{kind}"
        for note in getattr(each, "__notes__", ()):
            yield f"{indent}  {note}"
        if place := _place(each):
            yield f"{indent}  {place}"
        members = _members(each)
        for member in members[:MEMBERS_SHOWN]:
            yield from _failure(member, f"{indent}  ")
        if len(members) > MEMBERS_SHOWN:
            yield f"{indent}  … and {len(members) - MEMBERS_SHOWN} more"
        lead = "caused by " if each.__cause__ is not None else "while handling "
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def _members(error: BaseException) -> tuple[BaseException, ...]:
    if not isinstance(error, BaseExceptionGroup):
        return ()
    return cast("BaseExceptionGroup[BaseException]", error).exceptions


def _place(error: BaseException) -> str | None:
    frames = traceback.extract_tb(error.__traceback__)
    users = [
        each for each in frames if not os.path.abspath(each.filename).startswith(NOT_THE_USERS)
    ]
    return f"{users[-1].filename}, line {users[-1].lineno}, in {users[-1].name}" if users else None
