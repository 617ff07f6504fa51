"""Files that are full, read-only, deleted or replaced while a run executes on them.

Each fault begins in the body of one step, before its commit. What the workflow was given until then
stays recorded, the caller is told what happened to which file, and when the cause is gone the same
run executes the rest.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest
from processes import ENVIRONMENT
from steps import TOTAL, Injected, Report, Steps, check

from taskflow import Runtime, SQLiteStore, ThreadBusy, task, workflow
from taskflow.errors import StoreError
from taskflow.stores.sqlite.locks import OwnerLock

pytestmark = pytest.mark.anyio

PATIENCE = 30.0
LEASE = 0.6  # seconds: its thread wakes ten times a second


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "taskflow.db"


@pytest.fixture
async def runtime(path: Path) -> AsyncIterator[Runtime]:
    """Open on the file; closing it must work whatever has become of that."""
    async with Runtime(SQLiteStore(path, lease_ttl=LEASE)) as runtime:
        yield runtime
        with anyio.fail_after(PATIENCE):
            await runtime.aclose()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a disk can be mounted by root alone, outside of most containers")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def execute(runtime: Runtime, statement: str) -> None:
    """Execute a statement in the connection that writes."""
    store = runtime._store
    assert isinstance(store, SQLiteStore)
    writer = store.session.writer
    await writer.trip(lambda db: db.execute(statement).fetchall())  # an open cursor would read on


def is_there(path: Path | str) -> bool:
    return os.path.exists(path)


# Full.


async def test_a_database_of_so_many_pages_is_full(runtime: Runtime, path: Path) -> None:
    """PRAGMA max_page_count: the caller is told to make room."""
    steps = Steps(lambda: execute(runtime, "PRAGMA max_page_count = 1"))
    steps.note = "x" * 20_000
    report = await steps.fail(runtime)
    assert "there is no space left for it: make room" in report.error
    await execute(runtime, "PRAGMA max_page_count = 100000")
    check(await steps.go_on(runtime, report), path)


async def test_a_disk_is_full(small_disk: Path) -> None:
    """A real one: others have filled it."""
    path, ballast = small_disk / "taskflow.db", small_disk / "ballast"

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 512)

    steps = Steps(fill)
    steps.note = "x" * 20_000
    async with Runtime(path) as runtime:
        report = await steps.fail(runtime)
        assert "there is no space left for it: make room" in report.error
        ballast.unlink()
        check(await steps.go_on(runtime, report), path)


async def test_a_commit_of_many_is_all_or_nothing(runtime: Runtime, path: Path) -> None:
    """A fan-out meets a full disk: what was given out is recorded, the rest executes again."""
    executed: list[int] = []
    given: list[int] = []

    @task
    async def part(number: int) -> tuple[int, str]:
        executed.append(number)
        if len(executed) == 150:
            await execute(runtime, "PRAGMA max_page_count = 1")
        return number, "x" * 2000

    @workflow
    async def parts() -> int:
        async def one(number: int) -> int:
            found, _ = await part(number)
            given.append(found)
            return found

        async with anyio.create_task_group() as group:
            for number in range(300):
                group.start_soon(one, number)
        return len(given)

    with pytest.raises(StoreError, match="no space left"):
        await runtime.run(parts(), thread_id="t")

    before, seen = len(executed), {*given}
    await execute(runtime, "PRAGMA max_page_count = 100000")
    given.clear()
    assert await runtime.run(parts(), thread_id="t") == 300
    assert not seen & {*executed[before:]}
    assert sorted(given) == list(range(300))


# Read-only.


@pytest.fixture
def unprivileged() -> list[str]:
    """What a process is started with that has to heed permissions."""
    if os.name != "posix":
        pytest.skip("no permissions")
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root heeds no permissions, and there is no setpriv")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_what_is_read_only_is_not_opened(
    path: Path, unprivileged: list[str], what: str
) -> None:
    """Until it is writable again: then the same run continues."""
    steps = Steps(lambda: execute(runtime, "PRAGMA query_only = 1"))
    async with Runtime(path) as runtime:
        report = await steps.fail(runtime)
    target, mode = (path, 0o444) if what == "file" else (path.parent, 0o555)
    target.chmod(mode)
    try:
        said = Child(path.parent, "opening", *unprivileged).end()
    finally:
        target.chmod(0o755)
    assert said.startswith(str(path))
    assert "it is read-only: make the file and its folder writable" in said
    async with Runtime(path) as runtime:
        check(await steps.go_on(runtime, report), path)


async def test_a_read_only_disk_is_not_opened(small_disk: Path) -> None:
    """Mounted so, with a database on it; mounted otherwise, its run continues."""
    path = small_disk / "taskflow.db"
    steps = Steps(lambda: execute(runtime, "PRAGMA query_only = 1"))
    async with Runtime(path) as runtime:
        report = await steps.fail(runtime)
    remount(small_disk, "ro")
    with pytest.raises(StoreError, match="it is read-only: make the file and its folder writable"):
        async with Runtime(path):
            pass
    remount(small_disk, "rw")
    async with Runtime(path) as runtime:
        check(await steps.go_on(runtime, report), path)


def remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)


async def test_a_database_becomes_read_only_meanwhile(runtime: Runtime, path: Path) -> None:
    """As SQLite finds it to be where a disk was mounted anew."""
    steps = Steps(lambda: execute(runtime, "PRAGMA query_only = 1"))
    report = await steps.fail(runtime)
    assert "it is read-only: make the file and its folder writable" in report.error
    await execute(runtime, "PRAGMA query_only = 0")
    check(await steps.go_on(runtime, report), path)


def chattr(change: str, file: str) -> bool:
    try:
        return subprocess.run(["chattr", change, file], capture_output=True).returncode == 0
    except OSError:
        return False


async def test_the_log_takes_no_more_writes(runtime: Runtime, path: Path) -> None:
    """chattr +i on an open file: also who has it open for writing is refused."""
    log = f"{path}-wal"
    if not chattr("+i", log):
        pytest.skip("only root may make a file immutable, and not on every file system")
    chattr("-i", log)
    steps = Steps(lambda: chattr("+i", log))
    try:
        report = await steps.fail(runtime)
    finally:
        chattr("-i", log)
    assert "the disk failed to read or write" in report.error
    check(await steps.go_on(runtime, report), path)


# Other callers than the run itself, while nothing can be written.


async def test_a_run_that_cannot_be_cancelled_for_good_says_so(
    runtime: Runtime, path: Path
) -> None:
    """Whoever cancels is told when that could not be recorded; then anybody may continue it."""
    begun = anyio.Event()

    @task
    async def wait() -> None:
        begun.set()
        await anyio.sleep_forever()

    @workflow
    async def waiting() -> None:
        await wait()

    handles = [await runtime.start(waiting(), thread_id=each) for each in "ab"]
    await begun.wait()
    await execute(runtime, "PRAGMA query_only = 1")
    for cancel in (handles[0].cancel, lambda: runtime.cancel("b")):
        with anyio.fail_after(PATIENCE), pytest.raises(StoreError, match="read-only"):
            await cancel()
    await execute(runtime, "PRAGMA query_only = 0")
    await runtime.cancel("a")
    await handles[1].cancel()
    assert {(await runtime.get(each)).status for each in "ab"} == {"cancelled"}


# Deleted or replaced while it is open.


def move_database(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))


def move_database_back(path: Path) -> None:
    path.with_suffix(".moved").rename(path)


def move_all(path: Path) -> None:
    for each in path.parent.glob("taskflow.db*"):
        each.rename(path.parent.with_name(each.name))


def move_all_back(path: Path) -> None:
    for each in path.parent.parent.glob("taskflow.db*"):
        each.rename(path.parent / each.name)


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def move_folder_back(path: Path) -> None:
    path.parent.with_name("moved").rename(path.parent)


def cover(path: Path) -> None:
    """A copy takes its place, as a backup does that is restored."""
    move_database(path)
    shutil.copy(path.with_suffix(".moved"), path)


def cover_by_another(path: Path) -> None:
    move_database(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (a)")


def uncover(path: Path) -> None:
    os.replace(path.with_suffix(".moved"), path)


@pytest.mark.parametrize(
    ("lose", "find"),
    [
        (move_database, move_database_back),
        (move_all, move_all_back),
        (move_folder, move_folder_back),
        (cover, uncover),
    ],
)
async def test_a_file_that_comes_back_is_gone_on_with(
    runtime: Runtime,
    path: Path,
    lose: Callable[[Path], None],
    find: Callable[[Path], None],
) -> None:
    """In the same runtime; meanwhile nobody makes another file in its place."""
    steps = Steps(lambda: lose(path))
    report = await steps.fail(runtime)
    assert " was deleted while " in report.error or " was replaced by another" in report.error
    assert is_there(path) == (lose is cover)
    find(path)
    check(await steps.go_on(runtime, report), path)


async def test_a_link_that_leads_elsewhere_is_noticed(path: Path) -> None:
    """The folder of a release that is switched: the next process would not find what we write."""
    link, other = path.parent.with_name("current"), path.parent.with_name("other")
    other.mkdir()
    link.symlink_to(path.parent)

    def switch(target: Path) -> None:
        link.unlink()
        link.symlink_to(target)

    steps = Steps(lambda: switch(other))
    async with Runtime(link / path.name) as runtime:
        report = await steps.fail(runtime)
        assert "it was deleted while it was open" in report.error
        switch(path.parent)
        check(await steps.go_on(runtime, report), link / path.name)
    assert not list(other.iterdir())


async def test_who_may_only_read_a_lock_sees_whether_its_owner_lives(
    path: Path, unprivileged: list[str]
) -> None:
    """Another user's runtime that was killed keeps nobody waiting for its lease."""
    file = path.with_name("owner")
    lock = OwnerLock(str(file))
    file.chmod(0o444)
    locks = "from taskflow.stores.sqlite.locks import OwnerLock"
    program = f"{locks}; print(OwnerLock.is_free({str(file)!r}))"

    def asked() -> str:
        command = [*unprivileged, sys.executable, "-c", program]
        return subprocess.check_output(command, env=ENVIRONMENT, text=True).strip()

    assert asked() == "False"
    lock._file.close()  # and the file stays, as after a death
    assert asked() == "True"


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
async def test_a_neighbour_that_was_deleted_costs_nothing(path: Path, suffix: str) -> None:
    """What was in the log alone is in the database when the runtime has been closed."""
    steps = Steps(lambda: os.unlink(f"{path}{suffix}"))
    async with Runtime(path) as runtime:
        report = await steps.fail(runtime)
        assert f"{path}{suffix} was deleted while it was open" in report.error
    async with Runtime(path) as runtime:
        check(await steps.go_on(runtime, report), path)


