"""How far the census is: one line, written over, on a terminal; a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import TextIO

__all__ = ("Progress",)


class Progress:
    """Counts files, and says so on ``stream`` as often as one can read it."""

    def __init__(self, stream: TextIO) -> None:
        self.done = 0
        self.total = 0
        self._stream = stream
        self._overwrites = stream.isatty()
        self._interval = 0.1 if self._overwrites else 1.0  # seconds between lines
        self._begun = self._said = time.monotonic()

    def begin(self, total: int) -> None:
        """From here on ``total`` files are counted."""
        self.total = total
        self._begun = time.monotonic()

    def step(self) -> None:
        """One more file is done."""
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
        """Leave nothing of the line that is written over."""
        if self._overwrites:
            print("\r\x1b[K", file=self._stream, end="", flush=True)
