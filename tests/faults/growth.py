"""A program that does one thing very often, and prints by how much its memory has grown.

``python growth.py FOLDER SCENARIO WARM_UP SIZE``: prints JSON with ``done``, which counts what was
done, and ``grown``, the peak of the process's memory less what it was after the warm-up, in MiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import resource
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from taskflow import (
    RetryPolicy,
    RunCancelled,
    Runtime,
    SQLiteStore,
    emit,
    receive,
    sleep,
    task,
    workflow,
)

PAGE = 8192  # characters of a value that is not small
CHUNK = 1000  # calls in flight at a time, where the program decides
MIB = 1024 * 1024
STATUS = Path("/proc/self/status")


@task
async def small(number: int) -> int:
    return number


@task(durability="exit")
async def page(number: int) -> str:
    return str(number).ljust(PAGE, ".")


@task
async def failing(number: int) -> int:
    raise ValueError(f"number {number} is none that we like")


@task(retry=RetryPolicy(max_attempts=1_000_000, initial_interval=0.0))
async def stubborn(attempts: int) -> int:
    tried.append(None)
    if len(tried) % attempts:
        raise ConnectionError("not yet")
    return attempts


tried: list[None] = []


@workflow
async def mapped(size: int) -> int:
    return len(await small.map(range(size), concurrency=16))


@workflow
async def mapped_and_doomed(size: int) -> int:
    count = len(await small.map(range(size), concurrency=16))
    if settings["doomed"]:
        raise ConnectionError("after all of them")
    return count


settings = {"doomed": False}


@workflow
async def mapped_twice(size: int) -> int:
    first = await small.map(range(size // 2), concurrency=16)
    del first
    return size // 2 + len(await small.map(range(size // 2), concurrency=16))


@workflow
async def gathered(size: int) -> int:
    count = 0
    for start in range(0, size, CHUNK):
        count += len(await asyncio.gather(*map(small, range(start, min(size, start + CHUNK)))))
    return count


@workflow
async def one_by_one(size: int) -> int:
    for number in range(size):
        await small(number)
    return size


@workflow
async def the_same(size: int) -> int:
    for _ in range(size):
        await small(0)
    return size


@workflow
async def one(number: int) -> int:
    return await small(number)


@workflow
async def doomed(number: int) -> int:
    return await failing(number)


@workflow
async def handled(size: int) -> int:
    count = 0
    for number in range(size):
        try:
            await failing(number)
        except ValueError:
            count += 1
    return count


@workflow
async def retried(size: int) -> int:
    return await stubborn(size)


@workflow
async def paged(size: int) -> int:
    for number in range(size):
        await page(number)
    return size


@workflow
async def chatty(size: int) -> int:
    for number in range(size):
        await emit(str(number).ljust(PAGE, "."))
    return size


@workflow
async def listening(size: int) -> int:
    return len([await receive("number", int) for _ in range(size)])


@workflow
async def asking(size: int) -> int:
    """Each answer has a day's time, and comes at once."""
    for number in range(size):
        asked.set()
        await receive("answer", int, prompt=number, timeout=86400)
    return size


asked = asyncio.Event()


@workflow
async def napping(size: int) -> int:
    for start in range(0, size, CHUNK):
        await asyncio.gather(*(sleep(0.001 + n / 1e9) for n in range(start, start + CHUNK)))
    return size


@workflow
async def waiting() -> None:
    await receive("never")


async def in_turn(size: int, do: Callable[[int], Awaitable[object]], width: int = 50) -> int:
    """``do`` each number from 0 on, ``width`` of them at a time; how many were done."""
    numbers = iter(range(size))
    done = 0

    async def child() -> None:
        nonlocal done
        for number in numbers:
            await do(number)
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(child())
    return done


