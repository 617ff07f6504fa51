"""`RunHandle`: what `Runtime.start` returns."""

from __future__ import annotations

from typing import Generic, TypeVar

from taskflow.records import RunStatus
from taskflow.runtime.executions import Execution

__all__ = ("RunHandle",)

T = TypeVar("T")


class RunHandle(Generic[T]):
    """A run that was started: to wait for, to look at, to cancel."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @property
    def thread_id(self) -> str:
        """The thread that it runs on."""
        return self._execution.thread_id

    @property
    def run_id(self) -> str:
        """The run's id, on that thread."""
        return self._execution.run_id or ""

    @property
    def status(self) -> RunStatus:
        """How far it is, as far as this runtime knows."""
        return self._execution.status

    async def result(self) -> T:
        """Wait for the result, through pauses. Raises what the workflow raised, or RunCancelled."""
        return await self._execution.waiters.wait()  # type: ignore[no-any-return]

    async def cancel(self) -> None:
        """End the run for good, and wait until nothing of it executes any more.

        Raises StoreError.
        """
        await self._execution.cancel()
