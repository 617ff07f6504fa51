"""Progress on the standard error: one line that renews itself, or a line a round in a log."""

import sys
from time import monotonic

from benchmarks.suite import Step

__all__ = ("Progress",)


class Progress:
    """Shows which sample is being taken, and how many there are."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0
        self.started = monotonic()
        self.said = ""
        self.terminal = sys.stderr.isatty()

    def show(self, step: Step) -> None:
        """Show that this step begins."""
        self.taken += 1
        words = f"{step.case.title}, round {step.round} of {step.rounds}"
        minutes, seconds = divmod(int(monotonic() - self.started), 60)
        clock = f"{minutes:02}:{seconds:02} {self.taken:>4}/{self.total}"
        if self.terminal:
            line = f"{clock}  {words}: {step.contender}"
            print(f"\r\033[K{line[:110]}", end="", file=sys.stderr, flush=True)
        elif words != self.said:
            print(f"{clock}  {words}", file=sys.stderr, flush=True)
            self.said = words

    def clear(self) -> None:
        """Erase the line, before other output."""
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
