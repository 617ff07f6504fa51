"""Builds the rows that tests hand to a store, and fills in what a test is not about."""

from __future__ import annotations

from typing import Any

from taskflow import Store
from taskflow.records import (
    Batch,
    Checkpoint,
    Claim,
    Claimed,
    Committed,
    Finish,
    RunKey,
    RunRow,
    RunStatus,
    checkpoint_checksum,
    run_checksum,
)

OWNER = "owner-of-the-tests"


def claim(thread_id: str = "thread", *, input: bytes = b'{"order":1}', **changes: Any) -> Claim:
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
