"""`Judge`: the verdict on a pass of `crash_everywhere`, with the reason and the way out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

from taskflow.calls.arguments import spelled_call
from taskflow.stores.kinds import ERROR
from taskflow.stores.rows import Checkpoint
from taskflow.testing.crashes.histories import History
from taskflow.testing.crashes.lives import Raised
from taskflow.testing.crashes.looks import Watcher
from taskflow.testing.crashes.points import BEGIN, END, LAST, Mode
from taskflow.testing.crashes.processes import Process
from taskflow.testing.crashes.trials import Outcome
from taskflow.wire.codec import Codec
from taskflow.wire.json import decode_plain

__all__ = ("Judge",)

HOW: Final[dict[Mode, str]] = {
    "drop": "its process was dropped",
    "cancel": "its caller's scope was cancelled",
    "native": "its caller's asyncio task was cancelled",
}
MOMENTS: Final = {
    BEGIN: "when the run had been recorded, before anything of it executed",
    LAST: "when everything was recorded but the end of the run",
    END: "when the end of the run was recorded, before its caller knew",
}
SHOWN: Final = 5  # calls, of however many
IN_ORDER: Final = (
    "take results in the order of the calls (gather, map), or choose with race() or "
    "as_completed(), which record who was first"
)


class Judge:
    """Compares passes with the undisturbed one, or with the result that they were about to have."""

    def __init__(
        self,
        undisturbed: Outcome,
        codec: Codec,
        same: Callable[[Any, Any], bool] | None,
        watcher: Watcher,
    ) -> None:
        self._first = undisturbed
        self._codec = codec  # of the result
        self._same = same
        self._watcher = watcher

    def problems(self, outcome: Outcome) -> list[str]:
        """What is wrong with a pass, and what may be the reason; nothing where all is well."""
        plan, history = outcome.plan, outcome.history
        problems = [*outcome.problems, *outcome.look.findings]
        problems += [
            f"{self._shown(task_id, history)} was executed again though its result was recorded"
            for task_id in history.again
        ]
        if problems:
            return problems
        if plan.held and not outcome.was_cut:
            return []  # a call that takes longer may meet a time limit: that is no fault
        is_rerun = len(outcome.processes) == len(plan.cuts) + 1 > 1
        if is_rerun and plan.cuts[-1].point.call == LAST:
            problem = self._compared_with_itself(outcome)
            return [] if problem is None else [problem, self._reason(outcome)]
        return self._compared_with_undisturbed(outcome)

    def is_another_choice(self, outcome: Outcome) -> bool:
        """Whether its result may be another one because another call was first, and recorded so."""
        results = self._first.result, outcome.result
        is_raised = any(isinstance(each, Raised) for each in results)
        return self._has_contests(outcome) and not is_raised and not self._is_same(*results)

    def report(self, outcome: Outcome, problems: list[str], seed: int) -> str:
        """The text of the error."""
        cuts = [self._cut_text(each, outcome.history) for each in outcome.processes if each.was_cut]
        lines = [f"crash_everywhere: {problems[0]}", *cuts, *(f"- {each}" for each in problems[1:])]
        if outcome.plan.key:
            lines.append(
                f"repeat this pass alone with crash_everywhere(…, only={outcome.plan.key!r}) "
                f"(seed {seed})"
            )
        return "\n".join(lines)

    def _cut_text(self, process: Process, history: History) -> str:
        assert process.cut is not None
        point = process.cut.point
        call = self._shown(point.call, history)
        where = MOMENTS.get(point.call)
        if where is None and point.kind == "commit":
            where = f"after the commit of {call}"
        elif where is None:
            attempt = f", attempt {point.attempt}" if point.attempt > 1 else ""
            where = f"at await {point.index} of {call}{attempt}"
        place = "" if process.where is None else f" ({process.where})"
        return f"  process {process.number} was cut off {where}{place}: {HOW[process.cut.mode]}"

    # What differs.

    def _compared_with_itself(self, outcome: Outcome) -> str | None:
        """A rerun of which everything is recorded executes nothing, and ends as the first did."""
        history = outcome.history
        payload, last = outcome.processes[-2].result, outcome.processes[-1]
        assert payload is not None
        was = self._codec.decode(payload)
        has_failures = any(row.kind == ERROR for row in history.calls.values())
        executed = [task_id for task_id, process in history.executed if process == last.number]
        if has_failures:
            # What a failure beside it has cut off has no record, and begins again.
            begun = {task_id for task_id, process in history.executed if process < last.number}
            executed = [
                each
                for each in executed
                if each not in begun or history.recorded_in.get(each, last.number) != last.number
            ]
        if executed:
            return (
                "a rerun of which everything was recorded executed "
                + self._listed(executed, history)
                + self._recorded_like(executed, history)
            )
        unasked = [] if last.run is None else [each.task_id for each in last.run.recorded.unused()]
        # A failure, and a contest, may end what is beside it before that has asked.
        if unasked and not (history.has_contests or has_failures):
            listed = self._listed(unasked, history)
            return f"a rerun of which everything was recorded did not ask for {listed}"
        if not self._is_same(was, outcome.result):
            return (
                f"the run was about to end with {_cut(was)}; its rerun, of which everything was "
                f"recorded, ended with {_cut(outcome.result)}"
            )
        return None

    def _compared_with_undisturbed(self, outcome: Outcome) -> list[str]:
        first, history = self._first, outcome.history
        if self._may_fail_otherwise(outcome):
            return []
        problems: list[str] = []
        if not self._has_contests(outcome):
            problems += self._other_calls(outcome)
        if self._is_same(first.result, outcome.result) or self.is_another_choice(outcome):
            return problems
        problems.append(
            f"the undisturbed run ended with {_cut(first.result)}, and this one with "
            f"{_cut(outcome.result)}"
        )
        before = first.history.calls
        others = [
            f"{self._shown(task_id, history)} itself gave {_value(before[task_id])} in the "
            f"undisturbed run and {_value(row)} here: let a task under test give the same each "
            "time it executes (it may execute again where its process died before its result was "
            "recorded), reset what it depends on in make_call, or compare with same="
            for task_id, row in history.calls.items()
            if task_id in before and row.payload != before[task_id].payload
        ]
        return problems + (others[:SHOWN] or [self._unknown_reason(history)])

    def _other_calls(self, outcome: Outcome) -> list[str]:
        """Where other calls are recorded in the end than those of the undisturbed run."""
        here, there = _by_name(outcome.history), _by_name(self._first.history)
        problems = [
            f"{name} is recorded {len(here[name])} times, and {len(there[name])} times in the "
            "undisturbed run: the rerun asked for other calls than those that were recorded\n"
            f"  here:        {self._listed(here[name], outcome.history) or '-'}\n"
            f"  undisturbed: {self._listed(there[name], outcome.history) or '-'}"
            for name in sorted({*here, *there})
            if len(here[name]) != len(there[name])
        ]
        return [*problems, self._unknown_reason(outcome.history)] if problems else []

    def _may_fail_otherwise(self, outcome: Outcome) -> bool:
        """Which of several failures beside each other comes first may be another one each time."""
        are_beside = self._first.history.beside or outcome.history.beside
        is_failure = outcome.error is not None
        return (
            bool(are_beside) and is_failure and isinstance(self._first.error, type(outcome.error))
        )

    def _has_contests(self, outcome: Outcome) -> bool:
        return self._first.history.has_contests or outcome.history.has_contests

    def _is_same(self, one: Any, other: Any) -> bool:
        if isinstance(one, Raised) or isinstance(other, Raised) or self._same is None:
            return type(one) is type(other) and bool(one == other)
        return bool(self._same(one, other))

    # How it is shown.

    def _shown(self, task_id: str, history: History) -> str:
        """A call as one would write it."""
        row = history.calls.get(task_id) or self._first.history.calls.get(task_id)
        if row is not None:
            return spelled_call(row.name, row.arguments)
        return history.shown.get(task_id) or task_id or "the workflow"

    def _listed(self, task_ids: Iterable[str], history: History) -> str:
        shown = [self._shown(each, history) for each in dict.fromkeys(task_ids)]
        return "; ".join(shown[:SHOWN]) + ("; …" if len(shown) > SHOWN else "")

    def _recorded_like(self, executed: list[str], history: History) -> str:
        names = {each.rpartition(":")[0] for each in executed}
        recorded = [
            task_id
            for task_id, row in history.calls.items()
            if row.name in names and task_id not in executed
        ]
        return f"\n  recorded was: {self._listed(recorded, history)}" if recorded else ""

    # What may be the reason.

    def _reason(self, outcome: Outcome) -> str:
        if outcome.look.reason:
            return outcome.look.reason
        if outcome.plan.held:
            return self._hold_reason(outcome.plan.held, outcome.history)
        return self._unknown_reason(outcome.history)

    def _unknown_reason(self, history: History) -> str:
        text = (
            "every recorded result was the same, so the workflow depends on something else, which "
            "is not recorded: make it an argument of the workflow or the result of a task"
        )
        if history.beside:
            text += (
                "\n  or on which branch ends first: recorded calls answer in the order in which "
                f"they are asked, so {IN_ORDER}; beside each other executed "
                + self._listed(sorted(history.beside), history)
            )
        if suspects := self._watcher.suspects:
            text += "\n  outside of tasks the workflow used:\n    " + "\n    ".join(suspects)
        return text

    def _hold_reason(self, held: str, history: History) -> str:
        beside = self._listed(sorted(history.beside.get(held, ())), history)
        return (
            f"it depends on which branch ends first: here {self._shown(held, history)} ended after "
            f"{beside or 'the others'}, and on a rerun recorded calls answer in the order in which "
            f"they are asked: {IN_ORDER}"
        )


def _by_name(history: History) -> defaultdict[str, list[str]]:
    """Task ids of what is recorded."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for task_id, row in history.calls.items():
        found[row.name].append(task_id)
    return found


def _value(row: Checkpoint) -> str:
    return _cut(decode_plain(row.payload))


def _cut(value: object) -> str:
    if isinstance(value, Raised):
        return str(value)
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
