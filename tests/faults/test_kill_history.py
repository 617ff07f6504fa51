"""SIGKILL in the middle of pruning, forking and importing: all of it, or nothing that is used."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from processes import ENVIRONMENT

from taskflow import RunNotFound, Runtime, task, workflow
from taskflow.records import RunStatus

pytestmark = pytest.mark.anyio

COUNT = 2000

# Says when it is in the middle of a transaction, and stays there until it is killed.
CHILD = """
import sys, time, anyio
from datetime import timedelta
from taskflow import Runtime
from taskflow.stores.sqlite import history, pruning

def halt(*_):
    print("halfway", flush=True)
    time.sleep(60)

def after(call, times):
    left = [times]
    def halting(*args, **kwargs):
        done = call(*args, **kwargs)
        left[0] -= 1
        return done if left[0] else halt()
    return halting

async def main():
    what, path, file = sys.argv[1:]
    async with Runtime(path) as runtime:
        if what == "prune":
            pruning.drop = after(pruning.drop, 3)
            await runtime.prune(finished_before=timedelta(0))
        elif what == "fork":
            history.checksum_on = after(history.checksum_on, 1000)
            await runtime.fork("thread", to="copy")
        else:
            history.structs.astuple = after(history.structs.astuple, 1000)
            with open(file, "rb") as lines:
                await runtime.import_thread(lines, to="copy")
anyio.run(main)
"""

bodies: list[int] = []


@task
async def item(n: int) -> str:
    bodies.append(n)
    return f"result of item {n}"


@workflow
async def many() -> int:
    return len(await item.map(range(COUNT)))


@pytest.fixture
async def path(tmp_path: Path, anyio_backend: object) -> Path:
    """A file with a finished run, and its export beside it."""
    path = tmp_path / "taskflow.db"
    async with Runtime(path) as runtime:
        await runtime.run(many(), thread_id="thread")
        lines = [line async for line in runtime.export("thread")]
    (tmp_path / "export").write_text("".join(lines))
    bodies.clear()
    return path


def kill_in_the_middle_of(what: str, path: Path) -> None:
    """Do it in a process that is killed halfway."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, what, str(path), str(path.with_name("export"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.kill()
    _, err = process.communicate()
    assert line == "halfway\n", err


def integrity(path: Path) -> str:
    """What SQLite says of the file."""
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.parametrize("what", ["fork", "import"])
async def test_a_killed_copy_leaves_nothing(what: str, path: Path) -> None:
    """The thread is not there, and can be made again, whole."""
    kill_in_the_middle_of(what, path)

    async with Runtime(path) as runtime:
        with pytest.raises(RunNotFound):
            await runtime.get("copy")
        assert await runtime._store.checkpoints("copy", None) == []

        if what == "fork":
            await runtime.fork("thread", to="copy")
        else:
            with open(path.with_name("export"), "rb") as lines:  # noqa: ASYNC230
                await runtime.import_thread(lines, to="copy")
        assert await runtime.run(many(), thread_id="copy") == COUNT
    assert (bodies, integrity(path)) == ([], "ok")


async def test_a_killed_prune_leaves_nothing_half_that_is_used(path: Path) -> None:
    """What is left of the run is cancelled, so nobody is answered by it; the next prune ends it."""
    kill_in_the_middle_of("prune", path)

    async with Runtime(path) as runtime:
        left = await runtime.tasks("thread")
        assert 0 < len(left) < COUNT
        assert (await runtime.get("thread")).status == RunStatus.CANCELLED

        assert await runtime.run(many(), thread_id="thread") == COUNT
        pruned = await runtime.prune(finished_before=timedelta(0), keep_last=1)

        assert (pruned.runs, pruned.checkpoints) == (1, len(left))
        assert len(await runtime.tasks("thread")) == COUNT
    assert (len(bodies), integrity(path)) == (COUNT, "ok")
