"""Bodies of tasks that a test can hold, let go and count."""

from __future__ import annotations

import threading
from typing import Any

import anyio


class Gate:
    """Bodies that wait until they are let go; who has begun and who has ended."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.go = anyio.Event()

    async def pass_through(self, name: Any = None) -> None:
        self.begun.append(name)
        await self.go.wait()
        self.ended.append(name)


class Gauge:
    """How many bodies are inside at the same time, the most there were, and all of them."""

    def __init__(self) -> None:
        self.now = self.most = self.ever = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.ever += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.now -= 1
