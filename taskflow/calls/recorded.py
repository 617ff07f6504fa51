"""`RecordedCall`: a call of a task, or of a workflow inside another one.

Only this module decides how a call becomes a recorded outcome: it is answered from its record, or
passes the gate, is attempted, and its outcome is committed before anything sees it.
"""

from __future__ import annotations

from asyncio import Task
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

import anyio

from taskflow.calls import arguments
from taskflow.calls.attempts import attempt_all
from taskflow.calls.call import USED, Call, check_same_run
from taskflow.calls.definitions import Definition
from taskflow.calls.identities import Identity
from taskflow.errors import LeaseLost, RunCancelled, SerializationError, StoreError
from taskflow.loops.promises import Promise
from taskflow.runs.contests import Stake
from taskflow.runs.frame import FRAME, Frame
from taskflow.runs.occurrences import Repeat
from taskflow.runs.run import Run
from taskflow.runs.writes import Outcome, Tally
from taskflow.stores.kinds import RESULT
from taskflow.stores.rows import CacheEntry, Recorded
from taskflow.wire import failures
from taskflow.wire.codec import Codec

__all__ = ("RecordedCall",)

T_co = TypeVar("T_co", covariant=True)


class RecordedCall(Call[T_co], Generic[T_co]):
    """A call whose outcome is recorded."""

    __slots__ = (
        "_canonical",
        "_first",
        "_host",
        "_told_by",
        "args",
        "body",
        "definition",
        "digest",
        "is_behind",
        "is_held",
        "kwargs",
        "stake",
    )

    def __init__(
        self,
        definition: Definition[..., Any, T_co],
        frame: Frame[Run],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        identity: Identity,
    ) -> None:
        self.frame: Frame[Run] = frame
        self.definition = definition
        self.args = args
        self.kwargs = kwargs
        self.id, self.digest, self._told_by, self._canonical, self._first = identity
        self.body: Frame[Run] | None = None  # of the present attempt
        self.is_held = False  # it waits, and no body of its own executes
        self.is_behind = False  # it waits for a time or another call, and then executes
        self.stake: Stake | None = frame.stake
        self._host: Any = None  # the task or scope that executes it
        self._steps = None

    def __repr__(self) -> str:
        return f"<call {self.id}>"

    @property
    def codec(self) -> Codec:
        """Encodes and decodes its result."""
        return self.definition.codec

    @property
    def is_quiet(self) -> bool:
        """Whether no body of its own executes: it waits, or its body waits for other calls."""
        body = self.body
        if self.is_held or body is None or body.has_ended or not body.in_flight:
            return self.is_held
        return self.definition.timeout is None  # else its limit would not outlast a pause

    def use(self) -> None:
        """Take the call over from its maker, who cannot await it any more."""
        if self._steps is not None:
            raise self._used()
        self._steps = USED

    def cancel(self) -> None:
        """Cancel the task or scope that executes this call."""
        if self._host is not None:
            self._host.cancel()

    def send(self, value: Any, /) -> Any:
        # A task that asyncio makes of a recorded call ends in its first step.
        if self._steps is None:
            self._check_loop()
            if (recorded := self.recall()) is not None:
                raise StopIteration(self.replay(recorded))
        return super().send(value)

    def _execute(self) -> Generator[Any, Any, T_co]:
        recorded = self.recall()
        if recorded is not None:
            return self.replay(recorded)
        check_same_run(self)
        host = self.frame.run.scheduler.loop.host()
        return (yield from self.execute_for(None, host).__await__())

    def recall(self) -> Recorded | None:
        """What is recorded of this call, which is then answered by it."""
        frame = self.frame
        run = frame.run
        recorded = run.recorded
        if not (recorded.unasked or frame.keeps) or frame.has_ended or not run.activity.is_open:
            return None
        row = recorded.recall(self.id, frame.keeps)
        if row is not None and self._steps is None:
            self._steps = USED
        return row

    def replay(self, recorded: Recorded) -> T_co:
        """The recorded result; or raise the recorded failure."""
        if recorded.kind == RESULT:
            codec = self.codec
            if codec.can_drop_fields:
                return self.frame.run.read(codec, recorded.payload)  # type: ignore[no-any-return]
            return codec.decode(recorded.payload)  # type: ignore[no-any-return]
        self._steps = USED
        raise _rebuilt(self, failures.Failure.parse(recorded.payload))

    async def execute_for(self, tally: Tally | None, host: Task[Any] | None) -> T_co:
        """Execute and record the call in the asyncio task ``host`` (None on trio).

        The commit is awaited here, or counted in ``tally``, which its owner awaits.
        """
        if self._steps is None:
            self._steps = USED
        if host is not None:
            self._host = host
            return await self._record(tally)
        with anyio.CancelScope() as self._host:
            return await self._record(tally)
        raise RuntimeError(f"{self.id} was left executing when its run ended")

    async def _record(self, tally: Tally | None) -> T_co:
        """Execute and record; the result, or the failure as every rerun will meet it."""
        frame = self.frame
        run = frame.run
        activity = run.activity
        if frame.interruption is not None or frame.has_ended or not activity.is_open:
            await activity.check_open(frame)
        if self.stake is not None:
            await self.stake.check(self.id, run.scheduler.loop)
        run.begin(self)
        # The body that awaits, usually the one that made the call; it needs no slot meanwhile.
        body = FRAME.get() or frame
        body.enter_call()
        made = frame.made
        assert made is not None
        repeat: Repeat | None = None
        try:
            if activity.gate is not None or run.scheduler.is_draining:
                await activity.pass_gate(self)
            if made.repeats is not None:
                name = self.definition.name
                repeat = made.enter(name, self.digest, self._first, activity.executing)
                if repeat is not None and repeat.in_flight > 1 and tally is None:
                    self._warn_of_twins()  # a map takes its items in order
            if self.definition.cache is not None:
                outcome = await self._share()
            else:
                outcome = await self._attempt()
                if self.stake is not None:
                    await self.stake.settle(self, outcome.failure is None, run.scheduler.loop)
                promise = self._put(outcome, None, tally)
                if promise is not None:
                    await promise
            if outcome.interruption is not None:
                try:
                    raise outcome.interruption
                finally:
                    outcome.interruption = None  # its traceback holds this frame
        except BaseException as error:
            self._give_up()
            if activity.unwinding or body.interruption is not None:
                body.is_cut_off = True
            if isinstance(error, StoreError | LeaseLost | RunCancelled):
                activity.break_off(error)
            await body.leave_call(error)
            raise
        finally:
            run.end(self)
            if made.repeats is not None:
                made.leave(self.digest, self._first, repeat)
        body.in_flight -= 1
        if body.is_task and not body.in_flight:
            await body.regain_slot()
        if outcome.failure is not None:
            try:
                raise _rebuilt(self, outcome.failure, outcome.error)
            finally:
                del outcome  # the traceback holds this frame, and it would hold the error
        return outcome.value  # type: ignore[no-any-return]

    def _attempt(self) -> Coroutine[Any, Any, Outcome]:
        """Execute the call, as often as its policies say."""
        return attempt_all(self, self.frame)

    def _give_up(self) -> None:
        """The call was cut off before its outcome was recorded."""

    def _warn_of_twins(self) -> None:
        self.frame.run.notices.warn_of_twins(self.definition.name)

    async def _share(self) -> Outcome:
        """Be answered from the cache, or execute and share the result; one at a time for a key."""
        definition, cache = self.definition, self.frame.run.services.cache
        key = definition.cache_key(self.args, self.kwargs, self._told_by)
        self.is_behind = True
        async with cache.flight(definition.name, key):
            self.is_behind = False
            outcome, entry = await self._find_or_attempt(key)
            if self.stake is not None:
                loop = self.frame.run.scheduler.loop
                await self.stake.settle(self, outcome.failure is None, loop)
            promise = self._put(outcome, entry, None)
            if promise is not None:
                await promise
        return outcome

    async def _find_or_attempt(self, key: str) -> tuple[Outcome, CacheEntry | None]:
        """The outcome, from the cache or of the call itself; the entry for the cache, if new."""
        definition, run = self.definition, self.frame.run
        policy = definition.cache
        assert policy is not None
        now = run.scheduler.clock.now
        payload = await run.services.cache.find(definition.name, key, now())
        if payload is not None:
            try:
                value = definition.codec.decode(payload)
                if not definition.codec.dropped_fields(payload, value):
                    return Outcome(0, now(), payload, value), None
            except SerializationError:  # the annotation may have changed since
                pass
        outcome = await self._attempt()
        if outcome.failure is not None:
            return outcome, None
        return outcome, policy.entry(definition.name, key, outcome.payload, now())

    def _put(
        self, outcome: Outcome, cached: CacheEntry | None, tally: Tally | None
    ) -> Promise | None:
        """Hand the outcome in to be committed; what to await before anything may see it."""
        frame, definition = self.frame, self.definition
        run = frame.run
        failed = outcome.failure is not None
        if failed and tally is not None:
            tally.failed.append(self.id)
        # The body of a workflow is given copies.
        is_checked = self._canonical is not None and not definition.is_workflow
        told_by = self._told_by
        if is_checked and arguments.have_changed(definition, self.args, self.kwargs, told_by):
            run.notices.log_changed_arguments(definition.name)
        checkpoint = run.writes.checkpoint(
            self.id, frame.call_id, definition.name, self.shown_arguments(), outcome
        )
        if frame.keeps:
            run.recorded.keep(checkpoint)
        # Equal calls wait until a shared result can be found.
        durability = definition.durability if cached is None else "sync"
        return run.writes.put(checkpoint, durability, cached, None if failed else tally)

    def shown_arguments(self) -> str | None:
        """Its arguments as JSON, capped, to be shown."""
        if self._canonical is not None:
            return arguments.capped(self._canonical)
        return arguments.shown(self.definition, self.args, self.kwargs)


def _rebuilt(
    call: RecordedCall[Any], failure: failures.Failure, original: BaseException | None = None
) -> Exception:
    """The exception to raise: as every rerun will meet it, now with what led to it."""
    error = failures.rebuild(failure, original)
    mark = failures.Mark(call.frame.run.serial, call.id, tuple(failure.ended_by), failure.given_up)
    failures.set_mark(error, mark)
    if original is not None:
        failures.set_origin(error, original)
    return error
