"""A store that fails, delays or repeats what it is told to: what becomes of a run then?

    import anyio
    import pytest

    from taskflow import MemoryStore, Runtime, task, workflow
    from taskflow.errors import StoreError
    from taskflow.testing import FaultyStore

    charged: list[str] = []

    @task
    async def charge(order: str) -> str:
        charged.append(order)
        return f"receipt for {order}"

    @workflow
    async def fulfil(order: str) -> str:
        return await charge(order)

    async def main() -> None:
        # The first commit claims the run, the second records the receipt. That one is done, but
        # the answer is lost on its way: who waits for it is told that it has failed.
        store = FaultyStore(MemoryStore()).fail("commit", 2, after=True)
        async with Runtime(store) as runtime:
            with pytest.raises(StoreError):
                await runtime.run(fulfil("A1"), thread_id="order-A1")
            assert await runtime.run(fulfil("A1"), thread_id="order-A1") == "receipt for A1"
        assert charged == ["A1"]

    anyio.run(main)

Which operations are meant is said by a number, counted from 1 among those of one name (of all, for
``"*"``), or by what contains such numbers: ``{2, 5}``, ``range(3, 6)``, `every`, `since`, `chance`.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Container
from typing import Any, Literal, Protocol, Self, TypeAlias, TypeVar, get_args

import anyio
from msgspec import Struct

from taskflow.errors import StoreError
from taskflow.stores.base import Store
from taskflow.testing.doubles.wrapped import WrappedStore

__all__ = ("Asked", "FaultyStore", "InjectedFault", "Operation", "chance", "every", "since")

T = TypeVar("T")

Operation: TypeAlias = Literal[
    "*",
    "adopt",
    "cached",
    "cancel",
    "checkpoint",
    "checkpoints",
    "clear_cache",
    "close",
    "commit",
    "delete",
    "fork",
    "forget",
    "latest",
    "load",
    "news",
    "open",
    "prune",
    "recoverable",
    "replace",
    "run",
    "runs",
    "signals",
    "snapshot",
    "snapshot.checkpoints",
    "snapshot.runs",
    "unknown_workflows",
]


class InjectedFault(StoreError):
    """Raised by a `FaultyStore`, unless it was given another error to raise."""

    def __init__(self, where: str, operation: str, number: int, was_done: bool) -> None:
        self.operation = operation
        self.number = number
        self.was_done = was_done
        fate = "was done, and its answer was lost" if was_done else "was not done"
        super().__init__(f"{where}: {operation} number {number} {fate}, as this test wants it")


class Asked(Struct, frozen=True):
    """One operation that a `FaultyStore` was asked for."""

    operation: str
    number: int  # from 1, among those of its name
    position: int  # from 1, among all
    faults: tuple[str, ...] = ()  # what befell it: "fail", "delay", "duplicate"


class Event(Protocol):
    """Something to wait for: an event of anyio, asyncio or trio."""

    async def wait(self) -> object: ...


class every(Container[int]):  # noqa: N801 - reads as range() does
    """Every ``step``-th: 3, 6, 9, … for ``every(3)``."""

    def __init__(self, step: int) -> None:
        if step < 1:
            raise ValueError(f"every() takes a step of at least 1, got {step}")
        self._step = step

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and number % self._step == 0


class since(Container[int]):  # noqa: N801
    """That one, and all that come after it."""

    def __init__(self, first: int) -> None:
        self._first = first

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and number >= self._first


class chance(Container[int]):  # noqa: N801
    """Each with this probability; which ones is settled by the seed alone."""

    def __init__(self, probability: float, *, seed: int | str) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"a probability is between 0 and 1, got {probability}")
        self._probability = probability
        self._seed = seed

    def __contains__(self, number: object) -> bool:
        return random.Random(f"{self._seed} {number}").random() < self._probability


class _Fault(Struct, frozen=True):
    """One of the things that go wrong, and where."""

    name: str
    stage: int  # faults of one operation befall it in this order
    operation: str
    which: Container[int]
    strike: Callable[[Asked, Callable[[], Awaitable[Any]]], Awaitable[None]]

    def hits(self, operation: str, number: int, position: int) -> bool:
        if self.operation == "*":
            return position in self.which
        return self.operation == operation and number in self.which


# Stages: an operation that is delayed and fails is delayed first.
DELAYED, FAILED, DONE, REPEATED, ANSWERED_LATE, ANSWER_LOST = range(6)


class FaultyStore(WrappedStore):
    """Hands every operation on to ``store``, but for the faults that it was told of.

    Each of `fail`, `delay` and `duplicate` tells it of one more and returns the store itself.
    Numbers are counted for as long as this object lives, however often it is opened and closed.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.log: list[Asked] = []  # everything that it was asked for, in that order
        self._counts: dict[str, int] = {}
        self._faults: list[_Fault] = []
        self._watchers: list[tuple[Operation, int, anyio.Event]] = []

    def fail(
        self,
        operation: Operation,
        which: int | Container[int] = 1,
        *,
        error: Exception | type[Exception] | None = None,
        after: bool = False,
    ) -> Self:
        """Raise ``error`` (a class is given a message; by default an `InjectedFault`).

        Nothing was done then; with ``after``, it was done, and only the answer is lost.
        """

        async def strike(asked: Asked, work: Callable[[], Awaitable[Any]]) -> None:
            fault = InjectedFault(self.where, asked.operation, asked.number, after)
            if error is None:
                raise fault
            raise error(str(fault)) if isinstance(error, type) else error

        return self._add("fail", ANSWER_LOST if after else FAILED, operation, which, strike)

    def delay(
        self,
        operation: Operation,
        which: int | Container[int] = 1,
        *,
        until: Event | float,
        after: bool = False,
    ) -> Self:
        """Begin only when the event ``until`` is set, or so many seconds later.

        With ``after`` it is done at once, and answered then.
        """

        async def strike(asked: Asked, work: Callable[[], Awaitable[Any]]) -> None:
            if isinstance(until, int | float):
                await anyio.sleep(until)
            else:
                await until.wait()

        return self._add("delay", ANSWERED_LATE if after else DELAYED, operation, which, strike)

    def duplicate(self, operation: Operation, which: int | Container[int] = 1) -> Self:
        """Do it twice, as a network that delivers twice: the first answer is heard.

        Whatever the second comes to, nobody is told. What has failed is not repeated.
        """

        async def strike(asked: Asked, work: Callable[[], Awaitable[Any]]) -> None:
            with contextlib.suppress(Exception):
                await work()

        return self._add("duplicate", REPEATED, operation, which, strike)

    def heal(self) -> Self:
        """Forget all faults: from now on nothing goes wrong. It goes on counting."""
        self._faults.clear()
        return self

    def count(self, operation: Operation = "*") -> int:
        """How often it was asked for this."""
        return len(self.log) if operation == "*" else self._counts.get(operation, 0)

    async def asked(self, operation: Operation, number: int = 1) -> None:
        """Wait until it is asked for this for the ``number``-th time: it may not be done yet."""
        _check(operation)
        if self.count(operation) < number:
            event = anyio.Event()
            self._watchers.append((operation, number, event))
            await event.wait()

    async def perform(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        asked, faults = self._ask(operation)
        for fault in faults:
            if fault.stage < DONE:
                await fault.strike(asked, work)
        answer = await super().perform(operation, work)
        for fault in faults:
            if fault.stage > DONE:
                await fault.strike(asked, work)
        return answer

    def _ask(self, operation: str) -> tuple[Asked, list[_Fault]]:
        number = self._counts[operation] = self._counts.get(operation, 0) + 1
        position = len(self.log) + 1
        faults = [each for each in self._faults if each.hits(operation, number, position)]
        asked = Asked(operation, number, position, tuple(each.name for each in faults))
        self.log.append(asked)
        for watcher in list(self._watchers):
            name, awaited, event = watcher
            if self.count(name) >= awaited:
                event.set()
                self._watchers.remove(watcher)
        return asked, faults

    def _add(
        self,
        name: str,
        stage: int,
        operation: Operation,
        which: int | Container[int],
        strike: Callable[[Asked, Callable[[], Awaitable[Any]]], Awaitable[None]],
    ) -> Self:
        _check(operation)
        if isinstance(which, int):
            if which < 1:
                raise ValueError(f"operations are counted from 1, got {which}")
            which = (which,)
        self._faults.append(_Fault(name, stage, operation, which, strike))
        self._faults.sort(key=lambda each: each.stage)
        return self


def _check(operation: str) -> None:
    """A fault that can never happen would be a test that can never fail."""
    if operation not in get_args(Operation):
        raise ValueError(
            f"a store has no operation {operation!r}: {', '.join(get_args(Operation))}"
        )
