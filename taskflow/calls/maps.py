"""`MapCall`: one call for each of many items, in a pool that is cheaper than a child for each.

Only this module decides which items execute at the same time, and which of several failures a map
raises.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Sized
from itertools import chain
from typing import Any, Final, TypeAlias, TypeVar

import anyio

from taskflow.calls.call import Call, check_same_run
from taskflow.calls.definitions import Definition
from taskflow.calls.identities import Identity, identify
from taskflow.calls.recorded import RecordedCall
from taskflow.loops.cancellation import Group
from taskflow.loops.promises import Latch
from taskflow.runs.frame import Frame
from taskflow.runs.run import Run
from taskflow.stores.kinds import RESULT
from taskflow.wire import failures

__all__ = ("MapCall",)

T = TypeVar("T")

# Results that wait for their commit while further items execute: what a batch or two hold.
MAX_UNCOMMITTED: Final = 1024
# Items that are looked at beyond those that are held for ever.
MAX_HELD: Final = 10_000
NO_KEYWORDS: Final[dict[str, Any]] = {}

Named: TypeAlias = tuple[tuple[Any, ...], Identity]  # the arguments of a call, and its identity


class MapCall(Call[list[T]]):
    """The call that ``task.map(items)`` makes: a list of results, in the order of the items.

    It is not recorded itself; the call of each item is. ``prefix`` is what each of these is passed
    before its item: the object that a method was taken from.
    """

    __slots__ = ("_concurrency", "_definition", "_items", "_prefix")

    def __init__(
        self,
        definition: Definition[..., Any, T],
        frame: Frame[Run],
        prefix: tuple[Any, ...],
        items: Iterable[Any] | AsyncIterable[Any],
        concurrency: int | None,
    ) -> None:
        if not isinstance(items, Iterable | AsyncIterable):
            raise TypeError(f"{definition.name}.map() takes an iterable, got {items!r}")
        if concurrency is not None and concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {concurrency}")
        self.frame: Frame[Run] = frame
        self.id = f"{definition.name}.map"
        self._definition = definition
        self._prefix = prefix
        self._items = items
        self._concurrency = concurrency
        self._steps = None

    def _execute(self) -> Generator[Any, Any, list[T]]:
        return self._map().__await__()

    async def _map(self) -> list[T]:
        frame = self.frame
        run = frame.run
        check_same_run(self)
        await run.activity.check_open(frame)
        items = self._items
        named: Iterator[Named] | AsyncIterator[Named]
        if isinstance(items, AsyncIterable):
            named = self._name_as_they_come(items)
        elif failed := run.recorded.failed_calls(self._definition.name):
            # Which of several failures came first was a matter of time, and a rerun is to meet
            # that one, executing nothing: so the items up to the last of them are looked at first.
            left = iter(items)
            listed: list[Named] = []
            sought = set(failed)
            for item in left:
                listed.append(self._name(item))
                sought.discard(listed[-1][1][0])
                if not sought and not isinstance(items, Sized):
                    break
            self._raise_first_failure(listed, failed)
            named = chain(listed, map(self._name, left))
        else:
            named = map(self._name, items)
        frame.enter_call()
        pool = _Pool(self._definition, named, frame, self._concurrency or run.scheduler.width)
        try:
            results = await pool.execute()
        except BaseException as error:
            if isinstance(items, Sized) and isinstance(named, Iterator) and not run.unwinding:
                # Equal calls that come later count these, however far the pool has got.
                for _, identity in named:
                    run.recorded.recall(identity[0], frame.keeps)
            await frame.leave_call(error)
            raise
        await frame.leave_call()
        return results

    def _name(self, item: Any) -> Named:
        args = (*self._prefix, item)
        return args, identify(self._definition, self.frame, args, NO_KEYWORDS)

    async def _name_as_they_come(self, items: AsyncIterable[Any]) -> AsyncIterator[Named]:
        async for item in items:
            yield self._name(item)

    def _raise_first_failure(self, named: list[Named], failed: dict[str, int]) -> None:
        again = (
            (failed[identity[0]], args, identity)
            for args, identity in named
            if identity[0] in failed
        )
        first = min(again, key=lambda each: each[0], default=None)
        if first is None:
            return
        _, args, identity = first
        call = RecordedCall(self._definition, self.frame, args, NO_KEYWORDS, identity)
        recorded = call.recall()
        assert recorded is not None
        for _, other in named:
            self.frame.run.recorded.recall(other[0], self.frame.keeps)
        try:
            call.replay(recorded)
        except Exception as error:
            failures.extend_mark(error, [other[0] for _, other in named if other[0] in failed])
            raise


class _Pool:
    """Children that pull items from one iterator; results are collected by position.

    The pool is also the `Tally` of the commits: a result is not seen before all are there, so no
    child waits for the commit of its own.
    """

    def __init__(
        self,
        definition: Definition[..., Any, Any],
        named: Iterator[Named] | AsyncIterator[Named],
        frame: Frame[Run],
        concurrency: int,
    ) -> None:
        self.owed = 0  # results that are not committed yet
        # All failures that were recorded here. The map fails with one of them, so a run that fails
        # by it is un-recorded of all, and its rerun executes all of them again.
        self.failed: list[str] = []
        self._definition = definition
        self._named = named
        self._frame = frame
        self._concurrency = concurrency
        self._children = 0
        self._results: list[Any] = []
        self._pulling = anyio.Lock()
        self._settled: Latch | None = None
        self._failure: BaseException | None = None
        self._group: Group | None = None
        self._sought: set[str] | None = None

    async def execute(self) -> list[Any]:
        async with self._frame.run.scheduler.loop.group() as self._group:
            self._start_child()
        while self.owed and self._failure is None:
            await self._wait_for_commits()
        if self._failure is not None:
            failures.extend_mark(self._failure, self.failed)
            raise self._failure
        return self._results

    def set_result(self, result: None, /) -> None:
        self.owed -= 1
        if self._settled is not None and self.owed <= MAX_UNCOMMITTED // 2:
            self._settle()

    def set_exception(self, exception: BaseException, /) -> None:
        self._frame.run.activity.break_off(exception)
        self._fail(exception)
        self._settle()

    def done(self) -> bool:
        return False

    def __await__(self) -> Generator[Any, Any, None]:
        raise NotImplementedError("the pool itself waits")

    def _settle(self) -> None:
        if self._settled is not None and not self._settled.done():
            self._settled.set_result()

    async def _wait_for_commits(self) -> None:
        if self._settled is None or self._settled.done():
            self._settled = Latch()
        await self._settled.wait()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            if self._group is not None:
                self._group.cancel()

    def _start_child(self) -> None:
        assert self._group is not None
        self._children += 1
        self._group.start(self._work)

    async def _work(self) -> None:
        host = self._frame.run.scheduler.loop.host()
        results = self._results
        try:
            if isinstance(self._named, Iterator):
                for args, identity in self._named:
                    position = len(results)
                    results.append(None)
                    if not self._was_recorded(position, args, identity):
                        await self._execute(position, args, identity, host)
                    if self._failure is not None:
                        return
            else:
                while (pulled := await self._pull(self._named)) is not None:
                    if not self._was_recorded(*pulled):
                        await self._execute(*pulled, host)
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, Exception):
                raise

    async def _pull(
        self, named: AsyncIterator[Named]
    ) -> tuple[int, tuple[Any, ...], Identity] | None:
        async with self._pulling:
            try:
                args, identity = await anext(named)
            except StopAsyncIteration:
                return None
            self._results.append(None)
            return len(self._results) - 1, args, identity

    def _was_recorded(self, position: int, args: tuple[Any, ...], identity: Identity) -> bool:
        frame = self._frame
        run = frame.run
        if not (run.recorded.unasked or frame.keeps) or not run.activity.is_open:
            return False
        recorded = run.recorded.recall(identity[0], frame.keeps)
        if recorded is None:
            return False
        if self._sought:
            self._sought.discard(identity[0])
        if recorded.kind == RESULT:
            self._results[position] = run.read(self._definition.codec, recorded.payload)
        else:
            RecordedCall(self._definition, frame, args, NO_KEYWORDS, identity).replay(recorded)
        return True

    async def _execute(
        self, position: int, args: tuple[Any, ...], identity: Identity, host: Any
    ) -> None:
        if self._children < self._concurrency or self._looks_ahead():
            self._start_child()
        call = RecordedCall(self._definition, self._frame, args, NO_KEYWORDS, identity)
        self._results[position] = await call.execute_for(self, host)
        if self.owed > MAX_UNCOMMITTED:
            await self._wait_for_commits()

    def _looks_ahead(self) -> bool:
        """Whether calls held behind a closed gate keep recorded ones from being asked for."""
        run = self._frame.run
        gate = run.activity.gate
        if gate is None or gate.opens or self._children >= MAX_HELD:
            return False
        if self._sought is None:
            name, parent_id = self._definition.name, self._frame.call_id
            rows = (row for row in run.recorded.unasked.values() if row.parent_id == parent_id)
            self._sought = {row.task_id for row in rows if row.task_id.startswith(f"{name}:")}
        return bool(self._sought)
