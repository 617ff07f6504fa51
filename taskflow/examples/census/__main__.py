"""The command line: `python -m taskflow.examples.census --help`."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from anyio.to_process import current_default_process_limiter
from msgspec import Struct

from taskflow import RunNotFound, Runtime, TaskflowError
from taskflow.examples.census.progress import Progress
from taskflow.examples.census.report import lines_of, unread
from taskflow.examples.census.sources import Listing, find, portable
from taskflow.examples.census.survey import Census, on_counted, take_census
from taskflow.records import TaskRecord

PROGRAM = "python -m taskflow.examples.census"


class Order(Struct, frozen=True):
    """The command line's arguments."""

    folder: Path
    db: Path
    thread_id: str
    jobs: int


class Effort(Struct, frozen=True):
    """How many counts of a census were executed, replayed or cached."""

    executed: int
    replayed: int
    cached: int

    def __str__(self) -> str:
        return (
            f"{self.executed:,} executed, {self.replayed:,} replayed from the record, "
            f"{self.cached:,} answered from the cache"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Take a census; the exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    begun = time.monotonic()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    order = _order(parser.parse_args(arguments))
    if not order.folder.is_dir():
        parser.error(f"there is no folder {str(order.folder)!r}")
    if order.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {order.jobs}")
    progress = Progress(sys.stderr)
    try:
        listing = find(order.folder)
        if not listing.sources:
            if listing.unreadable:
                _say("\n".join(unread(listing.unreadable)))
            parser.error(f"there is no Python file to read under {str(order.folder)!r}")
        census, effort = asyncio.run(_census(order, listing, progress))
    except KeyboardInterrupt:
        progress.clear()
        _say(f"stopped: {progress.done:,} of {progress.total:,} files are kept in {order.db}.")
        _say(f"To go on: {shlex.join([*PROGRAM.split(), *arguments])}")
        return 130
    except (TaskflowError, ValueError) as error:
        progress.clear()
        _say(f"census: {error}")
        return 1
    progress.clear()
    print("\n".join(lines_of(census, listing.unreadable)))
    print(f"\n{len(listing.sources):,} files in {time.monotonic() - begun:.1f} s: {effort}")
    return 0


async def _census(order: Order, listing: Listing, progress: Progress) -> tuple[Census, Effort]:
    progress.begin(len(listing.sources))
    on_counted.set(progress.step)
    current_default_process_limiter().total_tokens = order.jobs
    # Twice as many bodies as processes: one is ready whenever a process becomes free.
    async with Runtime(order.db, max_concurrency=2 * order.jobs) as runtime:
        before = {each.task_id for each in await _records(runtime, order.thread_id)}
        # If the tree has changed since an interrupted census, this one supersedes it; its counts
        # are in the cache.
        census = await runtime.run(
            take_census(portable(order.folder), listing.sources),
            thread_id=order.thread_id,
            supersede=True,
        )
        records = await _records(runtime, order.thread_id)
        for record in records:
            if record.status == "error":  # gone or changed meanwhile: the next census looks again
                await runtime.forget(order.thread_id, record.task_id)
    return census, _effort(records, before)


async def _records(runtime: Runtime, thread_id: str) -> list[TaskRecord]:
    """The recorded calls of the thread's latest run."""
    try:
        run = await runtime.get(thread_id)
    except RunNotFound:
        return []
    return await runtime.tasks(thread_id, run.run_id)


def _effort(records: Sequence[TaskRecord], before: set[str]) -> Effort:
    origins = Counter(
        "replayed" if each.task_id in before else "executed" if each.attempts else "cached"
        for each in records
    )
    return Effort(origins["executed"], origins["replayed"], origins["cached"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Count functions, classes, branches and lines of the Python files in a folder. "
        "It may be interrupted at any time: the same command continues it.",
    )
    standard_library = sysconfig.get_path("stdlib")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=standard_library, help="default: %(default)s"
    )
    parser.add_argument(
        "--db", type=Path, default="census.db", help="the file for the counts: %(default)s"
    )
    parser.add_argument("--thread", help="an id for this census; default: the folder's path")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="worker processes: %(default)s"
    )
    return parser


def _order(arguments: argparse.Namespace) -> Order:
    folder: Path = arguments.folder.resolve()
    thread_id: str = _thread_of(folder) if arguments.thread is None else arguments.thread
    return Order(folder, arguments.db, thread_id, arguments.jobs)


def _thread_of(folder: Path) -> str:
    """The folder's path, or a digest of it where that is longer than an id may be."""
    path = portable(folder)
    return path if len(path) <= 512 else blake2b(path.encode(), digest_size=16).hexdigest()


def _say(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
