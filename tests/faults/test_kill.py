"""Real processes and SIGKILL: what survives, who takes over, and how soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from processes import ENVIRONMENT, Workplace, module_of

from taskflow import Runtime, SQLiteStore, ThreadBusy, task, workflow
from taskflow.errors import LeaseLost

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).with_name("hundred.py")

# Nobody waits for a lease to run out in these tests: a killed owner is noticed at once.
PATIENCE = 20.0


class Work(Workplace):
    """A folder with a database, the log that bodies write, and the step that blocks."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.log = folder / "log"
        self.log.touch()

    def start(self, *, block_at: int = -1, wait: bool = False) -> subprocess.Popen[bytes]:
        """Run the hundred steps in a process of its own."""
        return self.spawn(PROGRAM, str(block_at), str(int(wait)))

    def bodies(self) -> list[int]:
        """The steps that have begun to execute, in any process."""
        return [int(line) for line in self.log.read_text().split()]

    def wait_for(self, step: int) -> None:
        """Wait until ``step`` executes."""
        deadline = time.monotonic() + PATIENCE
        while step not in self.bodies():
            if self.processes[-1].poll() is not None or time.monotonic() > deadline:
                self.processes[-1].kill()
                raise AssertionError(self.processes[-1].communicate()[1].decode())
            time.sleep(0.005)

    def finish(self, process: subprocess.Popen[bytes]) -> str:
        """What the process has printed."""
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err.decode()
        return out.decode().strip()


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    """Every process that was started has ended after the test."""
    with Work(tmp_path) as work:
        yield work


@pytest.mark.parametrize("step", [0, 37, 99])
def test_after_a_kill_only_the_interrupted_step_and_the_rest_execute(work: Work, step: int) -> None:
    """``kill -9`` while step k executes: the rerun executes step k and what follows."""
    killed = work.start(block_at=step)
    work.wait_for(step)
    killed.kill()
    killed.wait()
    assert work.bodies() == list(range(step + 1))

    assert work.finish(work.start()) == str(sum(range(100)))
    assert work.bodies() == [*range(step + 1), *range(step, 100)]


def test_after_several_kills_nothing_executes_twice_but_what_was_cut_off(work: Work) -> None:
    """Killed again and again, the run gets on."""
    for step in (10, 20, 30):
        process = work.start(block_at=step)
        work.wait_for(step)
        process.kill()
        process.wait()
    assert work.finish(work.start()) == str(sum(range(100)))
    assert sorted(work.bodies()) == sorted([*range(100), 10, 20, 30])


def test_a_killed_owners_run_is_continued_at_once(work: Work) -> None:
    """Nobody waits for the lease of a dead process: its lock tells that it is dead."""
    killed = work.start(block_at=5)
    work.wait_for(5)
    killed.kill()
    killed.wait()
    begun = time.monotonic()
    work.finish(work.start())
    assert time.monotonic() - begun < 10  # the lease has 30 s


def test_two_processes_on_one_thread_are_one_execution(work: Work) -> None:
    """While one executes, the other is told that the thread is busy, and executes nothing."""
    work.start(block_at=3)
    work.wait_for(3)
    second = work.start()
    _, err = second.communicate(timeout=PATIENCE)
    assert second.returncode != 0
    assert b"ThreadBusy" in err
    assert work.bodies() == [0, 1, 2, 3]


def test_who_waits_takes_over_when_the_owner_is_killed(work: Work) -> None:
    """``wait=True`` in another process: it goes on where the killed one was."""
    owner = work.start(block_at=3)
    work.wait_for(3)
    waiting = work.start(wait=True)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.communicate(timeout=0.8)
    owner.kill()
    owner.wait()
    assert work.finish(waiting) == str(sum(range(100)))
    assert work.bodies() == [0, 1, 2, 3, *range(3, 100)]


