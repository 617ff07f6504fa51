"""The progress of a census: one renewed line on a terminal, a line a second elsewhere."""

from __future__ import annotations

import time
from typing import TextIO

__all__ = ("Progress",)


class Progress:
    """Counts the finished files, and shows the number on ``stream``."""

    def __init__(self, stream: TextIO) -> None:
        self.done = 0
        self.total = 0
        self._stream = stream
        self._overwrites = stream.isatty()
        self._interval = 0.1 if self._overwrites else 1.0  # seconds between lines
        self._begun = self._said = time.monotonic()

    def begin(self, total: int) -> None:
        """Begin a census of ``total`` files."""
        self.total = total
        self._begun = time.monotonic()

    def step(self) -> None:
        """Count one finished file."""
        self.done += 1
        now = time.monotonic()
        if now - self._said < self._interval:
            return

        self._said = now
        line = f"{self.done:,} of {self.total:,} files, {self.done / (now - self._begun):,.0f}/s"
        print(
            f"\r{line}\x1b[K" if self._overwrites else line, file=self._stream, flush=True, end=""
        )
        if not self._overwrites:
            print(file=self._stream, flush=True)

    def clear(self) -> None:
        """Erase the line that is overwritten."""
        if self._overwrites:
            print("\r\x1b[K", file=self._stream, end="", flush=True)
