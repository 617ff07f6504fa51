"""Take-overs among real processes that are killed or stopped: who continues what, and how often."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from processes import Workplace, module_of

from taskflow import Runtime, SQLiteStore
from taskflow.errors import RunSetAside
from taskflow.records import RunStatus

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).with_name("orphans.py")

PATIENCE = 60.0
PARTS = 5  # effects of one run of ``steps``


class Work(Workplace):
    """A folder with a database, and the files that the program's processes write."""

    def start(self, mode: str, **options: object) -> subprocess.Popen[bytes]:
        """A process of the program."""
        words = [f"{name}={value}" for name, value in options.items()]
        return self.spawn(PROGRAM, mode, *words)

    def ready(self, mode: str, **options: object) -> subprocess.Popen[bytes]:
        """A process of the program that has begun its work."""
        process = self.start(mode, **options)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == b"ready\n", process.communicate()[1].decode()
        return process

    def orphans(self, count: int) -> None:
        """Leave runs that were killed in their second effect."""
        process = self.ready("steps", count=count, hold=1)
        self.until(lambda: len(self.lines("held")) == count)
        kill(process)
        self.folder.joinpath("held").unlink()

    def lines(self, file: str) -> list[str]:
        """What was noted in a file."""
        path = self.folder / file
        return path.read_text().splitlines() if path.exists() else []

    def effects(self) -> Counter[tuple[int, int]]:
        """How often each part of each run has executed to its end."""
        words = [line.split() for line in self.lines("effects")]
        return Counter((int(number), int(part)) for number, part, _ in words)

    def rows(self, query: str) -> list[Any]:
        """What the database says."""
        db = sqlite3.connect(self.db)
        try:
            return db.execute(query).fetchall()
        finally:
            db.close()

    def statuses(self) -> Counter[str]:
        """How many runs are in each state."""
        return Counter(dict(self.rows("SELECT status, count(*) FROM run GROUP BY 1")))

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{self.statuses()} {self.lines('effects')[-5:]}"
            time.sleep(0.02)

    def end(self, *processes: subprocess.Popen[bytes]) -> None:
        """Have processes that recover end by themselves."""
        self.folder.joinpath("stop").touch()
        for process in processes:
            _, err = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, err.decode()
            assert b"Traceback" not in err, err.decode()
        self.folder.joinpath("stop").unlink()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    """Every process that was started has ended after the test."""
    with Work(tmp_path) as work:
        yield work


@pytest.fixture
def program(work: Work) -> ModuleType:
    """The program's module in this process: the same workflows under the same names."""
    module = module_of(PROGRAM)
    module.configure(work.folder)
    return module


def test_runs_of_a_killed_process_are_continued_on_opening(work: Work) -> None:
    """Nobody asks for them; what is recorded is not executed again."""
    work.orphans(10)
    process = work.ready("recover")
    work.until(lambda: work.statuses() == {"success": 10})
    work.end(process)
    assert work.effects() == {(run, part): 1 for run in range(10) for part in range(PARTS)}


def test_runs_of_a_process_that_is_killed_meanwhile_are_continued(work: Work) -> None:
    """The same for a runtime that was open already."""
    process = work.ready("recover")
    work.orphans(10)
    work.until(lambda: work.statuses() == {"success": 10})
    work.end(process)
    assert work.effects() == {(run, part): 1 for run in range(10) for part in range(PARTS)}


def test_runs_of_a_living_process_are_left_to_it(work: Work) -> None:
    """However slow it is: it has its lock and its lease."""
    owner = work.ready("steps", count=3, hold=1)
    work.until(lambda: len(work.lines("held")) == 3)
    process = work.ready("recover", poll=0.02)
    time.sleep(0.5)  # many looks
    assert {row[0] for row in work.rows("SELECT epoch FROM run")} == {1}
    work.folder.joinpath("go").touch()
    work.until(lambda: work.statuses() == {"success": 3})
    work.end(process)
    assert owner.wait(PATIENCE) == 0
    assert set(work.effects().values()) == {1}


def test_a_process_that_recovers_and_is_killed_is_recovered_from(work: Work) -> None:
    """Killed at any moment, again and again: all runs get to their end."""
    work.orphans(40)
    for number in range(4):
        process = work.ready("recover", max_concurrent_runs=8)
        goal = 40 + 30 * number
        work.until(lambda goal=goal: len(work.lines("effects")) >= goal)  # type: ignore[misc]
        kill(process)
    process = work.ready("recover")
    work.until(lambda: work.statuses() == {"success": 40})
    work.end(process)
    assert set(work.effects()) == {(run, part) for run in range(40) for part in range(PARTS)}


