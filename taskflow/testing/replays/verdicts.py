"""What a replay of recorded runs comes to: structs that encode to JSON, and their text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from taskflow.calls.definitions import definitions_of
from taskflow.records import RunStatus

__all__ = ("Difference", "IgnoredCall", "NewCall", "ReplayReport", "RunReplay", "Verdict")

WIDTH: Final = 200  # characters of arguments or a result
CALLS_SHOWN: Final = 10  # of one run
THREADS_SHOWN: Final = 5  # of runs of which the same is said


class Verdict(StrEnum):
    """What becomes of a recorded run under the present code."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    SKIPPED = "skipped"  # it is never continued, or cannot be replayed


class IgnoredCall(Struct, frozen=True):
    """A recorded call (or an open wait of a paused run) that the present code does not ask for."""

    name: str
    task_id: str
    parent_id: str | None  # the task id of the call that made it; None: the run's own body
    arguments: Any  # as JSON carries them
    outcome: str = ""  # its result as JSON, or its error, in short


class NewCall(Struct, frozen=True):
    """A call that the present code asks for, and that is not recorded."""

    name: str
    task_id: str
    parent_id: str | None
    arguments: Any
    instead_of: IgnoredCall | None = None  # a call of the same name that is not asked for any more


class Difference(Struct, frozen=True):
    """A value that is recorded, and the one in its place."""

    recorded: Any
    now: Any


class RunReplay(Struct, frozen=True):
    """What the present code makes of one recorded run.

    ``executes``: calls that a rerun would execute though it did without them when it was recorded,
    or before all that is recorded was asked for. ``ignores``: recorded calls that it does not ask
    for, or only after the others. ``goes_on_with`` and ``waits``: what an unfinished run would
    execute or wait for next, which changes nothing that is recorded. ``result``, ``saved``: where a
    run that had succeeded comes to another value. ``error``: what keeps it from being continued, or
    what the workflow raises where it had not; type and message. ``note``: what else there is to
    say, such as why it was skipped. ``drops``: recorded fields that the present classes do not
    know, and that it would go on without.
    """

    thread_id: str
    run_id: str
    status: RunStatus  # as it is recorded
    verdict: Verdict
    executes: Sequence[NewCall] = ()
    ignores: Sequence[IgnoredCall] = ()
    goes_on_with: Sequence[NewCall] = ()
    waits: Sequence[NewCall] = ()
    result: Difference | None = None
    saved: Difference | None = None
    error: str | None = None
    note: str = ""
    drops: Sequence[str] = ()

    def __str__(self) -> str:
        return "\n".join([self._head, *self._details()])

    @property
    def _head(self) -> str:
        what = self.verdict.upper() if self.verdict is Verdict.CHANGED else self.verdict
        return f"{what:9}  thread {self.thread_id!r}, run {self.run_id!r} ({self.status})"

    @property
    def in_short(self) -> str:
        """The same of each run with the same fate, in a line."""
        parts: list[str] = []
        if self.executes:
            parts.append(f"would execute anew {_names(self.executes)}")
        if self.ignores:
            after = "asks only after that, if at all, for" if self.executes else "would not use"
            parts.append(f"{after} what is recorded of {_names(self.ignores)}")
        if self.result is not None:
            parts.append("would return another result")
        if self.saved is not None:
            parts.append("would save another value")
        if self.drops:
            parts.append(f"would leave out {', '.join(self.drops)}")
        if self.error is not None:
            parts.append(f"would end with {self.error.partition(':')[0]}")
        if self.goes_on_with:
            parts.append(f"would go on with {_names(self.goes_on_with)}")
        if self.waits:
            parts.append(f"would wait for {', '.join(sorted(set(map(_awaited, self.waits))))}")
        if self.note:
            parts.append(self.note)
        if not parts:
            parts.append("the same calls and the same result")
        return "; ".join(parts)

    def _details(self) -> Iterator[str]:
        if self.verdict is not Verdict.CHANGED:
            yield f"  {self.in_short}"
            return
        if self.error is not None:
            yield f"  would end with {_capped(self.error)}"
        if self.executes:
            yield "  would execute anew:"
            yield from _indented(map(_asked, self.executes), len(self.executes))
        paired = {each.instead_of.task_id for each in self.executes if each.instead_of is not None}
        left = [each for each in self.ignores if each.task_id not in paired]
        if left:
            yield (
                "  would ask for these recorded ones only after that, if at all:"
                if self.executes
                else "  would not use what is recorded of:"
            )
            yield from _indented(map(_recorded, left), len(left))
        if self.drops:
            yield "  would leave out fields that are recorded:"
            yield from _indented(self.drops, len(self.drops))
        for what, difference in (("return", self.result), ("save", self.saved)):
            if difference is not None:
                yield f"  would {what} another value:"
                recorded, now = _beside(difference.recorded, difference.now)
                yield f"    recorded: {recorded}"
                yield f"    now:      {now}"
        if self.note:
            yield f"  {self.note}"


