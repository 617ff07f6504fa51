"""One recorded run, executed by the present code as far as its records go."""

from __future__ import annotations

from collections.abc import Coroutine
from contextvars import Context
from itertools import chain
from typing import Any, Final, TypeVar

import anyio
from msgspec import structs

from taskflow.calls.attempts import attempt_all
from taskflow.calls.call import RecordedCall
from taskflow.calls.definitions import BodyKind
from taskflow.calls.emits import EmitCall
from taskflow.calls.waits import WaitCall
from taskflow.calls.workflows import Workflow
from taskflow.loops.promises import Latch
from taskflow.loops.steps import stepped
from taskflow.records import RunStatus, Wait
from taskflow.runs.activity import Executing
from taskflow.runs.frame import FRAME
from taskflow.runs.run import Run
from taskflow.runs.writes import Outcome
from taskflow.runtime.executions import RunBody
from taskflow.runtime.recovery import claim_of
from taskflow.runtime.services import Service, Settings
from taskflow.stores.batches import Claimed
from taskflow.stores.kinds import OUTCOMES
from taskflow.stores.memory import MemoryStore
from taskflow.stores.rows import Recorded, RunRow
from taskflow.stores.transitions import reopened
from taskflow.testing.comparisons import Comparison, Findings, name_of
from taskflow.testing.histories import RecordedRun
from taskflow.testing.verdicts import RunReplay
from taskflow.wire.codec import decode_waits

__all__ = ("LOOK_INTERVAL", "Rehearsal")

T = TypeVar("T")

LOOK_INTERVAL: Final = 0.01  # seconds between looks whether anything moves
LOOKS: Final = 8  # in vain, before a run is idle: however long each round of the loop takes
IDLE_AFTER: Final = 0.1  # seconds, as for every run
SETTLED_AFTER: Final = 0.5  # seconds, where the verdict would be that something changes
MOST_RETRIES: Final = 100
SETTINGS: Final = Settings(
    max_concurrency=1,
    durability="async",
    on_drift="log",
    recover=False,
    max_concurrent_runs=1,
    max_takeovers=1,
    poll_interval=1.0,
)


class _Hold:
    """The gate that never opens: calls of tasks, and waits, are held behind it."""

    opens = False

    def __init__(self) -> None:
        self.held: dict[str, RecordedCall[Any]] = {}  # in the order in which they were asked for
        self.asked: set[str] = set()  # everything that is not recorded and was ever asked for
        self.begun: set[str] = set()  # of these, the workflows: their bodies execute
        self._released = Latch()

    def release(self) -> None:
        """The run is unwound: so are calls whose cancellation is shielded off."""
        self._released.set_result()

    async def wait(self, call: Executing) -> None:
        """Hold what would execute a body that is no workflow's, or would wait."""
        assert isinstance(call, RecordedCall)
        if isinstance(call, EmitCall):
            return
        self.asked.add(call.id)
        if call.definition.is_workflow:
            self.begun.add(call.id)
            return
        self.held[call.id] = call
        call.is_held = True
        try:
            await self._released.wait()
        finally:
            call.is_held = False
            del self.held[call.id]


