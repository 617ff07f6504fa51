"""Calls that wait: `receive` for a signal, `sleep` and `sleep_until` for a time.

Only this module decides what ends a wait. No body executes in it, and it holds no slot. Its
deadline is recorded when the call first waits; its outcome ends it, and that of a ``receive`` names
the signal that it took.
"""

from __future__ import annotations

import logging
import math
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, TypeVar, overload

from taskflow.calls.arguments import capped
from taskflow.calls.call import Call
from taskflow.calls.definitions import Definition, Options
from taskflow.calls.identities import identify
from taskflow.calls.recorded import RecordedCall
from taskflow.errors import NotInRun, SerializationError
from taskflow.loops.promises import Promise
from taskflow.records import Wait
from taskflow.retry import seconds
from taskflow.runs.frame import FRAME, Frame
from taskflow.runs.run import Run
from taskflow.runs.writes import Outcome, Tally
from taskflow.stores.rows import CacheEntry, SignalRow
from taskflow.wire import failures
from taskflow.wire.codec import Codec
from taskflow.wire.identity import check_id
from taskflow.wire.json import canonical_json, decode_plain, encode_plain, json_schema
from taskflow.wire.plain import exact_json

__all__ = ("ReceiveCall", "WaitCall", "receive", "sleep", "sleep_until", "spelled")

T = TypeVar("T")

logger = logging.getLogger("taskflow")

LONGEST: Final = 1e11  # seconds: what a datetime can hold
NO_ARGUMENTS: Final[dict[str, Any]] = {}


async def _no_body() -> None:
    """A wait has no body."""


RECEIVE: Final[Definition[..., Any, Any]] = Definition(_no_body, Options(name="taskflow.receive"))
SLEEP: Final[Definition[..., Any, Any]] = Definition(_no_body, Options(name="taskflow.sleep"))
SLEEP_UNTIL: Final[Definition[..., Any, Any]] = Definition(
    _no_body, Options(name="taskflow.sleep_until")
)


class WaitCall(RecordedCall[T]):
    """A call without a body: it ends when it is woken, or at its deadline."""

    __slots__ = ("_promise",)

    def __init__(
        self, definition: Definition[..., Any, Any], frame: Frame[Run], told_by: dict[str, Any]
    ) -> None:
        identity = identify(definition, frame, (), NO_ARGUMENTS, canonical_json(told_by))
        super().__init__(definition, frame, (), NO_ARGUMENTS, identity)
        self._promise: Promise | None = None

    def wake(self) -> None:
        """End the wait: the signal or the time has come."""
        if self._promise is not None and not self._promise.done():
            self._promise.set_result(None)

    def _warn_of_twins(self) -> None:
        """Equal waits may well be open at the same time: the earliest call is served first."""

    def _began(self, now: float) -> float:
        """When the wait began: ``now``, or before a pause that has cut it off."""
        return self.frame.run.waiting.since.get(self.id, now)

    def _recorded_deadline(self) -> float | None:
        return self.frame.run.waiting.deadline(self.id)

    def _put(
        self, outcome: Outcome, cached: CacheEntry | None, tally: Tally | None
    ) -> Promise | None:
        promise = super()._put(outcome, cached, tally)
        self.frame.run.waiting.drop_deadline(self.id)
        return promise

    async def _set_deadline(self, deadline: float) -> float:
        waiting = self.frame.run.waiting
        return await waiting.record_deadline(self.id, self.frame.call_id, deadline)

    async def _wait(self, wait: Wait) -> None:
        """Wait until `wake` is called, or the deadline has come."""
        run = self.frame.run
        scheduler = run.scheduler
        self._promise = scheduler.loop.promise()
        alarm = None
        if wait.deadline is not None:
            alarm = scheduler.alarms.set(wait.deadline, self.wake)
        self.is_held = True
        run.waiting.open(wait)
        try:
            await self._promise
        finally:
            self.is_held = False
            self._promise = None
            run.waiting.close(self.id)
            if alarm is not None:
                alarm.cancel()