async def test_another_application_that_takes_the_place_costs_nothing(path: Path) -> None:
    """SQLite itself deletes our log then: what was in it alone is saved when we close."""
    steps = Steps(lambda: cover_by_another(path))
    async with Runtime(path) as runtime:
        report = await steps.fail(runtime)
        assert f"{path}: it was replaced by another file while it was open" in report.error
        uncover(path)
        assert not is_there(f"{path}-wal")
    async with Runtime(path) as runtime:
        check(await steps.go_on(runtime, report), path)


@pytest.mark.parametrize("folder_too", [False, True])
async def test_a_deleted_file_is_lost_but_not_in_silence(path: Path, folder_too: bool) -> None:
    """Nobody is given a result after it; another file begins anew, with all steps."""
    steps = Steps(lambda: shutil.rmtree(path.parent) if folder_too else path.unlink())
    async with Runtime(SQLiteStore(path, lease_ttl=LEASE)) as runtime:
        report = await steps.fail(runtime)
        assert f"{path}: it was deleted while it was open" in report.error
        again = await steps.fail(runtime)
        assert again.kind == "StoreError"
        assert again.executed == report.executed
    assert not is_there(path)
    path.parent.mkdir(exist_ok=True)
    async with Runtime(path) as runtime:
        check(await steps.go_on(runtime, report), path, is_new=True)


