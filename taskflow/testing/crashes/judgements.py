"""`Judge`: what is wrong with a pass of `crash_everywhere`, and what its author should change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from taskflow.calls.call import spelled_call
from taskflow.stores.kinds import ERROR
from taskflow.stores.rows import Checkpoint
from taskflow.testing.crashes.processes import BEGIN, END, LAST, History, Process
from taskflow.testing.crashes.trials import Outcome, Raised
from taskflow.wire.codec import Codec, decode_plain

__all__ = ("Judge",)

MODES: Final = {
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


class Judge:
    """Compares passes with the undisturbed one, or with what they were about to come to."""

    def __init__(
        self, undisturbed: Outcome, codec: Codec, same: Callable[[Any, Any], bool] | None
    ) -> None:
        self._first = undisturbed
        self._codec = codec  # of the result
        self._same = same
        self._suspects: list[str] = []

    def problems(self, outcome: Outcome) -> list[str]:
        """What is wrong with a pass, and what may be the reason; nothing where all is well."""
        plan, history = outcome.plan, outcome.history
        problems = list(outcome.problems)
        if outcome.witness is not None:
            self._suspects = outcome.witness.suspects()
            problems += outcome.witness.findings()
        problems += [
            f"{self.shown(task_id, history)} was executed again though its result was recorded"
            for task_id in dict.fromkeys(history.again)
        ]
        if problems:
            return problems
        if plan.what == "hold" and not outcome.was_cut:
            return []  # a call that takes longer may meet a time limit: that is no fault
        is_rerun = len(outcome.processes) == len(plan.cuts) + 1 > 1
        if is_rerun and plan.cuts[-1][0].call == LAST:
            return self._compared_with_itself(outcome)
        return self._compared_with_undisturbed(outcome)

    def is_another_choice(self, outcome: Outcome) -> bool:
        """Whether its result may be another one because another call was first, and recorded so."""
        has_contests = self._first.history.has_contests or outcome.history.has_contests
        is_raised = isinstance(outcome.result, Raised) or isinstance(self._first.result, Raised)
        return has_contests and not is_raised and not self._is_as_undisturbed(outcome)

    def _may_fail_otherwise(self, outcome: Outcome) -> bool:
        """Which of several failures beside each other comes first may be another one each time."""
        first = self._first
        are_beside = first.history.beside or outcome.history.beside
        return (
            bool(are_beside)
            and isinstance(first.error, type(outcome.error))
            and (outcome.error is not None)
        )

    def _is_as_undisturbed(self, outcome: Outcome) -> bool:
        return self._is_same(self._first.result, outcome.result)

    def report(self, outcome: Outcome, problems: list[str], seed: int) -> str:
        """The same as a text for people."""
        cuts = [self._cut_text(each, outcome.history) for each in outcome.processes if each.was_cut]
        lines = [f"crash_everywhere: {problems[0]}", *cuts, *(f"- {each}" for each in problems[1:])]
        if outcome.plan.key:
            lines.append(
                f"repeat this pass alone with crash_everywhere(…, only={outcome.plan.key!r}) "
                f"(seed {seed})"
            )
        return "\n".join(lines)

    def shown(self, task_id: str, history: History) -> str:
        """A call as one would write it."""
        row = history.calls.get(task_id) or self._first.history.calls.get(task_id)
        if row is not None:
            return spelled_call(row.name, row.arguments)
        return history.shown.get(task_id) or task_id or "the workflow"

    def _cut_text(self, process: Process, history: History) -> str:
        point = process.cut
        assert point is not None
        call = self.shown(point.call, history)
        where = MOMENTS.get(point.call)
        if where is None and point.kind == "commit":
            where = f"after the commit of {call}"
        elif where is None:
            attempt = f", attempt {point.attempt}" if point.attempt > 1 else ""
            where = f"at await {point.index} of {call}{attempt}"
        place = "" if process.where is None else f" ({process.where})"
        return f"  process {process.number} was cut off {where}{place}: {MODES[process.mode]}"

    def _compared_with_itself(self, outcome: Outcome) -> list[str]:
        """A rerun of which everything is recorded executes nothing, and ends as the first did."""
        plan, history = outcome.plan, outcome.history
        payload = outcome.processes[-2].result
        assert payload is not None
        was = self._codec.decode(payload)
        reason: Callable[[], str] = partial(self._unknown_reason, history)
        if outcome.order is not None and outcome.order.places:
            reason = partial(self._set_order_reason, outcome.order.places)
        elif outcome.memory is not None and outcome.memory.changed:
            reason = partial(self._memory_reason, list(outcome.memory.changed))
        elif plan.what == "hold":
            reason = partial(self._hold_reason, plan.held, history)
        last = outcome.processes[-1].number
        executed = [task_id for task_id, process in history.executed if process == last]
        has_failures = any(row.kind == ERROR for row in history.calls.values())
        if has_failures:
            # What a failure beside it has cut off has no record, and begins again.
            begun = {task_id for task_id, process in history.executed if process < last}
            cut_off = {each for each in begun if history.recorded_in.get(each, last) == last}
            executed = [each for each in executed if each not in cut_off]
        if executed:
            return [
                "a rerun of which everything was recorded executed "
                + self._listed(executed, history)
                + self._recorded_like(executed, history),
                reason(),
            ]
        run = outcome.processes[-1].run
        unasked = [] if run is None else [each.task_id for each in run.recorded.unused()]
        # A failure, and a contest, may end what is beside it before that has asked.
        if unasked and not (history.has_contests or has_failures):
            return [
                "a rerun of which everything was recorded did not ask for "
                + self._listed(unasked, history),
                reason(),
            ]
        if not self._is_same(was, outcome.result):
            return [
                f"the run was about to end with {_cut(was)}; its rerun, of which everything was "
                f"recorded, ended with {_cut(outcome.result)}",
                reason(),
            ]
        return []

    def _compared_with_undisturbed(self, outcome: Outcome) -> list[str]:
        first, history = self._first, outcome.history
        problems: list[str] = []
        if self._may_fail_otherwise(outcome):
            return []
        if not (first.history.has_contests or history.has_contests):
            problems += self._other_calls(history)
        if self._is_as_undisturbed(outcome) or self.is_another_choice(outcome):
            return problems
        problems.append(
            f"the undisturbed run ended with {_cut(first.result)}, and this one with "
            f"{_cut(outcome.result)}"
        )
        before = first.history.calls
        others = [
            f"{self.shown(task_id, history)} itself gave {_value(before[task_id])} in the "
            f"undisturbed run and {_value(row)} here: let a task under test give the same each "
            "time it executes (it may execute again where its process died before its result was "
            "recorded), reset what it depends on in make_call, or compare with same="
            for task_id, row in history.calls.items()
            if task_id in before and row.payload != before[task_id].payload
        ]
        return problems + (others[:SHOWN] or [self._unknown_reason(history)])

    def _other_calls(self, history: History) -> list[str]:
        """Where other calls are recorded in the end than those of the undisturbed run."""
        first = self._first.history
        counts = Counter(row.name for row in history.calls.values())
        counts.subtract(Counter(row.name for row in first.calls.values()))
        problems: list[str] = []
        for name in sorted(name for name, difference in counts.items() if difference):
            here = [task_id for task_id, row in history.calls.items() if row.name == name]
            there = [task_id for task_id, row in first.calls.items() if row.name == name]
            problems.append(
                f"{name} is recorded {len(here)} times, and {len(there)} times in the undisturbed "
                "run: the rerun asked for other calls than those that were recorded\n"
                f"  here:        {self._listed(here, history) or '-'}\n"
                f"  undisturbed: {self._listed(there, first) or '-'}"
            )
        if problems:
            problems.append(self._unknown_reason(history))
        return problems

    def _is_same(self, one: Any, other: Any) -> bool:
        if isinstance(one, Raised) or isinstance(other, Raised) or self._same is None:
            return type(one) is type(other) and bool(one == other)
        return bool(self._same(one, other))

    def _listed(self, task_ids: list[str], history: History) -> str:
        shown = [self.shown(each, history) for each in dict.fromkeys(task_ids)]
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

    def _unknown_reason(self, history: History) -> str:
        text = (
            "every recorded result was the same, so the workflow depends on something else, which "
            "is not recorded: make it an argument of the workflow or the result of a task"
        )
        if history.beside:
            text += (
                "\n  or on which branch ends first: recorded calls answer in the order in which "
                "they are asked, so take results in the order of the calls (gather, map), or "
                "choose with race() or as_completed(), which record who was first; beside each "
                f"other executed {self._listed(sorted(history.beside), history)}"
            )
        if self._suspects:
            text += "\n  outside of tasks the workflow used:\n    " + "\n    ".join(self._suspects)
        return text

    def _set_order_reason(self, places: list[str]) -> str:
        return (
            "it depends on the order of a set, or on a hash, and another process has another one "
            f"({', '.join(places)}): iterate over sorted(…), or use a list or a dict"
        )

    def _memory_reason(self, names: list[str]) -> str:
        return (
            "it depends on what was left in the process, which another one does not have: have a "
            f"task return that, and pass it on (changed meanwhile: {', '.join(names)})"
        )

    def _hold_reason(self, held: str, history: History) -> str:
        beside = self._listed(sorted(history.beside.get(held, ())), history)
        return (
            f"it depends on which branch ends first: here {self.shown(held, history)} ended after "
            f"{beside or 'the others'}, and on a rerun recorded calls answer in the order in which "
            "they are asked: take results in the order of the calls (gather, map), or choose with "
            "race() or as_completed(), which record who was first"
        )


def _value(row: Checkpoint) -> str:
    return _cut(decode_plain(row.payload))


def _cut(value: object) -> str:
    if isinstance(value, Raised):
        return str(value)
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