class SleepCall(WaitCall[None]):
    """The call that `sleep` and `sleep_until` make."""

    __slots__ = ("_duration", "_until")

    def __init__(self, frame: Frame[Run], duration: float | None, until: datetime | None) -> None:
        if until is None:
            super().__init__(SLEEP, frame, {"seconds": duration})
        else:
            super().__init__(SLEEP_UNTIL, frame, {"when": until.isoformat()})
        self._duration = duration
        self._until = until

    async def _attempt(self) -> Outcome:
        clock = self.frame.run.scheduler.clock
        started = self._began(clock.now())
        deadline = self._recorded_deadline()
        if deadline is None:
            if self._until is None:
                assert self._duration is not None
                deadline = clock.now() + self._duration
            else:
                deadline = self._until.timestamp()
            if deadline > clock.now():
                await self._set_deadline(deadline)
        parent_id = self.frame.call_id
        while clock.now() < deadline:
            await self._wait(
                Wait("timer", "sleep", self.id, started, deadline, parent_id=parent_id)
            )
        return Outcome(1, started, b"null")


class ReceiveCall(WaitCall[T]):
    """The call that `receive` makes."""

    __slots__ = (
        "_annotation",
        "_codec",
        "_deadline",
        "_prompt",
        "_signal",
        "_timeout",
        "name",
        "order",
    )

    def __init__(
        self, frame: Frame[Run], name: str, annotation: Any, prompt: object, timeout: float | None
    ) -> None:
        self._codec = _codec_of(annotation)
        # An answer is never given to another question.
        question = {"name": name} if prompt is None else {"name": name, "prompt": prompt}
        super().__init__(RECEIVE, frame, question)
        self.name = name
        self.order = next(frame.run.signals.inbox.calls)
        self._annotation = annotation
        self._prompt = prompt
        self._timeout = timeout
        self._deadline: float | None = None
        self._signal: SignalRow | None = None  # taken, and not recorded yet

    @property
    def codec(self) -> Codec:
        return self._codec

    def accepts(self, signal: SignalRow) -> bool:
        """Whether the call may take this signal: it fits the type, and came in time."""
        run = self.frame.run
        deadline = math.inf if self._deadline is None else self._deadline
        # The sender's clock may be hours ahead: what is here before the deadline is in time.
        if signal.sent > deadline and run.scheduler.clock.now() > deadline:
            return False
        try:
            self._codec.decode(signal.payload)
        except Exception as error:  # also what a class of the user's raises in its checks
            if run.notices.is_new(f"{self.id} {signal.task_id}"):
                logger.warning(
                    "a signal %r on thread %r is set aside, and the wait for a %s goes on: %s",
                    self.name,
                    run.thread_id,
                    spelled(self._annotation),
                    error.__cause__ or error,
                )
            return False
        return True

    def hand(self, signal: SignalRow) -> None:
        """Wake the call, which records ``signal`` or gives it back."""
        self._signal = signal
        self.wake()

    async def _attempt(self) -> Outcome:
        run = self.frame.run
        clock = run.scheduler.clock
        started = self._began(clock.now())
        if self._timeout is not None:
            self._deadline = self._recorded_deadline()
        self._signal = run.signals.inbox.take(self.name, self.accepts)
        if self._signal is None:
            run.signals.inbox.wait(self)
            try:
                await self._wait_for_signal(started)
            finally:
                run.signals.inbox.leave(self)
        if self._signal is None:
            return self._timed_out(started)
        # Fields that the sender has added are no part of what a rerun is given.
        payload, value = self._codec.settled(self._signal.payload)
        return Outcome(1, started, payload, value, signal=self._signal.task_id)

    async def _wait_for_signal(self, started: float) -> None:
        """Wait until a signal has been handed over, or the deadline has come."""
        run = self.frame.run
        clock = run.scheduler.clock
        if self._timeout is not None and self._deadline is None:
            self._deadline = await self._set_deadline(clock.now() + self._timeout)
        while self._signal is None:
            if self._deadline is not None and clock.now() >= self._deadline:
                await run.signals.look()  # others may have sent one just in time
                return
            await self._wait(self._described(started))

    def _put(
        self, outcome: Outcome, cached: CacheEntry | None, tally: Tally | None
    ) -> Promise | None:
        promise = super()._put(outcome, cached, tally)
        self._signal = None
        return promise

    def _give_up(self) -> None:
        signal, self._signal = self._signal, None
        if signal is not None:
            self.frame.run.signals.inbox.give_back(signal)

    def _described(self, since: float) -> Wait:
        self.frame.run.services.signal_types.note(self.name, spelled(self._annotation), self._codec)
        return Wait(
            "signal",
            self.name,
            self.id,
            since,
            self._deadline,
            self._prompt,
            spelled(self._annotation),
            _schema_of(self._annotation),
            self.frame.call_id,
        )

    def _timed_out(self, started: float) -> Outcome:
        error = TimeoutError(f"no signal {self.name!r} came in {self._timeout:g} s")
        failure = failures.record(error)
        return Outcome.failed(1, started, failure, error)

    def shown_arguments(self) -> str | None:
        """The name, prompt, type and timeout of what it waits for."""
        shown: dict[str, Any] = {"name": self.name}
        if self._prompt is not None:
            shown["prompt"] = self._prompt
        if self._annotation is not Any:
            shown["type"] = spelled(self._annotation)
        if self._timeout is not None:
            shown["timeout"] = self._timeout
        return capped(encode_plain(shown))


