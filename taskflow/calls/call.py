"""`Call`: one use of a task or workflow with its arguments, to be awaited once.

Its identity is taken when it is made; nothing executes before it is awaited or scheduled.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from asyncio import Task
from collections.abc import Coroutine, Generator
from functools import partial
from hashlib import blake2b
from types import TracebackType
from typing import Any, Final, Generic, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

from taskflow.calls.attempts import attempt_all
from taskflow.calls.definitions import Definition
from taskflow.errors import LeaseLost, RunCancelled, SerializationError, StoreError
from taskflow.loops.loop import outside
from taskflow.loops.promises import Promise
from taskflow.runs.contests import Stake, is_lost
from taskflow.runs.frame import FRAME, Frame
from taskflow.runs.occurrences import Occurrences, Repeat
from taskflow.runs.run import Run
from taskflow.runs.writes import Outcome, Tally
from taskflow.stores.kinds import RESULT
from taskflow.stores.rows import CacheEntry, Recorded
from taskflow.wire import failures
from taskflow.wire.codec import Codec, decode_plain, encode_plain
from taskflow.wire.digests import DIGEST_SIZE
from taskflow.wire.identity import are_immutable, canonical_arguments, key_json

__all__ = ("Call", "Identity", "RecordedCall", "check_same_run", "identify", "spelled_call")

T_co = TypeVar("T_co", covariant=True)

ARGUMENTS_LIMIT = 4096  # bytes of JSON that are kept of a call's arguments, to be shown


USED: Final = object()  # stands for the steps of a call that was answered, or is somebody else's


class Call(Coroutine[Any, Any, T_co]):
    """A call that can be awaited, gathered, scheduled or waited for, once."""

    __slots__ = ("__weakref__", "_steps", "frame", "id")

    id: str
    frame: Any  # the Frame that made it; None for the description of a run
    _steps: Any  # what executes the call, once it is awaited; `USED`, once it is answered otherwise

    def _execute(self) -> Generator[Any, Any, T_co]:
        raise NotImplementedError

    def __await__(self) -> Generator[Any, Any, T_co]:
        if self._steps is not None:
            raise self._used()
        self._steps = steps = self._execute()
        return steps

    def send(self, value: Any, /) -> Any:
        """Execute up to the next suspension (the coroutine protocol)."""
        steps = self._steps
        if steps is None:
            steps = self.__await__()
        elif steps is USED or getattr(steps, "gi_frame", steps) is None:  # it has ended
            raise self._used()
        return steps.send(value)

    def throw(
        self,
        typ: Any,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
        /,
    ) -> Any:
        """Raise an exception where it is suspended (the coroutine protocol)."""
        if self._steps is None:
            self._steps = self._execute()
        elif self._steps is USED:
            raise self._used()
        if tb is not None and isinstance(typ, BaseException):
            typ = typ.with_traceback(tb)
        return self._steps.throw(typ if isinstance(typ, BaseException) else typ(val))

    def close(self) -> None:
        """Give it up (the coroutine protocol): it will never execute."""
        if self._steps is None:
            self._steps = self._execute()
        if self._steps is not USED:
            self._steps.close()

    def _used(self) -> RuntimeError:
        return RuntimeError(f"{self.id} was awaited already: make another call to ask again")

    def result(self) -> T_co:
        """Wait for the call in a worker thread: what ``await`` gives, in a ``def`` body.

        Raises RuntimeError on the event loop's own thread, which it would block.
        """
        if self.frame is None:
            raise RuntimeError(f"{self.id} belongs to no run: give it to Runtime.run()")
        loop = self.frame.run.scheduler.loop
        if threading.get_ident() == loop.thread:
            raise RuntimeError(
                f"result() would block the event loop that is to execute {self.id}: await the call"
            )

        from anyio import from_thread  # a fifth of importing taskflow, and few need it

        async def wait() -> T_co:
            with outside().waiting():
                return await self

        try:
            return from_thread.run(wait, token=loop.token)
        except RuntimeError as error:
            # On trio a call in a thread has no scope whose cancellation it could raise.
            if self.frame.run.unwinding:
                raise asyncio.CancelledError(str(error)) from None
            raise

    def __del__(self) -> None:
        if getattr(self, "_steps", USED) is None:
            if self.frame and self.frame.run.unwinding:
                return  # it was cut off before it came to that
            where = f" on thread {self.frame.run.thread_id!r}" if self.frame else ""
            warnings.warn(
                f"{self.id}{where} was never awaited, and did not execute",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )


def check_same_run(call: Call[Any]) -> None:
    """Raise RuntimeError where a call is awaited in another run than it was made in."""
    awaiting, run = FRAME.get(), call.frame.run
    if awaiting is not None and awaiting.run is not run:
        raise RuntimeError(
            f"{call.id} was made in run {run.run_id!r} on thread {run.thread_id!r} and cannot "
            f"be awaited in run {awaiting.run.run_id!r} on thread {awaiting.run.thread_id!r}"
        )


# Of one call: its id, its digest, what tells it from other calls of its task, its arguments as
# canonical JSON (None where a key stands for them), and the digest of the first equal call if there
# was one before.
Identity: TypeAlias = tuple[str, bytes, bytes, bytes | None, bytes | None]


def identify(
    definition: Definition[..., Any, Any],
    frame: Frame[Run],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    canonical: bytes | None = None,
) -> Identity:
    """The identity of the next call with these arguments in ``frame``.

    Raises TaskNameConflict, SerializationError for arguments without a canonical form, and
    TypeError for those that the function does not take.
    """
    name = definition.name
    if frame.run.names.get(name) is not definition.where:
        frame.run.claim_name(name, definition.where)
    if canonical is not None:
        told_by = canonical
    elif definition.key is not None:
        told_by = key_json(definition.key(*args, **kwargs), f"the key of {name}")
    else:
        binder = definition.binder
        canonical, types = canonical_arguments(binder.bind(args, kwargs), name, binder.variadic)
        told_by = canonical + types
    part = frame.digest + definition.part + told_by
    digest = blake2b(part, digest_size=DIGEST_SIZE).digest()
    first = None
    made = frame.made
    if made is None:
        frame.made = Occurrences(digest)
    elif not made.add(digest):
        first = digest
        executing = frame.run.activity.executing
        digest = made.next(name, first, executing, partial(_occurrence_digest, part))
    return f"{name}:{digest.hex()}", digest, told_by, canonical, first


def _occurrence_digest(part: bytes, occurrence: int) -> bytes:
    return blake2b(b"%b\n%d" % (part, occurrence), digest_size=DIGEST_SIZE).digest()


class RecordedCall(Call[T_co], Generic[T_co]):
    """A call of a task, or of a workflow inside another one, whose outcome is recorded."""

    __slots__ = (
        "_host",
        "_identity",
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
        self._identity = identity
        self.id = identity[0]
        self.digest = identity[1]
        self.body: Frame[Run] | None = None  # of the present attempt
        self.is_held = False  # it waits, and no body of its own executes
        self.is_behind = False  # it waits for a time or another call, and then executes
        self.stake: Stake | None = frame.stake
        self._host: Any = None
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
        """Somebody else executes it, or it is not needed: it cannot be awaited any more."""
        if self._steps is not None:
            raise self._used()
        self._steps = USED

    def cancel(self) -> None:
        """Cancel whoever executes this call."""
        if self._host is not None:
            self._host.cancel()

    def send(self, value: Any, /) -> Any:
        """Execute up to the next suspension (the coroutine protocol)."""
        if self._steps is None and (recorded := self.recall()) is not None:
            raise StopIteration(self.replay(recorded))
        return super().send(value)

    def _execute(self) -> Generator[Any, Any, T_co]:
        recorded = self.recall()
        if recorded is not None:
            return self.replay(recorded)
        return (yield from self.execute_for(None, self._loop_host()).__await__())

    def recall(self) -> Recorded | None:
        """What is recorded of this call, which is then answered by it."""
        frame = self.frame
        run = frame.run
        if not (run.recorded.unasked or frame.keeps) or frame.has_ended or not run.activity.is_open:
            return None
        recorded = run.recorded.recall(self.id, frame.keeps)
        if recorded is not None and self._steps is None:
            self._steps = USED
        return recorded

    def replay(self, recorded: Recorded) -> T_co:
        """The recorded result; or raise the recorded failure."""
        if recorded.kind == RESULT:
            return self.codec.decode(recorded.payload)  # type: ignore[no-any-return]
        self._steps = USED
        raise self._failure(failures.Failure.parse(recorded.payload))

    async def execute_for(self, tally: Tally | None, host: Task[Any] | None) -> T_co:
        """Execute and record the call in the asyncio task ``host`` (None on trio).

        Its commit is awaited here, or by whoever keeps the tally.
        """
        if self._steps is None:
            self._steps = USED
        if host is not None:
            self._host = host
            return await self._record(tally)
        with anyio.CancelScope() as self._host:
            return await self._record(tally)
        raise RuntimeError(f"{self.id} was left executing when its run ended")

    def _loop_host(self) -> Task[Any] | None:
        """The asyncio task that executes this call. Raises RuntimeError in another run's body."""
        check_same_run(self)
        return self.frame.run.scheduler.loop.host()

    async def _record(self, tally: Tally | None) -> T_co:
        frame = self.frame
        run = frame.run
        activity = run.activity
        definition = self.definition
        if frame.is_cancelled or frame.has_ended or not activity.is_open:
            await activity.check_open(frame)
        if self.stake is not None:
            await self._check_stake()
        run.begin(self)
        # Usually the one that made the call; it waits now, and needs no slot meanwhile.
        body = FRAME.get() or frame
        body.enter_call()
        repeat: Repeat | None = None
        try:
            if activity.gate is not None or run.scheduler.is_draining:
                await self._pass_gate()
            if (repeat := self._repeat()) is not None:
                repeat.in_flight += 1
                if repeat.in_flight > 1 and tally is None:  # a map takes its items in order
                    self._warn_of_twins()
            if definition.cache is None:
                outcome = await self._attempt()
                if self.stake is not None:
                    await self._settle(outcome)
                promise = self._put(outcome, None, tally)
                if promise is not None:
                    await promise
            else:
                key = self._cache_key()
                self.is_behind = True
                async with run.services.cache.flight(definition.name, key):
                    self.is_behind = False
                    outcome = await self._find_or_attempt(key)
        except BaseException as error:
            self._give_up()
            if activity.unwinding:
                body.is_cut_off = True
            if isinstance(error, StoreError | LeaseLost | RunCancelled):
                activity.break_off(error)
            await body.leave_call(error)
            raise
        finally:
            run.end(self)
            if repeat is None and self._identity[4] is None:
                repeat = self._repeat()  # it was called again meanwhile
            if repeat is not None:
                repeat.in_flight -= 1
        body.in_flight -= 1
        if body.is_task and not body.in_flight:
            await body.regain_slot()
        if outcome.failure is not None:
            try:
                raise self._failure(outcome.failure, outcome.error)
            finally:
                del outcome  # the traceback holds this frame, and it would hold the error
        return outcome.value  # type: ignore[no-any-return]

    def _attempt(self) -> Coroutine[Any, Any, Outcome]:
        """Execute the call, as often as its policies say."""
        return attempt_all(self, self.frame)

    def _give_up(self) -> None:
        """It was cut off before its outcome was recorded."""

    def _warn_of_twins(self) -> None:
        self.frame.run.notices.warn_of_twins(self.definition.name)

    async def _pass_gate(self) -> None:
        """Wait where new calls may not start: for a rerun's drift to be known, or for ever."""
        run = self.frame.run
        activity = run.activity
        if activity.gate is not None:
            await activity.gate.wait(self)
            await activity.check_open(self.frame)
        if run.scheduler.is_draining:
            await activity.hold(self)

    async def _check_stake(self) -> None:
        """Raise the cancellation of an arm that has lost."""
        if is_lost(self.stake):
            await anyio.lowlevel.checkpoint_if_cancelled()
            if self.frame.run.scheduler.loop.is_asyncio:
                raise asyncio.CancelledError(f"{self.id} has lost: another call has won")
            raise RuntimeError(f"{self.id} has lost: another call has won")

    async def _settle(self, outcome: Outcome) -> None:
        """Hand the outcome in to the contest that this call is an arm of."""
        await self._check_stake()
        stake = self.stake
        if stake is not None and stake.arm is self:
            stake.contest.settle(self, outcome.failure is None)

    def _repeat(self) -> Repeat | None:
        """The count of equal calls under this parent, if there is more than this one."""
        made = self.frame.made
        if made is None or made.repeats is None:
            return None
        first = self._identity[4]
        if first is not None:
            return made.repeat(self.definition.name, first, self.frame.run.activity.executing)
        return made.repeats.get(self.digest)

    async def _find_or_attempt(self, key: str) -> Outcome:
        """Be answered from the cache, or execute and share the result."""
        definition = self.definition
        run = self.frame.run
        assert definition.cache is not None
        now = run.scheduler.clock.now
        payload = await run.services.cache.find(definition.name, key, now())
        cached: CacheEntry | None = None
        try:
            assert payload is not None
            outcome = Outcome(0, now(), payload, definition.codec.decode(payload))
        except (AssertionError, SerializationError):  # the annotation may have changed since
            outcome = await self._attempt()
            if outcome.failure is None:
                cached = definition.cache.entry(definition.name, key, outcome.payload, now())
        if self.stake is not None:
            await self._settle(outcome)
        promise = self._put(outcome, cached, None)
        if promise is not None:
            await promise
        return outcome

    def _put(
        self, outcome: Outcome, cached: CacheEntry | None, tally: Tally | None
    ) -> Promise | None:
        """Hand the outcome in to be committed; what to await before anybody may see it."""
        frame = self.frame
        failed = outcome.failure is not None
        if failed and tally is not None:
            tally.failed.append(self.id)
        if self._has_changed_arguments():
            frame.run.notices.log_changed_arguments(self.definition.name)
        writes = frame.run.writes
        checkpoint = writes.checkpoint(
            self.id, frame.call_id, self.definition.name, self.shown_arguments(), outcome
        )
        if frame.keeps:
            frame.run.recorded.keep(checkpoint)
        # Equal calls wait until a shared result can be found.
        durability = self.definition.durability if cached is None else "sync"
        return writes.put(checkpoint, durability, cached, None if failed else tally)

    def _has_changed_arguments(self) -> bool:
        """Whether an argument is not any more what the call's identity was taken from."""
        canonical = self._identity[3]
        if self.definition.is_workflow:  # its body is given copies
            return False
        if canonical is None or (are_immutable(self.args) and are_immutable(self.kwargs.values())):
            return False
        try:
            arguments = self.definition.binder.bind(self.args, self.kwargs)
            return canonical_arguments(arguments, self.definition.name)[0] != canonical
        except SerializationError:
            return True

    def _cache_key(self) -> str:
        definition = self.definition
        assert definition.cache is not None
        if definition.cache.key is not None:
            key = definition.cache.key(*self.args, **self.kwargs)
            told_by = key_json(key, f"the cache key of {definition.name}")
        else:
            told_by = self._identity[2]
        return blake2b(definition.part + told_by, digest_size=16).hexdigest()

    def shown_arguments(self) -> str | None:
        """Its arguments as JSON, capped, to be shown."""
        canonical = self._identity[3]
        if canonical is not None:
            return capped(canonical)
        arguments = self.definition.binder.bind(self.args, self.kwargs)
        shown: dict[str, Any] = {}
        for name, value in arguments.items():
            try:
                shown[name] = decode_plain(encode_plain(value))
            except Exception:
                shown[name] = f"<{type(value).__qualname__}>"
        return capped(encode_plain(shown))

    def _failure(
        self, failure: failures.Failure, original: BaseException | None = None
    ) -> Exception:
        """The exception to raise: as every rerun will meet it, now with what led to it."""
        error = failures.rebuild(failure)
        mark = failures.Mark(
            self.frame.run.serial, self.id, tuple(failure.ended_by), failure.given_up
        )
        failures.set_mark(error, mark)
        if original is not None:
            failures.set_origin(error, original)
        return error


def capped(canonical: bytes | None) -> str | None:
    """Arguments as they are kept to be shown: JSON, or a JSON text of its beginning."""
    if canonical is None or len(canonical) <= ARGUMENTS_LIMIT:
        return canonical.decode() if canonical is not None else None
    beginning = canonical[:ARGUMENTS_LIMIT].decode(errors="ignore")
    return encode_plain(f"{beginning}…").decode()


def spelled_call(name: str, arguments: str | None) -> str:
    """A call as one would write it, from its arguments as they are kept to be shown."""
    values = None if arguments is None else decode_plain(arguments.encode())
    if not isinstance(values, dict):
        return f"{name}({'' if values is None else values})"
    shown = ", ".join(f"{key}={value!r}" for key, value in values.items())
    return f"{name}({shown if len(shown) <= 200 else f'{shown[:200]}…'})"
