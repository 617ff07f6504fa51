"""`Life`: one process runs the call, until the run ends or the process is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

import anyio
from msgspec import Struct

from taskflow.calls.workflows import WorkflowCall
from taskflow.errors import RunNotFound, RunPaused
from taskflow.events import Event
from taskflow.loops.loop import OUTSIDE
from taskflow.loops.promises import Latch
from taskflow.runs.feeds import Listener
from taskflow.runtime import Runtime
from taskflow.runtime.services import Service
from taskflow.testing.crashes.processes import Process

__all__ = ("RUN", "THREAD", "Life", "Raised", "Silence")

THREAD: Final = "crash-test"
RUN: Final = "crash-test"  # always the same: task ids depend on it

# The process that the current code belongs to.
PROCESS: Final[ContextVar[Process | None]] = ContextVar("taskflow_process", default=None)


class Silence(logging.Filter):
    """Drops what a dropped process logs when it ends at last."""

    def filter(self, record: logging.LogRecord) -> bool:
        process = PROCESS.get()
        return process is None or not process.is_dead


class Raised(Struct, frozen=True):
    """The result of a run that raised: equal for equal exceptions."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class Life:
    """The actions of one process, and the result that its caller got."""

    def __init__(
        self, process: Process, call: WorkflowCall[Any], signals: Sequence[tuple[str, object]]
    ) -> None:
        self._process = process
        self._call = call
        self._signals = signals
        self.over = Latch()
        self.was_cut = False
        self.owner = ""  # of the store, as its runtime is known there
        self.result: Any = None  # or a `Raised`
        self.error: BaseException | None = None  # itself, where that is a `Raised`
        self.misuse: Exception | None = None

    async def live(self, runtime: Runtime) -> None:
        """Open the runtime, run the call, close the runtime."""
        process = self._process
        PROCESS.set(process)
        OUTSIDE.set(process.death.outside)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._note_death)
                await runtime.open()
                service = runtime._open()
                self.owner = service.owner
                service.scheduler.stepped = process.stepped
                process.unwind = partial(_unwind, service)
                service.feeds.join(THREAD, _Listener(process))
                try:
                    await self._run(runtime)
                finally:
                    await runtime.aclose()
                self.was_cut = process.was_cut
                self.over.set_result()
                group.cancel_scope.cancel()
        except BaseException:
            if not process.is_dead:
                raise

    async def _note_death(self) -> None:
        await self._process.has_been_cut.settled()
        if self._process.is_dead:
            self.was_cut = True
            self.over.set_result()

    async def _run(self, runtime: Runtime) -> None:
        process = self._process
        async with anyio.create_task_group() as group:
            group.start_soon(self._send, runtime)
            try:
                if process.cut is not None and process.cut.mode == "native":
                    asked = asyncio.ensure_future(self._await_result(runtime))
                    process.cancel = asked.cancel
                    with contextlib.suppress(asyncio.CancelledError):
                        await asked
                else:
                    with anyio.CancelScope() as scope:
                        process.cancel = scope.cancel
                        await self._await_result(runtime)
            finally:
                group.cancel_scope.cancel()

    async def _await_result(self, runtime: Runtime) -> None:
        clock = runtime._open().clock
        while True:
            try:
                self.result = await runtime.run(self._call, thread_id=THREAD, run_id=RUN)
                return
            except RunPaused as paused:
                deadlines = [each.deadline for each in paused.waits if each.deadline is not None]
                if not deadlines:
                    names = ", ".join(sorted({each.name for each in paused.waits}))
                    self.misuse = ValueError(
                        f"the workflow waits for signals: give crash_everywhere(…, signals=[…]) "
                        f"what is to be sent as {names}"
                    )
                    return
                await anyio.sleep(max(0.0, min(deadlines) - clock.now()))
            except Exception as error:
                if self._process.is_dead:
                    raise
                self.error = error
                self.result = Raised(type(error).__qualname__, str(error))
                return

    async def _send(self, runtime: Runtime) -> None:
        await self._process.began.settled()
        for number, (name, value) in enumerate(self._signals, 1):
            with contextlib.suppress(RunNotFound):
                await runtime.send(THREAD, name, value, id=f"signal {number}")


class _Listener(Listener):
    """Passes the events of one process on to the history of the pass."""

    def __init__(self, process: Process) -> None:
        super().__init__(0)
        self._process = process

    def put(self, event: Event, size: int = 0) -> None:
        if not self._process.is_dead:
            self._process.history.hear(event, self._process.number)


def _unwind(service: Service) -> None:
    service.registry.stop_executing()
