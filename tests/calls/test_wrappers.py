"""What a decorator of taskflow may be put over, and what it refuses where it is written."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from kinds import MakeStore

from taskflow import Runtime, task, workflow
from taskflow.errors import SerializationError

Decorator = Callable[[Any], Any]
logger = logging.getLogger(__name__)


def as_def(fn: Any) -> Any:
    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def injects_first(fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        async with contextlib.AsyncExitStack() as session:
            return await fn(session, *args, **kwargs)

    return wrapper


def injects_by_name(fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, session="s", **kwargs)

    return wrapper


def injects_into_kwargs(fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        kwargs["session"] = "s"
        return await fn(*args, **kwargs)

    return wrapper


def injects_into_args(fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        args = ("s", *args)
        return await fn(*args, **kwargs)

    return wrapper


def injects_by_partial(fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await functools.partial(fn, "s")(*args, **kwargs)

    return wrapper


def names_the_rest(fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(order: int) -> Any:
        return await fn("s", order)

    return wrapper


def passes_on(fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        logger.debug("called with %s", args, extra=dict(kwargs))
        return await fn(*args, **kwargs)

    return wrapper


def names_the_first(fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(first: Any, *rest: Any, **kwargs: Any) -> Any:
        return await fn(first, *rest, **kwargs)

    return wrapper


def fills_a_default(fn: Any) -> Any:
    @functools.wraps(fn)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **{"loud": True, **kwargs})

    return wrapper


def with_its_signature(fn: Any) -> Any:
    wrapper = injects_first(fn)
    shown = inspect.signature(fn)
    parameters = list(shown.parameters.values())[1:]
    wrapper.__signature__ = shown.replace(parameters=parameters)
    return wrapper


async def load(session: Any, order: int) -> int:
    return order


@pytest.mark.parametrize("decorator", [task, workflow])
@pytest.mark.parametrize(
    "wrapping", [as_def, functools.lru_cache, lambda fn: functools.partial(as_def(fn), 1)]
)
def test_a_def_around_an_async_def_is_refused(decorator: Any, wrapping: Decorator) -> None:
    """Its result would be a coroutine."""
    with pytest.raises(TypeError, match=r"load is async, and .* is a def"):
        decorator(wrapping(load))


@pytest.mark.parametrize("decorator", [task, workflow])
@pytest.mark.parametrize(
    "wrapping",
    [
        injects_first,
        injects_by_name,
        injects_into_kwargs,
        injects_into_args,
        injects_by_partial,
        names_the_rest,
        lambda fn: passes_on(injects_first(fn)),
    ],
)
def test_a_wrapper_that_injects_an_argument_is_refused(decorator: Any, wrapping: Decorator) -> None:
    """The signature that it shows is not the one it is called with."""
    with pytest.raises(TypeError, match=r"load shows the signature .*\(session\)"):
        decorator(wrapping(load))


@pytest.mark.parametrize("decorator", [task, workflow])
@pytest.mark.parametrize("kind", [staticmethod, classmethod, property])
def test_a_descriptor_is_refused(decorator: Any, kind: Any) -> None:
    """With the order in which to write both."""
    with pytest.raises(TypeError, match=f"load is a {kind.__name__}"):
        decorator(kind(load))


@pytest.mark.parametrize(
    "wrapping", [passes_on, names_the_first, fills_a_default, with_its_signature]
)
async def test_an_honest_wrapper_is_executed(runtime: Runtime, wrapping: Decorator) -> None:
    """And its calls are told apart by their arguments."""

    async def double(order: int, loud: bool = False) -> int:
        return 2 * order

    async def load(session: Any, order: int) -> int:
        return 2 * order

    wrapped = task(wrapping(load if wrapping is with_its_signature else double))

    @workflow
    async def shop() -> list[int]:
        return [await wrapped(1), await wrapped(2)]

    assert await runtime.run(shop(), thread_id="a") == [2, 4]


async def test_a_static_method_below_its_descriptor_is_a_task(runtime: Runtime) -> None:
    """The order that the error advises."""

    class Shop:
        @staticmethod
        @task
        async def double(number: int) -> int:
            return 2 * number

    @workflow
    async def shop() -> int:
        return await Shop().double(2)

    assert await runtime.run(shop(), thread_id="a") == 4


async def test_a_def_that_returns_a_coroutine_is_told_so(runtime: Runtime) -> None:
    """Where no wraps() shows it: when its result is to be recorded."""

    @task
    def load() -> Any:
        return asyncio.sleep(0)

    @workflow
    async def shop() -> None:
        await load()

    with pytest.raises(SerializationError, match=r"nothing has awaited it"):
        await runtime.run(shop(), thread_id="a")


def test_an_error_of_an_annotation_names_the_parameter() -> None:
    """The arguments of a workflow are annotated one by one."""

    @workflow
    async def shop(order: int, clerk: type) -> None: ...

    with pytest.raises(SerializationError, match=r"the parameter clerk of shop\(\) is annotated"):
        shop(1, int)


@dataclasses.dataclass(slots=True)
class Shop:
    city: str

    @task
    async def stock(self, item: str) -> int:
        return len(self.city) + len(item)

    @workflow
    async def order(self, item: str, *, many: int = 1) -> int:
        """A method that is a workflow."""
        return await self.stock(item) * many

    @workflow
    async def all(self) -> list[int]:
        return [await self.order("pen"), await self.order("pen", many=2)]


class Depot(msgspec.Struct):
    city: str

    @workflow
    async def name(self) -> str:
        return self.city


async def test_a_method_is_a_workflow(runtime: Runtime) -> None:
    """Its object is part of the input: another object is another run."""
    assert await runtime.run(Shop("Rome").order("pen", many=2), thread_id="a") == 14
    assert await runtime.run(Shop("Rome").order("pen", many=2), thread_id="a") == 14
    assert await runtime.run(Shop("Pisa!").order("pen"), thread_id="a") == 8
    assert await runtime.run(Shop("Rome").all(), thread_id="b") == [7, 14]
    assert await runtime.run(Depot("Rome").name(), thread_id="c") == "Rome"


async def test_a_method_is_continued_from_its_recorded_object(
    make_store: MakeStore, anyio_backend: object
) -> None:
    """As after a crash, by a process that has the class alone."""
    fails = [True]

    @dataclasses.dataclass
    class Mill:
        city: str

        @workflow(name="mill")
        async def grind(self) -> str:
            if fails.pop():
                raise OSError
            return self.city

    async with Runtime(make_store()) as runtime:
        with pytest.raises(OSError):
            await runtime.run(Mill("Rome").grind(), thread_id="a")
    fails.append(False)
    async with Runtime(make_store(), workflows=[Mill("Pisa").grind]) as runtime:
        assert await runtime.resume("a") == "Rome"


def test_a_method_of_what_cannot_be_recorded_is_refused() -> None:
    """And says what would do."""

    class Office:
        @workflow
        async def open(self) -> None: ...

    with pytest.raises(SerializationError, match=r"is a method, and the object .* a dataclass"):
        Office().open()