async def test_an_emptied_file_is_noticed(runtime: Runtime, path: Path) -> None:
    """``> taskflow.db`` while it is open: the same file, and nothing in it."""
    steps = Steps(lambda: os.truncate(path, 0))
    assert "it was emptied while it was open" in (await steps.fail(runtime)).error


async def test_a_deleted_lock_file_is_made_again(runtime: Runtime, path: Path) -> None:
    """It excludes others only while they find the same one."""
    lock = f"{path}-lock"
    if not is_there(lock):
        pytest.skip("SQLite from 3.51.3 on needs no lock beside its own")
    steps = Steps(lambda: os.unlink(lock))
    with anyio.fail_after(PATIENCE):
        assert await runtime.run(steps.workflow(), thread_id="t") == TOTAL
    assert is_there(lock)


async def test_an_owner_whose_lock_file_was_deleted_is_not_taken_for_dead(path: Path) -> None:
    """As one that tidies up old files does: it is made again before its lease is over."""
    steps = Steps(anyio.sleep_forever)
    async with Runtime(SQLiteStore(path, lease_ttl=5 * LEASE)) as runtime:
        handle = await runtime.start(steps.workflow(), thread_id="t")
        (owned,) = path.parent.glob("*-owner-*")
        os.unlink(owned)
        with anyio.fail_after(PATIENCE):
            while not is_there(owned):  # noqa: ASYNC110 - another thread makes it
                await anyio.sleep(0.01)
        async with Runtime(path) as other:
            with pytest.raises(ThreadBusy):
                await other.run(steps.workflow(), thread_id="t")
        assert handle.status == "running"
        await handle.cancel()


