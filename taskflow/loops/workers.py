"""Execution of ``def`` bodies: in daemon threads, and in worker processes.

The threads are not anyio's, because a body that has timed out must not keep the process alive, and
anyio's threads would. Worker processes are anyio's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import signal
import sys
import threading
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from typing import Any

import anyio

from taskflow.loops.loop import Loop, outside
from taskflow.loops.promises import Latch

__all__ = ("WorkerThreads", "call_in_process")


class WorkerThreads:
    """Daemon threads that execute one function at a time; idle threads are reused."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._idle: list[SimpleQueue[Callable[[], None] | None]] = []
        self._closed = False
        self._waited_for: set[Latch] = set()

    async def call(
        self,
        context: Context,
        fn: Callable[[], Any],
        timeout: float | None,
        when_cancelled: Callable[[BaseException], None],
    ) -> Any:
        """Call ``fn`` in ``context`` in a worker thread, and return or raise its outcome.

        A cancelled caller passes its cancellation to ``when_cancelled`` and waits for the thread to
        end. What ``fn`` has returned by then is returned, and the caller is to raise the
        cancellation later; if it has returned nothing, the cancellation is raised here. After
        ``timeout`` seconds the thread is abandoned, and TimedOut raised, or the cancellation.
        """
        ended = Latch()
        outcome: list[Any] = []
        cancellation: BaseException | None = None

        # anyio notes the running loop in the context: its run() would refuse to start another one.
        if (sniffio := sys.modules.get("sniffio")) is not None:
            context.run(sniffio.current_async_library_cvar.set, None)

        def work() -> None:
            try:
                outcome.extend((True, context.run(fn)))
            except BaseException as error:
                outcome.extend((False, error))

        queue = self._idle.pop() if self._idle else self._start()
        queue.put(lambda: self._work(queue, work, ended))
        self._waited_for.add(ended)
        try:
            with outside(), anyio.move_on_after(timeout) as scope:
                try:
                    await ended.wait()
                except BaseException as error:
                    if scope.cancel_called:
                        raise
                    cancellation = error
                    when_cancelled(error)
                    await _done_or_late(ended, scope.deadline)
        finally:
            self._waited_for.discard(ended)
            del when_cancelled  # it holds the cancellation, whose traceback holds this frame
        try:
            if outcome and outcome[0]:
                return outcome[1]
            if cancellation is not None:
                raise cancellation
            raise outcome[1] if outcome else TimedOut
        finally:
            # Break the cycle: the traceback holds this frame, and this frame the exception.
            del cancellation
            outcome.clear()

    def abandon(self) -> None:
        """Stop waiting for threads; all their callers have been cancelled before."""
        for ended in self._waited_for:
            ended.set_result()

    def close(self) -> None:
        """End the idle threads; the others end when their function returns."""
        self._closed = True
        for queue in self._idle:
            queue.put(None)
        self._idle.clear()

    def _start(self) -> SimpleQueue[Callable[[], None] | None]:
        queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

        def serve() -> None:
            while (work := queue.get()) is not None:
                work()
                del work

        threading.Thread(target=serve, name="taskflow worker", daemon=True).start()
        return queue

    def _work(
        self,
        queue: SimpleQueue[Callable[[], None] | None],
        work: Callable[[], None],
        ended: Latch,
    ) -> None:
        from anyio import from_thread  # not above: it is a fifth of the time to import taskflow

        work()

        def tell() -> None:
            if self._closed:
                queue.put(None)
            else:
                self._idle.append(queue)
            ended.set_result()

        try:
            from_thread.run_sync(tell, token=self._loop.token)
        except (anyio.RunFinishedError, RuntimeError):
            # The thread was abandoned, and the loop has ended meanwhile.
            queue.put(None)


async def _done_or_late(latch: Latch, deadline: float) -> None:
    """Wait for ``latch``, until ``deadline`` at most, however often this task is cancelled."""
    while not latch.done():
        with contextlib.suppress(asyncio.CancelledError):
            with anyio.CancelScope(shield=True, deadline=deadline) as scope:
                await latch.settled()
            if scope.cancelled_caught:
                return


class TimedOut(Exception):
    """Raised when an attempt reaches its limit; the attempt turns it into a TaskTimeout."""


async def call_in_process(fn: Callable[..., Any], module: str, qualname: str, *args: Any) -> Any:
    """Call ``fn(found, *args)`` in a worker process; ``found`` is looked up there by name.

    Returns its result. A cancelled call kills its process.
    """
    import anyio.to_process  # not above: a tenth of the time to import taskflow

    work = functools.partial(_find_and_call, fn, module, qualname)
    limiter = anyio.CapacityLimiter(1)  # the caller has waited for a free one already
    with outside():
        return await anyio.to_process.run_sync(work, *args, cancellable=True, limiter=limiter)


def _find_and_call(fn: Callable[..., Any], module: str, qualname: str, *args: Any) -> Any:
    # Ctrl-C reaches every process of a terminal; this one is ended by its parent alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return fn(found, *args)
