"""Recorded runs, as the command line shows them: several as a table, one as a tree."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, cast

from msgspec import structs
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from taskflow.cli.hints import answer_to, awaited, in_short
from taskflow.cli.progress import duration, shown_id
from taskflow.records import RunRecord, RunStatus, TaskRecord

__all__ = ("json_of_run", "json_of_runs", "print_run", "print_runs")

STYLES: Final = {
    RunStatus.SUCCESS: "green",
    RunStatus.ERROR: "red",
    RunStatus.RUNNING: "cyan",
    RunStatus.PAUSED: "yellow",
    RunStatus.CANCELLED: "dim",
}
SIBLINGS_SHOWN: Final = 10  # calls of one name under one parent: successes, and failures as well
VALUE_WIDTH: Final = 300  # characters of an input or a result
ARGUMENTS_WIDTH: Final = 60  # characters of a call's arguments
ID_DIGITS: Final = 8  # of a task id's digest: `forget` and `replace` take the beginning of an id


def print_runs(records: Sequence[RunRecord]) -> None:
    """Print a table with a line for each run."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("THREAD", "WORKFLOW", "STATUS", "BEGUN", "TOOK", "RUN", "ERROR OR WAIT"):
        table.add_column(heading, overflow="fold")
    for record in records:
        style = "red" if record.error else "yellow"
        table.add_row(
            Text(shown_id(record.thread_id)),
            Text(_workflow(record)),
            Text(record.status, STYLES[record.status]),
            Text(_moment(record.started)),
            Text("" if record.finished is None else duration(record.finished - record.started)),
            Text(shown_id(record.run_id) if record.run_id else ""),
            Text(_capped(record.error or in_short(record.waits), ARGUMENTS_WIDTH), style),
        )
    # A program that reads a pipe needs whole fields, however wide the terminal is.
    width = None if sys.stdout.isatty() else 10_000
    Console(highlight=False, width=width).print(table)


def print_run(record: RunRecord, tasks: Sequence[TaskRecord], db: str, *, whole: bool) -> None:
    """Print one run of ``db``: its input, its outcome, and its calls as a tree.

    Of many calls of one name only some are shown, unless ``whole``.
    """
    console = Console(highlight=False)

    def say(label: str, text: str, style: str = "") -> None:
        line = Text.assemble((f"{label:10}", "dim"), (text, style))
        console.print(line, soft_wrap=True)

    say("thread", shown_id(record.thread_id), "bold")
    say("run", f"{shown_id(record.run_id)} (number {record.sequence} on this thread)")
    say("workflow", _workflow(record))
    say("status", _status(record), STYLES[record.status])
    took = "" if record.finished is None else f", took {duration(record.finished - record.started)}"
    say("begun", _moment(record.created))
    if record.started > record.created:
        say("continued", f"{_moment(record.started)}{took}")
    elif took:
        say("took", took.removeprefix(", took "))
    say("input", _json(record.input, None if whole else VALUE_WIDTH))
    if record.status == RunStatus.SUCCESS:
        say("result", _json(record.result, None if whole else VALUE_WIDTH))
    if record.error is not None:
        say("error", record.error, "red")
    for wait in record.waits:
        say("waits for", awaited(wait), "yellow")
        if wait.kind == "signal":
            say("", f"  {answer_to(record.thread_id, wait, db)}")
    replayed = sum(each.started < record.started for each in tasks)
    say("calls", f"{len(tasks):,} recorded, {replayed:,} of them replayed in the last execution")
    console.print(_tree(record, tasks, whole), soft_wrap=True)


