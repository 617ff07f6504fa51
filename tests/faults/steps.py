"""A run of steps that a fault of the store cuts off, and that is continued when it is mended.

``python steps.py FOLDER FAULT`` is a process with a fault of its own (``file-size``,
``descriptors``, ``opening``, ``injected``); it prints what came of it as a line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from msgspec import Struct, to_builtins

from taskflow import Runtime, SQLiteStore, ThreadBusy, task, workflow
from taskflow.errors import StoreError

COUNT = 12
STRUCK = 5  # the step in whose body the fault begins
TOTAL = sum(range(COUNT))
PATIENCE = 30.0


class Report(Struct):
    """What was seen of a run that a fault has cut off, and how it went on."""

    error: str
    kind: str
    seen: list[int]  # results that the workflow was given before the fault
    executed: list[int]  # bodies, before the fault and in it
    recorded: list[int]  # steps that were found when it was mended
    executed_again: list[int]  # bodies after it
    transaction_left: bool
    result: int


class Injected(Struct):
    """What came of a run while system calls failed."""

    errors: list[str]
    seen: list[int]  # results that the workflow was given
    repeated: list[int]  # of these, those whose bodies were executed after that
    transactions: int  # that were left open


class Steps:
    """The run: which bodies have executed, and which results the workflow was given."""

    def __init__(self, fault: Callable[[], object] = lambda: None) -> None:
        self.executed: list[int] = []
        self.seen: list[int] = []
        self.faults = {STRUCK: fault}
        self.note = ""  # that every result carries along

        @task
        async def step(number: int) -> tuple[int, str]:
            self.executed.append(number)
            begun = self.faults.pop(number, lambda: None)()
            if isinstance(begun, Awaitable):
                await begun
            return number, self.note

        @workflow
        async def steps() -> int:
            total = 0
            for number in range(COUNT):
                try:
                    total += (await step(number))[0]
                except Exception:  # a store that fails is not the workflow's business
                    return -1
                self.seen.append(number)
            return total

        self.workflow = steps

    async def fail(self, runtime: Runtime) -> Report:
        """Run until the store fails."""
        error: StoreError | None = None
        try:
            with anyio.fail_after(PATIENCE):
                await runtime.run(self.workflow(), thread_id="t")
        except StoreError as raised:
            error = raised
        left = await has_transaction(runtime)
        seen, executed = [*self.seen], [*self.executed]
        return Report(str(error), type(error).__name__, seen, executed, [], [], left, 0)

    async def go_on(self, runtime: Runtime, report: Report) -> Report:
        """Run again, now that the cause is gone."""
        before = len(self.executed)
        with anyio.fail_after(PATIENCE):
            if await runtime.runs():
                report.recorded = [each.value[0] for each in await runtime.tasks("t")]
            report.result = await runtime.run(self.workflow(), thread_id="t")
        report.executed_again = self.executed[before:]
        return report


async def has_transaction(runtime: Runtime) -> bool:
    """Whether one was left open on a connection of the runtime's store.

    Each is asked in its own thread: what the store does there by itself has ended by then.
    """
    store = runtime._store
    assert isinstance(store, SQLiteStore)
    session = store.session
    return any(
        [
            await connection.trip(lambda db: db.in_transaction)
            for connection in (session.writer, session.reader)
        ]
    )


def check(report: Report, path: Path, *, is_new: bool = False) -> None:
    """The error names the file, nothing that was seen is lost, and what is not recorded executes.

    With ``is_new`` another file has taken the place of one that is lost.
    """
    assert report.kind == "StoreError", report
    assert report.error.startswith(str(path)), report
    assert not report.transaction_left, report
    assert report.result == TOTAL, report
    assert report.seen == list(range(STRUCK)), report
    assert report.executed == list(range(STRUCK + 1)), report
    assert report.recorded[:STRUCK] == ([] if is_new else report.seen), report
    assert report.executed_again == list(range(len(report.recorded), COUNT)), report


# Faults that a process has for itself.


class Descriptors:
    """All file descriptors of this process, taken and given back."""

    def __init__(self) -> None:
        self._taken: list[int] = []

    def take(self) -> None:
        """Leave none."""
        with contextlib.suppress(OSError):
            while True:
                self._taken.append(os.open(os.devnull, os.O_RDONLY))

    def give_back(self) -> None:
        while self._taken:
            os.close(self._taken.pop())


async def file_size(path: Path) -> Report:
    """No file may grow any more (ulimit -f), and then they may again."""
    import resource

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    steps = Steps(lambda: limit(os.stat(f"{path}-wal").st_size + 5000))
    steps.note = "x" * 20_000
    async with Runtime(path) as runtime:
        report = await steps.fail(runtime)
        limit(resource.RLIM_INFINITY)
        return await steps.go_on(runtime, report)


async def descriptors(path: Path) -> list[str]:
    """Each operation that opens a file fails by itself; the run goes on in those that are open."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    taken = Descriptors()
    steps = Steps(taken.take)
    async with Runtime(SQLiteStore(path, lease_ttl=0.6)) as runtime:
        store = runtime._store
        assert isinstance(store, SQLiteStore)
        with anyio.fail_after(PATIENCE):
            assert await runtime.run(steps.workflow(), thread_id="t") == TOTAL
        errors: list[str] = []
        another = Runtime(path)
        for operation in (lambda: anext(runtime.export("t")), another.open):
            try:
                await operation()
            except StoreError as error:
                errors.append(str(error))
        assert not await has_transaction(runtime)
        # Owned by a process that lives, and that this one cannot look at more closely.
        try:
            await runtime.run(steps.workflow(), thread_id="held")
        except ThreadBusy:
            errors.append("ThreadBusy")
        say("exhausted")
        await anyio.to_thread.run_sync(sys.stdin.readline)
        taken.give_back()
        lines = [line async for line in runtime.export("t")]
        assert len(lines) > COUNT
        async with another:
            pass
        assert steps.executed == list(range(COUNT))
        return errors


async def opening(path: Path) -> str:
    """What is said where it cannot be opened."""
    try:
        async with Runtime(path) as runtime:
            await runtime.run(Steps().workflow(), thread_id="t")
    except StoreError as error:
        return str(error)
    return ""


async def injected(path: Path) -> Injected:
    """Whatever becomes of its system calls: run again, in the same runtime and in another."""
    steps = Steps()
    steps.note = "x" * 5000
    found = Injected([], [], [], 0)
    for _ in range(2):
        try:
            async with Runtime(path) as runtime:
                for _ in range(2):
                    before = len(steps.executed)
                    report = await steps.fail(runtime)
                    found.repeated += {*found.seen} & {*steps.executed[before:]}
                    found.seen = sorted({*steps.seen})
                    found.transactions += report.transaction_left
                    if report.kind == "NoneType":
                        return found
                    found.errors.append(report.error)
        except StoreError as error:  # it could not be opened
            found.errors.append(str(error))
    return found


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


FAULTS = {
    "file-size": file_size,
    "descriptors": descriptors,
    "opening": opening,
    "injected": injected,
}


async def main(folder: str, fault: str) -> None:
    say(json.dumps(to_builtins(await FAULTS[fault](Path(folder, "taskflow.db")))))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
