"""How a command that executes something is stopped: by Ctrl-C, by SIGTERM, by either again."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from types import FrameType, TracebackType
from typing import Any

import anyio

from taskflow.cli.progress import Display
from taskflow.runtime import Runtime

__all__ = ("Stop",)


class Stop:
    """Ctrl-C cancels ``scope``; SIGTERM does when the tasks that execute have ended.

    A second signal ends the process at once. Not asyncio's own handling of signals, which a body
    that blocks the event loop holds up.
    """

    def __init__(self, display: Display, farewell: str) -> None:
        self.scope = anyio.CancelScope()
        self.signal: int | None = None
        self._display = display
        self._farewell = farewell
        self._is_to_drain = anyio.Event()
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    async def drain(self, runtime: Runtime) -> None:
        """Wait for SIGTERM, let what executes end, and cancel ``scope`` then."""
        await self._is_to_drain.wait()
        await runtime.drain(math.inf)
        self.scope.cancel()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self._display.abandon(self._farewell)
            os._exit(128 + number)  # every committed result is kept, as after kill -9
        self.signal = number
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._display.stop()
        if self.signal == signal.SIGTERM:
            self._is_to_drain.set()
        else:
            self.scope.cancel()
