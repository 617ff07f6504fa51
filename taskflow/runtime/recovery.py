"""Watching the store for what other processes do: signals, runs that are due, owners that died."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import anyio

from taskflow.calls.workflows import Workflow
from taskflow.errors import CheckpointCorrupt, HistoryMismatch, StoreError
from taskflow.loops.promises import Latch, Promise, keep, uninterrupted
from taskflow.records import RunStatus
from taskflow.runs.run import logger
from taskflow.runtime.executions import Execution
from taskflow.runtime.services import Service
from taskflow.stores.batches import Claim
from taskflow.stores.rows import RunRow
from taskflow.wire import failures

__all__ = ("Watch", "claim_of")


CANDIDATES: Final = 1000  # runs to be continued that are kept in memory
SUSPICIOUS: Final = 2  # take-overs without any progress
SUSPECTED_FOR: Final = 5.0  # seconds that a suspect has to live through


class Watch:
    """Looks at the store every ``poll_interval``, and earlier where it is told to."""

    def __init__(self, service: Service, workflows: Mapping[str, Workflow[..., Any, Any]]) -> None:
        self._service = service
        self._workflows = workflows
        self._sent_here: set[int] = set()
        self._news = 0  # the latest signal that was seen
        self._reported: set[str] = set()
        self._recovering: list[tuple[tuple[int, int], Execution]] = []
        self._refused: set[tuple[int, int]] = set()  # runs that cannot be claimed: damaged ones
        self._candidates: deque[RunRow] = deque()  # to be continued when there is room
        self._has_more = False
        self._suspects: dict[tuple[int, int], RunRow] = {}  # the same, by number and epoch
        self._suspect: Execution | None = None  # that executes
        self._suspected_at = 0.0
        self._has_failed = False
        self._looks = 0  # since something happened here or was found
        self._wake: Promise | None = None
        self._is_told = False
        self._closing = False
        self._ended = Latch()

    def sent(self, sequence: int) -> None:
        """A signal was sent by this process, and whom it concerns has been told."""
        self._sent_here.add(sequence)

    def look_soon(self) -> None:
        """Something may be due now."""
        self._is_told = True
        self._looks = 0
        keep(self._wake)

    async def begin(self) -> None:
        """Note where the store is: what comes from now on is news. Raises StoreError."""
        latest = await self._service.store.news(None)
        self._news = latest[-1][0] if latest else 0

    async def run(self) -> None:
        """Look until `close` is called."""
        try:
            while not self._closing:
                try:
                    await self._look()
                except Exception:  # one look must never be the last
                    logger.exception("a look at what other processes do has failed")
                await self._nap()
        except asyncio.CancelledError:
            pass  # asyncio.run() ends everything that is left
        finally:
            self._ended.set_result()

    async def close(self) -> None:
        """Look no more."""
        self._closing = True
        self.look_soon()
        await uninterrupted(self._ended)

    async def _nap(self) -> None:
        service = self._service
        if not self._is_told:
            self._wake = service.loop.promise()
            self._looks += 1
            with anyio.move_on_after(
                service.clock.pause(service.settings.poll_interval, self._looks)
            ):
                await self._wake
        self._is_told = False

    async def _look(self) -> None:
        service = self._service
        if service.is_ending:
            return
        try:
            service.journal.release_again()
            await service.release_doubtful()
            await self._look_for_signals()
            await self._look_at_awaited()
            if service.settings.recover:
                await self._recover()
            self._has_failed = False
        except StoreError as error:
            if not self._has_failed:
                logger.warning("the store cannot be looked at, and is tried again: %s", error)
            self._has_failed = True

    async def _look_for_signals(self) -> None:
        service = self._service
        if self._is_nobody_here():
            latest = await service.store.news(None)
            if self._is_nobody_here():  # else somebody came meanwhile, and may have missed one
                self._news = max(self._news, latest[-1][0] if latest else 0)
        else:
            for sequence, thread_id in await service.store.news(self._news):
                self._news = sequence
                self._looks = 0
                if sequence not in self._sent_here:
                    service.look_for_signals(thread_id)
        self._sent_here = {each for each in self._sent_here if each > self._news}

    def _is_nobody_here(self) -> bool:
        service = self._service
        return not (service.executions or service.asleep or service.blocks)

    async def _look_at_awaited(self) -> None:
        """Sleeping runs may have been continued, paused and ended by other processes."""
        service = self._service
        awaited = {
            thread_id: each
            for thread_id, each in service.asleep.items()
            if each.is_awaited or each.is_elsewhere
        }
        if not awaited:
            return
        rows = {row.thread_id: row for row in await service.store.latest(list(awaited))}
        for thread_id, execution in awaited.items():
            row = rows.get(thread_id)
            if not execution.is_asleep:
                continue
            if row is None or row.run_id != execution.run_id:
                await service.settle(execution)
            elif (row.run_id, row.epoch) != (execution.run_id, execution.epoch):
                self._follow(execution, row)

    def _follow(self, execution: Execution, row: RunRow) -> None:
        if row.owner is not None:  # it may have died
            self._service.wake(execution)
            return
        execution.epoch = row.epoch
        execution.is_elsewhere = False
        try:
            row.verified()
        except CheckpointCorrupt as damage:
            execution.end(damage)
            return
        if row.status == RunStatus.ERROR:
            error = failures.rebuild(failures.Failure.parse(row.error or b"{}"))
            execution.end(error)
        elif row.status == RunStatus.PAUSED:
            self._service.fell_asleep(execution, row.due)
        else:
            self._service.wake(execution)

    async def _recover(self) -> None:
        """Take over what is due, and what died with its owner, as far as there is room."""
        service = self._service
        names = sorted(self._workflows)
        now = service.clock.now()
        unknown = await service.store.unknown_workflows(now, names)
        for name in unknown:
            if name not in self._reported:
                self._reported.add(name)
                logger.warning(
                    "runs of the workflow %r are to be continued, and this runtime does not know "
                    "it: they are left alone; open it as Runtime(…, workflows=[…])",
                    name,
                )
        if not names or self._candidates:
            self.fill()
            return
        self._note_refused()
        # Those that execute may still be shown as due.
        limit = CANDIDATES + len(service.executions) + len(self._refused)
        rows = await service.store.recoverable(now, names, limit)
        self._has_more = len(rows) == limit
        rows = [row for row in rows if self._is_sane(row)]
        # What kills its process is found by executing suspects one at a time, beside the others.
        self._suspects = {_key(row): row for row in rows if row.takeovers >= SUSPICIOUS}
        self._candidates.extend(row for row in rows if row.takeovers < SUSPICIOUS)
        self.fill()

    def _is_sane(self, row: RunRow) -> bool:
        """Whether what recovery goes by is what a store has written; the claim checks the rest."""
        sane = isinstance(row.takeovers, int) and isinstance(row.due, float | int | None)
        if not sane and _key(row) not in self._refused:
            self._refused.add(_key(row))
            logger.warning(
                "run %r on thread %r is damaged, and left alone", row.run_id, row.thread_id
            )
        return sane

    def fill(self) -> None:
        """Continue as many runs as there is room for."""
        service = self._service
        while self._candidates and service.room > 0 and not service.is_ending:
            self._continue(self._candidates.popleft())
        while self._suspects and service.room > 0 and self._may_try_a_suspect():
            _, row = self._suspects.popitem()
            self._suspect = self._continue(row)
            self._suspected_at = service.clock.now()
        if self._has_more and not self._candidates:
            self._has_more = False
            self.look_soon()

    def _may_try_a_suspect(self) -> bool:
        """Whether none executes, or the one that does is none: it gets on, or lives for long."""
        suspect = self._suspect
        if self._service.is_ending:
            return False
        if suspect is None or self._service.executions.get(suspect.thread_id) is not suspect:
            return True
        has_progressed = suspect.run is not None and suspect.run.executed > 0
        return has_progressed or self._service.clock.now() - self._suspected_at > SUSPECTED_FOR

    def _continue(self, row: RunRow) -> Execution | None:
        service = self._service
        if row.thread_id in service.executions or _key(row) in self._refused:
            return None
        self._looks = 0
        if (asleep := service.asleep.get(row.thread_id)) is not None:
            service.wake(asleep)
            return None
        claim = claim_of(
            row,
            service.owner,
            service.clock.now(),
            epoch=row.epoch,
            # The second: its store has failed. What was released at a drain is due from 0 on.
            takes_over=row.owner is not None or (row.status == RunStatus.RUNNING and bool(row.due)),
        )
        execution = Execution(claim, self._workflows[row.workflow], service)
        self._recovering.append((_key(row), execution))
        service.recover(execution)
        return execution

    def _note_refused(self) -> None:
        """Do not try again, each time, what was refused for good."""
        left: list[tuple[tuple[int, int], Execution]] = []
        for key, execution in self._recovering:
            if not execution.ended.done():
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
