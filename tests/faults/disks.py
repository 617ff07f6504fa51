"""What a disk may hold after a loss of power, by a record of the system calls before it.

`Disk` reads what ``strace -f -xx`` has written, one call after another. A sync makes durable what
was written to its file before it began; everything else may be there or not, sector by sector, in
any order. A file that was made, or removed, may be there or not until its folder is synced.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CALLS: Final = "openat,open,close,write,pwrite64,ftruncate,fsync,fdatasync,rename,unlink,unlinkat"
STRACE: Final = ("strace", "-f", "-qq", "-xx", "-s", "16777216", "-e", f"trace={CALLS}", "-o")
CALL: Final = re.compile(r"(\d+) +(\w+)\((.*?)\) += (-?\d+)(?: .*)?$", re.DOTALL)
BEGUN: Final = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>$", re.DOTALL)
ENDED: Final = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*?)\) += (-?\d+)(?: .*)?$", re.DOTALL)
TEXT: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
SECTORS: Final = (512, 4096)  # bytes that are written as a whole, or not at all

Files = dict[str, bytes]  # by name


def may_trace() -> str | None:
    """Why nothing can be recorded here; None where it can."""
    try:
        done = subprocess.run(
            ["strace", "-f", "-qq", "-o", os.devnull, "true"], capture_output=True, check=False
        )
    except OSError:
        return "strace is not installed"
    return None if done.returncode == 0 else f"strace may not trace here: {done.stderr.decode()}"


@dataclass
class Write:
    """Bytes at a place; or, without any, a new length."""

    at: int
    content: bytes | None


@dataclass
class Inode:
    """A file: what is durable of it, and what was written since, in that order."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write] = field(default_factory=list)

    def sync(self, count: int) -> None:
        """Make the first of the writes durable."""
        for write in self.pending[:count]:
            apply(self.durable, write)
        del self.pending[:count]

    def content(self, is_kept: Callable[[], bool], sector: int) -> bytes:
        """What is durable, and of each write those sectors that are kept."""
        content = bytearray(self.durable)
        for write in self.pending:
            if write.content is None:
                if is_kept():
                    apply(content, write)
                continue
            end = write.at + len(write.content)
            for start in range(write.at - write.at % sector, end, sector):
                first, last = max(start, write.at), min(start + sector, end)
                if is_kept():
                    part = write.content[first - write.at : last - write.at]
                    apply(content, Write(first, part))
        return bytes(content)


def apply(content: bytearray, write: Write) -> None:
    """Write into a file's content."""
    if write.content is None:
        del content[write.at :]
        content.extend(bytes(write.at - len(content)))
        return
    content.extend(bytes(max(0, write.at - len(content))))
    content[write.at : write.at + len(write.content)] = write.content


@dataclass
class Line:
    """One line that was noted, at its moment: nothing of a later one was seen by then."""

    text: str


@dataclass
class Sync:
    """A sync of a file has ended: the moments before it and after it are the interesting ones."""

    path: str


