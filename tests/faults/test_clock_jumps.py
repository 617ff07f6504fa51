"""The wall clock is set forward and back by hours, under processes that wait and hold leases.

It is the clock of child processes that is set, in their Python or, where it is installed, by
libfaketime; never that of the machine.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import jumping
import pytest
from processes import ENVIRONMENT

from taskflow import Runtime, SQLiteStore, ThreadBusy
from taskflow.records import RunStatus

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).with_name("jumping.py")
FAKETIME = [
    Path("/usr/lib", *place, "faketime", "libfaketimeMT.so.1")
    for place in ((f"{os.uname().machine}-linux-gnu",), ())
]
PATIENCE = 30.0  # seconds; less than any jump
HOURS = 3 * 3600


class Machine:
    """Processes of the program on one database, each with a wall clock that can be set."""

    def __init__(self, folder: Path, is_faked: bool) -> None:
        self.folder = folder
        self.db = folder / "taskflow.db"
        self._is_faked = is_faked
        self._processes: list[subprocess.Popen[str]] = []

    def set_clock(self, name: str, ahead: float) -> None:
        """Set the clock of the processes of that name so many seconds ahead of the real one."""
        # In one step: who looks in between would find no clock at all.
        draft = self.folder / f"draft-{name}"
        draft.write_text(f"{ahead:+.0f}")
        draft.rename(self.folder / f"offset-{name}")

    def start(self, name: str, *arguments: str, ahead: float = 0) -> Process:
        """Start a process of that name."""
        self.set_clock(name, ahead)
        environment = dict(ENVIRONMENT)
        if self._is_faked:
            library = next(each for each in FAKETIME if each.exists())
            environment |= {
                "JUMPING_IS_FAKED": "1",
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(self.folder / f"offset-{name}"),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self.folder), name, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._processes.append(process)
        return Process(process)

    def log(self) -> list[str]:
        """What bodies have noted, in whichever process."""
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def rows(self, query: str) -> list[Any]:
        """What the database says."""
        with closing(sqlite3.connect(self.db)) as db:
            return db.execute(query).fetchall()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds."""
        with anyio.fail_after(PATIENCE):
            while not condition():  # noqa: ASYNC110
                await anyio.sleep(0.01)

    async def outlive_leases(self) -> None:
        """Wait until every lease of now would have run out long ago, had nobody renewed it."""
        now = self.rows("SELECT max(expires) FROM lease")[0][0]
        await self.until(
            lambda: self.rows("SELECT min(expires) FROM lease")[0][0] > now + jumping.LEASE
        )

    def runtime(self, **options: Any) -> Runtime:
        """One in this process, whose clock is right."""
        store = SQLiteStore(self.db, lease_ttl=jumping.LEASE)
        return Runtime(store, workflows=jumping.WORKFLOWS, poll_interval=0.05, **options)

    def end(self) -> None:
        for each in self._processes:
            each.kill()
            each.communicate()


