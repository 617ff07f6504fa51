"""The events of a run as lines on stdout: text for people, or JSON."""

from __future__ import annotations

import json
import os
import select
import sys
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from taskflow.cli.hints import in_short
from taskflow.cli.progress import duration, shown_id
from taskflow.events import (
    Dropped,
    Emitted,
    Event,
    RunCompleted,
    RunFailed,
    RunStarted,
    TaskCompleted,
    TaskRetrying,
    TaskStarted,
    Waiting,
)
from taskflow.events import (
    RunCancelled as RunCancelledEvent,
)
from taskflow.events import (
    RunPaused as RunPausedEvent,
)
from taskflow.events import (
    TaskFailed as TaskFailedEvent,
)
from taskflow.wire.json import encode_plain

__all__ = ("EventLines",)

STYLES: dict[type[Any], str] = {
    Dropped: "red",
    Emitted: "cyan",
    RunCancelledEvent: "yellow",
    RunCompleted: "green",
    RunFailed: "red",
    RunPausedEvent: "yellow",
    TaskFailedEvent: "red",
    TaskRetrying: "yellow",
    Waiting: "yellow",
}


class EventLines:
    """Writes events to stdout, whose reader may close its end of a pipe at any time."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = _Console(highlight=False)

    def put(self, event: Event) -> None:
        """Write one event. Raises BrokenPipeError where the reader has gone."""
        if not self._as_json:
            self._console.print(_line(event), soft_wrap=True)
            return
        # Lone surrogates occur in JSON strings only, where their escape has the same meaning.
        sys.stdout.write(encode_plain(event).decode("utf-8", "backslashreplace") + "\n")
        sys.stdout.flush()

    @property
    def is_broken(self) -> bool:
        """Whether the reader has gone; on POSIX this is known without writing a line."""
        if not hasattr(select, "poll"):
            return False
        try:
            poll = select.poll()
            poll.register(sys.stdout.fileno(), 0)
            return any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0))
        except (OSError, ValueError):  # no file at all
            return False

    def abandon(self) -> None:
        """Send the rest to nowhere, so that Python's flush at exit does not fail."""
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
        except (OSError, ValueError):  # no file at all
            pass


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _line(event: Event) -> Text:
    moment = datetime.fromtimestamp(event.time).strftime("%H:%M:%S.%f")[:-3]
    return Text.assemble(
        (f"{moment} ", "dim"),
        (f"#{event.number:<5} ", "dim"),
        (f"{shown_id(event.name)}  ", "bold"),
        (_what(event), STYLES.get(type(event), "")),
    )


def _what(event: Event) -> str:
    """An event in words, on one line."""
    match event:
        case RunStarted():
            return "run begins"
        case TaskStarted():
            return "begins" if event.attempt == 1 else f"begins attempt {event.attempt}"
        case TaskRetrying():
            pause = f"the next one in {duration(event.delay)}"
            return f"attempt {event.attempt} failed, {pause}: {_joined(event.error)}"
        case TaskCompleted() if event.replayed:
            return "replayed"
        case TaskCompleted():
            return f"completed{_effort(event)}"
        case TaskFailedEvent() if event.replayed:
            return f"replayed its failure: {_joined(event.error)}"
        case TaskFailedEvent():
            return f"failed{_effort(event)}: {_joined(event.error)}"
        case Emitted():
            return f"emits {_json(event.value)}"
        case Waiting():
            return f"waits for {in_short([event.wait])}"
        case RunCompleted():
            return f"run done: {_json(event.result)}"
        case RunFailed():
            return f"run failed: {_joined(event.error)}"
        case RunPausedEvent():
            return f"run paused, waits for {in_short(event.waits)}"
        case RunCancelledEvent():
            return "run cancelled" if event.final else "run interrupted: it may be continued"
        case Dropped():
            return f"{event.count:,} events were dropped"


def _effort(event: TaskCompleted | TaskFailedEvent) -> str:
    if event.attempts == 0:
        return " from the cache"
    attempts = "" if event.attempts == 1 else f", {event.attempts} attempts"
    return f" in {duration(event.duration)}{attempts}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _joined(text: str) -> str:
    return " ".join(text.split())
