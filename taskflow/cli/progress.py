"""The progress of a run while it executes: live on a terminal, in plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, deque
from types import TracebackType
from typing import Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from taskflow.runs.progress import Progress

__all__ = ("Display", "counts", "display_on", "duration", "say", "shown_id")

RATE_WINDOW: Final = 5.0  # seconds over which the live rate is taken
FIRST_LINE: Final = 1.0  # seconds before the first plain line; later lines are further apart
LINE_SPACING: Final = 0.25  # of the time that has passed
LONGEST_SPACING: Final = 30.0  # seconds
SHOW_CURSOR: Final = "\x1b[?25h"
WAITING: Final = "not executing here yet"


class Display(Protocol):
    """Shows the progress of a run, while it is entered."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def update(self, progress: Progress | None, note: str = "") -> None:
        """Show ``progress``; ``None`` while the run does not execute here."""

    def say(self, text: str) -> None:
        """Print a line that stays."""

    def stop(self) -> None:
        """Show that the run is being stopped."""

    def abandon(self, farewell: str) -> None:
        """Print ``farewell`` from a signal handler, just before the process ends."""


def display_on(console: Console, title: str) -> Display:
    """The display that suits ``console``: live only on a terminal, whatever FORCE_COLOR says."""
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        return LiveDisplay(console, title)
    return PlainLines(console, title)


class Rate:
    """Calls per second, over the last few seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def of(self, executed: int) -> float:
        """The rate, when ``executed`` calls have been executed in all until now."""
        now = time.monotonic()
        self._samples.append((now, executed))
        while now - self._samples[0][0] > RATE_WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        return (executed - before) / (now - then) if now > then else 0.0


class LiveDisplay:
    """Three lines at the bottom of the terminal; output of user code goes above them."""

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._begun = time.monotonic()
        self._rate = Rate()
        self._spinner = Spinner("dots")
        self._stopping = False
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            # A redirected stdout does not disturb the display.
            redirect_stdout=sys.stdout.isatty(),
        )

    def __enter__(self) -> Display:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def update(self, progress: Progress | None, note: str = "") -> None:
        passed = time.monotonic() - self._begun
        clock = f"{int(passed) // 60}:{int(passed) % 60:02}"
        head = Table.grid(padding=(0, 1))
        title = Text(self._title, "bold", no_wrap=True, overflow="ellipsis")
        head.add_row(self._spinner, title, Text(clock, "dim"))
        if progress is None:
            lines = [WAITING] if passed > FIRST_LINE else []
        else:
            rate = self._rate.of(progress.executed)
            lines = [f"{counts(progress)}, {rate:,.1f}/s", _executing(progress, note)]
        if self._stopping:
            lines.append("stopping when these tasks have ended; Ctrl-C again leaves at once")
        rows = [Text(f"  {line}", no_wrap=True, overflow="ellipsis") for line in lines]
        self._live.update(Group(head, *rows), refresh=True)

    def say(self, text: str) -> None:
        self._live.console.print(Text(text), soft_wrap=True)

    def stop(self) -> None:
        self._stopping = True

    def abandon(self, farewell: str) -> None:
        os.write(2, f"{SHOW_CURSOR}\n{farewell}\n".encode())


class PlainLines:
    """A plain line now and then, less often the longer the run takes."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._begun = time.monotonic()
        self._next = self._begun + FIRST_LINE
        self._rate = Rate()
        self._said = ""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def update(self, progress: Progress | None, note: str = "") -> None:
        rate = 0.0 if progress is None else self._rate.of(progress.executed)
        now = time.monotonic()
        if now < self._next:
            return

        passed = now - self._begun
        self._next = now + min(LONGEST_SPACING, max(FIRST_LINE, passed * LINE_SPACING))
        if progress is None:
            self._print(f"{duration(passed)}: {WAITING}")
            return
        executing = _executing(progress, note)
        text = f"{counts(progress)}; {executing}"
        if note and text == self._said:  # a run may wait for days: do not repeat the line
            return
        self._said = text
        self._print(f"{duration(passed)}: {counts(progress)}, {rate:,.1f}/s; {executing}")

    def say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def stop(self) -> None:
        self._print("stopping when the executing tasks have ended; Ctrl-C again leaves at once")

    def abandon(self, farewell: str) -> None:
        os.write(2, f"{farewell}\n".encode())

    def _print(self, text: str) -> None:
        self.say(f"{self._title}: {text}")


def counts(progress: Progress) -> str:
    """The numbers of calls in words: done, failed, retried."""
    done = progress.executed - progress.failed + progress.replayed
    parts = [f"{done:,} done ({progress.replayed:,} replayed)"]
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    if progress.retried:
        parts.append(f"{progress.retried:,} {'retry' if progress.retried == 1 else 'retries'}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A duration for people, in about three digits."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.{0 if seconds >= 0.0995 else 1 if seconds >= 0.00995 else 2}f} ms"
    if seconds < 59.95:
        return f"{seconds:.{1 if seconds >= 9.995 else 2}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def say(text: str, style: str = "") -> None:
    """Write a message to stderr."""
    Console(stderr=True, highlight=False).print(Text(text, style), soft_wrap=True)


def shown_id(value: str) -> str:
    """An id made safe for a terminal: control characters in it are escaped."""
    return value if value.isprintable() and value.strip() == value else repr(value)


def _executing(progress: Progress, note: str) -> str:
    names = Counter(progress.executing).most_common()
    if not names:
        return note or "no task executes now"
    text = "executing " + ", ".join(f"{name} x{n:,}" if n > 1 else name for name, n in names)
    return f"{text}; {note}" if note else text
