"""`Call`: one use of a task or workflow with its arguments, to be awaited once.

Only this module decides how often a call may be awaited, in which run and on which event loop.
Nothing executes before it is awaited or scheduled.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Final, TypeVar

from taskflow.loops.loop import outside
from taskflow.runs.frame import FRAME, Frame

__all__ = ("USED", "Call", "check_loop", "check_same_run")

T_co = TypeVar("T_co", covariant=True)

USED: Final = object()  # stands for the steps of a call that was answered, or is executed elsewhere


class Call(Coroutine[Any, Any, T_co]):
    """A call that can be awaited, gathered, scheduled or waited for, once."""

    __slots__ = ("__weakref__", "_steps", "frame", "id")

    id: str
    frame: Any  # the Frame that made it; None for the description of a run
    _steps: Any  # what executes the call, once it is awaited; `USED`, once it is answered otherwise

    def _execute(self) -> Generator[Any, Any, T_co]:
        raise NotImplementedError

    def __await__(self) -> Generator[Any, Any, T_co]:
        if self._steps is not None:
            raise self._used()
        self._check_loop()
        self._steps = steps = self._execute()
        return steps

    # The coroutine protocol, by which event loops and asyncio.gather execute a call.

    def send(self, value: Any, /) -> Any:
        steps = self._steps
        if steps is None:
            steps = self.__await__()
        elif steps is USED or getattr(steps, "gi_frame", steps) is None:  # it has ended
            raise self._used()
        return steps.send(value)

    def throw(
        self,
        typ: Any,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
        /,
    ) -> Any:
        if self._steps is None:
            self._steps = self._execute()
        elif self._steps is USED:
            raise self._used()
        if tb is not None and isinstance(typ, BaseException):
            typ = typ.with_traceback(tb)
        return self._steps.throw(typ if isinstance(typ, BaseException) else typ(val))

    def close(self) -> None:
        if self._steps is None:
            self._steps = self._execute()
        if self._steps is not USED:
            self._steps.close()

    def _check_loop(self) -> None:
        if self.frame is None or self.frame.run.scheduler.loop.is_running_here():
            return
        self.close()
        check_loop(self.id, self.frame)

    def _used(self) -> RuntimeError:
        return RuntimeError(f"{self.id} was awaited already: make another call to ask again")

    def result(self) -> T_co:
        """Wait for the call in a worker thread: what ``await`` gives, in a ``def`` body.

        Raises RuntimeError on the event loop's own thread, which it would block.
        """
        if self.frame is None:
            raise RuntimeError(f"{self.id} belongs to no run: give it to Runtime.run()")
        loop = self.frame.run.scheduler.loop
        if threading.get_ident() == loop.thread:
            raise RuntimeError(
                f"result() would block the event loop that is to execute {self.id}: await the call"
            )

        from anyio import from_thread  # a fifth of importing taskflow, and few need it

        async def wait() -> T_co:
            with outside().waiting():
                return await self

        try:
            return from_thread.run(wait, token=loop.token)
        except RuntimeError as error:
            # On trio a call in a thread has no scope whose cancellation it could raise.
            if self.frame.run.unwinding:
                raise asyncio.CancelledError(str(error)) from None
            raise

    def __del__(self) -> None:
        if getattr(self, "_steps", USED) is None:
            if self.frame and self.frame.run.unwinding:
                return  # it was cut off before it came to that
            where = f" on thread {self.frame.run.thread_id!r}" if self.frame else ""
            warnings.warn(
                f"{self.id}{where} was never awaited, and did not execute",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )


def check_loop(what: str, frame: Frame[Any]) -> None:
    """Raise RuntimeError in code of another event loop than that of the run, or of none.

    What the call waits for would wake a task of the other loop, and never reach it.
    """
    if not frame.run.scheduler.loop.is_running_here():
        raise RuntimeError(
            f"{what} on thread {frame.run.thread_id!r} was awaited on another event loop than its "
            "run's: asyncio.run(), anyio.run() and trio.run() start one of their own, and so do "
            "loops in other threads. In a def body, wait for it with call.result(); elsewhere, "
            "await it on the event loop of its runtime"
        )


def check_same_run(call: Call[Any]) -> None:
    """Raise RuntimeError where a call is awaited in another run than it was made in."""
    awaiting, run = FRAME.get(), call.frame.run
    if awaiting is not None and awaiting.run is not run:
        raise RuntimeError(
            f"{call.id} was made in run {run.run_id!r} on thread {run.thread_id!r} and cannot "
            f"be awaited in run {awaiting.run.run_id!r} on thread {awaiting.run.thread_id!r}"
        )
