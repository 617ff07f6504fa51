"""Sending a signal: it is recorded for the thread's unfinished run, wherever that executes.

The rule: a value that no open ``receive`` of its name can decode is refused to its sender, as far
as their types are known in this process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from taskflow.calls.waits import spelled
from taskflow.errors import SerializationError
from taskflow.loops.promises import check_call_room, uninterrupted
from taskflow.runtime.services import Service
from taskflow.stores.batches import Signal
from taskflow.wire.codec import Codec
from taskflow.wire.identity import check_id, signal_id
from taskflow.wire.pauses import decode_waits
from taskflow.wire.plain import exact_json

__all__ = ("send",)


async def send(
    service: Service, thread_id: str, name: str, value: object, given_id: str | None
) -> None:
    """Record a signal; durable on return.

    Raises RunNotFound where the thread has no unfinished run, and SerializationError for the value.
    """
    check_call_room()
    check_id(thread_id, "thread id")
    check_id(name, "signal's name")
    if given_id is not None:
        check_id(given_id, "signal's id")
    payload = exact_json(value, f"the signal {name!r}")
    _check_fit(await _codecs_of_receivers(service, thread_id, name), thread_id, name, payload)

    unique = os.urandom(16).hex() if given_id is None else f"={given_id}"
    signal = Signal(thread_id, signal_id(name, unique), name, payload, service.clock.now())
    latch, answer = service.journal.send(signal)
    await uninterrupted(latch)
    (sent,) = answer
    assert service.watch is not None
    if not sent.is_new:
        service.watch.look_soon()  # the answer to the first one may have been lost
        return
    service.watch.sent(sent.sequence)
    if not service.registry.deliver(signal, sent) and service.settings.recover:
        service.watch.look_soon()


async def _codecs_of_receivers(service: Service, thread_id: str, name: str) -> Iterable[Codec]:
    """The codecs of the open receives of a signal; none where one of their types is not known."""
    execution = service.registry.executing.get(thread_id)
    if execution is not None and execution.run is not None:
        # Decoded one by one: of however many, usually the first one takes the value.
        return (each.codec for each in execution.run.signals.inbox.receivers(name))
    types = service.shared.signal_types.of(name)
    if not types:
        return ()
    row = await service.store.run(thread_id, None)
    waits = decode_waits(None if row is None else row.waits)
    asked = [each.type for each in waits if each.name == name and each.kind == "signal"]
    if not all(each in types for each in asked if each is not None):
        return ()
    return [codec for each in asked if each is not None for codec in types[each]]


def _check_fit(codecs: Iterable[Codec], thread_id: str, name: str, payload: bytes) -> None:
    """Raise SerializationError where there are codecs, and none of them decodes the payload."""
    misfit: Exception | None = None
    refused: list[Codec] = []
    for codec in codecs:
        try:
            codec.decode(payload)
            return
        except SerializationError as error:
            misfit = error
            refused.append(codec)
    if misfit is not None:
        sent = payload[:200].decode(errors="replace")
        expected = " or ".join(sorted({spelled(codec.annotation) for codec in refused}))
        raise SerializationError(
            f"thread {thread_id!r} waits for a signal {name!r} of type {expected}, and "
            f"{sent} is none: {misfit.__cause__ or misfit!r}"
        ) from misfit