class Rehearsal:
    """One run, executed by the present code as far as its records go."""

    def __init__(
        self, recorded: RecordedRun, workflow: Workflow[..., Any, Any], patience: float
    ) -> None:
        self.row = recorded.row
        self._recorded = recorded
        self._workflow = workflow
        self._patience = patience
        self._calls = {each.checkpoint.task_id: each.checkpoint for each in recorded.rows}
        self._bodies: list[Coroutine[Any, Any, Any]] = []  # those of workflows, as they execute
        self._body: RunBody | None = None
        self._run: Run | None = None
        self._gate: _Hold | None = None
        self._findings: Findings | None = None  # of a run that was cut off
        self._seen: object = None  # when it was looked at for the last time
        self._seen_at = 0.0
        self._looks = 0  # since then

    @property
    def is_finished(self) -> bool:
        """Whether it had succeeded when it was recorded."""
        return self.row.status == RunStatus.SUCCESS

    async def perform(self) -> RunReplay:
        """Replay it; what it came to."""
        outcome: Outcome | None = None
        error: BaseException | None = None
        try:
            outcome = await self._outcome()
        except (Exception, SystemExit) as failure:
            error = failure
        if self._run is not None and self._run.broken is not None:
            error = self._run.broken
        findings = self._findings or self._found()
        return Comparison(self._recorded, self._workflow, findings).entry(
            outcome, error, None if self._run is None else self._run.saved
        )

    async def _outcome(self) -> Outcome | None:
        """What the workflow's body comes to; None where it was cut off."""
        FRAME.set(None)
        self.row.verified()
        store = MemoryStore()
        earlier = [] if self._recorded.earlier is None else [self._recorded.earlier]
        await store.adopt([*earlier, _unfinished(self.row)], self._recorded.rows)
        service = Service(store, SETTINGS, None)
        service.scheduler.stepped = self._stepped
        await service.begin()
        try:
            latch, answer = service.journal.claim(
                claim_of(self.row, service.owner, service.clock.now())
            )
            await latch.wait()
            return await self._execute(service, answer[0])
        finally:
            with anyio.CancelScope(shield=True):
                await service.end()

    async def _execute(self, service: Service, claimed: Claimed) -> Outcome | None:
        run = service.open_run(claimed)
        await run.load()
        run.activity.gate = self._gate = _Hold()
        args, kwargs = self._workflow.decode_input(self.row.input)
        root = run.root()
        self._body = RunBody(self._workflow, root.digest, args, kwargs)
        interruptible = run.scheduler.loop.interruptible()
        run.attach(interruptible.cancel)
        self._run = run
        outcome: Outcome | None = None
        try:
            with interruptible:
                outcome = await attempt_all(self._body, root)
        except BaseException:
            if self._findings is None:
                raise
            # It was cut off: what it makes of that is no outcome.
        finally:
            with anyio.CancelScope(shield=True):
                await run.conclude()
        return outcome if self._findings is None else None

    async def _stepped(self, body: Coroutine[Any, Any, T], context: Context, /) -> T:
        """Execute the body of a workflow, and know meanwhile where it is."""
        self._bodies.append(body)
        try:
            return await stepped(body, context)
        finally:
            self._bodies.remove(body)

    def look(self, now: float) -> None:
        """Cut it off where nothing has moved for long enough."""
        run, gate = self._run, self._gate
        if run is None or gate is None or self._findings is not None or run.activity.has_ended:
            return
        counts, executing = run.activity.counts, len(run.activity.executing)
        moves = counts.begun, counts.executed, counts.replayed, counts.retried
        seen = *moves, executing, len(gate.held)
        if counts.retried > MOST_RETRIES:
            self._cut_off("its retry policies try again and again")
        elif seen != self._seen:
            self._seen, self._seen_at, self._looks = seen, now, 0
        else:
            self._looks += 1
            passed = now - self._seen_at
            if self._looks >= LOOKS and passed >= IDLE_AFTER:
                self._settle(passed)

    def _settle(self, passed: float) -> None:
        if not self._is_held_up():
            if passed >= self._patience:
                self._cut_off(
                    f"it has waited {passed:.0f} s for something that is no call{self._place()}: "
                    "await such things in tasks"
                )
            return
        if passed < SETTLED_AFTER and (self.is_finished or self._leaves_something_out()):
            return
        self._cut_off("")

    def _leaves_something_out(self) -> bool:
        findings = self._found()
        return bool(findings.unasked or findings.open_waits)

    def _is_held_up(self) -> bool:
        """Whether every workflow that executes waits for calls."""
        assert self._run is not None
        assert self._gate is not None
        calls = chain([self._body], self._run.activity.executing.values())
        bodies = [call.body for call in calls if call is not None]
        return bool(self._gate.held) and all(each.in_flight for each in bodies if each is not None)

    def _place(self) -> str:
        """Where the body is suspended that was begun last."""
        if self._workflow.kind is not BodyKind.COROUTINE or not self._bodies:
            return ""
        frame = getattr(self._bodies[-1], "cr_frame", None)
        return "" if frame is None else f" ({frame.f_code.co_filename}, line {frame.f_lineno})"

    def _cut_off(self, note: str) -> None:
        self._findings = self._found(note)
        self.unwind()

    def unwind(self) -> None:
        """Cancel what executes of it."""
        if self._run is not None and self._gate is not None:
            self._run.activity.unwind()
            self._gate.release()

    def _found(self, note: str = "") -> Findings:
        """What the code has asked for until now, and what it has not."""
        run, gate = self._run, self._gate
        if run is None or gate is None:
            return Findings()
        unasked = [row for row in run.recorded.unasked.values() if row.kind in OUTCOMES]
        mine = [row for row in unasked if row.parent_id is None or row.parent_id in gate.begun]
        if not self.is_finished:
            mine += self._left_behind(unasked, gate)
        return Findings(
            held=list(gate.held.values()),
            unasked=[self._calls[row.task_id] for row in mine],
            open_waits=self._open_waits(gate),
            note=note,
        )

    def _left_behind(self, unasked: list[Recorded], gate: _Hold) -> list[Recorded]:
        """What a child workflow has recorded that had not ended, and is not asked for any more.

        While another one of its name is begun. What an arm of a race has left that lost looks
        alike, but something was recorded after it.
        """
        names = {name_of(each) for each in gate.begun}
        if not names:
            return []
        order = {task_id: place for place, task_id in enumerate(self._calls)}
        direct = (
            order[each.task_id]
            for each in self._calls.values()
            if each.parent_id is None and each.kind in OUTCOMES
        )
        last = max(direct, default=-1)
        return [
            row
            for row in unasked
            if row.parent_id is not None
            and row.parent_id not in self._calls
            and row.parent_id not in gate.asked
            and name_of(row.parent_id) in names
            and order[row.task_id] > last
        ]

    def _open_waits(self, gate: _Hold) -> list[Wait]:
        """What the paused run waited for, and is not waited for any more."""
        if self.row.status != RunStatus.PAUSED:
            return []
        tasks = {each.id for each in gate.held.values() if not isinstance(each, WaitCall)}
        names = {name_of(each) for each in tasks}

        def is_missing(wait: Wait) -> bool:
            if wait.task_id in gate.asked or wait.task_id in self._calls:
                return False
            if wait.parent_id is None or wait.parent_id in gate.begun:
                return True
            if wait.parent_id in gate.asked or wait.parent_id in self._calls:
                return False
            # A task that is held may hide it, unless it is the one of that name.
            return not tasks or name_of(wait.parent_id) in names

        return [each for each in decode_waits(self.row.waits) if is_missing(each)]


def _unfinished(row: RunRow) -> RunRow:
    """The run as somebody would continue it who executes it again."""
    if row.status == RunStatus.SUCCESS:
        row = reopened(row)
    return structs.replace(row, owner=None, epoch=1, due=None, takeovers=0).sealed()
