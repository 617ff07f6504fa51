"""One measurement of one contender: prepare the database, take the time, check the answer."""

import asyncio
import gc
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

from benchmarks.case import Case, Sample
from benchmarks.page import page
from benchmarks.session import OpenSession, Session

__all__ = ("fill", "filling_of", "measure")

THREAD_ID = "benchmark"


def filling_of(case: Case) -> Case | None:
    """The case whose filled database this case needs; ``None`` if it needs an empty one."""
    match case.scenario:
        case "replay":
            return Case("replay", case.size)
        case "growth" if case.recorded:
            return Case("growth", 0, recorded=case.recorded)
        case "recovery" if case.way == "execute":
            return None
        case "subscribe" | "recovery" | "opening":
            return case
        case _:
            return None


async def fill(open_session: OpenSession, filling: Case, path: Path) -> None:
    """Record what ``filling`` holds before the measurement."""
    async with open_session(path) as session:
        match filling.scenario:
            case "replay":
                await session.fill(THREAD_ID, filling.size)
            case "growth":
                await session.extend(THREAD_ID, "map", range(-filling.recorded, 0))
            case "subscribe":
                await session.fill(THREAD_ID, filling.size)
                if filling.way == "reader":
                    await session.replay(THREAD_ID, "chain", filling.size)
            case "recovery":
                await session.orphan(filling.size, Case.TASKS_A_THREAD, filling.recorded)
            case "opening":
                await session.put_to_sleep(filling.size)
            case _:
                raise ValueError(f"nothing is filled for {filling.title}")


async def measure(open_session: OpenSession, case: Case, path: Path) -> Sample:
    """One sample of this case, on a database that `fill` made if the case needs one."""
    if case.scenario == "payloads":
        for number in range(case.size):
            page(number)
    async with open_session(path) as session:
        gc.collect()
        match case.scenario:
            case "chain" | "fan-out":
                return a_task(await squares(session, case), case.size)
            case "payloads":
                return a_task(await pages(session, case), case.size)
            case "replay":
                return a_task(await session.replay(THREAD_ID, case.form, case.size), case.size)
            case "growth":
                seconds = await session.extend(THREAD_ID, case.form, range(case.size))
                return a_task(seconds, case.size)
            case "threads":
                started = perf_counter()
                await threads(session, case.size, case.callers, tasks=Case.TASKS_A_THREAD)
                return a_task(perf_counter() - started, case.size * Case.TASKS_A_THREAD)
            case "run":
                started = perf_counter()
                runs = await threads(session, case.size * case.callers, case.callers, tasks=1)
                return per_run(runs, perf_counter() - started)
            case "million":
                before = peak_mebibytes()
                seconds = await squares(session, case)
                return Sample(cost=peak_mebibytes() - before, seconds=seconds)
            case "receive":
                if case.way == "signal":
                    seconds = await session.receive(THREAD_ID, case.form, case.size)
                else:
                    seconds = await session.held_back(THREAD_ID, case.form, case.size)
                return a_task(seconds, case.size)
            case "stream" if case.way == "alone":
                return a_task(await squares(session, case), case.size)
            case "stream":
                started = perf_counter()
                total = await session.streamed(THREAD_ID, case.form, case.size)
                seconds = perf_counter() - started
                check(total, sum(number * number for number in range(case.size)))
                return a_task(seconds, case.size)
            case "subscribe" if case.way == "replay":
                return a_task(await session.replay(THREAD_ID, "chain", case.size), case.size)
            case "subscribe":
                started = perf_counter()
                check(await session.watched(THREAD_ID), case.size)
                return a_task(perf_counter() - started, case.size)
            case "resume":
                started = perf_counter()
                waits = await session.resume(case.size, asleep=case.way == "asleep")
                return per_run(waits, perf_counter() - started)
            case "recovery" if case.way == "execute":
                started = perf_counter()
                await threads(session, case.size, case.callers, tasks=Case.TASKS_A_THREAD)
                return a_task(perf_counter() - started, case.size * Case.TASKS_A_THREAD)
            case "recovery":
                seconds = await session.recover(case.size, case.callers)
                return a_task(seconds, case.size * Case.TASKS_A_THREAD)
            case "paused":
                before = peak_mebibytes()
                started = perf_counter()
                await session.put_to_sleep(case.size)
                seconds = perf_counter() - started
                return Sample(cost=peak_mebibytes() - before, seconds=seconds)
            case "opening":
                seconds = await session.reopen()
                return Sample(cost=seconds * 1e3, seconds=seconds)
            case "import":
                raise ValueError("imports are measured in interpreters of their own")


def a_task(seconds: float, tasks: int) -> Sample:
    return Sample(cost=seconds / tasks * 1e6, seconds=seconds)


def per_run(latencies: list[float], seconds: float) -> Sample:
    return Sample(
        cost=percentile(latencies, 50) * 1e6, p99=percentile(latencies, 99) * 1e6, seconds=seconds
    )


async def squares(session: Session, case: Case) -> float:
    started = perf_counter()
    total = await session.squares(THREAD_ID, case.form, case.size)
    seconds = perf_counter() - started
    check(total, sum(number * number for number in range(case.size)))
    return seconds


async def pages(session: Session, case: Case) -> float:
    started = perf_counter()
    total = await session.pages(THREAD_ID, case.form, case.size)
    seconds = perf_counter() - started
    check(total, sum(len(page(number)["paragraphs"]) for number in range(case.size)))
    return seconds


async def threads(session: Session, count: int, callers: int, *, tasks: int) -> list[float]:
    """The latency in seconds of each run: one chain of ``tasks`` on a thread of its own."""
    expected = sum(number * number for number in range(tasks))
    latencies: list[float] = []

    async def call(remaining: Iterator[int]) -> None:
        for number in remaining:
            started = perf_counter()
            total = await session.squares(f"{THREAD_ID}-{number}", "chain", tasks)
            latencies.append(perf_counter() - started)
            check(total, expected)

    remaining = iter(range(count))
    await asyncio.gather(*[call(remaining) for _ in range(callers)])
    return latencies


def check(found: int, expected: int) -> None:
    if found != expected:
        raise AssertionError(f"the contender answered {found}, the right answer is {expected}")


def percentile(values: list[float], percent: int) -> float:
    """The nearest-rank percentile: the smallest value that ``percent`` % of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def peak_mebibytes() -> float:
    """The peak of this process's resident memory."""
    # ru_maxrss is in KiB, on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
