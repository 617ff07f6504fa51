"""Recovery: runs are continued that are due, or whose owner has died.

The rule: a run is continued where its workflow is known and there is room. Of the runs that may
have killed their processes, one executes at a time, which tells those that do from the others.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from taskflow.calls.workflows import Workflow
from taskflow.errors import CheckpointCorrupt, HistoryMismatch
from taskflow.records import RunStatus
from taskflow.runtime.executions import Execution
from taskflow.runtime.services import Service
from taskflow.stores.batches import Claim
from taskflow.stores.rows import RunRow

__all__ = ("Recovery", "Suspects", "claim_of")

logger = logging.getLogger("taskflow")

CANDIDATES: Final = 1000  # runs to be continued that are kept in memory
SUSPICIOUS: Final = 2  # take-overs without any progress
SUSPECTED_FOR: Final = 5.0  # seconds that a suspect has to live through


class Looks(Protocol):
    """The regular looks at the store, one of which calls `Recovery.look`."""

    def look_soon(self) -> None: ...
    def found(self) -> None: ...


class Suspects:
    """Runs that were taken over repeatedly without progress: at most one executes at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._waiting: list[RunRow] = []
        self._executing: Execution | None = None
        self._since = 0.0  # when the executing one was begun

    def replace(self, rows: Iterable[RunRow]) -> None:
        """Keep these rows, in place of those of the look before."""
        self._waiting = list(rows)

    def take(self) -> RunRow | None:
        """The next run to be continued, if there is one and it may execute now."""
        return self._waiting.pop() if self._waiting and self._is_free() else None

    def began(self, execution: Execution | None) -> None:
        """The run that was taken executes; None: it was not continued."""
        self._executing = execution
        self._since = self._service.clock.now()

    def _is_free(self) -> bool:
        """Whether no suspect executes, or it is cleared: it makes progress, or lives for long."""
        suspect, executing = self._executing, self._service.registry.executing
        if suspect is None or executing.get(suspect.thread_id) is not suspect:
            return True
        has_progressed = suspect.run is not None and suspect.run.activity.counts.executed > 0
        return has_progressed or self._service.clock.now() - self._since > SUSPECTED_FOR


class Recovery:
    """Continues runs of these workflows that no runtime executes, as far as there is room."""

    def __init__(
        self, service: Service, workflows: Mapping[str, Workflow[..., Any, Any]], looks: Looks
    ) -> None:
        self._service = service
        self._workflows = workflows
        self._looks = looks
        self._candidates: deque[RunRow] = deque()  # to be continued when there is room
        self._suspects = Suspects(service)
        self._has_more = False  # the store holds more candidates
        self._recovering: list[tuple[tuple[int, int], Execution]] = []
        self._refused: set[tuple[int, int]] = set()  # runs that cannot be claimed: damaged ones
        self._unknown: set[str] = set()  # workflows that were logged as unknown

    async def look(self) -> None:
        """Find runs that are due or whose owner has died, and continue them. Raises StoreError."""
        service = self._service
        now = service.clock.now()
        names = sorted(self._workflows)
        await self._report_unknown(now, names)
        if not names or self._candidates:
            self.fill()
            return
        self._note_refused()
        # Runs that execute here may still be shown as due.
        limit = CANDIDATES + len(service.registry.executing) + len(self._refused)
        rows = await service.store.recoverable(now, names, limit)
        self._has_more = len(rows) == limit
        rows = [row for row in rows if self._is_sane(row)]
        self._suspects.replace(row for row in rows if row.takeovers >= SUSPICIOUS)
        self._candidates.extend(row for row in rows if row.takeovers < SUSPICIOUS)
        self.fill()

    def fill(self) -> None:
        """Continue as many runs as there is room for."""
        service = self._service
        while self._candidates and service.registry.room > 0 and not service.is_ending:
            self._continue(self._candidates.popleft())
        while service.registry.room > 0 and not service.is_ending:
            suspect = self._suspects.take()
            if suspect is None:
                break
            self._suspects.began(self._continue(suspect))
        if self._has_more and not self._candidates:
            self._has_more = False
            self._looks.look_soon()

    async def _report_unknown(self, now: float, names: list[str]) -> None:
        for name in await self._service.store.unknown_workflows(now, names):
            if name not in self._unknown:
                self._unknown.add(name)
                logger.warning(
                    "runs of the workflow %r are to be continued, and this runtime does not know "
                    "it: they are left alone; open it as Runtime(…, workflows=[…])",
                    name,
                    extra={"topic": "unknown workflow"},
                )

    def _is_sane(self, row: RunRow) -> bool:
        """Whether the columns that recovery goes by are sound; the claim checks the others."""
        sane = isinstance(row.takeovers, int) and isinstance(row.due, float | int | None)
        if not sane and _key(row) not in self._refused:
            self._refused.add(_key(row))
            logger.warning(
                "run %r on thread %r is damaged, and left alone", row.run_id, row.thread_id
            )
        return sane

    def _continue(self, row: RunRow) -> Execution | None:
        service = self._service
        if row.thread_id in service.registry.executing or _key(row) in self._refused:
            return None
        self._looks.found()
        if (asleep := service.registry.asleep.get(row.thread_id)) is not None:
            service.registry.wake(asleep)
            return None
        claim = claim_of(
            row,
            service.owner,
            service.clock.now(),
            epoch=row.epoch,
            # A running one without an owner that is due: its store has failed. One that was
            # released at a drain is due from 0 on.
            takes_over=row.owner is not None or (row.status == RunStatus.RUNNING and bool(row.due)),
        )
        execution = Execution(claim, self._workflows[row.workflow], service)
        self._recovering.append((_key(row), execution))
        service.registry.recover(execution)
        return execution

    def _note_refused(self) -> None:
        """Do not try again, each time, runs whose claim was refused for good."""
        left: list[tuple[tuple[int, int], Execution]] = []
        for key, execution in self._recovering:
            if not execution.waiters.ended.done():
                left.append((key, execution))
            elif isinstance(execution.error, CheckpointCorrupt | HistoryMismatch):
                self._refused.add(key)
        self._recovering = left


def _key(row: RunRow) -> tuple[int, int]:
    return row.number, row.epoch


def claim_of(row: RunRow, owner: str, now: float, **options: Any) -> Claim:
    """The claim that continues a recorded run with its recorded input."""
    return Claim(
        row.thread_id,
        row.run_id,
        row.run_id,
        row.workflow,
        row.input,
        row.fingerprint,
        owner,
        now,
        continues=True,
        **options,
    )
