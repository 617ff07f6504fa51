"""A runtime that nobody closed keeps no process from ending, and the process says so."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import ENVIRONMENT

PROGRAM = Path(__file__).with_name("unclosed.py")
WARNING = "ResourceWarning: a Runtime on {} was never closed"

SECONDS = 2.0  # from the moment at which the program leaves
PATIENCE = 10.0  # before it is taken to hang

# How each way to leave ends the process.
WAYS = {
    "run": 0,  # the end of asyncio.run()
    "raise": 1,
    "exit": 7,
    "interrupt": -signal.SIGINT,
    "thread": 0,  # asyncio.run() in another thread than the main one
    "stop": 0,  # the loop is stopped, and never closed
    "close": 0,  # it is closed, without what asyncio.run() does before that
    "drop": 0,  # the same, and nothing refers to the runtime any more
    "daemon": 0,  # the same in a daemon thread
    "trio": 0,
}
WORKS = (
    "nothing", "bodies", "threads", "processes", "backs_off", "busy", "locked", "asks", "naps",
    "watches", "block", "recovers",
)  # fmt: skip
IMPOSSIBLE = {
    # They need SQLite or asyncio's own functions.
    ("trio", "watches"), ("trio", "opens"), ("trio", "locked"),
    # anyio changes its set of worker processes while it goes through it, now and then.
    ("trio", "processes"),
    # anyio's worker process does not find the main module of a script that has ended.
    ("thread", "processes"),
}  # fmt: skip
SHORT = {
    ("run", "asks"), ("run", "bodies"), ("run", "busy"), ("run", "processes"), ("run", "threads"),
    ("exit", "opens"), ("raise", "bodies"), ("interrupt", "bodies"), ("close", "busy"),
    ("close", "locked"), ("run", "locked"), ("drop", "bodies"), ("stop", "threads"),
    ("trio", "bodies"),
}  # fmt: skip
HITS = ("hits", "hits_map", "hits_commit")


class Left:
    """A process of the program, after it has left."""

    def __init__(self, folder: Path, way: str, work: str) -> None:
        self.path = folder / "taskflow.db"
        # Not a pipe: a worker process of a task outlives its parent, and would hold it open.
        with open(folder / "errors", "wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-W", "default", str(PROGRAM), str(folder), way, work],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=ENVIRONMENT,
            )
        assert process.stdout is not None
        with process, process.stdout:
            timer = threading.Timer(30, process.kill)  # it may never get so far
            timer.start()
            line = process.stdout.readline()
            timer.cancel()
            begun = time.monotonic()
            try:
                self.code: int | None = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.code = None
                process.kill()
            self.seconds = time.monotonic() - begun
        self.errors = (folder / "errors").read_text()
        assert line == b"leaves\n", self.errors

    def check(self, code: int, where: object) -> None:
        """It ended by itself, soon, with ``code``, and warned once."""
        assert self.code == code, self.errors
        assert self.seconds < SECONDS
        assert self.errors.count(WARNING.format(where)) == 1, self.errors


def leave(folder: Path, way: str, work: str) -> Left:
    """The fastest of up to three: that the machine does other things is no failure."""
    for attempt in range(3):
        folder.joinpath(f"{attempt}").mkdir()
        left = Left(folder / f"{attempt}", way, work)
        if left.code is None or left.seconds < SECONDS:
            break
    return left


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every way with every work in the long form, and some of each in the short one."""
    if "way" not in metafunc.fixturenames:
        return
    works = WORKS if "work" in metafunc.fixturenames else ("opens",)
    cases = [(way, work) for way in WAYS for work in works if (way, work) not in IMPOSSIBLE]
    if not metafunc.config.getoption("--long"):
        cases = [each for each in cases if each in SHORT]
    if works is WORKS:
        metafunc.parametrize(("way", "work"), cases)
    else:
        metafunc.parametrize("way", [way for way, _ in cases])


def test_a_process_with_an_open_runtime_ends_soon_and_warns(
    tmp_path: Path, way: str, work: str
) -> None:
    """However it leaves and whatever is under way, with the exit code that it would have had."""
    left = leave(tmp_path, way, work)

    left.check(WAYS[way], "the memory store" if way == "trio" else left.path)


def test_a_process_that_leaves_while_its_runtime_opens_ends_soon(tmp_path: Path, way: str) -> None:
    """It is not open yet, and there is nothing to warn about."""
    left = leave(tmp_path, way, "opens")

    assert left.code == WAYS[way], left.errors
    assert left.seconds < SECONDS


@pytest.mark.parametrize("work", HITS)
def test_a_process_ends_by_a_signal_handler_that_exits_wherever_it_is(
    tmp_path: Path, work: str
) -> None:
    """In a body, in one of many of a map, in a commit: nobody swallows its SystemExit."""
    left = leave(tmp_path, "run", work)

    left.check(5, left.path)
