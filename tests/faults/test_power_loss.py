"""Loss of power: what a disk may hold after it has lost what was not synced.

A program runs workflows and notes what it sees; strace records its writes and syncs. From these the
files are made again as they could be at many moments: everything synced is there, and of the rest
nothing, all, or some sectors. SQLite and taskflow open each of them.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import acknowledge
import pytest
from acknowledge import LASTING, climb, expected
from disks import STRACE, Disk, Line, Sync, may_trace
from processes import ENVIRONMENT

from taskflow import Runtime

pytestmark = pytest.mark.anyio

PROGRAM = Path(acknowledge.__file__)
PATIENCE: Final = 120.0
ROWS: Final = """
SELECT thread_id, sequence, task_id, kind, payload, checksum FROM checkpoint
WHERE thread_id IN ({threads}) ORDER BY sequence
"""
# The same as the program notes it.
SEEN: Final = """
SELECT CASE
    WHEN kind = 'signal' THEN 'sent ' || substr(thread_id, 2)
    WHEN name = 'taskflow.receive' THEN 'word ' || substr(thread_id, 2)
    WHEN name = 'total' THEN 'total ' || substr(thread_id, 2)
    ELSE 'step ' || json_extract(arguments, '$.thread') || ' ' ||
        json_extract(arguments, '$.number') END
FROM checkpoint WHERE thread_id LIKE 't%'
UNION SELECT 'run ' || substr(thread_id, 2) FROM run WHERE status = 'success'
"""
STAYING: Final = [f"t{each}" for each in range(LASTING)]  # threads that are not pruned

Row = tuple[Any, ...]


class Recording:
    """One run of the program: its trace, and what the files held in the end."""

    def __init__(self, folder: Path, mode: str) -> None:
        if why := may_trace():
            pytest.skip(f"no power is lost here: {why}")
        self.folder = folder / mode
        self.folder.mkdir()
        self.trace = folder / f"{mode}.strace"
        done = subprocess.run(
            [*STRACE, str(self.trace), sys.executable, str(PROGRAM), str(self.folder), mode],
            env=ENVIRONMENT,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        self.rows = rows_of(self.folder)
        self.disk = Disk(self.folder, "seen")
        self.seen: list[str] = []  # up to the present moment

    def moments(self) -> Iterator[object]:
        """Stop before and after each sync, and at each line that was noted."""
        for event in self.disk.read(self.trace):
            if isinstance(event, Line):
                self.seen.append(event.text)
            yield event


class Machine:
    """A folder in which the files of an image are laid out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def start(self, image: dict[str, bytes], rng: random.Random) -> None:
        """The power is back: these files are there, and perhaps an index of before."""
        for each in self.folder.iterdir():
            each.unlink()
        for name, content in image.items():
            (self.folder / name).write_bytes(content)
        if "taskflow.db" in image and rng.random() < 0.3:
            (self.folder / "taskflow.db-shm").write_bytes(rng.randbytes(32768))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def rows_of(folder: Path) -> list[Row]:
    """What is recorded on the threads that stay, in commit order. Checks the file as a whole."""
    path = folder / "taskflow.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return []
        return db.execute(ROWS.format(threads=", ".join("?" * len(STAYING))), STAYING).fetchall()


def lost(recording: Recording, folder: Path) -> list[str]:
    """What was seen of the threads that stay, and is not recorded."""
    path = folder / "taskflow.db"
    recorded: set[str] = set()
    with closing(sqlite3.connect(path)) if path.exists() else closing(sqlite3.connect("")) as db:
        if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            recorded = {line for (line,) in db.execute(SEEN)}
    words = (line.split() for line in recording.seen)
    staying = [" ".join(each) for each in words if len(each) > 1 and int(each[1]) < LASTING]
    return [line for line in staying if line not in recorded]


async def go_on(folder: Path, seen: list[str]) -> None:
    """Run everything again: the right results, and nothing executes that was seen before."""
    acknowledge.bodies.clear()
    acknowledge.note = lambda line: None
    async with Runtime(folder / "taskflow.db") as runtime:
        for thread in range(LASTING):
            thread_id = f"t{thread}"
            handle = await runtime.start(climb(thread), thread_id=thread_id, run_id=f"r{thread}")
            if (await runtime.get(thread_id)).status != "success":
                await runtime.send(thread_id, "word", f"word {thread}", id=f"{thread}")
            assert await handle.result() == expected(thread)
    assert not set(acknowledge.bodies) & set(seen)


def chosen(event: object, rng: random.Random, *, is_long: bool) -> bool:
    """Whether the power is lost at this moment: before and after each sync, or some of them."""
    return is_long or rng.random() < (0.1 if isinstance(event, Sync) else 0.05)


async def test_no_result_that_was_seen_is_lost(
    tmp_path: Path, machine: Machine, rng: random.Random, is_long: bool
) -> None:
    """``synchronous="FULL"``: whatever else the disk has kept, and it goes on where it was."""
    recording = Recording(tmp_path, "FULL")
    images: Counter[str] = Counter()
    for event in recording.moments():
        if not chosen(event, rng, is_long=is_long):
            continue
        for what, image in recording.disk.images(rng, parts=3 if is_long else 1):
            machine.start(image, rng)
            rows = rows_of(machine.folder)
            where = f"{what}, after {recording.seen[-1:]}"

            assert lost(recording, machine.folder) == [], where
            assert rows == recording.rows[: len(rows)], where
            images["made"] += 1
            if rng.random() < (0.05 if is_long else 0.03):
                await go_on(machine.folder, recording.seen)
                images["gone on with"] += 1

    assert recording.seen[-1] == "end"
    assert recording.disk.checkpoints > 3  # syncs of the database itself
    assert images["gone on with"]
    sys.stdout.write(f"{dict(images)}, {recording.disk.checkpoints} checkpoints\n")


async def test_every_image_is_consistent_without_the_syncs_of_commits(
    tmp_path: Path, machine: Machine, rng: random.Random, is_long: bool
) -> None:
    """``synchronous="NORMAL"``: the latest commits may be lost, those before them are all there."""
    recording = Recording(tmp_path, "NORMAL")
    losses = images = 0
    for event in recording.moments():
        if not chosen(event, rng, is_long=is_long):
            continue
        for what, image in recording.disk.images(rng, parts=3 if is_long else 1):
            machine.start(image, rng)
            rows = rows_of(machine.folder)

            where = f"{what}, after {recording.seen[-1:]}"
            assert rows == recording.rows[: len(rows)], where
            images += 1
            if lost(recording, machine.folder):
                losses += 1
            elif rng.random() < 0.02:
                await go_on(machine.folder, recording.seen)

    assert losses  # else nothing was lost that NORMAL may lose
    sys.stdout.write(f"{images} images, {losses} of them without the latest results\n")


@pytest.mark.parametrize("mode", ["OFF", "async"])
def test_what_is_not_promised_is_found_to_be_lost(
    mode: str, tmp_path: Path, machine: Machine, rng: random.Random
) -> None:
    """The same look at a file that nobody syncs, and at results seen before they are committed."""
    recording = Recording(tmp_path, mode)

    for event in recording.moments():
        if isinstance(event, Line) and event.text.startswith("step"):
            machine.start(recording.disk.image(lambda: False), rng)
            if lost(recording, machine.folder):
                return
    pytest.fail(f"{mode} has lost nothing")
