"""The checksums of rows: CRC-32 of what a replay depends on, and above it one of the other columns.

A checksum of 63 bits fits SQLite's integers, which have a sign. Its lower 32 bits cover what a
replay depends on: `outcome_checksum` of a run, `checkpoint_checksum` of a checkpoint, which is
seeded with thread and run. Its upper 31 bits cover the other columns, and are 0 in rows of schemas
before 3.
"""

from __future__ import annotations

from zlib import crc32

from msgspec import msgpack

from taskflow.stores.kinds import ERROR, RESULT

__all__ = (
    "COVERED",
    "checkpoint_checksum",
    "covered_signal",
    "details_checksum",
    "fits",
    "outcome_checksum",
    "run_checksum",
)

COVERED = 0xFFFFFFFF  # the bits of a checksum that cover what a replay depends on


def run_checksum(*parts: str | int | float | bytes | None) -> int:
    """CRC-32 over ``parts`` in MessagePack, where each tells its type and length."""
    return crc32(_pack(parts))


def outcome_checksum(
    seed: int,
    birth: int | None,
    status: str,
    result: bytes | None,
    error: bytes | None,
    saved: bytes | None,
    *,
    waits: bytes | None,
    finished: float | None,
) -> int:
    """CRC-32 over a run and its outcome, and, above its 32 bits, one over the other columns.

    ``seed`` and ``birth`` are those of its `RunKey`. Not covered are its number, which a new row
    does not know, its owner and when it is due, which others change, and its takeovers.
    """
    waiting = () if waits is None else (waits,)
    checksum = run_checksum(seed, status, result, error, saved, *waiting)
    if birth is None:
        return checksum
    return _above(run_checksum(birth, finished)) | checksum


def checkpoint_checksum(
    seed: int, task_id: str, kind: str, payload: bytes, signal: str | None = None
) -> int:
    """CRC-32 over all that a replay depends on; ``seed`` is `run_checksum` of thread and run."""
    if kind == ERROR:
        seed = ~seed & 0xFFFFFFFF
    elif kind != RESULT:
        seed = crc32(kind.encode(), seed)
    checksum = crc32(payload, crc32(task_id.encode(), seed))
    return checksum if signal is None else crc32(signal.encode(), checksum)


def covered_signal(checksum: int, signal: str | None) -> str | None:
    """The signal that a row's checksum covers: rows of the first two schemas cover none."""
    return signal if checksum > COVERED else None


def details_checksum(
    parent_id: str | None,
    name: str,
    arguments: str | None,
    attempts: int,
    started: float,
    finished: float,
    signal: str | None,
) -> int:
    """CRC-32 over a checkpoint's columns beside its outcome, to be added to the other one."""
    details = _pack((parent_id, name, arguments, attempts, started, finished, signal))
    return (crc32(details) >> 1 or 1) << 32  # `_above`, without a call: once for each row


def fits(checksum: int, expected: int, details: int) -> bool:
    """Whether a row has the checksum that is ``expected`` of it, and the one of its ``details``.

    Rows of schemas before 3 have only the first.
    """
    return checksum & COVERED == expected and (
        checksum >> 32 == 0 or checksum & ~COVERED == details
    )


def _above(checksum: int) -> int:
    """A checksum for the upper half; never 0."""
    return (checksum >> 1 or 1) << 32


_pack = msgpack.Encoder().encode
