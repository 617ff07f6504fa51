"""What is told once about a run: to the log, or as a warning where somebody can be told.

Warnings may be errors. One that is due while the run executes is kept until the end of the run is
committed: a warning never costs an outcome.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Mapping, Sequence

__all__ = ("Notices",)

logger = logging.getLogger("taskflow")


class Notices:
    """The notices of one run, each given once."""

    __slots__ = ("_given", "_kept", "_thread_id", "dropped")

    def __init__(self, thread_id: str) -> None:
        self._thread_id = thread_id
        # Recorded fields that are not known any more: None where they are told at once.
        self.dropped: list[tuple[str, Mapping[str, Sequence[str]]]] | None = None
        self._given: set[str] = set()
        self._kept: list[str] = []  # until the end of the run

    def is_new(self, notice: str) -> bool:
        """Whether this notice was not given yet; it is from now on."""
        is_new = notice not in self._given
        self._given.add(notice)
        return is_new

    def keep_strays(self, call_ids: Collection[str], body: str | None) -> None:
        """Keep the warning that calls were left executing at the end of a body.

        ``body`` is the id of the body's call, None for the run's own.
        """
        names = ", ".join(sorted({call_id.partition(":")[0] for call_id in call_ids})[:5])
        self._kept.append(
            f"{len(call_ids)} calls were left executing on thread {self._thread_id!r} when "
            f"{body or 'their run'} ended, and were cancelled ({names}): await them, or start them "
            "in a task group"
        )

    def warn(self) -> None:
        """Issue the warnings that were kept, where the caller can be told."""
        kept, self._kept = self._kept, []
        for text in kept:
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def log(self) -> None:
        """Log the warnings that were kept, where nobody can be told."""
        kept, self._kept = self._kept, []
        for text in kept:
            logger.warning("%s", text)

    def log_changed_arguments(self, name: str) -> None:
        """Log, once for each task, that a body changes what a rerun would find unchanged."""
        if self.is_new(f"{name} changes"):
            logger.warning(
                "an argument of %s() on thread %r is not what it was when the call was made: a "
                "rerun that answers %s from its record will not see that change, and may call "
                "other tasks than this run did; return what changes, and leave the arguments alone",
                name,
                self._thread_id,
                name,
            )

    def warn_of_twins(self, name: str) -> None:
        """Warn, once for each task, that equal calls are in flight at the same time."""
        if self.is_new(name):
            warnings.warn(
                f"two equal calls of {name}() are in flight at the same time on thread "
                f"{self._thread_id!r}: which of them is which depends on who calls first; give "
                f"{name} a key= that tells them apart",
                RuntimeWarning,
                stacklevel=2,
            )
