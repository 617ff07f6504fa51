"""Never run, only read by the type checkers: what is inferred, and what is refused."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, assert_type

from taskflow import (
    CachePolicy,
    Call,
    RetryPolicy,
    RunHandle,
    Runtime,
    WorkflowCall,
    previous,
    task,
    workflow,
)


@task
async def fetch(url: str) -> bytes:
    return url.encode()


@task
async def fetch_at_most(url: str, limit: int = 10, *, follow: bool = False) -> bytes:
    return url.encode()[:limit]


@task
async def lines(url: str) -> AsyncIterator[str]:
    yield url


@task
def parse(page: bytes) -> dict[str, int]:
    return {page.decode(): 1}


def by_length(pages: list[bytes]) -> str:
    return str(len(pages))


def by_url(client: Client, url: str, data: bytes) -> str:
    return url


@task(
    name="summary",
    version=2,
    key=by_length,
    retry=[RetryPolicy(max_attempts=3), RetryPolicy(retry_on=(OSError, KeyError))],
    timeout=timedelta(seconds=3),
    cache=CachePolicy(ttl=60),
    durability="async",
)
async def summarize(pages: list[bytes]) -> str:
    return str(pages)


@task(executor="process")
def count(page: bytes) -> int:
    return len(page)


@task(timeout=30)
async def words(text: str) -> AsyncIterator[str]:
    yield text


class Client:
    @task
    async def get(self, url: str) -> bytes:
        return url.encode()

    @task(key=by_url)
    def post(self, url: str, data: bytes) -> int:
        return len(data)


class Doubler:
    def __call__(self, number: int) -> int:
        return number * 2


def _plain(one: int, other: str) -> float:
    return one + len(other)


plain = task(_plain, name="plain")
partial = task(functools.partial(_plain, 1))
doubler = task(Doubler(), name="doubler")


@workflow
async def digest(urls: list[str], limit: int = 3) -> str:
    pages = await fetch.map(urls, concurrency=4)
    assert_type(pages, list[bytes])
    return await summarize(pages)


@workflow(retry=RetryPolicy(), version="2")
async def count_all(urls: list[str]) -> int:
    return len(urls)


@workflow
def in_thread(url: str) -> int:
    return count(fetch(url).result()).result()


async def what_is_inferred(client: Client, runtime: Runtime) -> None:
    assert_type(fetch("a"), Call[bytes])
    assert_type(await fetch("a"), bytes)
    assert_type(fetch("a").result(), bytes)
    assert_type(fetch("a").id, str)
    assert_type(await fetch_at_most("a", 3, follow=True), bytes)
    assert_type(await lines("a"), list[str])
    assert_type(await words("a"), list[str])
    assert_type(await parse(b"a"), dict[str, int])
    assert_type(await summarize([b"a"]), str)
    assert_type(await count(b"a"), int)
    assert_type(await plain(1, "a"), float)
    assert_type(await partial("a"), float)
    assert_type(await doubler(1), int)

    assert_type(await client.get("a"), bytes)
    assert_type(await client.post("a", data=b""), int)
    assert_type(await client.get.map(["a"]), list[bytes])
    assert_type(await fetch.fn("a"), bytes)
    assert_type(parse.fn(b"a"), dict[str, int])

    assert_type(await fetch.map(["a"]), list[bytes])
    assert_type(await fetch.map(what_comes(), concurrency=3), list[bytes])
    assert_type(await lines.map(["a"]), list[list[str]])

    both = await asyncio.gather(fetch("a"), parse(b"a"))
    assert_type(both, tuple[bytes, dict[str, int]])
    assert_type(await asyncio.create_task(fetch("a")), bytes)
    assert_type(await asyncio.wait_for(count(b""), 1), int)

    assert_type(digest(["a"]), WorkflowCall[str])
    assert_type(await digest(["a"], limit=2), str)
    assert_type(await runtime.run(digest(["a"]), thread_id="t", wait=True), str)
    assert_type(await runtime.run(count_all(["a"]), thread_id="t", run_id="m1"), int)
    assert_type(await runtime.run(in_thread("a"), thread_id="t"), int)
    handle = await runtime.start(digest(["a"]), thread_id="t", supersede=True)
    assert_type(handle, RunHandle[str])
    assert_type(await handle.result(), str)
    assert_type(previous(list[str]), list[str] | None)
    assert_type(await runtime.resume("t"), Any)


async def what_comes() -> AsyncIterator[str]:
    yield "a"


async def what_is_refused(client: Client, runtime: Runtime) -> None:
    await fetch(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await fetch()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fetch("a", "b")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fetch(uri="a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fetch_at_most("a", "3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await lines(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await parse("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await summarize(["a"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await count("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await plain("a", "b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    # mypy gives up on what is left of a partial's parameters.
    await partial(1)  # pyright: ignore[reportArgumentType]
    await doubler("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    await client.get(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.get("a", "b")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await client.post("a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    await fetch.map([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await fetch.map(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.get.map([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await plain.map([1])  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

    digest(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    digest(["a"], limit="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await runtime.run(digest, thread_id="t")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await runtime.run(fetch("a"), thread_id="t")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await runtime.run(digest(["a"]))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    task(fetch.fn, timeot=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    task(fetch.fn, executor="fork")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    RetryPolicy(max_attempt=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    wrong: int = await fetch("a")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del wrong