class Scenarios:
    """What is done, by the name on the command line; each returns how often it was."""

    def __init__(self, runtime: Runtime, phase: str) -> None:
        self.runtime = runtime
        self.phase = phase  # part of every thread's id

    async def map(self, size: int) -> int:
        return await self.runtime.run(mapped(size), thread_id=self.phase)

    async def map_twice(self, size: int) -> int:
        return await self.runtime.run(mapped_twice(size), thread_id=self.phase)

    async def replay(self, size: int) -> int:
        """What is recorded is loaded, and asked for again."""
        settings["doomed"] = True
        with contextlib.suppress(ConnectionError):
            await self.runtime.run(mapped_and_doomed(size), thread_id=self.phase)
        settings["doomed"] = False
        return await self.runtime.run(mapped_and_doomed(size), thread_id=self.phase)

    async def gather(self, size: int) -> int:
        return await self.runtime.run(gathered(size), thread_id=self.phase)

    async def loop(self, size: int) -> int:
        return await self.runtime.run(one_by_one(size), thread_id=self.phase)

    async def equal_calls(self, size: int) -> int:
        return await self.runtime.run(the_same(size), thread_id=self.phase)

    async def handled_failures(self, size: int) -> int:
        return await self.runtime.run(handled(size), thread_id=self.phase)

    async def attempts(self, size: int) -> int:
        tried.clear()
        return await self.runtime.run(retried(size), thread_id=self.phase)

    async def pages(self, size: int) -> int:
        """Values that are held back until the run ends, and are too many for that."""
        return await self.runtime.run(paged(size), thread_id=self.phase)

    async def blocks(self, size: int) -> int:
        async def block(number: int) -> None:
            async with self.runtime.thread(f"{self.phase} {number}"):
                await small(number)

        return await in_turn(size, block)

    async def runs(self, size: int) -> int:
        async def run(number: int) -> None:
            await self.runtime.run(one(number), thread_id=f"{self.phase} {number}")

        return await in_turn(size, run)

    async def turns(self, size: int) -> int:
        """All runs on one thread, as of a conversation."""

        async def run(number: int) -> None:
            await self.runtime.run(one(number), thread_id=self.phase, run_id=str(number))

        return await in_turn(size, run, width=1)

    async def failed_runs(self, size: int) -> int:
        async def run(number: int) -> None:
            with contextlib.suppress(ValueError):
                await self.runtime.run(doomed(number), thread_id=f"{self.phase} {number}")

        return await in_turn(size, run)

    async def failing_again(self, size: int) -> int:
        """One run, again and again."""

        async def run(number: int) -> None:
            with contextlib.suppress(ValueError):
                await self.runtime.run(doomed(0), thread_id=self.phase)

        return await in_turn(size, run, width=1)

    async def cancelled_runs(self, size: int) -> int:
        async def run(number: int) -> None:
            thread_id = f"{self.phase} {number}"
            handle = await self.runtime.start(waiting(), thread_id=thread_id)
            await handle.cancel()
            with contextlib.suppress(RunCancelled):
                await handle.result()

        return await in_turn(size, run)

    async def abandoned_runs(self, size: int) -> int:
        """Their callers are cancelled."""

        async def run(number: int) -> None:
            caller = asyncio.create_task(
                self.runtime.run(waiting(), thread_id=f"{self.phase} {number}")
            )
            while not self.runtime._progress(f"{self.phase} {number}"):  # noqa: ASYNC110
                await asyncio.sleep(0)
            caller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await caller

        return await in_turn(size, run)

    async def forgotten_waiters(self, size: int) -> int:
        """They come to one run that goes on, and are cancelled."""
        handle = await self.runtime.start(waiting(), thread_id=self.phase)

        async def wait(number: int) -> None:
            waiter = asyncio.create_task(handle.result())
            await asyncio.sleep(0)
            waiter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiter

        done = await in_turn(size, wait)
        await handle.cancel()
        return done

    async def forgotten_handles(self, size: int) -> int:
        """Nobody asks for the results."""
        for number in range(size):
            await self.runtime.start(one(number), thread_id=f"{self.phase} {number}")
        for number in range(max(0, size - 200), size):
            await self.runtime.run(one(number), thread_id=f"{self.phase} {number}")
        return size

    async def forgotten_subscriptions(self, size: int) -> int:
        """They read one event and are dropped."""
        await self.runtime.run(one(0), thread_id=self.phase)
        for _ in range(size):
            await anext(self.runtime.subscribe(self.phase))
        return size

    async def unread_subscription(self, size: int) -> int:
        async with self.runtime.subscribe(self.phase):
            return await self.runtime.run(mapped(size), thread_id=self.phase)

    async def unread_stream(self, size: int) -> int:
        async with self.runtime.stream(mapped(size), thread_id=self.phase) as events:
            return await events.result()

    async def unread_values(self, size: int) -> int:
        """Some kilobytes each."""
        async with self.runtime.subscribe(self.phase):
            return await self.runtime.run(chatty(size), thread_id=self.phase)

    async def signals(self, size: int) -> int:
        handle = await self.runtime.start(listening(size), thread_id=self.phase)
        sent = await in_turn(size, lambda number: self.runtime.send(self.phase, "number", number))
        assert sent == size
        return await handle.result()

    async def untaken_signals(self, size: int) -> int:
        """The run waits for another one."""
        handle = await self.runtime.start(listening(1), thread_id=self.phase)
        sent = await in_turn(size, lambda number: self.runtime.send(self.phase, "other", number))
        await self.runtime.send(self.phase, "number", 1)
        await handle.result()
        return sent

    async def equal_signals(self, size: int) -> int:
        """Sent again and again under one id."""
        handle = await self.runtime.start(listening(1), thread_id=self.phase)
        sent = await in_turn(size, lambda number: self.runtime.send(self.phase, "other", 1, id="1"))
        await self.runtime.send(self.phase, "number", 1)
        await handle.result()
        return sent

    async def answers(self, size: int) -> int:
        handle = await self.runtime.start(asking(size), thread_id=self.phase)
        for number in range(size):
            await asked.wait()
            asked.clear()
            await self.runtime.send(self.phase, "answer", number)
        return await handle.result()

    async def naps(self, size: int) -> int:
        return await self.runtime.run(napping(size), thread_id=self.phase)


def memory(field: str) -> float:
    """``VmRSS`` or ``VmHWM`` (the peak) of this process, in MiB."""
    if not STATUS.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (MIB if sys.platform == "darwin" else 1024)
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(fields[field].split()[0]) / 1024


def forget_peak() -> None:
    """From now on, ``VmHWM`` is the peak since now; where that is not allowed, since the start."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


async def main(folder: str, scenario: str, warm_up: int, size: int) -> dict[str, float]:
    store = SQLiteStore(Path(folder, "taskflow.db"), synchronous="NORMAL")
    async with Runtime(store, durability="async") as runtime:
        await getattr(Scenarios(runtime, "warm-up"), scenario)(warm_up)
        forget_peak()
        before = memory("VmRSS")
        done = await getattr(Scenarios(runtime, "t"), scenario)(size)
        peak = memory("VmHWM")
    return {"done": done, "grown": peak - before}


if __name__ == "__main__":
    logging.disable()
    outcome = asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    sys.stdout.write(json.dumps(outcome))
