"""The seam to `taskflow.testing.suspects`: what a crash test tells a watcher, and what it asks.

`Watcher` and `Look` see nothing, which is what ``crash_everywhere(…, suspects=False)`` works with.
The suspects are subclasses of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ("Look", "Watcher")


class Look:
    """Watches one pass: a context in which its processes begin one after the other."""

    @property
    def findings(self) -> Sequence[str]:
        """What is wrong for certain."""
        return ()

    @property
    def reason(self) -> str:
        """Why a rerun that differs does so, where the look has changed what that finds."""
        return ""

    def begin(self, *, is_last: bool) -> None:
        """A process begins; the last one is not cut off."""

    def __enter__(self) -> None:
        """The pass begins."""

    def __exit__(self, *raised: object) -> None:
        """The pass has ended."""


class Watcher:
    """Watches all passes of the workflow ``fn``."""

    def __init__(self, fn: Callable[..., Any]) -> None: ...

    @property
    def suspects(self) -> Sequence[str]:
        """What may be the reason where a rerun has come to something else."""
        return ()

    @property
    def notes(self) -> Sequence[str]:
        """What may be right and may not, or what could not be looked at."""
        return ()

    def kinds(self, *, is_rerun: bool) -> Sequence[str]:
        """Kinds of looks that want a pass of their own.

        ``is_rerun``: its last process is one for which everything is recorded, and not the first.
        """
        return ()

    def look(self, kind: str) -> Look:
        """For one pass: "undisturbed", one of `kinds`, or any other."""
        return Look()