class Process:
    """One of them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def says(self, line: str) -> None:
        """Wait until it says so."""
        assert self._process.stdout is not None
        said = await anyio.to_thread.run_sync(self._process.stdout.readline)
        assert said.strip() == line, said or self._process.communicate()[1]

    async def result(self) -> Any:
        """Wait for its end; what it has found."""
        out, err = await anyio.to_thread.run_sync(self._finish)
        assert self._process.returncode == 0, err
        assert "Traceback" not in err, err
        return json.loads(out.splitlines()[-1])

    def _finish(self) -> tuple[str, str]:
        return self._process.communicate(timeout=PATIENCE)


@pytest.fixture(params=["in Python", "libfaketime"])
def machine(tmp_path: Path, request: pytest.FixtureRequest, is_long: bool) -> Iterator[Machine]:
    """A machine whose clock is set in Python, and one on which the operating system is faked."""
    is_faked = request.param == "libfaketime"
    if is_faked and not is_long:
        pytest.skip("the same under libfaketime is part of the long form")
    if is_faked and not any(each.exists() for each in FAKETIME):
        pytest.skip("libfaketime is not installed")
    jumping.configure(tmp_path)
    machine = Machine(tmp_path, is_faked)
    yield machine
    machine.end()


@pytest.mark.parametrize("waits", ["awake", "asleep"])
async def test_no_wait_is_shorter_or_longer(machine: Machine, waits: str) -> None:
    """sleep, receive(timeout=), back-off and a task's timeout ring once, when it is time."""
    processes: list[Process] = []
    for ahead in (HOURS, -HOURS):
        name = f"{waits}{ahead}"
        process = machine.start(name, "waits", waits, name)
        processes.append(process)
        await process.says("waiting")
        machine.set_clock(name, ahead)
    found = [await each.result() for each in processes]
    for each in found:
        assert set(each["lasted"]) == {*jumping.WAITS[waits]}
        assert all(jumping.LENGTH - 0.01 <= length < PATIENCE for length in each["lasted"].values())
        assert {each["executed"][name] for name in jumping.WAITS[waits]} == {1}
        assert all(0 <= length < PATIENCE for length in [*each["durations"], each["run"]])
        assert max(each["times"]) - min(each["times"]) < PATIENCE
        assert each["numbers"] == sorted(each["numbers"])
        assert each["executed"].get("attempt", 2) == 2
    # What is cached for an hour is neither computed again nor lost.
    assert sum(each["executed"].get("shared", 0) for each in found) == (waits == "awake")


async def test_no_lease_expires_by_it(machine: Machine) -> None:
    """The owner's clock is set, and those of others who would take over: nobody does."""
    owner = machine.start("owner", "begin", "held", "go")
    await machine.until(lambda: machine.log() == ["hold go"])
    other = machine.start("other", "serve")
    await other.says("serving")
    async with machine.runtime(recover=True) as runtime:
        for ahead in (HOURS, -HOURS):
            machine.set_clock("owner", ahead)
            machine.set_clock("other", -ahead)
            await machine.outlive_leases()
            with pytest.raises(ThreadBusy):
                await runtime.run(jumping.held("go"), thread_id="held")
        late = [
            machine.start(f"late{ahead}", "begin", "held", "go", ahead=ahead)
            for ahead in (HOURS, -HOURS)
        ]
        assert [await each.result() for each in late] == ["ThreadBusy", "ThreadBusy"]
        (machine.folder / "go").touch()
        assert await owner.result() == "done"
        assert await runtime.run(jumping.held("go"), thread_id="held") == "done"
    (machine.folder / "stop").touch()
    await other.result()
    assert machine.log() == ["hold go"]
    assert machine.rows("SELECT epoch, takeovers FROM run") == [(1, 0)]


async def test_a_deadline_is_what_was_recorded(machine: Machine) -> None:
    """By a clock that is ahead: whose clock has not come to it yet leaves the run alone."""
    ahead = machine.start("ahead", "begin", "nap", "3600", ahead=HOURS)
    assert await ahead.result() == "RunPaused"
    async with machine.runtime(recover=True) as runtime:
        (wait,) = (await runtime.get("nap")).waits
        assert HOURS < wait.deadline - time.time() <= HOURS + 3600
        await machine.outlive_leases()
        assert machine.log() == ["before"]
        later = machine.start("later", "serve", ahead=HOURS + 3700)
        await machine.until(lambda: machine.log() == ["before", "after"])
        await machine.until(lambda: machine.rows("SELECT status FROM run") == [("success",)])
        assert await runtime.run(jumping.nap(3600.0), thread_id="nap") == "awake"
    (machine.folder / "stop").touch()
    await later.result()
    assert machine.log() == ["before", "after"]


