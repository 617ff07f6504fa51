"""What a contender must be able to do to be measured."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from benchmarks.form import Form

__all__ = ("OpenSession", "Session", "square")


async def square(number: int) -> int:
    """The body of nearly every task here: no work, so that what is left is the library's cost."""
    return number * number


class Session:
    """One contender, open on one database file. Each method raises where it cannot be compared.

    `squares` and `pages` are a whole run: begun, its tasks recorded, ended. Methods that give
    seconds take their own time, because what surrounds their work is not to be counted.
    """

    async def pragmas(self) -> str:
        """The journal mode and ``synchronous`` of the connection that writes."""
        return ""

    async def squares(self, thread_id: str, form: Form, size: int) -> int:
        """Record ``size`` results of `square` in one run; their sum."""
        raise NotImplementedError

    async def pages(self, thread_id: str, form: Form, size: int) -> int:
        """Record ``size`` results of `page` in one run; the number of their paragraphs."""
        raise NotImplementedError

    async def fill(self, thread_id: str, size: int) -> None:
        """Leave a run behind that recorded ``size`` results of `square` and then failed."""
        raise NotImplementedError

    async def replay(self, thread_id: str, form: Form, size: int) -> float:
        """Continue what `fill` left, to its end; the seconds that took."""
        raise NotImplementedError

    async def extend(self, thread_id: str, form: Form, items: range) -> float:
        """Record the squares of ``items`` on a thread that stays open; the seconds that took.

        Opening the thread, and loading what it already holds, is not counted.
        """
        raise NotImplementedError

    async def receive(self, thread_id: str, form: Form, size: int) -> float:
        """Take ``size`` signals in one run that were sent before; the seconds up to its end."""
        raise NotImplementedError

    async def held_back(self, thread_id: str, form: Form, size: int) -> float:
        """The same run with tasks in the place of receives."""
        raise NotImplementedError

    async def streamed(self, thread_id: str, form: Form, size: int) -> int:
        """What `squares` does, with one reader to whom every event is told."""
        raise NotImplementedError

    async def watched(self, thread_id: str) -> int:
        """Read the events of a finished run from its beginning; how many calls completed."""
        raise NotImplementedError

    async def resume(self, size: int, *, asleep: bool) -> list[float]:
        """Answer ``size`` runs, one after another, that wait for a signal and then call a task.

        The seconds from each sending to that run's result. ``asleep``: they were paused, and
        nothing of them was in memory.
        """
        raise NotImplementedError

    async def orphan(self, count: int, tasks: int, recorded: int) -> None:
        """Leave ``count`` runs of ``tasks`` tasks behind, of which so many are recorded.

        The process that owned them was killed.
        """
        raise NotImplementedError

    async def recover(self, count: int, callers: int) -> float:
        """Have what `orphan` left recovered; the seconds that took, opening included."""
        raise NotImplementedError

    async def put_to_sleep(self, count: int) -> None:
        """Start ``count`` runs that sleep for a day, and wait until all are paused."""
        raise NotImplementedError

    async def reopen(self) -> float:
        """Open once more, with recovery, and run one task; the seconds up to its result."""
        raise NotImplementedError


OpenSession = Callable[[Path], AbstractAsyncContextManager[Session]]
