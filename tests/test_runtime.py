"""Runs, threads and what the runtime shows of them."""

from __future__ import annotations

import pytest

from taskflow import Runtime, task, workflow

pytestmark = pytest.mark.anyio


async def test_a_completed_task_is_not_executed_again(runtime: Runtime) -> None:
    """A rerun of the same call on the same thread answers from the checkpoint table."""
    bodies: list[str] = []

    @task
    async def charge(order: str) -> str:
        bodies.append(order)
        return f"receipt for {order}"

    @workflow
    async def fulfil(order: str) -> str:
        return await charge(order)

    for _ in range(2):
        assert await runtime.run(fulfil("A1"), thread_id="order-A1") == "receipt for A1"

    assert bodies == ["A1"]
