"""`emit`: tells a value to the run's listeners, now and whenever they read the run again."""

from __future__ import annotations

from typing import Any, Final

from taskflow.calls.call import Call
from taskflow.calls.definitions import Definition, Options
from taskflow.calls.identities import identify
from taskflow.calls.recorded import RecordedCall
from taskflow.errors import NotInRun, SerializationError
from taskflow.runs.frame import FRAME, Frame
from taskflow.runs.run import Run
from taskflow.runs.writes import Outcome
from taskflow.stores.kinds import EMIT
from taskflow.stores.rows import Recorded
from taskflow.wire.json import canonical_json, encode_plain
from taskflow.wire.plain import exact_json

__all__ = ("emit",)


async def _no_body() -> None:
    """A value that is emitted has no body."""


# Asynchronous: the call returns nothing that could be lost, and listeners hear after the commit.
EMIT_CALL: Final[Definition[..., Any, Any]] = Definition(
    _no_body, Options(name="taskflow.emit", durability="async")
)


class EmitCall(RecordedCall[None]):
    """The call that `emit` makes; its record holds the value."""

    __slots__ = ("_payload",)

    def __init__(self, frame: Frame[Run], payload: bytes, canonical: bytes) -> None:
        super().__init__(EMIT_CALL, frame, (), {}, identify(EMIT_CALL, frame, (), {}, canonical))
        self._payload = payload

    def replay(self, recorded: Recorded) -> None:
        """The value was told before, and the call returns nothing."""

    async def _attempt(self) -> Outcome:
        now = self.frame.run.scheduler.clock.now()
        return Outcome(1, now, self._payload, kind=EMIT)

    def _warn_of_twins(self) -> None:
        """Equal values need not be told apart."""

    def shown_arguments(self) -> str | None:
        """Of the call that emits."""
        # Of the call that emits, as its own id is the parent of this one: see `feeds.event_of`.
        maker = self.frame.parent_id
        return None if maker is None else encode_plain(maker).decode()


def emit(value: Any) -> Call[None]:
    """Tell ``value`` (a JSON value) to ``Runtime.stream`` and ``Runtime.subscribe``.

    It is recorded, so that a rerun does not tell it again, and handed out when it is durable. The
    call itself does not wait for that. Raises NotInRun outside of a run, and SerializationError
    where JSON cannot carry the value.
    """
    frame = FRAME.get()
    if frame is None:
        raise NotInRun("emit")
    payload = exact_json(value, "emit(): the value", is_read_back=False)
    try:
        canonical = canonical_json([value])
    except Exception as error:  # sets have an order in it, and what they hold may have none
        raise SerializationError(f"emit(): the value has no canonical form: {error}") from error
    return EmitCall(frame, payload, canonical)
