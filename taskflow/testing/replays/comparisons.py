"""`Comparison`: what is recorded of a run beside what the present code makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from msgspec import structs

from taskflow.calls.workflows import Workflow
from taskflow.errors import HistoryMismatch, SerializationError
from taskflow.records import RunStatus
from taskflow.runs.writes import Outcome
from taskflow.stores.rows import RunRow
from taskflow.testing.replays.findings import Findings, ignored_call, ignored_wait, name_of
from taskflow.testing.replays.histories import RecordedRun
from taskflow.testing.replays.verdicts import (
    Difference,
    IgnoredCall,
    NewCall,
    RunReplay,
    Verdict,
)
from taskflow.wire import failures
from taskflow.wire.codec import Codec
from taskflow.wire.identity import fingerprint
from taskflow.wire.json import canonical_json, decode_plain
from taskflow.wire.pauses import decode_waits

__all__ = ("Comparison", "skipped")

CHOICE: Final = 100  # recorded calls of a name among which the most similar one is looked for


class Comparison:
    """What was recorded of a run, beside what the present code makes of it."""

    def __init__(
        self,
        recorded: RecordedRun,
        workflow: Workflow[..., Any, Any],
        findings: Findings,
        dropped: Sequence[tuple[str, Mapping[str, Sequence[str]]]],
    ) -> None:
        self._row = recorded.row
        self._is_bare = not recorded.rows
        self._workflow = workflow
        self._findings = findings
        self._dropped = list(dropped)

    def entry(
        self, outcome: Outcome | None, error: BaseException | None, saved: bytes | None
    ) -> RunReplay:
        """The entry of the report."""
        found, note = self._error(outcome, error)
        if self._row.status == RunStatus.SUCCESS:
            return self._entry_of_finished(outcome, found, saved)
        return self._entry_of_unfinished(found, note or self._findings.note)

    def _entry_of_finished(
        self, outcome: Outcome | None, error: str | None, saved: bytes | None
    ) -> RunReplay:
        row, findings = self._row, self._findings
        if self._is_bare and findings.new and error is None:
            return skipped(row, "nothing is recorded of its calls: they were pruned, or not copied")
        ignores = [ignored_call(each) for each in findings.unasked]
        result = kept = None
        if error is None and outcome is not None:
            result = self._difference(row.result, outcome.payload, self._workflow.codec)
            self._note_dropped_result()
            kept = self._difference(row.saved, saved, None)
        return _entry(
            row,
            is_changed=bool(findings.new or ignores or result or kept or error or self._dropped),
            drops=self._drops(),
            executes=_paired(findings.new, ignores),
            ignores=ignores,
            result=result,
            saved=kept,
            error=error,
        )

    def _entry_of_unfinished(self, error: str | None, note: str) -> RunReplay:
        row, findings = self._row, self._findings
        ignores = [ignored_call(each) for each in findings.unasked]
        open_waits = [ignored_wait(each) for each in findings.open_waits]
        waits = [each for each in findings.new if each.task_id in findings.waits]
        new = [each for each in findings.new if each.task_id not in findings.waits]
        if new and self._has_ended_it(new):
            ignores = []  # they were recorded after it had failed, and wait for its outcome again
        known = {each.task_id for each in decode_waits(row.waits)}
        others = [each for each in waits if each.task_id not in known]
        again = [each for each in _paired(others, open_waits) if each.instead_of]
        asked_again = {each.task_id for each in again}
        is_changed = bool(ignores or open_waits or error or self._dropped)
        return _entry(
            row,
            is_changed=is_changed,
            executes=[*again, *_paired(new, ignores)] if is_changed else [],
            ignores=[*ignores, *open_waits],
            goes_on_with=[] if is_changed else new,
            waits=[each for each in waits if each.task_id not in asked_again],
            drops=self._drops(),
            error=error,
            note=note,
        )

    def _note_dropped_result(self) -> None:
        codec, payload = self._workflow.codec, self._row.result
        if payload is not None and (found := codec.dropped_fields(payload, codec.decode(payload))):
            self._dropped.append((codec.what, found))

    def _drops(self) -> list[str]:
        """The recorded fields that the present classes do not know, each once."""
        told = (
            f"{', '.join(fields)} of {name} ({what})"
            for what, found in self._dropped
            for name, fields in found.items()
        )
        return list(dict.fromkeys(told))

    def _has_ended_it(self, calls: list[NewCall]) -> bool:
        """Whether these are the calls whose failure has ended the run: it executes them again."""
        if self._row.error is None:
            return False
        ended_by = failures.Failure.parse(self._row.error).ended_by
        return {each.task_id for each in calls} <= set(ended_by)

    def _error(
        self, outcome: Outcome | None, error: BaseException | None
    ) -> tuple[str | None, str]:
        """What keeps the run from being continued, or fails it now; and the note on the rest."""
        row = self._row
        is_finished = row.status == RunStatus.SUCCESS
        if error is not None:
            return _described(error), ""
        if outcome is None:
            if is_finished and self._findings.note:
                return f"no result: {self._findings.note}", ""
            return self._mismatch(), ""
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
        """The error of the same call where it would not find this run any more."""
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
        """The error of the recorded result where it cannot be decoded any more."""
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
    """The entry of a run that is not replayed."""
    status = RunStatus(row.status)
    return RunReplay(row.thread_id, row.run_id, status, Verdict.SKIPPED, note=why)


def _entry(row: RunRow, *, is_changed: bool, **found: Any) -> RunReplay:
    verdict = Verdict.CHANGED if is_changed else Verdict.UNCHANGED
    return RunReplay(row.thread_id, row.run_id, RunStatus(row.status), verdict, **found)


def _paired(new: Sequence[NewCall], ignored: Sequence[IgnoredCall]) -> list[NewCall]:
    """The new calls, each beside a recorded one of the same name that is not asked for any more.

    With the one that has the most arguments in common, where there are several.
    """
    left: dict[str, list[IgnoredCall]] = {}
    for each in ignored:
        left.setdefault(each.name, []).append(each)
    paired: list[NewCall] = []
    for call in new:
        if choice := left.get(call.name):
            is_few = len(choice) <= CHOICE
            best = max(choice, key=partial(_common, call)) if is_few else choice[0]
            choice.remove(best)
            call = structs.replace(call, instead_of=best)
        paired.append(call)
    return paired


def _common(new: NewCall, recorded: IgnoredCall) -> tuple[bool, int]:
    ours, theirs = new.arguments, recorded.arguments
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return new.parent_id == recorded.parent_id, 0
    same = sum(name in theirs and theirs[name] == value for name, value in ours.items())
    return new.parent_id == recorded.parent_id, same


def _described(error: BaseException) -> str:
    text = f"{type(error).__qualname__}: {error}"
    return text if error.__cause__ is None else f"{text} ({error.__cause__})"


def _type_of(name: str) -> str:
    return name.rpartition(":")[2]
