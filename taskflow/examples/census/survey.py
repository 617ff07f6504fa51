"""The census: a task that counts one file, and the workflow that adds up the counts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from anyio import BrokenWorkerProcess
from msgspec import Struct

from taskflow import CachePolicy, RetryPolicy, task, workflow
from taskflow.examples.census.counts import MOST, Count, Function, count_in
from taskflow.examples.census.sources import Source, Unreadable, digest_of, file_at

__all__ = ("Census", "Package", "Place", "count", "on_counted", "take_census")

# Part of the identity of a count: a file may parse in one Python and not in another.
GRAMMAR: Final = f"{sys.version_info.major}.{sys.version_info.minor}"

# Called when a file was counted, replayed or given up; shows the progress.
on_counted: ContextVar[Callable[[], None] | None] = ContextVar("on_counted", default=None)


class Package(Struct):
    """The counts of a folder directly under the counted one, with everything below it."""

    name: str  # "" for the files that are in no such folder
    files: int = 0
    unparsed: int = 0
    lines: int = 0
    classes: int = 0
    functions: int = 0
    branches: int = 0


class Place(Struct, frozen=True):
    """A function, and the file that holds it."""

    path: str
    function: Function


class Census(Struct, frozen=True):
    """The counts of a folder."""

    packages: list[Package]  # the largest first
    most_complex: list[Place]
    unreadable: list[Unreadable]


def shared_by(path: str, digest: str) -> str:
    """The cache key of a count: the same for the same content under any path."""
    return f"{GRAMMAR} {digest}"


@task(
    executor="process",
    version=GRAMMAR,
    cache=CachePolicy(key=shared_by),
    retry=RetryPolicy(max_attempts=3, retry_on=BrokenWorkerProcess),  # killed, perhaps for memory
)
def count(path: str, digest: str) -> Count:
    """Count a file. Raises OSError, which the cache does not keep, if it is gone or has changed."""
    content = file_at(path).read_bytes()
    if digest_of(content) != digest:
        raise OSError("it changed while the census ran")

    return count_in(content)


@workflow(name="census")
async def take_census(folder: str, sources: list[Source]) -> Census:
    """Count every file, as many at a time as the runtime allows, and add up the counts."""
    counts = await asyncio.gather(*(_count(folder, source) for source in sources))

    packages: dict[str, Package] = {}
    places: list[Place] = []
    unreadable: list[Unreadable] = []
    for source, counted in zip(sources, counts, strict=True):
        if isinstance(counted, Unreadable):
            unreadable.append(counted)
            continue
        parent, slash, _ = source.path.partition("/")
        name = parent if slash else ""
        _add(packages.setdefault(name, Package(name)), counted)
        places += [Place(source.path, function) for function in counted.most_complex]
    places.sort(key=lambda each: (-each.function.complexity, each.path, each.function.line))
    largest = sorted(packages.values(), key=lambda each: (-each.lines, each.name))
    return Census(largest, places[:MOST], unreadable)


async def _count(folder: str, source: Source) -> Count | Unreadable:
    counted: Count | Unreadable
    try:
        counted = await count(f"{folder}/{source.path}", source.digest)
    except OSError as error:
        counted = Unreadable(source.path, error.strerror or str(error))
    except BrokenWorkerProcess:
        counted = Unreadable(source.path, "its worker processes died")
    if (callback := on_counted.get()) is not None:
        callback()
    return counted


def _add(package: Package, counted: Count) -> None:
    package.files += 1
    package.unparsed += not counted.parses
    package.lines += counted.lines
    package.classes += counted.classes
    package.functions += counted.functions
    package.branches += counted.branches