def json_of_runs(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The fields of each run."""
    return [_fields(record) for record in records]


def json_of_run(record: RunRecord, tasks: Sequence[TaskRecord]) -> dict[str, Any]:
    """The fields of a run, with its calls under ``tasks``, in commit order."""
    calls = [{**structs.asdict(each), "replayed": each.started < record.started} for each in tasks]
    return {**_fields(record), "tasks": calls}


def _fields(record: RunRecord) -> dict[str, Any]:
    waits = [structs.asdict(each) for each in record.waits]
    return {**structs.asdict(record), "waits": waits}


def _tree(record: RunRecord, tasks: Sequence[TaskRecord], whole: bool) -> Tree:
    known = {each.task_id for each in tasks}
    children: defaultdict[str | None, list[TaskRecord]] = defaultdict(list)
    for each in sorted(tasks, key=lambda each: (each.started, each.sequence)):
        children[each.parent_id].append(each)
    tree = Tree(Text(_workflow(record), "bold"), guide_style="dim")
    pending = [(tree, children[None])]
    # A call that has not ended has no record, but the calls that it has made have.
    for parent_id in [each for each in children if each is not None and each not in known]:
        label = Text.assemble(_name_of(parent_id), ("  not completed", "yellow"))
        pending.append((tree.add(label), children[parent_id]))
    while pending:
        branch, calls = pending.pop()
        shown, hidden = (calls, []) if whole else _choose(calls)
        pending += [(branch.add(_line(record, call)), children[call.task_id]) for call in shown]
        for line in hidden:
            branch.add(Text(line, "dim"))
    for wait in record.waits:
        label = Text.assemble(_name_of(wait.task_id), (f"  waits for {in_short([wait])}", "yellow"))
        tree.add(label)
    return tree


def _choose(calls: list[TaskRecord]) -> tuple[list[TaskRecord], list[str]]:
    """The calls to show, and a line for the other calls of each name."""
    shown: list[TaskRecord] = []
    hidden: defaultdict[str, list[TaskRecord]] = defaultdict(list)
    seen: defaultdict[tuple[str, str], int] = defaultdict(int)
    for call in calls:
        seen[call.name, call.status] += 1
        if seen[call.name, call.status] <= SIBLINGS_SHOWN:
            shown.append(call)
        else:
            hidden[call.name].append(call)
    lines = [
        f"… and {len(rest):,} more of {name}, "
        f"{sum(call.status == 'error' for call in rest):,} of them failed; --all shows them"
        for name, rest in hidden.items()
    ]
    return shown, lines


def _line(record: RunRecord, call: TaskRecord) -> Text:
    replayed = call.started < record.started
    line = Text.assemble(
        (call.name, "red" if call.status == "error" else "bold"),
        (f"({_arguments(call.arguments)})", "dim"),
        f"  {duration(call.duration)}",
        ("  replayed", "cyan") if replayed else ("  executed", "green"),
    )
    if call.attempts == 0:
        line.append("  from the cache")
    elif call.attempts > 1:
        line.append(f"  {call.attempts} attempts", "yellow")
    line.append(f"  {_short_id(call.task_id)}", "dim")
    if call.error is not None:
        line.append(f"\n{call.error}", "red")
    return line


def _status(record: RunRecord) -> str:
    if record.status != RunStatus.RUNNING:
        return str(record.status)
    if record.owner is None:
        return "running, but not executing now: running or resuming it continues it"
    return f"running, owned by the runtime {record.owner}"


def _workflow(record: RunRecord) -> str:
    return record.workflow or "Runtime.thread() block"


def _name_of(task_id: str) -> str:
    return task_id.rpartition(":")[0]


def _short_id(task_id: str) -> str:
    name, _, digest = task_id.rpartition(":")
    return f"{name}:{digest[:ID_DIGITS]}"


def _arguments(arguments: Any) -> str:
    if not isinstance(arguments, dict):
        return "" if arguments is None else _capped(str(arguments), ARGUMENTS_WIDTH)
    named = cast("dict[str, Any]", arguments)
    texts = [f"{name}={_json(value, None)}" for name, value in named.items()]
    return _capped(", ".join(texts), ARGUMENTS_WIDTH)


def _json(value: Any, width: int | None) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if width is None else _capped(text, width)


def _capped(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
