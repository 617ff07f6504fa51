"""`Watch`: regular looks at the store for what other processes do.

Signals that they send, runs that they end or take over while they execute here, runs that they
continue in place of one that sleeps here, and, with ``recover=True``, runs that are due or whose
owner has died. When to look is decided by `Pace`, and
what to continue by `Recovery`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import anyio

from taskflow.calls.workflows import Workflow
from taskflow.errors import (
    CheckpointCorrupt,
    LeaseLost,
    RunCancelled,
    SchemaTooNew,
    StoreError,
)
from taskflow.loops.promises import Latch, Promise, keep, uninterrupted
from taskflow.records import RunStatus
from taskflow.runs.activity import again
from taskflow.runs.run import Run
from taskflow.runtime.elsewhere import settle
from taskflow.runtime.executions import Execution
from taskflow.runtime.recovery import Recovery
from taskflow.runtime.services import Service
from taskflow.stores.rows import RunRow
from taskflow.wire import failures
from taskflow.wire.pauses import decode_waits

__all__ = ("Pace", "Watch")

logger = logging.getLogger("taskflow")


class Pace:
    """When to look next: after ``poll_interval``, and at once where something may be due.

    The clock is told how many looks were in vain, so that virtual time can space them out.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._looks = 0  # since something has happened here or was found
        self._is_due = False
        self._wake: Promise | None = None

    def look_soon(self) -> None:
        """Something may be due now."""
        self._is_due = True
        self._looks = 0
        keep(self._wake)

    def found(self) -> None:
        """A look was not in vain."""
        self._looks = 0

    async def wait(self) -> None:
        """Wait until the next look."""
        service = self._service
        if not self._is_due:
            self._wake = service.loop.promise()
            self._looks += 1
            interval = service.settings.poll_interval
            with anyio.move_on_after(service.clock.pause(interval, self._looks)):
                await self._wake
        self._is_due = False


