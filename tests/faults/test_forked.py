"""Processes that fork while they hold locks: a lock dies with its process, whatever it left behind.

A lock of the operating system belongs to the open file, and a child that was forked has the same
one open: a pool of worker processes, on Linux before Python 3.14, or a daemon.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from forker import THREAD, parts
from processes import ENVIRONMENT

from taskflow import Runtime
from taskflow.stores.sqlite.locks import FileLock, OwnerLock

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here"),
]

PATIENCE = 20.0  # seconds, less than a lease: only a lock tells so early that its owner is dead

Fork = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "taskflow.db"


@pytest.fixture
def fork(path: Path) -> Iterator[Fork]:
    """Starts the program, which says a word when it has forked."""
    started: list[subprocess.Popen[str]] = []

    def start(what: str) -> subprocess.Popen[str]:
        program = str(Path(__file__).with_name("forker.py"))
        process = subprocess.Popen(
            [sys.executable, program, str(path), what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.communicate(timeout=PATIENCE)  # ends its child, too


def word(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_an_orphan_holds_no_lock_of_its_parent(path: Path, fork: Fork) -> None:
    """Its parent was killed while it wrote; others write at once."""
    process = fork("orphan")
    assert word(process) == "orphan"
    assert process.wait(PATIENCE) == -signal.SIGKILL

    with FileLock(f"{path}-lock", timeout=0):
        assert OwnerLock.is_free(f"{path}-owner")


async def test_the_run_of_a_killed_process_is_continued_beside_its_orphan(
    path: Path, fork: Fork
) -> None:
    """At once, though the orphan lives on."""
    process = fork("runtime")
    assert word(process) == "orphan"
    assert process.wait(PATIENCE) == -signal.SIGKILL

    with anyio.fail_after(PATIENCE):
        async with Runtime(path) as runtime:
            assert await runtime.run(parts(), thread_id=THREAD) == 10


def test_a_child_unlocks_nothing_of_its_parent(path: Path, fork: Fork) -> None:
    """It closes what it was given, and nothing else that has the same number by then."""
    process = fork("closing")
    assert word(process) == "kept"

    with pytest.raises(TimeoutError), FileLock(f"{path}-lock", timeout=0):
        pass
    assert not OwnerLock.is_free(f"{path}-owner")


async def test_a_child_does_not_open_what_its_parent_has_open(path: Path, fork: Fork) -> None:
    """SQLite would keep no lock for it, and whoever closes last would delete its log."""
    process = fork("opening")
    assert word(process) == "refused"

    async with Runtime(path) as runtime:
        assert await runtime.run(parts(), thread_id=THREAD) == 10