class ReplayReport(Struct, frozen=True):
    """What `replay` returns: an entry for each run of the workflow, in the order of the history.

    ``others``: how many runs of other workflows were met and left alone, by workflow; ``""``
    stands for ``Runtime.thread()`` blocks, which have none.
    """

    workflow: str
    runs: Sequence[RunReplay]
    others: dict[str, int] = {}

    @property
    def is_unchanged(self) -> bool:
        """Whether every run that was replayed fits the present code."""
        return not self.changed

    @property
    def changed(self) -> list[RunReplay]:
        """The runs of which a deploy would change something."""
        return [each for each in self.runs if each.verdict is Verdict.CHANGED]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """Its text: first in a line, then what becomes of the runs, and the way out."""
        counts = dict.fromkeys(Verdict, 0)
        for run in self.runs:
            counts[run.verdict] += 1
        told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        yield f"{self.workflow}: {len(self.runs):,} recorded {_runs(len(self.runs))}: {told}"
        for verdict in (Verdict.SKIPPED, Verdict.UNCHANGED, Verdict.CHANGED):
            alike: dict[object, list[RunReplay]] = {}
            for run in self.runs:
                if run.verdict is verdict:
                    alike.setdefault((run.in_short, run.status), []).append(run)
            for runs in alike.values():
                yield from self._told(verdict, runs)
        if blocks := self.others.get(""):
            yield f"left alone: {blocks:,} Runtime.thread() blocks, which have no workflow"
        if self.changed:
            yield from _ways_out(self.changed)

    def _told(self, verdict: Verdict, runs: list[RunReplay]) -> Iterator[str]:
        if verdict is Verdict.CHANGED:
            yield ""
            yield from str(runs[0]).splitlines()
            if len(runs) > 1:
                others = len(runs) - 1
                yield f"  and so would {others:,} more {_runs(others)}: {_threads(runs[1:])}"
            return
        what = f"{len(runs):,} {_runs(len(runs))} ({runs[0].status}, {_threads(runs)})"
        yield f"{verdict:9}  {what}: {runs[0].in_short}"


def _ways_out(runs: Sequence[RunReplay]) -> Iterator[str]:
    """What somebody can do who did not mean that."""
    yield ""
    yield "Was that meant? If not:"
    told: dict[str, None] = {}
    for run in runs:
        told.update(dict.fromkeys(_hints(run)))
    yield from (f"- {hint}" for hint in list(told)[:CALLS_SHOWN])
    yield (
        "- restore the code that has recorded these runs until they have ended, and give the new "
        "code to new runs: a workflow of another name"
    )
    yield (
        "If it was: `taskflow fork THREAD --to COPY` tries it on a copy; a task whose meaning has "
        'changed gets a new version=; and Runtime(…, on_drift="error") refuses a rerun that '
        "leaves recorded results out, before anything executes."
    )


