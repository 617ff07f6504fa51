"""`Task.map`: one call for each of many items, in a pool that is cheaper than a child for each."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Sized
from typing import Any, Final, TypeVar

import anyio
from anyio.abc import TaskGroup

from taskflow.calls import Call, RecordedCall
from taskflow.definitions import Definition
from taskflow.loops import Latch
from taskflow.records import ERROR
from taskflow.runs import Frame

__all__ = ("MapCall",)

T = TypeVar("T")

# Results that wait for their commit while further items execute: what a batch or two hold.
MAX_UNCOMMITTED: Final = 1024


class MapCall(Call[list[T]]):
    """The call that ``task.map(items)`` makes: a list of results, in the order of the items.

    It is not recorded itself; the call of each item is.
    """

    __slots__ = ("_concurrency", "_definition", "_items")

    def __init__(
        self,
        definition: Definition[..., Any, T],
        frame: Frame,
        items: Iterable[Any] | AsyncIterable[Any],
        concurrency: int | None,
    ) -> None:
        if not isinstance(items, Iterable | AsyncIterable):
            raise TypeError(f"{definition.name}.map() takes an iterable, got {items!r}")
        if concurrency is not None and concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {concurrency}")
        self.frame: Frame = frame
        self.id = f"{definition.name}.map"
        self._definition = definition
        self._items = items
        self._concurrency = concurrency
        self._steps = None

    def _execute(self) -> Generator[Any, Any, list[T]]:
        return self._map().__await__()

    async def _map(self) -> list[T]:
        frame = self.frame
        run = frame.run
        await run.check_open(frame)
        # Where all items can be looked at first, so are they: which of several failures came first
        # was a matter of time, and a rerun is to meet that one, executing nothing.
        items = self._items
        failed = run.failed_calls(self._definition.name) if isinstance(items, Sized) else {}
        calls: Iterator[RecordedCall[T]] | AsyncIterator[RecordedCall[T]]
        if isinstance(items, AsyncIterable):
            calls = self._calls_as_they_come(items)
        elif failed:
            made = [self._call(item) for item in items]
            self._raise_first_failure(made, failed)
            calls = iter(made)
        else:
            calls = map(self._call, items)
        frame.enter_call()
        pool = _Pool(calls, frame, self._concurrency or run.scheduler.width)
        try:
            results = await pool.execute()
        except BaseException as error:
            if isinstance(items, Sized) and isinstance(calls, Iterator) and not run.unwinding:
                # Equal calls that come later count these, however far the pool has got.
                for call in calls:
                    call.settle()
            if isinstance(error, Exception):
                await frame.leave_call()
            else:
                frame.in_flight -= 1
            raise
        await frame.leave_call()
        return results

    def _call(self, item: Any) -> RecordedCall[T]:
        return RecordedCall(self._definition, self.frame, (item,), {})

    async def _calls_as_they_come(
        self, items: AsyncIterable[Any]
    ) -> AsyncIterator[RecordedCall[T]]:
        async for item in items:
            yield self._call(item)

    def _raise_first_failure(
        self, calls: list[RecordedCall[T]], failed: dict[str, int]
    ) -> None:
        again = (call for call in calls if call.id in failed)
        first = min(again, key=lambda call: failed[call.id], default=None)
        if first is None:
            return
        run = self.frame.run
        recorded = first.recall()
        assert recorded is not None
        for call in calls:
            call.settle()
        first.replay(recorded)


class _Pool:
    """Children that pull calls from one iterator; results are collected by position.

    It is also the promise that is kept, once for each result, when that is committed: nobody sees
    a result before all are there, so nobody has to wait for one.
    """

    def __init__(
        self,
        calls: Iterator[RecordedCall[Any]] | AsyncIterator[RecordedCall[Any]],
        frame: Frame,
        concurrency: int,
    ) -> None:
        self.owed = 0  # results that are not committed yet
        self._calls = calls
        self._frame = frame
        self._concurrency = concurrency
        self._children = 0
        self._results: list[Any] = []
        self._pulling = anyio.Lock()
        self._settled: Latch | None = None
        self._failure: BaseException | None = None
        self._group: TaskGroup | None = None

    async def execute(self) -> list[Any]:
        async with anyio.create_task_group() as self._group:
            self._start_child()
        while self.owed and self._failure is None:
            await self._wait_for_commits()
        if self._failure is not None:
            raise self._failure
        return self._results

    def set_result(self, result: None, /) -> None:
        self.owed -= 1
        if self._settled is not None and self.owed <= MAX_UNCOMMITTED // 2:
            self._settle()

    def set_exception(self, exception: BaseException, /) -> None:
        self._frame.run.break_off(exception)
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
                self._group.cancel_scope.cancel()

    def _start_child(self) -> None:
        assert self._group is not None
        self._children += 1
        self._group.start_soon(self._work)

    async def _work(self) -> None:
        host = self._frame.run.scheduler.loop.host()
        try:
            if isinstance(self._calls, Iterator):
                for call in self._calls:
                    await self._execute(call, host)
                    if self._failure is not None:
                        return
            else:
                while (pulled := await self._pull()) is not None:
                    position, call = pulled
                    await self._execute(call, host, position)
        except Exception as error:
            self._fail(error)

    async def _pull(self) -> tuple[int, RecordedCall[Any]] | None:
        async with self._pulling:
            try:
                call = await anext(self._calls)  # type: ignore[arg-type]
            except StopAsyncIteration:
                return None
            self._results.append(None)
            return len(self._results) - 1, call

    async def _execute(
        self, call: RecordedCall[Any], host: Any, position: int | None = None
    ) -> None:
        results = self._results
        if position is None:
            position = len(results)
            results.append(None)
        recorded = call.recall()
        if recorded is not None:
            results[position] = call.replay(recorded)
            return
        if self._children < self._concurrency:
            self._start_child()
        results[position] = await call.execute_for(self, host)
        if self.owed > MAX_UNCOMMITTED:
            await self._wait_for_commits()