async def test_a_renewed_lease_makes_no_new_file(path: Path) -> None:
    """The thread that keeps it goes on in the file that it has open."""
    async with Runtime(SQLiteStore(path, lease_ttl=LEASE)):
        with closing(sqlite3.connect(path)) as db:
            expires = db.execute("SELECT expires FROM lease")
            (first,) = expires.fetchone()
            move_database(path)
            with anyio.fail_after(PATIENCE):
                while db.execute("SELECT expires FROM lease").fetchone()[0] <= first + LEASE:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
        assert not is_there(path)


async def test_everything_that_is_asked_of_a_lost_file_says_so(
    runtime: Runtime, path: Path
) -> None:
    """Reads too: what they would give is what nobody else will ever see."""
    steps = Steps()
    await runtime.run(steps.workflow(), thread_id="t")
    lines = [line async for line in runtime.export("t")]
    (first, *_) = await runtime.tasks("t")
    steps.executed.clear()
    os.unlink(path)
    operations = [
        lambda: runtime.run(steps.workflow(), thread_id="t"),
        lambda: runtime.run(steps.workflow(), thread_id="new"),
        lambda: runtime.start(steps.workflow(), thread_id="other"),
        lambda: runtime.get("t"),
        lambda: runtime.runs(),
        lambda: runtime.tasks("t"),
        lambda: runtime.send("t", "go"),
        lambda: runtime.forget("t", first.task_id),
        lambda: runtime.replace("t", first.task_id, (1, "")),
        lambda: runtime.fork("t", to="fork"),
        lambda: runtime.prune(finished_before=timedelta(0)),
        lambda: collected(runtime, "t"),
        lambda: runtime.import_thread(lines, to="imported"),
        lambda: runtime.cancel("t"),
        lambda: runtime.delete("t"),
        lambda: runtime.clear_cache("step"),
        lambda: enter(runtime, "block"),
    ]
    for operation in operations:
        with anyio.fail_after(PATIENCE), pytest.raises(StoreError, match="deleted") as caught:
            await operation()
        assert str(path) in str(caught.value)
    assert steps.executed == []


async def collected(runtime: Runtime, thread_id: str) -> list[str]:
    return [line async for line in runtime.export(thread_id)]


async def enter(runtime: Runtime, thread_id: str) -> None:
    async with runtime.thread(thread_id):
        pass


# File descriptors, limits and system calls of a process of its own.


