"""Processes that are killed at any moment while their runs do everything that runs can do.

What bodies and workflows log (`mixed`) is compared with what is recorded, as the next process will
find it: in a copy of the files that was taken after each kill.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import anyio
import pytest
from processes import ENVIRONMENT, module_of

from taskflow import Runtime

PROGRAM = Path(__file__).with_name("mixed.py")
PATIENCE = 60.0

THREADS = 50  # of the process that is alone
KILLS = 20  # of each lot of the long form, of which there are LOTS
LOTS = 10
SECONDS = 9.0  # of the short form, before the last process gets to the end

# Every result that is inserted or deleted, by whomever.
AUDIT = """
CREATE TABLE audit (what TEXT, thread_id TEXT, task_id TEXT);
CREATE TRIGGER inserted AFTER INSERT ON checkpoint WHEN new.kind = 'result'
BEGIN INSERT INTO audit VALUES ('inserted', new.thread_id, new.task_id); END;
CREATE TRIGGER deleted AFTER DELETE ON checkpoint WHEN old.kind = 'result'
BEGIN INSERT INTO audit VALUES ('deleted', old.thread_id, old.task_id); END;
"""

Place = tuple[str, str]  # a thread's id, and a task's


class Line(NamedTuple):
    """What a process has logged."""

    at: int  # nanoseconds of the machine's monotonic clock
    owner: str
    what: str
    words: list[str]

    @property
    def place(self) -> Place:
        """The call that it tells of."""
        return self.words[0], self.words[1]


class Image:
    """What is recorded, read from a copy: no look of ours repairs what the next owner finds."""

    def __init__(self, db: Path, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for suffix in ("", "-wal"):
            if (part := db.with_name(db.name + suffix)).exists():
                shutil.copy(part, folder)
        self._db = sqlite3.connect(folder / db.name)
        assert self.rows("PRAGMA integrity_check") == [("ok",)]
        has_begun = self.rows("SELECT name FROM sqlite_master WHERE name = 'checkpoint'")
        found = "SELECT thread_id, task_id, name, kind, payload FROM checkpoint"
        # Failures of ``doomed`` are handled; others end attempts, and are dropped with them.
        self.recorded: dict[Place, Any] = {
            (thread_id, task_id): json.loads(payload)
            for thread_id, task_id, name, kind, payload in (self.rows(found) if has_begun else [])
            if kind == "result" or name == "doomed"
        }
        ended = "SELECT thread_id, run_id, result FROM run WHERE status = 'success'"
        self.results = {
            (thread_id, int(run_id)): json.loads(result)
            for thread_id, run_id, result in (self.rows(ended) if has_begun else [])
        }

    def rows(self, query: str) -> list[Any]:
        """What the copy says."""
        return self._db.execute(query).fetchall()

    def close(self) -> None:
        """Let go of the copy."""
        self._db.close()


class Work:
    """A folder with a database and a log, and the processes that write them."""

    def __init__(self, folder: Path, program: ModuleType) -> None:
        self.folder = folder
        self.db = folder / "taskflow.db"
        self.program = program
        self.processes: dict[str, subprocess.Popen[bytes]] = {}  # by owner
        self.killed: dict[str, int] = {}  # owners, and when
        self.image: Image | None = None
        self.seen: dict[Place, str] = {}  # what was acknowledged to workflows: nonces
        self.ended: dict[tuple[str, int], int] = {}  # and to whom waited for the run
        self.begun: list[Line] = []
        self._checked = 0  # lines of the log
        self._names = iter(range(1_000_000))

    def begin(self, *words: object) -> str:
        """A process of the program; its name."""
        owner = f"o{next(self._names)}"
        self.processes[owner] = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self.folder), owner, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        return owner

    def ready(self, owner: str) -> None:
        """Wait until a process has opened its runtime."""
        process = self.processes[owner]
        assert process.stdout is not None
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        assert line == b"ready\n", process.communicate()[1].decode()

    def kill(self, owner: str) -> None:
        """SIGKILL. From the moment before that on, nothing of it counts as executing."""
        process = self.processes.pop(owner)
        self.killed[owner] = time.monotonic_ns()
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors.decode()

    def finish(self, owner: str) -> None:
        """Wait until a process has ended by itself."""
        process = self.processes.pop(owner)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors.decode()

    def lines(self, since: int = 0) -> list[Line]:
        """What was logged, in the order in which it was written, after so many lines."""
        log = self.folder / "log"
        found = log.read_text().splitlines()[since:] if log.exists() else []
        return [
            Line(int(at), owner, what, words) for at, owner, what, *words in map(str.split, found)
        ]

    def check(self, *, beside: bool = False) -> None:
        """Compare what was logged since the last look with what was and is recorded.

        ``beside``: bodies may execute that somebody else has taken over and recorded.
        """
        before = set(self.image.recorded) if self.image else set()
        lines = self.lines(self._checked)
        self._checked += len(lines)
        for line in lines:
            if line.what == "begin":
                if not beside:
                    assert line.place not in before, f"{line} executes what was recorded"
                    assert line.place not in self.seen, f"{line} executes what was seen"
                self.begun.append(line)
            elif line.what == "saw":
                nonce = self.seen.setdefault(line.place, line.words[2])
                assert nonce == line.words[2], f"{line} was another value before"
            elif line.what == "ended":
                self.ended[line.words[0], int(line.words[1])] = int(line.words[2])
        self._look()

    def _look(self) -> None:
        if self.image:
            self.image.close()
        image = self.image = Image(self.db, self.folder / "image")
        for place, nonce in self.seen.items():
            assert image.recorded[place]["nonce"] == nonce
        for run, result in {**image.results, **self.ended}.items():
            thread_id, round_ = run
            assert result == self.program.expected(round_, int(thread_id[1:])), run
            assert image.results[run] == result


@pytest.fixture
def program() -> ModuleType:
    """The program's module, which knows what is right."""
    return module_of(PROGRAM)