@overload
def receive(
    name: str,
    type: type[T],
    *,
    prompt: object = None,
    timeout: float | timedelta | None = None,
) -> Call[T]: ...
@overload
def receive(  # type: ignore[overload-cannot-match]
    name: str,
    type: type[object],
    *,
    prompt: object = None,
    timeout: float | timedelta | None = None,
) -> Call[object]: ...
@overload
def receive(
    name: str,
    type: Any = ...,
    *,
    prompt: object = None,
    timeout: float | timedelta | None = None,
) -> Call[Any]: ...
def receive(
    name: str,
    type: Any = Any,  # noqa: A002 - what it is, and what the field calls it
    *,
    prompt: object = None,
    timeout: float | timedelta | None = None,
) -> Call[Any]:
    """The value of the next signal ``name`` that is sent to this run, decoded to ``type``.

    Signals are taken in the order in which they were sent, each by one ``receive``, the earliest
    call first. One that does not fit ``type`` is set aside and logged. ``prompt`` (a JSON value) is
    shown to whoever looks at what the run waits for; with another one it is another call, which is
    asked anew. After ``timeout`` (seconds or timedelta, counted from the first call, over reruns)
    TimeoutError is raised, and recorded like any failure.

    While only waits are open the run is paused, which cuts off plain code beside them: make that a
    task. A time limit around this call holds while it is awaited here, and does not outlast a
    pause; a task with a ``timeout`` keeps its run from pausing.

    Raises NotInRun outside of a run; SerializationError for a type that cannot be read from JSON
    and a prompt that JSON cannot carry.
    """
    frame = FRAME.get()
    if frame is None:
        raise NotInRun("receive")
    check_id(name, "signal's name")
    limit = None if timeout is None else seconds(timeout, "timeout")
    if prompt is not None:
        prompt = decode_plain(exact_json(prompt, f"receive({name!r}): the prompt"))
    return ReceiveCall(frame, name, type, prompt, limit)


def sleep(duration: float | timedelta) -> Call[None]:
    """Wait for ``duration`` (seconds or timedelta), counted from the first call, over reruns.

    Raises NotInRun outside of a run, ValueError for a negative or infinite duration.
    """
    frame = FRAME.get()
    if frame is None:
        raise NotInRun("sleep", "anyio.sleep")
    if isinstance(duration, bool) or not isinstance(duration, int | float | timedelta):
        raise TypeError(f"sleep() takes seconds or a timedelta, got {duration!r}")
    length = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if not 0 <= length <= LONGEST:
        raise ValueError(f"sleep() takes a finite number of seconds from 0 on, got {duration!r}")
    return SleepCall(frame, float(length), None)


def sleep_until(when: datetime) -> Call[None]:
    """Wait until ``when``, which has a time zone; a time that is past is over at once.

    Raises NotInRun outside of a run, ValueError for a datetime without a time zone.
    """
    frame = FRAME.get()
    if frame is None:
        raise NotInRun("sleep_until")
    if not isinstance(when, datetime):
        raise TypeError(f"sleep_until() takes a datetime, got {when!r}")
    if when.tzinfo is None or when.utcoffset() is None:
        raise ValueError(f"sleep_until() takes a datetime with a time zone, got {when!r}")
    return SleepCall(frame, None, when)


def spelled(annotation: Any) -> str:
    """How an annotation is written."""
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


def _codec_of(annotation: Any) -> Codec:
    try:
        return _cached_codec(annotation)
    except TypeError as error:
        if isinstance(error, SerializationError):
            raise
        return Codec(annotation, f"a signal of type {spelled(annotation)}")  # not hashable


@lru_cache(maxsize=1024)
def _cached_codec(annotation: Any) -> Codec:
    return Codec(annotation, f"a signal of type {spelled(annotation)}")


def _schema_of(annotation: Any) -> dict[str, Any] | None:
    try:
        return _cached_schema(annotation)
    except TypeError:  # not hashable
        return json_schema(annotation)


@lru_cache(maxsize=1024)
def _cached_schema(annotation: Any) -> dict[str, Any] | None:
    return json_schema(annotation)
