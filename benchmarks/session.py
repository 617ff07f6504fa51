"""`Session`: the operations that a contender implements to be measured."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from benchmarks.form import Form

__all__ = ("OpenSession", "Session", "square")


async def square(number: int) -> int:
    """The body of nearly every task here: no work, so that the library's cost remains."""
    return number * number


class Session:
    """One contender, open on one database file. Methods that it lacks raise NotImplementedError.

    `squares` and `pages` are a whole run: begun, its tasks recorded, ended. Methods that return
    seconds take the time themselves, to leave out their preparations.
    """

    async def pragmas(self) -> str:
        """The journal mode and ``synchronous`` of the connection that writes."""
        return ""

    async def squares(self, thread_id: str, form: Form, size: int) -> int:
        """Record ``size`` results of `square` in one run, and return their sum."""
        raise NotImplementedError

    async def pages(self, thread_id: str, form: Form, size: int) -> int:
        """Record ``size`` results of `page` in one run, and return their number of paragraphs."""
        raise NotImplementedError

    async def fill(self, thread_id: str, size: int) -> None:
        """Leave a run that has recorded ``size`` results of `square` and then failed."""
        raise NotImplementedError

    async def replay(self, thread_id: str, form: Form, size: int) -> float:
        """Continue the run that `fill` left, to its end, and return the seconds."""
        raise NotImplementedError

    async def extend(self, thread_id: str, form: Form, items: range) -> float:
        """Record the squares of ``items`` on a thread that stays open, and return the seconds.

        Opening the thread, and loading its results, is not counted.
        """
        raise NotImplementedError

    async def receive(self, thread_id: str, form: Form, size: int) -> float:
        """Receive ``size`` signals that were sent before, in one run; the seconds to its end."""
        raise NotImplementedError

    async def held_back(self, thread_id: str, form: Form, size: int) -> float:
        """The run of `receive` with tasks in place of receives."""
        raise NotImplementedError

    async def streamed(self, thread_id: str, form: Form, size: int) -> int:
        """`squares`, with one reader that gets every event."""
        raise NotImplementedError

    async def watched(self, thread_id: str) -> int:
        """Read all events of a finished run, and return the number of completed calls."""
        raise NotImplementedError

    async def resume(self, size: int, *, asleep: bool) -> list[float]:
        """Answer ``size`` runs, one after another, that wait for a signal and then call a task.

        Returns the seconds from each sending to that run's result. If ``asleep``, the runs are
        paused, and not in memory.
        """
        raise NotImplementedError

    async def orphan(self, count: int, tasks: int, recorded: int) -> None:
        """Leave ``count`` runs of ``tasks`` tasks whose owner was killed.

        ``recorded`` tasks of each are recorded.
        """
        raise NotImplementedError

    async def recover(self, count: int, callers: int) -> float:
        """Recover the runs that `orphan` left; the seconds, including those of opening."""
        raise NotImplementedError

    async def put_to_sleep(self, count: int) -> None:
        """Start ``count`` runs that sleep for a day, and wait until all are paused."""
        raise NotImplementedError

    async def reopen(self) -> float:
        """Open once more, with recovery, and run one task; the seconds to its result."""
        raise NotImplementedError


OpenSession = Callable[[Path], AbstractAsyncContextManager[Session]]