def test_a_timer_that_comes_due_while_nobody_is_open_is_taken_up(work: Work) -> None:
    """Killed while they sleep: those who open later continue them."""
    process = work.ready("naps", count=5, seconds=1.5)
    work.until(lambda: work.statuses() == {"paused": 5})
    kill(process)
    time.sleep(1.5)
    process = work.ready("recover")
    work.until(lambda: work.statuses() == {"success": 5})
    work.end(process)
    assert set(work.effects().values()) == {1}


async def test_signals_of_a_process_that_does_not_execute_are_answered_by_one_that_does(
    work: Work, program: ModuleType
) -> None:
    """The sender is a plain runtime; the receivers' process was killed long ago."""
    process = work.ready("asks", count=3)
    work.until(lambda: work.statuses() == {"paused": 3})
    kill(process)
    process = work.ready("recover")
    async with Runtime(work.db) as runtime:
        for number in range(3):
            await runtime.send(f"asks-{number}", "answer", number * 10)
        with anyio.fail_after(PATIENCE):
            while len(await runtime.runs(status="success")) < 3:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        assert [(await runtime.get(f"asks-{each}")).result for each in range(3)] == [0, 10, 20]
    work.end(process)
    assert set(work.effects().values()) == {1}


async def test_a_run_that_kills_its_process_each_time_is_set_aside(
    work: Work, program: ModuleType
) -> None:
    """After ``max_takeovers`` it is an error that says why; resuming it is somebody's decision."""
    process = work.start("poison")
    assert process.wait(PATIENCE) == 9
    for _ in range(3):
        process = work.start("recover", max_takeovers=3)
        assert process.wait(PATIENCE) == 9
    process = work.ready("recover", max_takeovers=3)
    work.until(lambda: work.statuses() == {"error": 1})
    await anyio.sleep(0.3)  # some looks
    work.end(process)
    assert len(work.lines("deaths")) == 4

    work.folder.joinpath("mended").touch()
    async with Runtime(work.db, workflows=[program.poison], recover=True) as runtime:
        record = await runtime.get("poison-0")
        assert "RunSetAside" in str(record.error)
        assert "taken over 3 times" in str(record.error)
        assert record.owner is None
        await anyio.sleep(0.1)
        assert (await runtime.get("poison-0")).status == RunStatus.ERROR
        assert await runtime.resume("poison-0") == 0


async def test_a_run_that_was_set_aside_and_resumed_has_all_its_take_overs_again(
    work: Work, program: ModuleType
) -> None:
    """Counting begins anew."""
    assert work.start("poison").wait(PATIENCE) == 9
    assert work.start("recover", max_takeovers=1).wait(PATIENCE) == 9
    process = work.ready("recover", max_takeovers=1)
    work.until(lambda: work.statuses() == {"error": 1})
    work.end(process)
    assert work.start("poison").wait(PATIENCE) == 9  # asked for again, by hand
    assert work.start("recover", max_takeovers=1).wait(PATIENCE) == 9
    process = work.ready("recover", max_takeovers=1)
    work.until(lambda: work.statuses() == {"error": 1})
    work.end(process)
    assert len(work.lines("deaths")) == 4


async def test_who_waits_for_a_run_that_is_set_aside_is_told_so(
    work: Work, program: ModuleType
) -> None:
    """``run()`` that joins the take-over raises RunSetAside, with its numbers."""
    assert work.start("poison").wait(PATIENCE) == 9
    assert work.start("recover", max_takeovers=1).wait(PATIENCE) == 9
    process = work.ready("recover", max_takeovers=1)
    work.until(lambda: work.statuses() == {"error": 1})
    work.end(process)
    (payload,) = work.rows("SELECT error FROM run")[0]
    attributes = json.loads(payload)["attributes"]
    assert attributes == {"thread_id": "poison-0", "run_id": attributes["run_id"], "takeovers": 1}
    assert json.loads(payload)["type"].endswith(f":{RunSetAside.__qualname__}")


def test_progress_between_take_overs_counts_from_the_beginning(work: Work) -> None:
    """Seven processes die of it, each one step further: it is never set aside at two."""
    assert work.start("staircase", argument=7).wait(PATIENCE) == 9
    for _ in range(6):
        assert work.start("recover", max_takeovers=2).wait(PATIENCE) == 9
    process = work.ready("recover", max_takeovers=2)
    work.until(lambda: work.statuses() == {"success": 1})
    work.end(process)
    assert work.effects() == {(0, part): 1 for part in range(7)}


