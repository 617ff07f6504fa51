"""One recorded run, executed by the present code as far as its records go."""

from __future__ import annotations

from collections.abc import Coroutine
from contextvars import Context
from itertools import chain
from typing import Any, Final, TypeVar

import anyio
from msgspec import structs

from taskflow.calls.attempts import attempt_all
from taskflow.calls.definitions import BodyKind
from taskflow.calls.workflows import Workflow
from taskflow.loops.steps import stepped
from taskflow.records import RunStatus
from taskflow.runs.frame import FRAME
from taskflow.runs.run import Run
from taskflow.runs.writes import Outcome
from taskflow.runtime.body import RunBody
from taskflow.runtime.recovery import claim_of
from taskflow.runtime.services import Service, Settings
from taskflow.stores.batches import Claimed
from taskflow.stores.memory import MemoryStore
from taskflow.stores.rows import RunRow
from taskflow.stores.transitions import reopened
from taskflow.testing.replays.comparisons import Comparison
from taskflow.testing.replays.findings import Findings, Hold, find
from taskflow.testing.replays.histories import RecordedRun
from taskflow.testing.replays.verdicts import RunReplay

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


class _Stillness:
    """For how long nothing has moved, by looks at something that changes when anything does."""

    def __init__(self) -> None:
        self._seen: object = None
        self._since = 0.0
        self._looks = 0  # that saw the same

    def seconds(self, seen: object, now: float) -> float:
        """Seconds since ``seen`` has changed; 0 where that may be due to a slow loop."""
        if seen != self._seen:
            self._seen, self._since, self._looks = seen, now, 0
        else:
            self._looks += 1
        return now - self._since if self._looks >= LOOKS else 0.0


class Rehearsal:
    """One run, executed by the present code as far as its records go."""

    def __init__(
        self, recorded: RecordedRun, workflow: Workflow[..., Any, Any], patience: float
    ) -> None:
        self.row = recorded.row
        self._recorded = recorded
        self._workflow = workflow
        self._patience = patience
        self._bodies: list[Coroutine[Any, Any, Any]] = []  # those of workflows, as they execute
        self._body: RunBody | None = None
        self._run: Run | None = None
        self._hold = Hold()
        self._findings: Findings | None = None  # of a run that was cut off
        self._stillness = _Stillness()

    @property
    def is_finished(self) -> bool:
        """Whether it had succeeded when it was recorded."""
        return self.row.status == RunStatus.SUCCESS

    async def perform(self) -> RunReplay:
        """Replay it, and return its entry of the report."""
        outcome: Outcome | None = None
        error: BaseException | None = None
        try:
            outcome = await self._outcome()
        except (Exception, SystemExit) as failure:
            error = failure
        if self._run is not None and self._run.broken is not None:
            error = self._run.broken
        findings = self._findings or self._found()
        dropped = [] if self._run is None else self._run.notices.dropped
        return Comparison(self._recorded, self._workflow, findings, dropped or ()).entry(
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
        run.activity.gate = self._hold
        run.notices.dropped = []
        self._run = run
        arguments = run.read(self._workflow.input_codec, self.row.input)
        args, kwargs = self._workflow.binder.unbind(arguments)
        root = run.root()
        self._body = RunBody(self._workflow, root.digest, args, kwargs)
        interruptible = run.scheduler.loop.interruptible()
        run.attach(interruptible.cancel)
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
        run = self._run
        if run is None or self._findings is not None or run.activity.has_ended:
            return
        counts = run.activity.counts
        moves = counts.begun, counts.executed, counts.replayed, counts.retried
        passed = self._stillness.seconds(
            (*moves, len(run.activity.executing), len(self._hold.held)), now
        )
        if counts.retried > MOST_RETRIES:
            self._cut_off("its retry policies try again and again")
        elif passed >= IDLE_AFTER:
            self._settle(run, passed)

    def _settle(self, run: Run, passed: float) -> None:
        if not self._is_held_up(run):
            if passed >= self._patience:
                self._cut_off(
                    f"it has waited {passed:.0f} s for something that is no call{self._place()}: "
                    "await such things in tasks"
                )
            return
        would_change = self.is_finished or self._found().leaves_something_out
        if passed >= SETTLED_AFTER or not would_change:
            self._cut_off("")

    def _is_held_up(self, run: Run) -> bool:
        """Whether every workflow that executes waits for calls."""
        calls = chain([self._body], run.activity.executing.values())
        bodies = [call.body for call in calls if call is not None]
        return bool(self._hold.held) and all(each.in_flight for each in bodies if each is not None)

    def _place(self) -> str:
        """The line in which the body that was begun last is suspended."""
        if self._workflow.kind is not BodyKind.COROUTINE or not self._bodies:
            return ""
        frame = getattr(self._bodies[-1], "cr_frame", None)
        return "" if frame is None else f" ({frame.f_code.co_filename}, line {frame.f_lineno})"

    def _cut_off(self, note: str) -> None:
        self._findings = self._found(note)
        self.unwind()

    def unwind(self) -> None:
        """Cancel what executes of it."""
        if self._run is not None:
            self._run.activity.unwind()
            self._hold.release()

    def _found(self, note: str = "") -> Findings:
        """What the code has asked for until now, and what it has not."""
        if self._run is None:
            return Findings()
        unasked = list(self._run.recorded.unasked.values())
        return find(self._recorded, self._hold, unasked, note)


def _unfinished(row: RunRow) -> RunRow:
    """The run as a rerun would find it that continues it."""
    if row.status == RunStatus.SUCCESS:
        row = reopened(row)
    return structs.replace(row, owner=None, epoch=1, due=None, takeovers=0).sealed()
