"""One measurement of one contender: set the stage, take the time, check the answer."""

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

__all__ = ("fill", "measure")

THREAD_ID = "benchmark"


async def fill(open_session: OpenSession, case: Case, path: Path) -> None:
    """Record what a measurement of this case finds in its database."""
    async with open_session(path) as session:
        match case.scenario:
            case "replay":
                await session.fill(THREAD_ID, case.size)
            case "growth" if case.recorded:
                await session.extend(THREAD_ID, "map", range(-case.recorded, 0))
            case _:
                pass


async def measure(open_session: OpenSession, case: Case, path: Path) -> Sample:
    """One sample of this case, on a database that `fill` made where the case needs one."""
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
                return Sample(
                    cost=percentile(runs, 50) * 1e6,
                    p99=percentile(runs, 99) * 1e6,
                    seconds=perf_counter() - started,
                )
            case "million":
                before = peak_mebibytes()
                seconds = await squares(session, case)
                return Sample(cost=peak_mebibytes() - before, seconds=seconds)
            case "import":
                raise ValueError("imports are measured in interpreters of their own")


def a_task(seconds: float, tasks: int) -> Sample:
    return Sample(cost=seconds / tasks * 1e6, seconds=seconds)


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
    """The nearest-rank percentile: the smallest value that ``percent`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def peak_mebibytes() -> float:
    """The most memory this process ever had resident."""
    # ru_maxrss is in KiB, on macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