def test_who_waits_gets_the_result_of_the_other_process(work: Work) -> None:
    """Two processes that start together: one executes, both print the result."""
    both = [work.start(wait=True), work.start(wait=True)]
    assert [work.finish(each) for each in both] == [str(sum(range(100)))] * 2
    assert work.bodies() == list(range(100))


def test_a_ctrl_c_is_no_harm(work: Work) -> None:
    """SIGINT ends the process after its bodies; the rerun goes on."""
    process = work.start(block_at=4)
    work.wait_for(4)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    work.finish(work.start())
    assert work.bodies() == [0, 1, 2, 3, 4, *range(4, 100)]


async def test_an_owner_that_stood_still_past_its_lease_writes_nothing(work: Work) -> None:
    """SIGSTOP past the lease: another one takes over, and the next commit is refused."""
    if sys.platform == "win32":
        pytest.skip("no SIGSTOP")
    owner = work.start(block_at=2)
    work.wait_for(2)
    owner.send_signal(signal.SIGSTOP)
    expire_leases(work.db)

    program = module_of(PROGRAM)
    with anyio.fail_after(PATIENCE):
        async with Runtime(SQLiteStore(work.db)) as runtime:
            program.configure(work.folder, block_at=-1)
            assert await runtime.run(program.hundred(100), thread_id="t") == sum(range(100))
            recorded = await runtime.tasks("t")
            work.folder.joinpath("go").touch()
            owner.send_signal(signal.SIGCONT)
            _, err = owner.communicate()
            assert owner.returncode != 0
            assert LeaseLost.__name__.encode() in err
            assert await runtime.tasks("t") == recorded
            assert (await runtime.get("t")).result == sum(range(100))


async def test_a_living_owner_is_not_overtaken(work: Work) -> None:
    """As long as its lease and its lock are held, a slow owner keeps its run."""
    work.start(block_at=2)
    work.wait_for(2)
    program = module_of(PROGRAM)
    async with Runtime(SQLiteStore(work.db)) as runtime:
        with pytest.raises(ThreadBusy):
            await runtime.run(program.hundred(100), thread_id="t")


def test_results_of_several_processes_share_one_file(work: Work) -> None:
    """Many processes, each with threads of its own, write one file at the same time."""
    program = """
import anyio, sys
from taskflow import Runtime, task, workflow

@task
async def double(number: int) -> int:
    return number * 2

@workflow
async def numbers(start: int) -> list[int]:
    return await double.map(range(start, start + 50), concurrency=5)

async def main(path, name):
    async with Runtime(path) as runtime:
        for thread in range(4):
            await runtime.run(numbers(thread), thread_id=f"{name}-{thread}")
        print(len(await runtime.runs(status="success")) > 0)

anyio.run(main, sys.argv[1], sys.argv[2])
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(work.db), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        for number in range(4)
    ]
    work.processes.extend(processes)
    assert [work.finish(each) for each in processes] == ["True"] * 4

    async def look() -> int:
        async with Runtime(work.db) as runtime:
            runs = await runtime.runs(status="success")
            return sum([len(await runtime.tasks(each.thread_id)) for each in runs])

    assert anyio.run(look) == 16 * 50


async def test_a_task_killed_with_its_worker_process_fails_alone(tmp_path: Path) -> None:
    """A worker process that dies takes one call with it, not the runtime."""

    @task(name="survivor")
    async def survivor() -> str:
        return "alive"

    @workflow
    async def shop() -> str:
        try:
            await suicide()
        except Exception:
            return await survivor()
        return "not killed"

    async with Runtime(tmp_path / "taskflow.db") as runtime:
        with anyio.fail_after(PATIENCE):
            assert await runtime.run(shop(), thread_id="t") == "alive"


@task(executor="process")
def suicide() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def expire_leases(path: Path) -> None:
    """Turn the clock of every lease back, and free the locks that outlive a stopped process."""
    import sqlite3

    with sqlite3.connect(path) as db:
        db.execute("UPDATE lease SET expires = 0")
    db.close()
