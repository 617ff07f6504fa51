"""SIGSTOP past a lease, a take-over, SIGCONT: who only stood still writes nothing more.

A stopped process keeps its locks: nothing but its lease, which runs out, tells that it is gone.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from anyio import to_thread
from processes import ENVIRONMENT, module_of

from taskflow import Runtime, SQLiteStore, ThreadBusy
from taskflow.stores.sqlite.locks import FileLock

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP"),
]

PROGRAM = Path(__file__).with_name("stopped.py")
PATIENCE = 30.0
TTL = 1.0  # seconds
RESULTS = "SELECT count(*) FROM checkpoint WHERE kind = 'result'"

# What each run comes to; how much of it stands still; how many results are recorded by then.
WORKS = {
    "body": (6, 1, 1),
    "thread": (6, 1, 1),
    "maps": (16, 3, 7),  # those that go through are two calls each
    "children": (26, 3, 1),
    "waits": (12, 1, 0),
}


class Work:
    """A folder with a database, and the process that is to be stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.db = folder / "taskflow.db"
        self.process: subprocess.Popen[str] | None = None

    def stand(
        self, *names: str, ttl: float = TTL, durability: str = "sync", when: str = "-"
    ) -> None:
        """Have a process begin its work."""
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self.folder), f"{ttl}", durability, when, *names],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds."""
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(self.process.communicate()[1])
            time.sleep(0.02)

    def stands(self, places: int, results: int) -> None:
        """Wait until it stands still in so many places, with so many results recorded."""
        self.until(lambda: len(self.lines("standing")) == places)
        self.until(lambda: self.rows(RESULTS)[0][0] == results)

    def lines(self, file: str) -> list[str]:
        """What was noted in a file."""
        path = self.folder / file
        return path.read_text().splitlines() if path.exists() else []

    def rows(self, query: str) -> list[Any]:
        """What the database says."""
        with closing(sqlite3.connect(self.db)) as db:
            return db.execute(query).fetchall()

    def says(self, count: int) -> set[str]:
        """The next lines that it prints."""
        assert self.process is not None
        assert self.process.stdout is not None
        timer = threading.Timer(PATIENCE, self.process.kill)
        timer.start()
        lines = {self.process.stdout.readline().strip() for _ in range(count)}
        timer.cancel()
        return lines

    def stop(self) -> None:
        """SIGSTOP, not in the middle of a write: that would keep everybody else from writing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        while self.is_writing():
            self.process.send_signal(signal.SIGCONT)
            time.sleep(0.02)
            self.process.send_signal(signal.SIGSTOP)

    def is_writing(self) -> bool:
        """Whether the database, or what stands for it where SQLite is old, is locked."""
        time.sleep(0.02)  # a signal may take a moment to arrive
        with closing(sqlite3.connect(self.db, timeout=0, isolation_level=None)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
        if not Path(f"{self.db}-lock").exists():
            return False
        lock = FileLock(f"{self.db}-lock", timeout=0)
        try:
            with lock:
                return False
        except TimeoutError:
            return True
        finally:
            lock.close()

    def go_on(self) -> None:
        """SIGCONT, and nothing stands still any more."""
        assert self.process is not None
        self.folder.joinpath("go").touch()
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """It ends by itself, without a word on stderr."""
        assert self.process is not None
        _, errors = self.process.communicate(timeout=PATIENCE)
        assert (self.process.returncode, errors) == (0, "")

    def recorded(self) -> list[Any]:
        """Everything about the runs that were taken over."""
        return [
            self.rows(f"SELECT * FROM {table} WHERE thread_id != 'fresh' ORDER BY 1")
            for table in ("run", "checkpoint")
        ]

    def effects(self) -> Counter[str]:
        """What bodies have done, in any process."""
        return Counter(self.lines("effects"))

    def runtime(self, program: ModuleType, **options: Any) -> Runtime:
        """One in this process, which does not stand still."""
        store = SQLiteStore(self.db, lease_ttl=TTL)
        workflows = program.WORKFLOWS.values()
        return Runtime(store, workflows=workflows, poll_interval=0.05, **options)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    """The process has ended after the test."""
    work = Work(tmp_path)
    yield work
    if work.process is not None:
        work.process.kill()
        work.process.communicate()


@pytest.fixture
def program(work: Work) -> ModuleType:
    """The program's module in this process: the same workflows under the same names."""
    module = module_of(PROGRAM)
    module.configure(work.folder, holds=False)
    return module


async def test_who_stood_still_past_its_lease_writes_nothing_more(
    work: Work, program: ModuleType
) -> None:
    """In a body, a worker thread, a map, nested calls, a wait: each of its runs hears LeaseLost."""
    work.stand(*WORKS)
    work.stands(sum(each[1] for each in WORKS.values()), sum(each[2] for each in WORKS.values()))
    work.stop()
    before = work.effects()

    await take_over_from(work, program, *WORKS)

    assert {row[0] for row in work.rows("SELECT epoch FROM run WHERE thread_id != 'fresh'")} == {2}
    # What stood still is executed again, and nothing that was recorded is.
    again = {name for name in before if (work.effects())[name] > before[name]}
    assert again == {name for name in before if name.startswith(("standing", "blocked"))}


@pytest.mark.parametrize("durability", ["async", "exit"])
async def test_the_same_where_results_are_committed_later(
    work: Work, program: ModuleType, is_long: bool, durability: str
) -> None:
    """What it had not committed, it never will."""
    if not is_long:
        pytest.skip("in the long form")
    work.stand(*WORKS, durability=durability)
    results = 0 if durability == "exit" else sum(each[2] for each in WORKS.values())
    work.stands(sum(each[1] for each in WORKS.values()), results)
    work.stop()

    await take_over_from(work, program, *WORKS)


@pytest.mark.parametrize(("when", "results"), [("before", 1), ("after", 2)])
async def test_who_stood_still_while_it_waited_for_a_commit_is_refused(
    work: Work, program: ModuleType, when: str, results: int
) -> None:
    """Or it hears of it with the next one, if that commit was through."""
    work.stand("commits", when=when)
    work.stands(1, results)
    work.stop()

    await take_over_from(work, program, "commits")

    # Twice: what was not committed, or what begins after the commit that it had waited for.
    twice = {"before": "quick 2", "after": "quick 3"}[when]
    names = [f"quick {number}" for number in (1, 2, 3, 100)]
    assert work.effects() == {name: 1 + (name == twice) for name in names}


async def take_over_from(work: Work, program: ModuleType, *names: str) -> None:
    """Continue the runs of the stopped process here to their ends, then let it go on."""
    async with work.runtime(program, recover=True) as runtime:
        if "waits" in names:
            await runtime.send("waits", "answer", 7)
        with anyio.fail_after(PATIENCE):
            while len(await runtime.runs(status="success")) < len(names):  # noqa: ASYNC110
                await anyio.sleep(0.02)
        recorded = work.recorded()
        work.go_on()

        expected = {f"LeaseLost {name}" for name in names}
        assert await to_thread.run_sync(work.says, len(names)) == expected
        assert await to_thread.run_sync(work.says, 1) == {"fresh 100"}
        await to_thread.run_sync(work.end)
        assert work.recorded() == recorded
        for name in names:
            assert (await runtime.get(name)).result == WORKS.get(name, (6,))[0]
    assert work.recorded() == recorded


async def test_a_block_that_stood_still_past_its_lease_is_entered_by_another(
    work: Work, program: ModuleType
) -> None:
    """Nobody recovers a block, but its thread is free; the first one's next call is refused."""
    work.stand("block")
    work.stands(1, 1)
    work.stop()
    async with work.runtime(program) as runtime:
        with anyio.fail_after(PATIENCE):
            while True:
                try:
                    assert await program.block(runtime) == 6
                    break
                except ThreadBusy:
                    await anyio.sleep(0.05)
        recorded = work.recorded()
        work.go_on()

        assert await to_thread.run_sync(work.says, 1) == {"LeaseLost block"}
        assert await to_thread.run_sync(work.says, 1) == {"fresh 100"}
        await to_thread.run_sync(work.end)
    assert work.recorded() == recorded
    assert work.effects() == {"quick 1": 1, "standing 2": 2, "quick 3": 1, "quick 100": 1}


async def test_who_stood_still_for_less_than_its_lease_just_goes_on(
    work: Work, program: ModuleType
) -> None:
    """Nobody takes anything from it, and nothing executes twice."""
    ttl = 5.0
    work.stand(*WORKS, ttl=ttl)
    work.stands(sum(each[1] for each in WORKS.values()), sum(each[2] for each in WORKS.values()))
    async with work.runtime(program, recover=True) as runtime:
        work.stop()
        await anyio.sleep(ttl / 3)  # it has renewed its lease a sixth of that ago, at most
        await runtime.send("waits", "answer", 7)
        work.go_on()

        expected = {f"success {name}" for name in WORKS}
        assert await to_thread.run_sync(work.says, len(WORKS)) == expected
        assert await to_thread.run_sync(work.says, 1) == {"fresh 100"}
        await to_thread.run_sync(work.end)
        for name, (result, _, _) in WORKS.items():
            assert (await runtime.get(name)).result == result
    assert {row[0] for row in work.rows("SELECT epoch FROM run")} == {1}
    assert sum(work.effects().values()) == 21
