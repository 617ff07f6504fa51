"""What was recorded of a run, beside what the present code makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from msgspec import structs

from taskflow.calls.call import RecordedCall
from taskflow.calls.waits import WaitCall
from taskflow.calls.workflows import Workflow
from taskflow.errors import HistoryMismatch, SerializationError
from taskflow.records import RunStatus, Wait
from taskflow.runs.writes import Outcome
from taskflow.stores.kinds import ERROR
from taskflow.stores.rows import Checkpoint, RunRow
from taskflow.testing.histories import RecordedRun
from taskflow.testing.verdicts import Difference, IgnoredCall, NewCall, RunReplay, Verdict
from taskflow.wire import failures
from taskflow.wire.codec import Codec, canonical_json, decode_plain, decode_waits
from taskflow.wire.identity import fingerprint

__all__ = ("Comparison", "Findings", "name_of", "skipped")

CHOICE: Final = 100  # recorded calls of a name among which the most similar one is looked for
SHOWN: Final = 200  # characters of a result


class Findings:
    """What the code asked for that is not recorded, and did not ask for that is."""

    def __init__(
        self,
        held: Sequence[RecordedCall[Any]] = (),
        unasked: Sequence[Checkpoint] = (),
        open_waits: Sequence[Wait] = (),
        note: str = "",
    ) -> None:
        # As they are now: calls that are cut off drop their arguments.
        self.new = [_new_call(each) for each in held]
        self.waits = {each.id for each in held if isinstance(each, WaitCall)}
        self.unasked = unasked
        self.open_waits = open_waits
        self.note = note  # why nothing moves, where no call holds it up


class Comparison:
    """What was recorded of a run, beside what the present code makes of it."""

    def __init__(
        self, recorded: RecordedRun, workflow: Workflow[..., Any, Any], findings: Findings
    ) -> None:
        self._row = recorded.row
        self._is_bare = not recorded.rows
        self._workflow = workflow
        self._findings = findings

    def entry(
        self, outcome: Outcome | None, error: BaseException | None, saved: bytes | None
    ) -> RunReplay:
        """The entry of the report."""
        found, note = self._error(outcome, error)
        if self._row.status == RunStatus.SUCCESS:
            return self._entry_of_finished(outcome, found, saved)
        return self._entry_of_unfinished(outcome, found, note)

    def _entry_of_finished(
        self, outcome: Outcome | None, error: str | None, saved: bytes | None
    ) -> RunReplay:
        row, findings = self._row, self._findings
        if self._is_bare and findings.new and error is None:
            return skipped(row, "nothing is recorded of its calls: they were pruned, or not copied")
        ignores = [_ignored_call(each) for each in findings.unasked]
        result = kept = None
        if error is None and outcome is not None:
            result = self._difference(row.result, outcome.payload, self._workflow.codec)
            kept = self._difference(row.saved, saved, None)
        executes = _paired(findings.new, ignores)
        is_changed = bool(executes or ignores or result or kept or error)
        return RunReplay(
            row.thread_id,
            row.run_id,
            RunStatus(row.status),
            Verdict.CHANGED if is_changed else Verdict.UNCHANGED,
            executes=executes,
            ignores=ignores,
            result=result,
            saved=kept,
            error=error,
        )

    def _entry_of_unfinished(
        self, outcome: Outcome | None, error: str | None, note: str
    ) -> RunReplay:
        row, findings = self._row, self._findings
        ignores = [_ignored_call(each) for each in findings.unasked]
        asked_before = [_ignored_wait(each) for each in findings.open_waits]
        known = {each.task_id for each in decode_waits(row.waits)}
        waits = [each for each in findings.new if each.task_id in findings.waits]
        new = [each for each in findings.new if each.task_id not in findings.waits]
        if new and self._has_ended_it(new):
            ignores = []  # they were recorded after it had failed, and wait for its outcome again
        others = [each for each in waits if each.task_id not in known]
        again = [each for each in _paired(others, asked_before) if each.instead_of is not None]
        is_changed = bool(ignores or asked_before or error)
        kept = {each.task_id for each in again}
        return RunReplay(
            row.thread_id,
            row.run_id,
            RunStatus(row.status),
            Verdict.CHANGED if is_changed else Verdict.UNCHANGED,
            executes=[*again, *_paired(new, ignores)] if is_changed else [],
            ignores=[*ignores, *asked_before],
            goes_on_with=[] if is_changed else new,
            waits=[each for each in waits if each.task_id not in kept],
            error=error,
            note=note or findings.note,
        )

    def _has_ended_it(self, calls: list[NewCall]) -> bool:
        """Whether these are the calls whose failure has ended the run: it executes them again."""
        if self._row.error is None:
            return False
        ended_by = failures.Failure.parse(self._row.error).ended_by
        return {each.task_id for each in calls} <= set(ended_by)

    def _error(
        self, outcome: Outcome | None, error: BaseException | None
    ) -> tuple[str | None, str]:
        """What keeps the run from being continued, or fails it now; and what else is to be said."""
        row, findings = self._row, self._findings
        is_finished = row.status == RunStatus.SUCCESS
        if error is not None:
            return _described(error), ""
        if outcome is None:
            return (
                (f"no result: {findings.note}", "")
                if is_finished and findings.note
                else (
                    self._mismatch(),
                    "",
                )
            )
        if outcome.failure is None:
            return self._mismatch() or self._unreadable(), "" if is_finished else "would succeed"
        told = f"{_type_of(outcome.failure.type)}: {outcome.failure.message}"
        again = ", ".join(dict.fromkeys(map(name_of, outcome.failure.ended_by)))
        if row.status == RunStatus.RUNNING and again:
            # It may have died between the failure and its own end.
            return self._mismatch(), f"would fail with {told}, and then execute {again} again"
        recorded = None if row.error is None else failures.Failure.parse(row.error)
        if recorded is not None and recorded.type == outcome.failure.type:
            return self._mismatch(), f"would fail again with {_type_of(recorded.type)}"
        return told, ""

    def _mismatch(self) -> str | None:
        """Whether the same call would not find this run any more."""
        workflow, row = self._workflow, self._row
        recorded = decode_plain(row.input)
        gone = [name for name in recorded if name not in workflow.binder.signature.parameters]
        if gone:
            return (
                f"{HistoryMismatch.__name__}: {workflow.name}() has no parameter "
                f"{', '.join(gone)} any more, which this run was begun with"
            )
        decoded = workflow.binder.bind(*workflow.decode_input(row.input))
        inputs = map(canonical_json, (recorded, decoded))
        if row.fingerprint in (fingerprint(workflow.part, each) for each in inputs):
            return None
        return (
            f"{HistoryMismatch.__name__}: the same call does not mean this run any more, as the "
            f"version or the parameters of {workflow.name}() have changed: it begins a new run, or "
            "is refused while this one has not ended"
        )

    def _unreadable(self) -> str | None:
        """Whether the recorded result cannot be handed out any more."""
        if self._row.result is None:
            return None
        try:
            self._workflow.codec.decode(self._row.result)
        except SerializationError as error:
            return _described(error)
        return None

    def _difference(
        self, recorded: bytes | None, now: bytes | None, codec: Codec | None
    ) -> Difference | None:
        if recorded == now:
            return None
        plain = [None if each is None else decode_plain(each) for each in (recorded, now)]
        if recorded is not None and now is not None:
            # The order of a set or of an object's fields tells nothing.
            values = plain if codec is None else [codec.decode(recorded), codec.decode(now)]
            if values[0] == values[1]:
                return None
        return Difference(plain[0], plain[1])


def skipped(row: RunRow, why: str) -> RunReplay:
    status = RunStatus(row.status)
    return RunReplay(row.thread_id, row.run_id, status, Verdict.SKIPPED, note=why)


def _paired(new: Sequence[NewCall], ignored: Sequence[IgnoredCall]) -> list[NewCall]:
    """The new calls, each beside a recorded one of the same name that is not asked for any more.

    That with the most arguments in common, where there is a choice.
    """
    left: dict[str, list[IgnoredCall]] = {}
    for each in ignored:
        left.setdefault(each.name, []).append(each)
    paired: list[NewCall] = []
    for call in new:
        choice = left.get(call.name, [])
        if not choice:
            paired.append(call)
            continue
        if len(choice) <= CHOICE:
            best = max(choice, key=partial(_common, call))
        else:
            best = choice[0]
        choice.remove(best)
        paired.append(structs.replace(call, instead_of=best))
    return paired


def _common(new: NewCall, recorded: IgnoredCall) -> tuple[bool, int]:
    ours, theirs = new.arguments, recorded.arguments
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return new.parent_id == recorded.parent_id, 0
    same = sum(name in theirs and theirs[name] == value for name, value in ours.items())
    return new.parent_id == recorded.parent_id, same


def _new_call(call: RecordedCall[Any]) -> NewCall:
    try:
        shown = call.shown_arguments()
    except Exception:  # what is no call of that function is told when it executes
        shown = None
    arguments = None if shown is None else decode_plain(shown.encode())
    return NewCall(call.definition.name, call.id, call.frame.call_id, arguments)


def _ignored_call(row: Checkpoint) -> IgnoredCall:
    arguments = None if row.arguments is None else decode_plain(row.arguments.encode())
    if row.kind == ERROR:
        outcome = failures.describe(row.payload)
    else:
        outcome = row.payload.decode(errors="replace")
    if len(outcome) > SHOWN:
        outcome = f"{outcome[: SHOWN - 1]}…"
    return IgnoredCall(row.name, row.task_id, row.parent_id, arguments, outcome)


def _ignored_wait(wait: Wait) -> IgnoredCall:
    told = {"name": wait.name, "prompt": wait.prompt, "type": wait.type}
    arguments = {name: each for name, each in told.items() if each is not None}
    if wait.kind == "timer":
        arguments = {"until": wait.deadline}
    return IgnoredCall(name_of(wait.task_id), wait.task_id, wait.parent_id, arguments, "")


def _described(error: BaseException) -> str:
    text = f"{type(error).__qualname__}: {error}"
    return text if error.__cause__ is None else f"{text} ({error.__cause__})"


def _type_of(name: str) -> str:
    return name.rpartition(":")[2]


def name_of(task_id: str) -> str:
    return task_id.rpartition(":")[0]
