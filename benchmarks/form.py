"""The forms in which a program awaits many calls."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Literal, TypeVar

import anyio

__all__ = ("Form", "awaited")

Form = Literal["chain", "gather", "group", "map"]
"""One by one, `asyncio.gather`, an anyio task group, a pool of children over an iterator."""

T = TypeVar("T")


async def awaited(
    form: Form, call: Callable[[int], Awaitable[T]], items: Sequence[int], *, width: int
) -> list[T]:
    """The result of ``call`` for each item, in order, awaited in this form.

    ``width`` is the number of children of the pool; the other forms do not use it.
    """
    match form:
        case "chain":
            return [await call(item) for item in items]
        case "gather":
            return await asyncio.gather(*[call(item) for item in items])
        case "group":
            return await in_group(call, items)
        case "map":
            return await in_pool(call, items, width)


async def in_group(call: Callable[[int], Awaitable[T]], items: Sequence[int]) -> list[T]:
    results: dict[int, T] = {}

    async def keep(item: int) -> None:
        results[item] = await call(item)

    async with anyio.create_task_group() as group:
        for item in items:
            group.start_soon(keep, item)

    return [results[item] for item in items]


async def in_pool(call: Callable[[int], Awaitable[T]], items: Sequence[int], width: int) -> list[T]:
    results: dict[int, T] = {}

    async def work(remaining: Iterator[int]) -> None:
        for item in remaining:
            results[item] = await call(item)

    remaining = iter(items)
    await asyncio.gather(*[work(remaining) for _ in range(min(width, len(items)))])
    return [results[item] for item in items]