class Watch:
    """Looks at the store for as long as the runtime is open."""

    def __init__(self, service: Service, workflows: Mapping[str, Workflow[..., Any, Any]]) -> None:
        self._service = service
        self._pace = Pace(service)
        self._recovery = Recovery(service, workflows, self._pace)
        self._sent_here: set[int] = set()  # signals above `_news` that this process has sent
        self._news = 0  # the sequence of the latest signal that was seen
        self._has_failed = False  # the latest look, which is logged once
        self._has_given_up = False
        self._is_closing = False
        self._ended = Latch()

    def sent(self, sequence: int) -> None:
        """This process has sent a signal, and delivered it if its run is here."""
        self._sent_here.add(sequence)

    def look_soon(self) -> None:
        """Something may be due now."""
        self._pace.look_soon()

    def fill(self) -> None:
        """Continue runs that are due, as there may be room for them."""
        self._recovery.fill()

    async def begin(self) -> None:
        """Note the latest signal: those after it are news. Raises StoreError."""
        latest = await self._service.store.news(None)
        self._news = latest[-1][0] if latest else 0

    async def run(self) -> None:
        """Look until `close` is called."""
        try:
            while not self._is_closing:
                try:
                    await self._look()
                except Exception:  # one look must never be the last
                    logger.exception("a look at what other processes do has failed")
                await self._pace.wait()
        except asyncio.CancelledError:
            pass  # asyncio.run() ends everything that is left
        finally:
            self._ended.set_result()

    async def close(self) -> None:
        """End `run`."""
        self._is_closing = True
        self.look_soon()
        await uninterrupted(self._ended)

    async def _look(self) -> None:
        service = self._service
        if service.is_ending:
            return
        try:
            service.journal.release_again()
            await service.registry.release_doubtful()
            await self._look_for_signals()
            await self._look_at_executing()
            await self._look_at_awaited()
            if service.settings.recover:
                await self._recovery.look()
            self._has_failed = False
        except SchemaTooNew as error:
            await self._give_up(error)
        except StoreError as error:
            if not self._has_failed:
                logger.warning("the store cannot be looked at, and is tried again: %s", error)
            self._has_failed = True

    async def _give_up(self, error: SchemaTooNew) -> None:
        """End everything here, as a newer taskflow has migrated the store; then let go of it.

        Nothing can be written any more, not even that a run is released. So the lease is given up
        once no body executes: then others continue the runs, and nothing executes twice at once.
        """
        if self._has_given_up:
            return
        self._has_given_up = True
        logger.error("%s", error)
        service = self._service
        for run in service.registry.runs:
            run.activity.break_off(again(error))
            run.activity.unwind()
        for execution in list(service.registry.asleep.values()):
            execution.end(again(error))
        for execution in list(service.registry.executing.values()):
            await execution.waiters.ended.settled()
        await service.store.close(service.owner)

    async def _look_for_signals(self) -> None:
        service = self._service
        if self._is_idle():
            latest = await service.store.news(None)
            if self._is_idle():  # else a run has begun meanwhile, and may have missed a signal
                self._news = max(self._news, latest[-1][0] if latest else 0)
        else:
            for sequence, thread_id in await service.store.news(self._news):
                self._news = sequence
                self._pace.found()
                if sequence not in self._sent_here:
                    service.registry.look_for_signals(thread_id)
        self._sent_here = {each for each in self._sent_here if each > self._news}

    def _is_idle(self) -> bool:
        """Whether no run is here that a signal could concern."""
        service = self._service
        return service.registry.is_empty

    async def _look_at_executing(self) -> None:
        """Runs that execute here may have been ended, deleted or taken over by other processes."""
        executing = {
            run.row.number: run for run in self._service.registry.runs if run.broken is None
        }
        if not executing:
            return
        epochs = await self._service.store.epochs(list(executing))
        for number, run in executing.items():
            if epochs.get(number) != run.key.epoch and not run.activity.has_ended:
                await self._lose(run)

    async def _lose(self, run: Run) -> None:
        """End what executes of a run that is not this runtime's any more."""
        row: RunRow | None = None
        with contextlib.suppress(CheckpointCorrupt):
            row = await self._service.store.run(run.thread_id, run.run_id)
        if row is not None and row.status != RunStatus.CANCELLED:
            run.activity.break_off(LeaseLost(run.thread_id, run.run_id))
        else:
            run.activity.break_off(RunCancelled(run.thread_id, run.run_id))

    async def _look_at_awaited(self) -> None:
        """Sleeping runs may have been continued, paused and ended by other processes."""
        service = self._service
        awaited = {
            thread_id: each
            for thread_id, each in service.registry.asleep.items()
            if each.waiters.is_awaited or (each.sleep and each.sleep.is_elsewhere)
        }
        if not awaited:
            return
        rows = {row.thread_id: row for row in await service.store.latest(list(awaited))}
        for thread_id, execution in awaited.items():
            row = rows.get(thread_id)
            if not execution.is_asleep:
                continue
            if row is None or row.run_id != execution.run_id:
                await settle(execution, service.store)
            elif (row.run_id, row.epoch) != (execution.run_id, execution.epoch):
                self._follow(execution, row)

    def _follow(self, execution: Execution, row: RunRow) -> None:
        """Bring a sleeping execution up to what another runtime has made of its run."""
        if row.owner is not None:  # it may have died
            self._service.registry.wake(execution)
            return
        try:
            row.verified()
        except CheckpointCorrupt as damage:
            execution.end(damage)
            return
        if row.status == RunStatus.PAUSED:
            execution.pause_elsewhere(decode_waits(row.waits), row.epoch, row.due)
            return
        execution.epoch = row.epoch
        if execution.sleep is not None:
            execution.sleep.is_elsewhere = False
        if row.status == RunStatus.ERROR:
            error = failures.rebuild(failures.Failure.parse(row.error or b"{}"))
            execution.end(error)
        else:
            self._service.registry.wake(execution)
