"""`task`: the decorator that makes a function's results durable, and the `Task` that it makes."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    overload,
)

from taskflow.calls.call import Call
from taskflow.calls.definitions import Definition, Options
from taskflow.calls.identities import identify
from taskflow.calls.maps import MapCall
from taskflow.calls.recorded import RecordedCall
from taskflow.errors import NotInRun
from taskflow.retry import RetryPolicy, seconds
from taskflow.runs.cache import CachePolicy
from taskflow.runs.frame import FRAME
from taskflow.stores.batches import Durability

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ("Task", "TaskOptions", "task")

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
X_contra = TypeVar("X_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
T_co = TypeVar("T_co", covariant=True)


class TaskOptions(TypedDict, total=False):
    """The options of `task`."""

    name: str  # default: the function's qualified name
    version: str | int  # a new one, and what the old one recorded is not used any more
    key: Callable[..., str]  # identity in place of the arguments
    retry: RetryPolicy | Sequence[RetryPolicy]
    timeout: float | timedelta  # seconds for one attempt
    cache: CachePolicy
    executor: Literal["thread", "process"]  # where a def executes; default: a worker thread
    durability: Durability  # in place of the run's


class Unary(Protocol[X_contra, T_co]):
    """A task that can be called with one positional argument."""

    def __call__(self, item: X_contra, /) -> Call[T_co]: ...


class Task(Definition[P, R_co, T_co], Generic[P, R_co, T_co]):
    """A task. Calling it makes a `Call`, which a run executes once and records."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[T_co]:
        """A call with these arguments. Raises NotInRun outside of a run."""
        frame = FRAME.get()
        if frame is None:
            raise NotInRun(self.name, f"{self.name}.fn")

        return RecordedCall(self, frame, args, kwargs, identify(self, frame, args, kwargs))

    @overload
    def __get__(self, instance: None, owner: type) -> Task[P, R_co, T_co]: ...
    @overload
    def __get__(
        self: Task[Concatenate[Any, Q], R_co, T_co], instance: object, owner: type
    ) -> Task[Q, R_co, T_co]: ...
    def __get__(self, instance: object, owner: type) -> Any:
        """The task of a method, bound to its instance, which is an argument like any other."""
        return self if instance is None else BoundTask(self, instance)

    def map(
        self: Unary[X_contra, T],
        items: Iterable[X_contra] | AsyncIterable[X_contra],
        *,
        concurrency: int | None = None,
    ) -> Call[list[T]]:
        """One call for each of ``items``; their results, in the order of the items.

        The cheapest way to fan out. At most ``concurrency`` bodies execute at the same time
        (default: as many as the runtime lets). The first failure stops the rest and is raised.
        """
        assert isinstance(self, Task)
        frame = FRAME.get()
        if frame is None:
            raise NotInRun(f"{self.name}.map")

        if isinstance(self, BoundTask):
            return MapCall(self.unbound, frame, (self.instance,), items, concurrency)
        return MapCall(self, frame, (), items, concurrency)


class BoundTask(Task[P, R_co, T_co]):
    """The task of a method, with the instance that it was taken from."""

    def __init__(self, task: Task[Any, R_co, T_co], instance: object) -> None:
        self.__dict__.update(task.__dict__)
        self.unbound = task
        self.instance = instance
        self.fn = functools.partial(task.fn, instance)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[T_co]:
        return self.unbound(self.instance, *args, **kwargs)


@overload
def task(
    fn: Callable[P, AsyncIterator[T]], /, **options: Unpack[TaskOptions]
) -> Task[P, AsyncIterator[T], list[T]]: ...
@overload
def task(
    fn: Callable[P, Coroutine[Any, Any, T]], /, **options: Unpack[TaskOptions]
) -> Task[P, Coroutine[Any, Any, T], T]: ...
@overload
def task(fn: Callable[P, T], /, **options: Unpack[TaskOptions]) -> Task[P, T, T]: ...
@overload
def task(**options: Unpack[TaskOptions]) -> Decorator: ...
def task(fn: Any = None, /, **options: Any) -> Any:
    """Make the results of a function durable; bare, with options, or as a plain call.

    ``async def`` executes on the event loop, an async generator too (its result is the list of its
    items), ``def`` in a worker thread or, with ``executor="process"``, in a worker process.
    """
    if fn is None:
        return functools.partial(task, **options)

    timeout = options.pop("timeout", None)
    if timeout is not None:
        timeout = seconds(timeout, "timeout")
    return Task(fn, Options(timeout=timeout, **options))


class Decorator(Protocol):
    """What ``task(**options)`` returns."""

    @overload
    def __call__(
        self, fn: Callable[P, AsyncIterator[T]], /
    ) -> Task[P, AsyncIterator[T], list[T]]: ...
    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Task[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Task[P, T, T]: ...