@pytest.fixture
def work(tmp_path: Path, program: ModuleType) -> Iterator[Work]:
    """Every process that was started has ended after the test."""
    work = Work(tmp_path, program)
    yield work
    for process in work.processes.values():
        process.kill()
        process.communicate()
    if work.image:
        work.image.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The long form is many lots of kills, each on a file of its own."""
    if "lot" in metafunc.fixturenames:
        metafunc.parametrize("lot", range(LOTS if metafunc.config.getoption("--long") else 1))


def test_a_process_that_is_killed_at_any_moment_loses_and_repeats_nothing(
    work: Work, rng: random.Random, is_long: bool, lot: int
) -> None:
    """50 threads: what was acknowledged is there, what is recorded executes no more, all ends."""
    deadline = time.monotonic() + SECONDS
    kills = 0
    while kills < KILLS if is_long else time.monotonic() < deadline:
        owner = work.begin(0.01, 30, "alone", first_open_round(work), THREADS)
        if rng.random() < 0.8:
            work.ready(owner)
        time.sleep(rng.uniform(0, 0.7))
        work.kill(owner)
        work.check()
        kills += 1
    work.folder.joinpath("stop").touch()
    work.finish(work.begin(0.01, 30, "alone", first_open_round(work), THREADS))
    work.check()

    rounds = first_open_round(work)
    assert work.image is not None
    assert set(work.image.results) == set(work.ended)
    assert len(work.ended) == rounds * THREADS > 0
    assert work.image.rows("SELECT count(*) FROM run WHERE status != 'success'") == [(0,)]
    # A task that was cut off is executed again, and nothing else is.
    print(f"{kills} kills, {rounds} rounds, {len(work.begun)} bodies, {len(work.seen)} results")  # noqa: T201


def first_open_round(work: Work) -> int:
    """The first round of which not every thread's result was acknowledged."""
    ended = Counter(round_ for _, round_ in work.ended)
    return next(each for each in range(len(ended) + 1) if ended[each] < THREADS)


