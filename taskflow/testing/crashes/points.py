"""`Plan`: where the processes of a pass are cut off, and the text that the pass is repeated by."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from msgspec import Struct

__all__ = ("BEGIN", "END", "LAST", "MODES", "Cut", "Mode", "Plan", "Point")

Mode: TypeAlias = Literal["drop", "cancel", "native"]

MODES: Final[tuple[Mode, ...]] = ("drop", "cancel", "native")

# Commits that are no call's own.
BEGIN: Final = "begin"  # of the run
LAST: Final = "last"  # everything but the end of the run
END: Final = "end"  # of the run


class Point(Struct, frozen=True):
    """A moment of a run at which a process can be cut off, whatever else goes on at that moment."""

    kind: Literal["commit", "await"]
    call: str  # the task id, or a commit that is no call's own; empty: the run's own body
    attempt: int = 1
    index: int = 0  # of the await, from 1, in that attempt

    @property
    def key(self) -> str:
        if self.kind == "commit":
            return f"commit {self.call}"
        return f"await {self.index} {self.call}".strip() + f" #{self.attempt}" * (self.attempt > 1)


class Cut(Struct, frozen=True):
    """The end of one process: at which moment, and how."""

    point: Point
    mode: Mode

    @property
    def key(self) -> str:
        return f"{self.mode} {self.point.key}"


class Plan(Struct, frozen=True):
    """The cuts of a pass, one process after the other; the last process is not cut off."""

    cuts: tuple[Cut, ...] = ()
    look: str = ""  # a kind of look that the watcher asks for; "hold": a call ends late
    held: str = ""  # the call that ends after those that it executes beside

    @property
    def key(self) -> str:
        """What the pass is repeated by; empty: the undisturbed one."""
        cuts = " then ".join(each.key for each in self.cuts)
        return " ".join(each for each in (self.look, self.held, cuts) if each)