class Disk:
    """The files of one folder, as the calls leave them that have been read."""

    def __init__(self, folder: Path, noted: str) -> None:
        self._folder = os.fspath(folder)
        self._noted = os.path.join(self._folder, noted)
        self._open: dict[int, str] = {}
        self._inodes: dict[int, Inode] = {}  # by descriptor
        self.entries: dict[str, Inode] = {}  # by path, as programs see them
        self.durable_entries: dict[str, Inode] = {}
        self._syncing: dict[str, tuple[Inode | None, int]] = {}  # by process
        self._unfinished: dict[str, tuple[str, str]] = {}
        self.checkpoints = 0  # syncs of the database's own file

    def read(self, trace: Path) -> Iterator[Line | Sync]:
        """Follow the calls; what is noted and what is synced is told when it is."""
        with trace.open() as lines:
            for line in lines:
                yield from self._follow(line.rstrip("\n"))

    def _follow(self, line: str) -> Iterator[Line | Sync]:
        if begun := BEGUN.match(line):
            pid, name, arguments = begun.groups()
            self._unfinished[pid] = (name, arguments)
            yield from self._begin(pid, name, arguments)
            return
        if ended := ENDED.match(line):
            pid, name, rest, result = ended.groups()
            name, arguments = self._unfinished.pop(pid)
            yield from self._end(pid, name, arguments + rest, int(result))
        elif call := CALL.match(line):
            pid, name, arguments, result = call.groups()
            yield from self._begin(pid, name, arguments)
            yield from self._end(pid, name, arguments, int(result))

    def _begin(self, pid: str, name: str, arguments: str) -> Iterator[Line | Sync]:
        """A call begins: what is noted is noted, and what a sync covers was written before."""
        if name == "write":
            if self._open.get(_number(arguments)) == self._noted:
                (content,) = _texts(arguments)
                yield Line(content.decode().strip())
        elif name in ("fsync", "fdatasync"):
            inode = self._inodes.get(_number(arguments))
            self._syncing[pid] = (inode, 0 if inode is None else len(inode.pending))

    def _end(self, pid: str, name: str, arguments: str, result: int) -> Iterator[Line | Sync]:
        if result < 0:
            return
        if name in ("openat", "open"):
            self._opened(os.fsdecode(_texts(arguments)[0]), arguments, result)
        elif name == "close":
            self._open.pop(_number(arguments), None)
            self._inodes.pop(_number(arguments), None)
        elif name in ("unlink", "unlinkat"):
            self.entries.pop(os.fsdecode(_texts(arguments)[0]), None)
        elif name == "rename":
            old, new = map(os.fsdecode, _texts(arguments))
            if old in self.entries:
                self.entries[new] = self.entries.pop(old)
        elif name in ("fsync", "fdatasync"):
            yield from self._synced(pid, _number(arguments))
        elif (inode := self._inodes.get(_number(arguments))) is None:
            return
        elif name == "pwrite64":
            (content,) = _texts(arguments)
            inode.pending.append(Write(int(arguments.rpartition(",")[2]), content[:result]))
        elif name == "ftruncate":
            inode.pending.append(Write(int(arguments.rpartition(",")[2]), None))
        elif name == "write":
            raise AssertionError(f"a write without a place: {arguments[:100]}")

    def _opened(self, path: str, arguments: str, descriptor: int) -> None:
        self._open[descriptor] = path
        self._inodes.pop(descriptor, None)
        if path == self._noted or os.path.dirname(path) != self._folder:
            return
        if not path.endswith(("/taskflow.db", "-wal", "-journal")):
            return  # its index and locks are made anew
        inode = self.entries.setdefault(path, Inode())
        self._inodes[descriptor] = inode
        if "O_TRUNC" in arguments:
            inode.pending.append(Write(0, None))

    def _synced(self, pid: str, descriptor: int) -> Iterator[Line | Sync]:
        inode, count = self._syncing.pop(pid)
        path = self._open.get(descriptor)
        if path == self._folder:
            yield Sync(path)
            self.durable_entries = dict(self.entries)
            yield Sync(path)
        elif inode is not None and path is not None:
            yield Sync(path)
            self.checkpoints += path.endswith("/taskflow.db")
            inode.sync(count)
            yield Sync(path)

    def images(self, rng: random.Random, parts: int) -> Iterator[tuple[str, Files]]:
        """What the disk may hold now: nothing that was not synced, all of it, and some sectors."""
        yield "nothing else", self.image(lambda: False)
        yield "everything", self.image(lambda: True)
        for _ in range(parts):
            share, sector = rng.random(), rng.choice(SECTORS)
            image = self.image(lambda share=share: rng.random() < share, sector)
            yield f"{share:.0%} of its sectors of {sector} bytes", image

    def image(self, is_kept: Callable[[], bool], sector: int = SECTORS[0]) -> Files:
        """The files with what was synced, and of the rest what ``is_kept``."""
        files: Files = {}
        for path in {*self.durable_entries, *self.entries}:
            before, now = self.durable_entries.get(path), self.entries.get(path)
            inode = before if before is now or not is_kept() else now
            if inode is not None:
                files[os.path.basename(path)] = inode.content(is_kept, sector)
        return files


def _number(arguments: str) -> int:
    return int(arguments.partition(",")[0])


def _texts(arguments: str) -> list[bytes]:
    return [bytes.fromhex(each.replace("\\x", "")) for each in TEXT.findall(arguments)]
