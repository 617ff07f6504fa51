"""Builds the rows that a test hands to a store, and fills in what the test is not about.

    import anyio

    from taskflow import MemoryStore
    from taskflow.testing.rows import OWNER, begin, checkpoint, recorded, write

    async def main() -> None:
        store = MemoryStore()
        await store.open(OWNER)
        run = await begin(store, "order-A1")
        await write(store, checkpoints=[checkpoint(run.key, "charge:1")])
        assert await recorded(store, "order-A1") == ["charge:1"]
        await store.close(OWNER)

    anyio.run(main)

`claim`, `checkpoint` and the ends of runs take the fields of their records as keyword arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from taskflow.records import RunStatus
from taskflow.stores.base import Store
from taskflow.stores.batches import Batch, Claim, Claimed, Committed, Finish, Sent, Signal
from taskflow.stores.checksums import checkpoint_checksum, run_checksum
from taskflow.stores.rows import CacheEntry, Checkpoint, RunKey, RunRow

__all__ = (
    "OTHER_INPUT",
    "OWNER",
    "ask",
    "batch",
    "begin",
    "cached",
    "checkpoint",
    "claim",
    "due",
    "end",
    "failure",
    "pause",
    "post",
    "record",
    "recorded",
    "release",
    "row_of",
    "signal",
    "success",
    "taking",
    "write",
)

T = TypeVar("T")

OWNER: Final = "owner-of-the-tests"
OTHER_INPUT: Final = b'{"order":2}'


def claim(
    thread_id: str = "thread",
    *,
    input: bytes = b'{"order":1}',  # noqa: A002 - as the field that it is
    **changes: Any,
) -> Claim:
    """A claim of the workflow ``fulfil`` with ``input``."""
    fields: dict[str, Any] = {
        "run_id": None,
        "new_run_id": "run",
        "workflow": "fulfil",
        "fingerprint": f"fulfil of {input.decode()}",
        "owner": OWNER,
        "now": 1.0,
    }
    return Claim(thread_id, input=input, **{**fields, **changes})


def checkpoint(key: RunKey, task_id: str = "charge:1", **changes: Any) -> Checkpoint:
    """A recorded result of the task ``charge`` in the run of ``key``."""
    fields: dict[str, Any] = {
        "parent_id": None,
        "name": "charge",
        "kind": "result",
        "payload": b'"receipt"',
        "arguments": '{"order":1}',
        "attempts": 1,
        "started": 1.0,
        "finished": 2.0,
    }
    fields |= changes
    seed = run_checksum(key.thread_id, key.run_id)
    fields.setdefault(
        "checksum", checkpoint_checksum(seed, task_id, fields["kind"], fields["payload"])
    )
    return Checkpoint(key.number, key.epoch, task_id, **fields)


def taking(key: RunKey, signal: str, task_id: str = "receive:1") -> Checkpoint:
    """The row of a call that has taken a signal."""
    return checkpoint(key, task_id, name="receive", signal=signal)


def cached(key: str = "key", *, name: str = "charge", expires: float | None = None) -> CacheEntry:
    """A result that threads share."""
    return CacheEntry(name, key, b'"shared"', expires, 7)


def signal(thread_id: str = "thread", number: int = 1, **changes: Any) -> Signal:
    """A signal of the name ``x``."""
    name = changes.pop("name", "x")
    fields = {"task_id": f"{name}:{number}", "payload": b"1", "now": 5.0}
    return Signal(thread_id, name=name, **{**fields, **changes})


def batch(**writes: Iterable[Any]) -> Batch:
    """A batch of these writes: ``checkpoints``, ``finishes``, ``claims``, …"""
    required = dict.fromkeys(("checkpoints", "cached", "unrecords", "finishes", "claims"), ())
    return Batch(**{name: list(each) for name, each in {**required, **writes}.items()})


def success(key: RunKey, result: bytes = b'"done"', **changes: Any) -> Finish:
    """The end of a run that has succeeded."""
    return Finish(key, RunStatus.SUCCESS, 3.0, result=result, **changes)


def release(key: RunKey, status: RunStatus = RunStatus.RUNNING, **changes: Any) -> Finish:
    """The end of an execution that leaves the run for anybody to continue."""
    return Finish(key, status, 3.0, **changes)


def failure(key: RunKey, **changes: Any) -> Finish:
    """The end of a run that has failed."""
    return release(key, RunStatus.ERROR, error=b"{}", **changes)


def pause(key: RunKey, due: float | None = None, **changes: Any) -> Finish:
    """The pause of a run that waits for something."""
    return release(key, RunStatus.PAUSED, **{"waits": b"[]", "due": due, **changes})


async def write(store: Store, **writes: Iterable[Any]) -> Committed:
    """Commit these writes."""
    return await store.commit(batch(**writes))


async def ask(store: Store, claim: Claim) -> Claimed:
    """The answer to ``claim``. Raises the error with which it is refused."""
    (answer,) = (await write(store, claims=[claim])).claims
    return _granted(answer)


async def begin(store: Store, thread_id: str = "thread", **changes: Any) -> RunRow:
    """A run that is claimed now."""
    return (await ask(store, claim(thread_id, **changes))).row


async def record(store: Store, run: RunRow, *task_ids: str, **changes: Any) -> Committed:
    """Commit a checkpoint for each of ``task_ids`` (default: one)."""
    rows = [checkpoint(run.key, each, **changes) for each in task_ids or ("charge:1",)]
    return await write(store, checkpoints=rows)


async def end(
    store: Store, run: RunRow, finish: Callable[..., Finish] = success, **changes: Any
) -> RunRow:
    """Commit the end of ``run``, and return its row as it is then."""
    await write(store, finishes=[finish(run.key, **changes)])
    return await row_of(store, run.thread_id, run.run_id)


async def post(store: Store, thread_id: str = "thread", number: int = 1, **changes: Any) -> Sent:
    """A signal that is sent now. Raises the error with which it is refused."""
    (answer,) = (await write(store, signals=[signal(thread_id, number, **changes)])).signals
    return _granted(answer)


async def row_of(store: Store, thread_id: str = "thread", run_id: str | None = None) -> RunRow:
    """The row of a run (default: the latest of the thread), which is there."""
    row = await store.run(thread_id, run_id)
    assert row is not None
    return row


async def recorded(store: Store, thread_id: str = "thread") -> list[str]:
    """The ids of everything that is recorded on a thread, in commit order."""
    return [row.checkpoint.task_id for row in await store.checkpoints(thread_id, None)]


async def due(store: Store, now: float = 1e9) -> list[str]:
    """The threads whose runs are to be continued, in the order of their urgency."""
    return [row.thread_id for row in await store.recoverable(now, ["fulfil"], 100)]


def _granted(answer: T | Exception) -> T:
    if isinstance(answer, Exception):
        raise answer
    return answer
