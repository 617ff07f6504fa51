"""`Progress`: the counters of one execution of a run, which the command line shows."""

from __future__ import annotations

from msgspec import Struct

__all__ = ("Progress",)


class Progress(Struct, frozen=True):
    """The progress of a run that executes in this process."""

    executing: list[str]  # the names of the tasks that execute now
    executed: int  # calls that have ended since this execution began, in success or failure
    replayed: int  # calls answered from their records
    failed: int  # of those executed
    retried: int  # attempts that were followed by another one
