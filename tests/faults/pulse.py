"""Whether an event loop goes on while a store works: who held it up, by what, and how often.

A loop that is late proves nothing on a busy machine. So a thread looks what the loop's thread does
when a beat is late, and only a frame of the store on its stack counts, of a thread that waits for
something or has computed for as long: not of one that nobody gave a processor, and not of one that
collected garbage, whose ever that was.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final

import taskflow

LIMIT: Final = 0.05  # seconds
INTERVAL: Final = 0.005  # seconds between beats, and between looks
PACKAGE: Final = str(Path(taskflow.__file__).parent)
# By file, or file and function.
STORES: Final = (
    f"{PACKAGE}{os.sep}stores{os.sep}sqlite{os.sep}",  # what runs use of stores computes, too
    f"{os.sep}aiosqlite{os.sep}",
    f"{os.sep}sqlite3{os.sep}",
)
# A thread that begins, or does nothing but make an object, waits for a processor and nothing else.
STARTING: Final = (f"{os.sep}threading.py:start", "connection.py:_made_in_daemon")


class Pulse:
    """The beat of the loop that it is entered in.

    ``stalls`` are the stacks of those moments in which the store held the loop up; ``slow`` those
    in which other code of taskflow did.
    """

    def __init__(self) -> None:
        self.beats = 0
        self.stalls: list[str] = []
        self.slow: list[str] = []
        self._last = 0.0
        self._used = 0.0  # processor seconds of the loop's thread, at the last beat
        self._has_collected = False  # since then
        self._thread = threading.get_ident()
        self._task_id = threading.get_native_id()
        self._clock = time.pthread_getcpuclockid(self._thread)
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    async def __aenter__(self) -> Pulse:
        self._note()
        gc.callbacks.append(self._collect)
        self._beating = asyncio.create_task(self._beat())
        self._watcher.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        gc.callbacks.remove(self._collect)
        self._beating.cancel()
        self._watcher.join()

    async def count(self, beats: int) -> None:
        """Wait for so many beats: the loop goes on all the while."""
        until = self.beats + beats
        while self.beats < until:  # noqa: ASYNC110 - nothing is to happen but beats
            await asyncio.sleep(INTERVAL)

    async def _beat(self) -> None:
        while True:
            self.beats += 1
            self._note()
            await asyncio.sleep(INTERVAL)

    def _collect(self, phase: str, info: dict[str, int]) -> None:
        self._has_collected = self._has_collected or info["generation"] == 2

    def _note(self) -> None:
        self._has_collected = False
        self._used = time.clock_gettime(self._clock)
        self._last = time.monotonic()

    def _watch(self) -> None:
        seen = -1
        while not self._ended.wait(INTERVAL):
            beat, last = self.beats, self._last
            if beat == seen or time.monotonic() - last < LIMIT:
                continue
            seen = beat
            frame = sys._current_frames().get(self._thread)
            computed = time.clock_gettime(self._clock) - self._used
            if (
                beat != self.beats
                or self._has_collected
                or not (computed > LIMIT / 2 or self._is_waiting())
            ):
                continue
            stack = "".join(traceback.format_stack(frame))
            if _is_in(frame, STARTING):
                continue
            if _is_in(frame, STORES):
                self.stalls.append(stack)
            elif _is_in(frame, (PACKAGE,)):
                self.slow.append(stack)

    def _is_waiting(self) -> bool:
        try:
            state = Path(f"/proc/self/task/{self._task_id}/stat").read_text()
        except OSError:
            return True
        return state.rpartition(")")[2].split()[0] != "R"


def _is_in(frame: FrameType | None, parts: tuple[str, ...]) -> bool:
    while frame is not None:
        place = f"{frame.f_code.co_filename}:{frame.f_code.co_name}"
        if any(part in place for part in parts):
            return True
        frame = frame.f_back
    return False