def test_processes_that_are_killed_and_restarted_execute_each_run_one_at_a_time(
    work: Work, rng: random.Random, is_long: bool
) -> None:
    """Eight on one file, in any order: no bodies overlap, each result is written once."""
    processes, threads, kills, pace = (8, 200, 100, 2.0) if is_long else (4, 40, 6, 0.4)
    audit(work.db)
    owners = [work.begin(pace, 30, "many", 0, threads, rng.random()) for _ in range(processes)]
    while len(work.killed) < kills and len(ended(work)) < threads / 2:
        time.sleep(rng.uniform(0, 0.6))
        owner = owners.pop(rng.randrange(processes))
        if work.processes[owner].poll() is not None:
            break  # all runs have ended
        work.kill(owner)
        owners.append(work.begin(pace, 30, "many", 0, threads, rng.random()))
    assert len(work.killed) > kills / 2
    for owner in owners:
        work.finish(owner)
    work.check()

    assert overlaps(work.lines(), work.killed) == []
    check_written_once(work, threads)


def ended(work: Work) -> list[Line]:
    """The ends of runs that were logged so far, where somebody waited for them."""
    return [line for line in work.lines() if line.what == "ended"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
def test_processes_that_are_stopped_at_any_moment_write_nothing_that_is_not_theirs(
    work: Work, rng: random.Random, is_long: bool
) -> None:
    """For longer or shorter than their leases: each result is written once, and all are right."""
    processes, threads, stops, pace = (4, 200, 60, 2.0) if is_long else (3, 30, 4, 0.4)
    audit(work.db)
    owners = [work.begin(pace, 1, "many", 0, threads, rng.random()) for _ in range(processes)]
    work.ready(owners[0])
    for _ in range(stops):
        owner = work.processes[rng.choice(owners)]
        owner.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0.1, 2.2))
        owner.send_signal(signal.SIGCONT)
        time.sleep(rng.uniform(0, 0.4))
    for owner in owners:
        work.finish(owner)
    # A body that was stopped goes on beside the one that has taken over: only writing is fenced.
    work.check(beside=True)

    check_written_once(work, threads)


def check_written_once(work: Work, threads: int) -> None:
    """Every run has ended, and each result was inserted once and never deleted."""
    assert work.image is not None
    assert len(work.image.results) == threads
    written = Counter(work.image.rows("SELECT what, thread_id, task_id FROM audit"))
    recorded = work.image.rows("SELECT thread_id, task_id FROM checkpoint WHERE kind = 'result'")
    assert written == {("inserted", *place): 1 for place in recorded}
    takeovers = len({(line.owner, line.words[0]) for line in work.begun}) - threads
    print(f"{takeovers} take-overs, {len(work.begun)} bodies")  # noqa: T201


def audit(db: Path) -> None:
    """A database that keeps account of what is written."""

    async def create() -> None:
        async with Runtime(db):
            pass

    anyio.run(create)
    with closing(sqlite3.connect(db)) as connection:
        connection.executescript(AUDIT)


def overlaps(lines: list[Line], killed: dict[str, int]) -> list[tuple[Line, str]]:
    """Bodies that began while another owner executed one of the same thread."""
    found: list[tuple[Line, str]] = []
    executing: dict[str, Counter[str]] = defaultdict(Counter)  # by thread: owners
    for line in lines:
        if line.what not in ("begin", "end"):
            continue
        owners = executing[line.words[0]]
        owners[line.owner] += 1 if line.what == "begin" else -1
        for other in list(owners):
            if killed.get(other, line.at) < line.at:
                del owners[other]
        found += [(line, other) for other in +owners if other != line.owner]
    return found
