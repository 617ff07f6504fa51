"""A store that fails, delays or repeats chosen operations, to see what becomes of a run.

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
        # The first commit claims the run, the second records the receipt. The second one is done,
        # but its answer is lost: the caller is told that it has failed.
        store = FaultyStore(MemoryStore()).fail("commit", 2, after=True)
        async with Runtime(store) as runtime:
            with pytest.raises(StoreError):
                await runtime.run(fulfil("A1"), thread_id="order-A1")
            assert await runtime.run(fulfil("A1"), thread_id="order-A1") == "receipt for A1"
        assert charged == ["A1"]

    anyio.run(main)

An operation is chosen by its number, counted from 1 among those of its name (among all, for
``"*"``), or by a container of numbers: ``{2, 5}``, ``range(3, 6)``, `every`, `since`, `chance`.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable, Container
from enum import IntEnum
from typing import Any, Literal, Protocol, Self, TypeAlias, TypeVar, get_args

import anyio
from msgspec import Struct

from taskflow.errors import StoreError
from taskflow.stores.base import Store
from taskflow.testing.doubles.wrapped import WrappedStore

__all__ = ("Asked", "FaultyStore", "InjectedFault", "Operation", "chance", "every", "since")

T = TypeVar("T")

Work: TypeAlias = Callable[[], Awaitable[Any]]

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
    "epochs",
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
    """One call of an operation of a `FaultyStore`."""

    operation: str
    number: int  # from 1, among those of its name
    position: int  # from 1, among all
    faults: tuple[str, ...] = ()  # what befell it: "fail", "delay", "duplicate"


class Event(Protocol):
    """Something to wait for: an event of anyio, asyncio or trio."""

    async def wait(self) -> object: ...


class _Numbers(Container[int]):
    """The numbers for which ``holds`` is true."""

    def __init__(self, holds: Callable[[int], bool]) -> None:
        self._holds = holds

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self._holds(number)


def every(step: int) -> Container[int]:
    """Every ``step``-th: 3, 6, 9, … for ``every(3)``."""
    if step < 1:
        raise ValueError(f"every() takes a step of at least 1, got {step}")

    return _Numbers(lambda number: number % step == 0)


def since(first: int) -> Container[int]:
    """That one, and all that come after it."""
    return _Numbers(lambda number: number >= first)


def chance(probability: float, *, seed: int | str) -> Container[int]:
    """Each number with this probability; the seed alone decides which ones."""
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability is between 0 and 1, got {probability}")

    return _Numbers(lambda number: random.Random(f"{seed} {number}").random() < probability)


class Stage(IntEnum):
    """The order of an operation's faults: one that is delayed and fails is delayed first."""

    DELAYED = 0
    FAILED = 1
    DONE = 2
    REPEATED = 3
    ANSWERED_LATE = 4
    ANSWER_LOST = 5


class _Fault(Struct, frozen=True):
    """One kind of fault, and the operations that it befalls."""

    name: str
    stage: Stage
    operation: str
    which: Container[int]
    strike: Callable[[Asked, Work], Awaitable[None]]

    def hits(self, operation: str, number: int, position: int) -> bool:
        if self.operation == "*":
            return position in self.which
        return self.operation == operation and number in self.which


class FaultyStore(WrappedStore):
    """Hands every operation on to ``store``, but for the faults that were added.

    Each of `fail`, `delay` and `duplicate` adds one and returns the store itself. Operations are
    counted for as long as this object lives, however often it is opened and closed.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.log: list[Asked] = []  # every operation, in the order of the calls
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

        async def strike(asked: Asked, work: Work) -> None:
            fault = InjectedFault(self.where, asked.operation, asked.number, after)
            if error is None:
                raise fault
            raise error(str(fault)) if isinstance(error, type) else error

        stage = Stage.ANSWER_LOST if after else Stage.FAILED
        return self._add("fail", stage, operation, which, strike)

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

        async def strike(asked: Asked, work: Work) -> None:
            if isinstance(until, int | float):
                await anyio.sleep(until)
            else:
                await until.wait()

        stage = Stage.ANSWERED_LATE if after else Stage.DELAYED
        return self._add("delay", stage, operation, which, strike)

    def duplicate(self, operation: Operation, which: int | Container[int] = 1) -> Self:
        """Do it twice, as a network that delivers twice, and return the first answer.

        An error of the second is dropped. An operation that has failed is not repeated.
        """

        async def strike(asked: Asked, work: Work) -> None:
            with contextlib.suppress(Exception):
                await work()

        return self._add("duplicate", Stage.REPEATED, operation, which, strike)

    def heal(self) -> Self:
        """Drop all faults. Operations are counted on."""
        self._faults.clear()
        return self

    def count(self, operation: Operation = "*") -> int:
        """The number of calls of this operation."""
        return len(self.log) if operation == "*" else self._counts.get(operation, 0)

    async def asked(self, operation: Operation, number: int = 1) -> None:
        """Wait for the ``number``-th call of this operation, which may not be done yet."""
        _check(operation)
        if self.count(operation) < number:
            event = anyio.Event()
            self._watchers.append((operation, number, event))
            await event.wait()

    async def perform(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        asked, faults = self._ask(operation)
        for fault in faults:
            if fault.stage < Stage.DONE:
                await fault.strike(asked, work)
        answer = await super().perform(operation, work)
        for fault in faults:
            if fault.stage > Stage.DONE:
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
        stage: Stage,
        operation: Operation,
        which: int | Container[int],
        strike: Callable[[Asked, Work], Awaitable[None]],
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