def _hints(run: RunReplay) -> Iterator[str]:
    for call in run.executes:
        old = None if call.instead_of is None else call.instead_of.arguments
        if call.instead_of is None or not isinstance(old, dict):
            continue
        new = call.arguments if isinstance(call.arguments, dict) else {}
        added = [name for name in new if name not in old]
        if new == old:
            yield (
                f"{call.name} is asked with the arguments that are recorded, and is another call "
                "all the same: put its version= or key= back, or what calls it"
            )
        elif added and all(name in new and new[name] == old[name] for name in old):
            yield (
                f"{call.name} is passed {', '.join(added)} now: a default that is not passed is no "
                "part of a call, and changes nothing"
            )
    for name in dict.fromkeys(each.name for each in run.ignores):
        if not name.startswith("taskflow.") and not definitions_of(name):
            yield (
                f"{name} is recorded, and nothing that was imported has that name: a task that was "
                f'renamed keeps its results with name="{name}"'
            )
    if run.drops:
        yield (
            "a class has lost fields that are recorded: let it have them again, or give the task "
            "that has recorded them a new version="
        )
    if (run.result or run.saved) and not (run.executes or run.ignores):
        yield (
            "the workflow makes something else of the same results: what it computes from the time "
            "of day, random numbers, the order of a set or the surroundings belongs into a task "
            "(now(), random() and uuid() are some)"
        )


def _indented(lines: Iterable[str], count: int) -> Iterator[str]:
    for number, text in enumerate(lines):
        if number == CALLS_SHOWN:
            yield f"    … and {count - CALLS_SHOWN:,} more"
            return
        yield from (f"    {line}" for line in text.splitlines())


def _asked(call: NewCall) -> str:
    if call.instead_of is None:
        return f"{call.name} {_capped(_json(call.arguments))}"
    recorded, asked = _beside(call.instead_of.arguments, call.arguments)
    outcome = f" -> {call.instead_of.outcome}" if call.instead_of.outcome else ""
    return f"{call.name}\n  recorded: {recorded}{outcome}\n  asked:    {asked}"


def _recorded(call: IgnoredCall) -> str:
    outcome = f" -> {call.outcome}" if call.outcome else ""
    return f"{call.name} {_capped(_json(call.arguments))}{outcome}"


def _beside(recorded: Any, now: Any) -> tuple[str, str]:
    """Two values as text; of long objects, what differs in them."""
    texts = _json(recorded), _json(now)
    if max(map(len, texts)) > WIDTH and isinstance(recorded, dict) and isinstance(now, dict):
        same = {name for name in recorded if name in now and recorded[name] == now[name]}
        if same and (len(same) < len(recorded) or len(same) < len(now)):
            texts = _without(recorded, same), _without(now, same)
    return _capped(texts[0]), _capped(texts[1])


def _without(value: dict[str, Any], names: set[str]) -> str:
    return f"{_json({name: each for name, each in value.items() if name not in names})} …"


def _awaited(call: NewCall) -> str:
    named = call.arguments if isinstance(call.arguments, dict) else {}
    return f"the signal {named['name']!r}" if "name" in named else "a timer"


def _names(calls: Sequence[NewCall] | Sequence[IgnoredCall]) -> str:
    names = sorted({each.name for each in calls})
    more = f" and {len(names) - CALLS_SHOWN} other tasks" if len(names) > CALLS_SHOWN else ""
    return ", ".join(names[:CALLS_SHOWN]) + more


def _threads(runs: Sequence[RunReplay]) -> str:
    threads = list(dict.fromkeys(each.thread_id for each in runs))
    more = f" and {len(threads) - THREADS_SHOWN:,} more" if len(threads) > THREADS_SHOWN else ""
    word = "thread" if len(threads) == 1 else "threads"
    return f"{word} {', '.join(map(repr, threads[:THREADS_SHOWN]))}{more}"


def _runs(count: int) -> str:
    return "run" if count == 1 else "runs"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _capped(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"
