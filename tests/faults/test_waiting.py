"""Real processes and SIGKILL while runs wait: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from processes import ENVIRONMENT, module_of
from waits import waits_of

from taskflow import RunNotFound, RunPaused, Runtime
from taskflow.loops.clocks import Clock
from taskflow.records import RunRecord

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).with_name("waiting.py")
PATIENCE = 30.0


class ShiftedClock(Clock):
    """The clock of a machine whose time was set."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self._shift = seconds

    def now(self) -> float:
        return super().now() + self._shift


class Process:
    """A process of the program, and what it says."""

    def __init__(self, folder: Path, *arguments: str, program: list[str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *(program or [str(PROGRAM)]), str(folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())
        self._lines.put("")

    def says(self) -> str:
        """The next line that it prints."""
        line = self._lines.get(timeout=PATIENCE)
        if not line:
            assert self.process.stderr is not None
            raise AssertionError(f"it has ended: {self.process.stderr.read()}")
        return line

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()


class Work:
    """A folder with a database and the log that bodies write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.db = folder / "taskflow.db"
        self.log = folder / "log"
        self.log.touch()
        self.processes: list[Process] = []
        self.program = module_of(PROGRAM)
        self.program.configure(folder)

    def begin(self, *arguments: str, block: str = "-", program: Any = None) -> Process:
        """A process that does what ``arguments`` say, and stands still at ``block``."""
        process = Process(self.folder, block, *arguments, program=program)
        self.processes.append(process)
        return process

    def effects(self) -> list[str]:
        """What bodies have done, in any process."""
        return self.log.read_text().splitlines()

    @asynccontextmanager
    async def runtime(self, **options: Any) -> AsyncIterator[Runtime]:
        """A runtime in this process."""
        options = {"workflows": self.program.WORKFLOWS.values(), "poll_interval": 0.1, **options}
        async with Runtime(self.db, **options) as runtime:
            yield runtime

    async def succeeded(self, runtime: Runtime, thread_id: str = "t") -> RunRecord:
        """The record of the run, when it has succeeded."""
        with anyio.fail_after(PATIENCE):
            while (record := await runtime.get(thread_id)).status != "success":  # noqa: ASYNC110
                await anyio.sleep(0.02)
            return record

    async def has_done(self, effect: str) -> None:
        """Wait until a body has done this."""
        with anyio.fail_after(PATIENCE):
            while effect not in self.effects():  # noqa: ASYNC110 - or another process has
                await anyio.sleep(0.01)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    """Every process that was started has ended after the test."""
    work = Work(tmp_path)
    yield work
    for each in work.processes:
        each.kill()
        for pipe in (each.process.stdout, each.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.mark.parametrize(
    "block",
    [
        *("wait-before", "wait-after"),  # its deadline is recorded
        *("pause-before", "pause-after"),
        *("claim2-before", "claim2-after"),  # it wakes
        *("taken-before", "taken-after"),
    ],
)
async def test_a_run_that_is_killed_while_it_waits_goes_on(work: Work, block: str) -> None:
    """At each commit around a receive: whoever recovers takes the signal once."""
    killed = work.begin("start", "t", "approve", block=block)
    wakes = block.startswith(("claim2", "taken"))
    if wakes:
        assert killed.says() == "asleep"
        assert work.begin("send", "t", "go", "yes", "m1").says() == "sent"
    assert killed.says() == "standing"
    killed.kill()

    async with work.runtime(recover=True) as runtime:
        await runtime.send("t", "go", "yes", id="m1")
        assert (await work.succeeded(runtime)).result == "yes"
        # Long enough for anybody who would do it again.
        await anyio.sleep(0.3)
        assert work.effects() == ["before", "after yes"]
        assert [each.name for each in await runtime.tasks("t")].count("taskflow.receive") == 1


@pytest.mark.parametrize("block", ["signal-before", "signal-after"])
@pytest.mark.parametrize("is_listening", [False, True])
async def test_a_sender_that_is_killed_may_send_again(
    work: Work, block: str, is_listening: bool
) -> None:
    """Before its signal is durable nothing has come; after that it is the same signal."""
    listener = work.begin("start", "t", "approve")
    assert listener.says() == "asleep"
    if not is_listening:
        listener.kill()
    sender = work.begin("send", "t", "go", "first", "m1", block=block)
    assert sender.says() == "standing"
    sender.kill()
    assert work.begin("send", "t", "go", "second", "m1").says() == "sent"

    expected = "first" if block == "signal-after" else "second"
    if is_listening:
        assert listener.says() == expected
    async with work.runtime(recover=not is_listening) as runtime:
        assert (await work.succeeded(runtime)).result == expected
    assert work.effects() == ["before", f"after {expected}"]


async def test_a_run_that_is_killed_asleep_goes_on(work: Work) -> None:
    """Nothing of it is in memory: its row is all there is, and nobody waits for a lease."""
    sleeper = work.begin("start", "t", "approve")
    assert sleeper.says() == "asleep"
    sleeper.kill()

    async with work.runtime() as runtime:
        record = await runtime.get("t")
        assert (record.status, record.owner) == ("paused", None)
        assert [each.name for each in record.waits] == ["go"]
        with pytest.raises(RunPaused):
            await runtime.resume("t")
        await runtime.send("t", "go", "yes")
        assert await runtime.resume("t") == "yes"
    assert work.effects() == ["before", "after yes"]


@pytest.mark.parametrize("comes", ["before the kill", "after the kill"])
async def test_a_run_that_is_killed_while_it_waits_live_goes_on(work: Work, comes: str) -> None:
    """It waits beside a body that executes: its owner is dead, and a signal is not lost."""
    live = work.begin("start", "t", "approve_and_work")
    assert live.says() == "live"
    if comes == "before the kill":
        assert work.begin("send", "t", "go", "yes", "m1").says() == "sent"
    live.kill()
    work.folder.joinpath("go").touch()

    async with work.runtime(recover=True) as runtime:
        await runtime.send("t", "go", "yes", id="m1")
        assert (await work.succeeded(runtime)).result == "yes"
        names = [each.name for each in await runtime.tasks("t")]
    assert names.count("taskflow.receive") == 1
    # The kill may have cut off the very body that the signal had begun.
    assert dict.fromkeys(work.effects()) == dict.fromkeys(["before", "after yes"])


async def test_a_signal_of_another_process_reaches_a_run_that_executes_here(work: Work) -> None:
    """Within the poll interval, while a body keeps it awake."""
    async with work.runtime() as runtime:
        handle = await runtime.start(work.program.approve_and_work(), thread_id="t")
        with anyio.fail_after(PATIENCE):
            await work.has_done("before")
            assert work.begin("send", "t", "go", "yes", "m1").says() == "sent"
            await work.has_done("after yes")
            work.folder.joinpath("go").touch()
            assert await handle.result() == "yes"


async def test_a_signal_of_another_process_wakes_a_run_that_sleeps_here(work: Work) -> None:
    """One process waits, another one sends; no third one has to look after them."""
    listener = work.begin("start", "t", "approve")
    assert listener.says() == "asleep"
    assert work.begin("send", "t", "go", "yes", "m1").says() == "sent"
    assert listener.says() == "yes"
    assert work.effects() == ["before", "after yes"]


async def test_processes_that_race_for_one_signal_take_it_once(work: Work) -> None:
    """Three sleep on one run, two recover whatever is due: each effect happens once."""
    sleepers: list[Process] = []
    for _ in range(3):
        sleeper = work.begin("start", "t", "approve")
        assert sleeper.says() == "asleep"
        sleepers.append(sleeper)
    for _ in range(2):
        assert work.begin("serve").says() == "serving"
    assert work.begin("send", "t", "go", "yes", "m1").says() == "sent"

    assert [each.says() for each in sleepers] == ["yes"] * 3
    async with work.runtime() as runtime:
        names = [each.name for each in await runtime.tasks("t")]
    assert names == ["effect", "taskflow.receive", "effect"]
    assert work.effects() == ["before", "after yes"]


async def test_processes_that_race_for_one_timer_wake_once(work: Work) -> None:
    """The same for a time that has come: all clocks strike at once."""
    sleepers: list[Process] = []
    for _ in range(3):
        sleeper = work.begin("start", "t", "short_nap")
        assert sleeper.says() == "asleep"
        sleepers.append(sleeper)
    assert work.begin("serve").says() == "serving"

    assert [each.says() for each in sleepers] == ["awake"] * 3
    assert work.effects() == ["before", "after"]


async def test_a_timer_that_is_due_while_nobody_lives_is_over_at_once(work: Work) -> None:
    """Whoever recovers later continues it; before its time nobody does."""
    sleeper = work.begin("start", "t", "nap")
    assert sleeper.says() == "asleep"
    sleeper.kill()

    async with work.runtime(recover=True, clock=ShiftedClock(1800)) as runtime:
        await anyio.sleep(0.3)
        record = await runtime.get("t")
        assert record.status == "paused"
        (wait,) = record.waits
    async with work.runtime(recover=True, clock=ShiftedClock(3700)) as runtime:
        assert (await work.succeeded(runtime)).result == "awake"
    assert wait.deadline == pytest.approx(wait.since + 3600, abs=1)
    assert work.effects() == ["before", "after"]


@pytest.mark.parametrize("block", ["claim2-before", "claim2-after", "slept-before", "slept-after"])
async def test_a_run_that_is_killed_while_its_timer_wakes_it_goes_on(
    work: Work, block: str
) -> None:
    """At each commit from the ring of its alarm on."""
    sleeper = work.begin("start", "t", "short_nap", block=block)
    assert sleeper.says() == "asleep"
    assert sleeper.says() == "standing"
    sleeper.kill()

    async with work.runtime(recover=True) as runtime:
        assert (await work.succeeded(runtime)).result == "awake"
    assert work.effects() == ["before", "after"]


async def test_a_run_that_is_killed_again_and_again_while_it_waits_is_not_set_aside(
    work: Work,
) -> None:
    """Nobody had to take over anything: it paused each time, which is what it is to do."""
    for _ in range(7):
        sleeper = work.begin("start", "t", "approve")
        assert sleeper.says() == "asleep"
        sleeper.kill()
    assert work.begin("send", "t", "go", "yes", "m1").says() == "sent"

    async with work.runtime(recover=True, max_takeovers=1) as runtime:
        assert (await work.succeeded(runtime)).result == "yes"
    assert work.effects() == ["before", "after yes"]


async def test_who_waits_for_another_process_hears_of_its_end(work: Work) -> None:
    """``wait=True`` on a run that sleeps in a process which is killed then."""
    sleeper = work.begin("start", "t", "approve")
    assert sleeper.says() == "asleep"
    results: list[Any] = []

    async with work.runtime() as runtime, anyio.create_task_group() as group:

        async def wait() -> None:
            results.append(await runtime.run(work.program.approve(), thread_id="t", wait=True))

        group.start_soon(wait)
        await anyio.sleep(0.2)
        sleeper.kill()
        assert work.begin("send", "t", "go", "yes", "m1").says() == "sent"
        await work.has_done("after yes")
    assert results == ["yes"]
    assert work.effects() == ["before", "after yes"]


async def test_a_wall_clock_that_is_set_shortens_no_wait(work: Work) -> None:
    """Neither forward nor backward, while the process lives."""
    program = """
import sys, time
real, shift = time.time, 0.0
time.time = lambda: real() + shift
import anyio
from taskflow import Runtime, sleep, workflow

@workflow
async def nap() -> None:
    await sleep(1.5)

async def main(folder, _):
    global shift
    async with Runtime(folder + "/taskflow.db") as runtime:
        for number, shift in enumerate((86400.0, -86400.0)):
            begun = time.monotonic()
            handle = await runtime.start(nap(), thread_id=str(number))
            await anyio.sleep(0.3)
            shift = -3 * shift
            with anyio.fail_after(20):
                await handle.result()
            print(time.monotonic() - begun >= 1.4, flush=True)

anyio.run(main, sys.argv[1], sys.argv[2])
"""
    process = work.begin(program=["-c", program])
    assert [process.says(), process.says()] == ["True", "True"]


async def test_a_process_whose_clock_is_behind_waits_for_the_recorded_time(work: Work) -> None:
    """A deadline is a time of day: no rerun moves it."""
    sleeper = work.begin("start", "t", "nap")
    assert sleeper.says() == "asleep"
    async with work.runtime(clock=ShiftedClock(-86400)) as runtime:
        before = (await runtime.get("t")).waits
        waits = await waits_of(runtime, work.program.nap(), "t")
        assert [each.deadline for each in waits] == [before[0].deadline]
    assert work.effects() == ["before"]


async def test_a_signal_to_nobody_is_refused_in_every_process(work: Work) -> None:
    """RunNotFound before the run and after it."""
    async with work.runtime() as runtime:
        with pytest.raises(RunNotFound):
            await runtime.send("t", "go", "early")
        sleeper = work.begin("start", "t", "approve")
        assert sleeper.says() == "asleep"
        await runtime.send("t", "go", "yes")
        assert sleeper.says() == "yes"
        with pytest.raises(RunNotFound):
            await runtime.send("t", "go", "late")
