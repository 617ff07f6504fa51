"""``python -O``, which leaves out every ``assert``, changes nothing."""

from __future__ import annotations

import subprocess
import sys

from processes import ENVIRONMENT, ROOT

# Calls, caches, failures and results that another process has recorded.
FILES = [
    "calls/test_maps.py",
    "runs/test_cache.py",
    "runs/test_failure_history.py",
    "runtime/test_results_elsewhere.py",
]

PROGRAM = """
import asyncio
from taskflow import CachePolicy, MemoryStore, RetryPolicy, Runtime, now, sleep, task, workflow

assert False, "asserts are executed"
executed = []

@task(cache=CachePolicy(ttl=60), retry=RetryPolicy(initial_interval=0))
async def charge(order: str) -> str:
    executed.append(order)
    if len(executed) == 1:
        raise ConnectionError("refused")
    return f"receipt for {order}"

@workflow
async def fulfil(order: str) -> list[str]:
    await now()
    await sleep(0.01)
    return [await charge(order), *await charge.map([order, "A2"])]

async def main() -> None:
    async with Runtime(MemoryStore()) as runtime:
        for thread_id in ("one", "two"):
            print(await runtime.run(fulfil("A1"), thread_id=thread_id), executed)

asyncio.run(main())
"""


def test_a_program_does_the_same_without_asserts() -> None:
    """Retries, a cache, timers and maps."""
    command = [sys.executable, "-O", "-W", "error", "-c", PROGRAM]

    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)

    receipts = ["receipt for A1", "receipt for A1", "receipt for A2"]
    line = f"{receipts} {['A1', 'A1', 'A2']}"
    assert (done.stdout.splitlines(), done.stderr) == ([line, line], "")


def test_the_suite_passes_without_asserts() -> None:
    """A part of it; pytest turns the asserts of tests into statements, which are executed."""
    options = ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestConfigWarning"]
    files = [f"tests/{file}" for file in FILES]
    command = [sys.executable, "-O", "-m", "pytest", *options, "-k", "memory-asyncio", *files]

    done = subprocess.run(
        command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
