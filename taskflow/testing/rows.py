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

from typing import Any, Final

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
    "pause",
    "post",
    "recorded",
    "release",
    "success",
    "taking",
    "write",
)

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


def batch(
    *,
    checkpoints: Any = (),
    cached: Any = (),
    unrecords: Any = (),
    finishes: Any = (),
    claims: Any = (),
) -> Batch:
    """A batch of these writes."""
    return Batch(list(checkpoints), list(cached), list(unrecords), list(finishes), list(claims))


def success(key: RunKey, result: bytes = b'"done"', **changes: Any) -> Finish:
    """The end of a run that has succeeded."""
    return Finish(key, RunStatus.SUCCESS, 3.0, result=result, **changes)


def release(key: RunKey, status: RunStatus = RunStatus.RUNNING, **changes: Any) -> Finish:
    """The end of an execution that leaves the run for anybody to continue."""
    return Finish(key, status, 3.0, **changes)


def pause(key: RunKey, due: float | None = None, last_signal: int = 0) -> Finish:
    """The pause of a run that waits for something."""
    return release(key, RunStatus.PAUSED, waits=b"[]", due=due, last_signal=last_signal)


async def ask(store: Store, claim: Claim) -> Claimed:
    """What ``claim`` comes to. Raises what it is turned down with."""
    answer = (await store.commit(batch(claims=[claim]))).claims[0]
    if isinstance(answer, Exception):
        raise answer
    return answer


async def begin(store: Store, thread_id: str = "thread", **changes: Any) -> RunRow:
    """A run that is claimed now."""
    return (await ask(store, claim(thread_id, **changes))).row


async def write(store: Store, **writes: Any) -> Committed:
    """Commit these writes."""
    return await store.commit(batch(**writes))


async def recorded(store: Store, thread_id: str = "thread") -> list[str]:
    """The ids of everything that is recorded on a thread, in commit order."""
    return [row.checkpoint.task_id for row in await store.checkpoints(thread_id, None)]


async def post(store: Store, name: str = "x", thread_id: str = "thread", **changes: Any) -> Sent:
    """A signal that is sent now. Raises what it is turned down with."""
    fields = {"task_id": f"{name}:{changes.pop('number', 1)}", "payload": b"1", "now": 5.0}
    signal = Signal(thread_id, name=name, **{**fields, **changes})
    (answer,) = (await store.commit(Batch([], [], [], [], [], [signal]))).signals
    if isinstance(answer, Exception):
        raise answer
    return answer


async def due(store: Store, now: float = 1e9) -> list[str]:
    """The threads whose runs are to be continued, in the order of their urgency."""
    return [row.thread_id for row in await store.recoverable(now, ["fulfil"], 100)]
