"""Threads as text: `export` writes the lines of one, `read_export` makes rows of them again.

An export is a JSON object on each line: a header with the version of this format, the thread's
runs, their checkpoints in commit order, and a trailer that counts both and has the digest of every
line before it. Recorded JSON stands in it as text, byte for byte. Only this module knows that
format.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

import anyio.lowlevel
from msgspec import Struct

from taskflow.errors import CheckpointCorrupt, ImportRefused, RunNotFound, SerializationError
from taskflow.records import RunStatus
from taskflow.stores.base import Store
from taskflow.stores.checksums import checkpoint_checksum, details_checksum, run_checksum
from taskflow.stores.kinds import EMIT, OUTCOMES, SIGNAL, WAIT
from taskflow.stores.rows import Checkpoint, CheckpointRow, RunRow
from taskflow.wire.codec import Codec
from taskflow.wire.identity import check_id
from taskflow.wire.json import encode_plain

__all__ = ("export", "read_export", "read_exports")

VERSION: Final = 2  # in version 1 only the last run may have failed
PAGE_ROWS: Final = 500
LINES_AT_ONCE: Final = 100
END: Final = b'{"line":"end"'


class _Header(Struct, tag_field="line", tag="export", forbid_unknown_fields=True):
    version: int
    thread_id: str
    exported: str  # date and time, ISO 8601


class _RunLine(Struct, tag_field="line", tag="run", forbid_unknown_fields=True):
    run_id: str
    sequence: int
    workflow: str
    input: str
    fingerprint: str
    status: str
    result: str | None
    error: str | None
    saved: str | None
    created: float
    started: float
    finished: float | None
    waits: str | None
    due: float | None


class _CheckpointLine(Struct, tag_field="line", tag="checkpoint", forbid_unknown_fields=True):
    run_id: str
    task_id: str
    parent_id: str | None
    name: str
    kind: str
    payload: str
    arguments: str | None
    attempts: int
    started: float
    finished: float
    signal: str | None


class _Trailer(Struct, tag_field="line", tag="end", forbid_unknown_fields=True):
    runs: int
    checkpoints: int
    digest: str


class _Version(Struct, tag_field="line", tag="export"):
    """The header of any version."""

    version: int


@functools.cache
def _codec_of(kind: Any) -> Codec:
    return Codec(kind, "the line")


async def export(store: Store, thread_id: str) -> AsyncGenerator[str]:
    """The lines of a thread, from a snapshot that is taken when the first one is asked for.

    Raises RunNotFound, and CheckpointCorrupt for a damaged row.
    """
    digest = blake2b(digest_size=32)
    run_ids: list[str] = []
    checkpoints = 0

    def written(line: Struct) -> str:
        content = encode_plain(line) + b"\n"
        digest.update(content)
        return content.decode()

    async with store.snapshot(thread_id) as snapshot:
        page = await snapshot.runs(0, PAGE_ROWS)
        if not page:
            raise RunNotFound(thread_id)
        yield written(_Header(VERSION, thread_id, datetime.now(UTC).isoformat()))
        while page:
            for run in page:
                yield written(_line_of_run(run))
            run_ids += [run.run_id for run in page]
            page = await snapshot.runs(page[-1].sequence, PAGE_ROWS)
        for run_id in run_ids:
            rows = await snapshot.checkpoints(run_id, 0, PAGE_ROWS)
            while rows:
                for row in rows:
                    yield written(_line_of_checkpoint(thread_id, row))
                checkpoints += len(rows)
                await anyio.lowlevel.checkpoint()
                rows = await snapshot.checkpoints(run_id, rows[-1].sequence, PAGE_ROWS)
    yield written(_Trailer(len(run_ids), checkpoints, digest.hexdigest()))


def _line_of_run(row: RunRow) -> _RunLine:
    row.verified()

    def text(column: bytes | None) -> str | None:
        return None if column is None else column.decode()

    try:
        return _RunLine(
            row.run_id,
            row.sequence,
            row.workflow,
            row.input.decode(),
            row.fingerprint,
            row.status,
            text(row.result),
            text(row.error),
            text(row.saved),
            row.created,
            row.started,
            row.finished,
            text(row.waits),
            row.due,
        )
    except UnicodeDecodeError as error:
        raise CheckpointCorrupt(row.thread_id, row.run_id, None, str(error)) from error


def _line_of_checkpoint(thread_id: str, row: CheckpointRow) -> _CheckpointLine:
    each = row.verified(thread_id).checkpoint
    try:
        payload = each.payload.decode()
    except UnicodeDecodeError as error:
        raise CheckpointCorrupt(thread_id, row.run_id, each.task_id, str(error)) from error
    return _CheckpointLine(
        row.run_id,
        each.task_id,
        each.parent_id,
        each.name,
        each.kind,
        payload,
        each.arguments,
        each.attempts,
        each.started,
        each.finished,
        each.signal,
    )


async def read_export(
    lines: Iterable[str | bytes] | AsyncIterable[str | bytes], to: str | None
) -> tuple[list[RunRow], list[CheckpointRow]]:
    """The rows of one exported thread, renamed to ``to`` unless that is None.

    Raises ImportRefused where the lines are not one whole export.
    """
    if isinstance(lines, str | bytes):
        raise TypeError("an export is lines: give an open file, or text.splitlines()")

    reader = _Reader(to)
    async with aclosing(_each(lines)) as given:
        async for line in given:
            reader.read(line)
    return reader.end()


async def read_exports(
    lines: Iterable[str | bytes] | AsyncIterable[str | bytes],
) -> AsyncGenerator[tuple[list[RunRow], list[CheckpointRow]]]:
    """The rows of each exported thread, in the order of the lines.

    Raises ImportRefused where the lines are not whole exports.
    """
    if isinstance(lines, str | bytes):
        raise TypeError("exports are lines: give an open file, or text.splitlines()")

    reader = _Reader(None)
    async with aclosing(_each(lines)) as given:
        async for line in given:
            if not line.strip() and not reader.has_begun:
                reader.line += 1
                continue
            reader.read(line)
            if reader.has_ended:
                yield reader.end()
                reader = _Reader(None, reader.line)
    if reader.has_begun:
        reader.end()


async def _each(
    lines: Iterable[str | bytes] | AsyncIterable[str | bytes],
) -> AsyncGenerator[str | bytes]:
    if isinstance(lines, AsyncIterable):
        async for line in lines:
            yield line
        return
    for number, line in enumerate(lines, 1):
        yield line
        if number % LINES_AT_ONCE == 0:
            await anyio.lowlevel.checkpoint()


class _Reader:
    """Makes rows of the lines of one export; the first line that does not fit is ImportRefused."""

    def __init__(self, to: str | None, line: int = 0) -> None:
        self.line = line  # the number of the latest line
        self.runs: list[RunRow] = []
        self.checkpoints: list[CheckpointRow] = []
        self._thread_id = to
        self._digest = blake2b(digest_size=32)
        self._seeds: dict[str, int] = {}
        self._ids: set[str] = set()
        self._taken: set[str] = set()
        self.has_begun = self.has_ended = False

    def read(self, line: str | bytes) -> None:
        """Read the next line, with its line break or without."""
        content = line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
        content = content.removesuffix(b"\n").removesuffix(b"\r")
        self.line += 1
        if self.has_ended:
            if content:
                raise ImportRefused(self.line, "it follows the end")
            return
        if not content:
            raise ImportRefused(self.line, "it is empty: the export was cut off before")
        if not self.has_begun:
            self._begin(content)
        elif content.startswith(END) and content == self._trailer():
            self.has_ended = True
            return
        else:
            parsed = self._parsed(content, _codec_of(_RunLine | _CheckpointLine | _Trailer))
            if isinstance(parsed, _RunLine):
                self._add_run(parsed)
            elif isinstance(parsed, _CheckpointLine):
                self._add_checkpoint(parsed)
            else:
                raise ImportRefused(
                    self.line, "lines before it are not those that were exported, or not all"
                )
        self._digest.update(content + b"\n")

    def end(self) -> tuple[list[RunRow], list[CheckpointRow]]:
        """The rows, after the last line. Raises ImportRefused where lines are missing."""
        if not self.has_ended:
            raise ImportRefused(self.line + 1, "it is missing: the export was cut off")
        if not self.runs or sum(row.is_open for row in self.runs) > 1:
            raise ImportRefused(self.line, "its runs are not those of one thread")
        return self.runs, self.checkpoints

    def _begin(self, content: bytes) -> None:
        self.has_begun = True
        version = self._parsed(content, _codec_of(_Version)).version
        if version > VERSION:
            raise ImportRefused(
                self.line,
                f"it has version {version} of the format, and this taskflow reads versions up to "
                f"{VERSION}: upgrade taskflow",
            )
        header = self._parsed(content, _codec_of(_Header))
        try:
            self._thread_id = check_id(self._thread_id or header.thread_id, "thread id")
        except ValueError as error:
            raise ImportRefused(self.line, str(error)) from error

    def _parsed(self, content: bytes, codec: Codec) -> Any:
        try:
            return codec.decode(content)
        except SerializationError as error:
            reason = f"it is not what was exported ({error.__cause__})"
            raise ImportRefused(self.line, reason) from error

    def _trailer(self) -> bytes:
        return encode_plain(
            _Trailer(len(self.runs), len(self.checkpoints), self._digest.hexdigest())
        )

    def _add_run(self, line: _RunLine) -> None:
        assert self._thread_id is not None
        latest = self.runs[-1].sequence if self.runs else 0
        is_known = line.status in tuple(RunStatus) and line.run_id not in self._seeds
        if not is_known or line.sequence <= latest or self.checkpoints:
            raise ImportRefused(self.line, "this run does not follow those before it")
        self._seeds[line.run_id] = run_checksum(self._thread_id, line.run_id)
        self.runs.append(
            RunRow(
                number=0,
                thread_id=self._thread_id,
                run_id=line.run_id,
                sequence=line.sequence,
                workflow=line.workflow,
                input=line.input.encode(),
                fingerprint=line.fingerprint,
                status=line.status,
                result=_bytes(line.result),
                error=_bytes(line.error),
                saved=_bytes(line.saved),
                owner=None,
                epoch=1,
                created=line.created,
                started=line.started,
                finished=line.finished,
                checksum=0,
                waits=_bytes(line.waits),
                due=line.due,
            ).sealed()
        )

    def _add_checkpoint(self, line: _CheckpointLine) -> None:
        seed = self._seeds.get(line.run_id)
        is_known = line.kind in (*OUTCOMES, EMIT, WAIT, SIGNAL)
        if seed is None or not is_known or line.task_id in self._ids or line.signal in self._taken:
            raise ImportRefused(self.line, "this record does not belong to the runs before it")
        self._ids.add(line.task_id)
        if line.signal is not None:
            self._taken.add(line.signal)
        payload = line.payload.encode()
        checkpoint = Checkpoint(
            0,
            0,
            line.task_id,
            line.parent_id,
            line.name,
            line.kind,
            payload,
            line.arguments,
            line.attempts,
            line.started,
            line.finished,
            checkpoint_checksum(seed, line.task_id, line.kind, payload, line.signal)
            | details_checksum(
                line.parent_id,
                line.name,
                line.arguments,
                line.attempts,
                line.started,
                line.finished,
                line.signal,
            ),
            line.signal,
        )
        self.checkpoints.append(CheckpointRow(0, line.run_id, checkpoint))


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
