"""The execution of a run's own body: the workflow's, with the recorded input."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from taskflow.calls.attempts import attempt_all
from taskflow.calls.workflows import Workflow
from taskflow.errors import RunSetAside
from taskflow.records import RunStatus
from taskflow.runs.contests import Stake
from taskflow.runs.frame import Frame
from taskflow.runs.run import Run
from taskflow.stores.batches import Finish
from taskflow.wire import failures

__all__ = ("Ending", "RunBody", "execute_body")


class Ending(Struct):
    """How a round ends: what is committed about the run, and what its waiters get."""

    finish: Finish
    payload: bytes | None = None  # the recorded result
    error: BaseException | None = None


class RunBody:
    """The run's own body, as something to be attempted."""

    id: str | None = None
    stake: Stake | None = None
    is_held = False
    is_behind = False

    def __init__(
        self,
        workflow: Workflow[..., Any, Any],
        digest: bytes,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.definition = workflow
        self.digest = digest
        self.args = args
        self.kwargs = kwargs
        self.body: Frame[Run] | None = None


async def execute_body(run: Run, workflow: Workflow[..., Any, Any], max_takeovers: int) -> Ending:
    """Execute the body of ``run``, unless the run was taken over too often; how it ends by that.

    Raises what is no outcome of the workflow: cancellations, and what breaks the run.
    """
    now = run.scheduler.clock.now
    if run.row.takeovers > max_takeovers:
        error = RunSetAside(run.thread_id, run.run_id, run.row.takeovers - 1)
        recorded = failures.record(error).encode()
        return Ending(Finish(run.key, RunStatus.ERROR, now(), error=recorded), error=error)
    codec, payload = workflow.input_codec, run.row.input
    if run.row.epoch > 1:  # another version of the code may have begun it
        workflow.check_parameters(payload)
        arguments = run.read(codec, payload)
    else:
        arguments = codec.decode(payload)
    args, kwargs = workflow.binder.unbind(arguments)
    root = run.root()
    outcome = await attempt_all(RunBody(workflow, root.digest, args, kwargs), root)
    if outcome.failure is None:
        result = outcome.payload
        finish = Finish(run.key, RunStatus.SUCCESS, now(), result=result, saved=run.saved)
        return Ending(finish, payload=result)
    assert outcome.error is not None
    failures.drop_mark(outcome.error)
    finish = Finish(
        run.key,
        RunStatus.ERROR,
        now(),
        error=outcome.payload,
        unrecord=tuple(outcome.failure.ended_by),
    )
    return Ending(finish, error=outcome.error)