class Child:
    """A process that executes the steps with a fault of its own."""

    def __init__(self, folder: Path, fault: str, *wrapped_in: str) -> None:
        program = Path(__file__).with_name("steps.py")
        self._process = subprocess.Popen(
            [*wrapped_in, sys.executable, str(program), str(folder), fault],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            text=True,
        )

    def line(self) -> str:
        """What it says next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._process.communicate()[1]
        return line.strip()

    def end(self) -> Any:
        """What it has found."""
        out, err = self._process.communicate("go on\n", timeout=PATIENCE)
        assert self._process.returncode == 0, err
        return json.loads(out)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def test_a_limit_of_file_size_is_reached(path: Path) -> None:
    """RLIMIT_FSIZE (ulimit -f): the process gets over it, and is told which file it was."""
    report = msgspec.convert(Child(path.parent, "file-size").end(), Report)
    assert "ulimit -f" in report.error
    check(report, path)


async def test_file_descriptors_are_used_up(path: Path) -> None:
    """A run needs no more of them; what does says so, and no owner is taken for dead."""
    steps = Steps(anyio.sleep_forever)
    async with Runtime(path) as runtime:
        handle = await runtime.start(steps.workflow(), thread_id="held")
        child = Child(path.parent, "descriptors")
        try:
            assert await anyio.to_thread.run_sync(child.line) == "exhausted"
            # Its lease of 0.6 s is kept, too.
            with closing(sqlite3.connect(path)) as db:
                query = "SELECT max(expires) FROM lease WHERE owner != ?"
                owner = runtime._service.owner
                first = db.execute(query, (owner,)).fetchone()[0]
                with anyio.fail_after(PATIENCE):
                    while db.execute(query, (owner,)).fetchone()[0] <= first + LEASE:  # noqa: ASYNC110
                        await anyio.sleep(0.01)
            export, opening, held = await anyio.to_thread.run_sync(child.end)
        finally:
            child.kill()
        assert "used up its file descriptors" in export
        assert "used up its file descriptors" in opening
        assert held == "ThreadBusy"
        assert handle.status == "running"


# System calls of SQLite, and of ours, how they fail, on which file, and how many there are.
INJECTIONS = [
    ("pwrite64", "ENOSPC", "-wal", 80),
    ("pwrite64", "EIO", "-wal", 80),
    ("pwrite64", "EDQUOT", "", 30),
    ("fdatasync", "EIO", "-wal", 18),
    ("fdatasync", "ENOSPC", "-wal", 18),
    ("fdatasync", "EIO", "", 2),
    ("pread64", "EIO", "-wal", 30),
    ("pread64", "EIO", "", 10),
    ("openat", "EMFILE", "-wal", 1),
    ("openat", "EACCES", "", 1),
    ("openat", "ENFILE", "-lock", 1),
    ("flock", "ENOLCK", "-lock", 40),
    ("ftruncate", "ENOSPC", "-shm", 1),
    ("mmap", "ENOMEM", "-shm", 1),
    ("newfstatat", "EIO", "", 30),
    ("newfstatat", "EACCES", "-shm", 20),
    ("unlink", "EACCES", "-wal", 1),
]


def can_trace() -> bool:
    try:
        traced = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True)
    except OSError:
        return False
    return traced.returncode == 0


async def test_a_system_call_fails(tmp_path: Path, rng: random.Random, is_long: bool) -> None:
    """Any of them at any moment: what was seen is recorded, and the rest can be executed."""
    if not can_trace():
        pytest.skip("no strace, or it may not trace here")
    errors = 0
    for number in range(200 if is_long else 4):
        call, error, suffix, most = rng.choice(INJECTIONS)
        first = rng.randint(1, most)
        when = f"{first}..{first + rng.randrange(4)}"
        folder = tmp_path / f"{number} {call} {error} {suffix or 'db'} {when}"
        folder.mkdir()
        path = folder / "taskflow.db"
        strace = ["strace", "-f", "-qq", "-o", os.devnull, "-P", f"{path}{suffix}"]
        strace += ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}"]
        found = msgspec.convert(Child(folder, "injected", *strace).end(), Injected)
        assert (found.repeated, found.transactions) == ([], 0), folder
        assert all(each.startswith(str(path)) for each in found.errors), (folder, found.errors)
        errors += len(found.errors)

        steps = Steps()
        steps.note = "x" * 5000
        async with Runtime(path) as runtime:
            assert await runtime.run(steps.workflow(), thread_id="t") == TOTAL, folder
        assert not {*steps.executed} & {*found.seen}, folder
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",), folder
    print(f"{errors} errors")  # noqa: T201 - what the long form has found
    assert errors
