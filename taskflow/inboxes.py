"""The signals of one run that nobody has taken, and the calls that wait for one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from taskflow.codec import Codec
from taskflow.records import SignalRow

__all__ = ("Inbox", "Receiver")


class Receiver(Protocol):
    """A call that waits for a signal."""

    name: str  # of the signal

    @property
    def codec(self) -> Codec:
        """What decodes its value."""
        ...

    def accepts(self, signal: SignalRow) -> bool:
        """Whether it may take this one: it fits the type, and came in time."""
        ...

    def hand(self, signal: SignalRow) -> None:
        """Wake it: the signal is its own now, to be recorded or given back."""
        ...


class Inbox:
    """Signals in the order in which they were sent; receivers in the order of their calls."""

    def __init__(self, signals: Iterable[SignalRow] = (), latest: int = 0) -> None:
        self.latest = latest  # the sequence of the latest signal that is known here
        self._signals: dict[str, list[SignalRow]] = {}
        self._receivers: dict[str, list[Receiver]] = {}
        for signal in signals:
            self._signals.setdefault(signal.name, []).append(signal)

    def put(self, signal: SignalRow) -> None:
        """A signal has come: the first receiver that accepts it gets it."""
        self.latest = max(self.latest, signal.sequence)
        self._offer(signal)

    def give_back(self, signal: SignalRow) -> None:
        """A receiver was cut off: its signal is the next one's."""
        self._offer(signal)

    def take(self, name: str, accepts: Callable[[SignalRow], bool]) -> SignalRow | None:
        """The first signal of that name which is accepted, if there is one."""
        signals = self._signals.get(name, ())
        for index, signal in enumerate(signals):
            if accepts(signal):
                del self._signals[name][index]
                return signal
        return None

    def wait(self, receiver: Receiver) -> None:
        """Hand ``receiver`` a signal when one comes that it accepts."""
        self._receivers.setdefault(receiver.name, []).append(receiver)

    def leave(self, receiver: Receiver) -> None:
        """It waits no more."""
        receivers = self._receivers.get(receiver.name, [])
        if receiver in receivers:
            receivers.remove(receiver)

    def receivers(self, name: str) -> list[Receiver]:
        """Who waits for a signal of that name, the earliest call first."""
        return self._receivers.get(name, [])

    def _offer(self, signal: SignalRow) -> None:
        for receiver in self.receivers(signal.name):
            if receiver.accepts(signal):
                self.leave(receiver)
                receiver.hand(signal)
                return
        signals = self._signals.setdefault(signal.name, [])
        signals.append(signal)
        signals.sort(key=lambda each: each.sequence)