async def test_a_deadline_that_was_recorded_by_a_slow_clock_rings_once(machine: Machine) -> None:
    """It is past by the clocks of several, who are all there: one of them continues the run."""
    behind = machine.start("behind", "begin", "nap", "3600", ahead=-HOURS)
    others = [machine.start(f"other{each}", "serve") for each in range(2)]
    for each in others:
        await each.says("serving")
    assert await behind.result() == "RunPaused"
    await machine.until(lambda: machine.rows("SELECT status FROM run") == [("success",)])
    (machine.folder / "stop").touch()
    for each in others:
        await each.result()
    assert machine.log() == ["before", "after"]


async def test_a_signal_is_in_time_by_the_clock_of_who_waits(machine: Machine) -> None:
    """Whatever time it is for the sender: it came while the run was waiting for it."""
    async with machine.runtime() as runtime:
        handles = {
            str(ahead): await runtime.start(jumping.approve(), thread_id=str(ahead))
            for ahead in (HOURS, -HOURS)
        }
        for thread_id, handle in handles.items():
            await machine.until(lambda handle=handle: handle.status == RunStatus.PAUSED)
            sender = machine.start("sender", "send", thread_id, ahead=int(thread_id))
            assert await sender.result() == "sent"
            with anyio.fail_after(PATIENCE):
                assert await handle.result() == "now"
            tasks = await runtime.tasks(thread_id)
            assert [each.name for each in tasks] == ["effect", "taskflow.receive", "effect"]
            assert all(0 <= each.duration < PATIENCE for each in tasks)


async def test_a_run_is_continued_by_another_clock(machine: Machine) -> None:
    """It waits in one process and ends in another: in order, and no duration is negative."""
    first = machine.start("first", "begin", "approve", "", ahead=HOURS)
    assert await first.result() == "RunPaused"
    async with machine.runtime() as runtime:
        await runtime.send("approve", "go", 7)
        assert await runtime.run(jumping.approve(), thread_id="approve") == 7
        tasks = await runtime.tasks("approve")
        record = await runtime.get("approve")
    assert [each.name for each in tasks] == ["effect", "taskflow.receive", "effect"]
    assert [each.sequence for each in tasks] == sorted(each.sequence for each in tasks)
    assert all(0 <= each.duration < PATIENCE for each in tasks)
    assert (record.finished or 0) >= record.started
    assert machine.log() == ["before", "after"]


async def test_a_signal_after_the_deadline_is_late(machine: Machine) -> None:
    """One that was recorded by a clock that is behind: it is past for everybody else."""
    first = machine.start("first", "begin", "approve", "", ahead=-HOURS)
    assert await first.result() == "RunPaused"
    async with machine.runtime() as runtime:
        await runtime.send("approve", "go", 7)
        with pytest.raises(TimeoutError, match="no signal 'go' came in 60 s"):
            await runtime.run(jumping.approve(), thread_id="approve")
    assert machine.log() == ["before"]


async def test_who_waits_is_told_how_it_ended_elsewhere(machine: Machine) -> None:
    """With wait=True, by whichever clock it ended: its error, and nothing is executed again."""
    files = [f"go{ahead}" for ahead in (HOURS, -HOURS)]
    others = [
        machine.start(file, "begin", "failing", file, file, ahead=ahead)
        for file, ahead in zip(files, (HOURS, -HOURS), strict=True)
    ]
    await machine.until(lambda: len(machine.log()) == len(files))
    errors: list[str] = []
    async with machine.runtime() as runtime, anyio.create_task_group() as group:

        async def wait(file: str) -> None:
            try:
                await runtime.run(jumping.held(file, fails=True), thread_id=file, wait=True)
            except Exception as error:
                errors.append(str(error))

        for file in files:
            group.start_soon(wait, file)
        await machine.outlive_leases()
        for file, other in zip(files, others, strict=True):
            (machine.folder / file).touch()
            assert await other.result() == "ConnectionError"
    assert errors == ["it was down", "it was down"]
    assert machine.rows("SELECT epoch FROM run") == [(1,), (1,)]
