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

    `squares` and `pages` are a whole run: begun, its tasks recorded, ended. `replay` and `extend`
    take their own time, because what surrounds their work is not to be counted.
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


OpenSession = Callable[[Path], AbstractAsyncContextManager[Session]]
