"""Stopping a command that executes runs: by Ctrl-C, by SIGTERM, and by a second signal."""

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
    """Cancels ``scope`` at Ctrl-C, and at SIGTERM when the executing tasks have ended.

    A second signal ends the process at once. asyncio's own handling of signals is not used, because
    a body that blocks the event loop delays it.
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
        """Wait for SIGTERM, let the executing tasks end, and then cancel ``scope``."""
        await self._is_to_drain.wait()
        await runtime.drain(math.inf)
        self.scope.cancel()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self._display.abandon(self._farewell)
            os._exit(128 + number)  # safe: committed results are kept, as after kill -9
        self.signal = number
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._display.stop()
        if self.signal == signal.SIGTERM:
            self._is_to_drain.set()
        else:
            self.scope.cancel()