def test_innocent_runs_that_get_on_are_not_set_aside(work: Work) -> None:
    """They are in the same processes, and record something in each of them."""
    process = work.ready("steps", count=5, hold=1)
    work.until(lambda: len(work.lines("held")) == 5)
    kill(process)
    assert work.start("poison").wait(PATIENCE) == 9
    for _ in range(2):
        assert work.start("recover", max_takeovers=2, slow=1).wait(PATIENCE) == 9
    process = work.ready("recover", max_takeovers=2)
    work.until(lambda: work.statuses() == {"success": 5, "error": 1})
    work.end(process)
    assert set(work.effects().values()) == {1}


def test_one_that_kills_its_process_does_not_take_others_with_it(work: Work) -> None:
    """Not even those that had no time to record anything: only the guilty one is set aside."""
    process = work.ready("innocent", count=10)
    kill(process)
    assert work.start("poison").wait(PATIENCE) == 9
    for _ in range(30):
        process = work.start("recover", max_takeovers=3)
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and work.statuses()["running"]:
            assert time.monotonic() < deadline, work.statuses()
            time.sleep(0.02)
        if process.poll() is None:
            break
    assert work.statuses() == {"success": 10, "error": 1}


@pytest.mark.parametrize("count", [2, 8])
def test_several_that_recover_share_the_work_and_do_nothing_twice(work: Work, count: int) -> None:
    """A hundred orphans and a hundred timers that come due: each effect is one line."""
    process = work.ready("naps", count=100, seconds=1.5)
    work.until(lambda: work.statuses() == {"paused": 100})
    kill(process)
    work.orphans(100)
    processes = [work.start("recover", max_concurrent_runs=10, poll=0.05) for _ in range(count)]
    work.until(lambda: work.statuses() == {"success": 200})
    work.end(*processes)
    # ``steps`` has five parts in a hundred runs, ``naps`` parts 0 and 2 of its own hundred.
    expected = {
        (run, part): 2 if part in (0, 2) else 1 for run in range(100) for part in range(PARTS)
    }
    assert work.effects() == expected
    recorded = work.rows("SELECT thread_id, task_id, count(*) FROM checkpoint GROUP BY 1, 2")
    assert {row[2] for row in recorded} == {1}
    assert Counter(work.lines("ended")) == {str(run): 1 for run in range(100)}
    assert work.rows("SELECT count(*) FROM run WHERE owner IS NOT NULL") == [(0,)]


async def test_an_owner_that_only_stood_still_is_overtaken_and_writes_nothing_more(
    work: Work, program: ModuleType
) -> None:
    """SIGSTOP past a short lease, a take-over, SIGCONT: the old owner hears LeaseLost."""
    if sys.platform == "win32":
        pytest.skip("no SIGSTOP")
    owner = work.ready("steps", hold=1, ttl=0.6, stay=1)
    work.until(lambda: len(work.lines("held")) == 1)
    owner.send_signal(signal.SIGSTOP)
    store = SQLiteStore(work.db, lease_ttl=0.6)
    options: dict[str, Any] = {"recover": True, "poll_interval": 0.05}
    async with Runtime(store, workflows=[program.steps], **options) as runtime:
        with anyio.fail_after(PATIENCE):
            while (await runtime.get("steps-0")).status != RunStatus.SUCCESS:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        recorded = await runtime.tasks("steps-0")
        work.folder.joinpath("go").touch()
        owner.send_signal(signal.SIGCONT)
        assert owner.stdout is not None
        assert await anyio.to_thread.run_sync(owner.stdout.readline) == b"LeaseLost\n"
        assert await runtime.tasks("steps-0") == recorded
    assert work.rows("SELECT epoch, status FROM run") == [(2, "success")]


def test_a_block_is_never_recovered(work: Work) -> None:
    """It executes in its caller's own task: there is nothing to call."""
    process = work.ready("block")
    kill(process)
    before = work.rows("SELECT status, owner, epoch FROM run")
    process = work.ready("recover", poll=0.02)
    time.sleep(0.4)  # many looks
    work.end(process)
    assert work.rows("SELECT status, owner, epoch FROM run") == before
    assert work.effects() == {(0, 0): 1}


def test_what_a_killed_process_was_waiting_for_is_seen_when_it_comes(work: Work) -> None:
    """Runs in every state when their process is killed; all of them end."""
    process = work.ready("naps", count=20, seconds=1.5)
    work.until(lambda: work.statuses()["paused"] >= 10)  # some are paused, some about to be
    kill(process)
    process = work.ready("recover")
    work.until(lambda: work.statuses() == {"success": 20})
    work.end(process)
    assert set(work.effects()) == {(run, part) for run in range(20) for part in (0, 2)}
