"""`Inbox`: the signals of one run that no call has taken, and the calls that wait for one.

Only this module decides which call takes which signal: signals are taken in the order in which they
were sent, each by the earliest call that accepts it.
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import count
from operator import attrgetter
from typing import Final, Protocol

from taskflow.stores.rows import SignalRow
from taskflow.wire.codec import Codec

__all__ = ("Inbox", "Receiver", "SignalTypes")

NAMES_KEPT: Final = 1000


class Receiver(Protocol):
    """A call that waits for a signal."""

    name: str  # of the signal
    order: int  # of the call

    @property
    def codec(self) -> Codec:
        """What decodes its value."""
        ...

    def accepts(self, signal: SignalRow) -> bool:
        """Whether the call may take this one: it fits the type, and came in time."""
        ...

    def hand(self, signal: SignalRow) -> None:
        """Wake the call, which records the signal or gives it back."""
        ...


class SignalTypes:
    """The types of signals that this process has waited for, so that misfits can be refused.

    Those of the latest thousand names.
    """

    def __init__(self) -> None:
        self._codecs: OrderedDict[str, dict[str, list[Codec]]] = OrderedDict()

    def note(self, name: str, spelled: str, codec: Codec) -> None:
        """Note that a call waits for signals of that name with this type."""
        codecs = self._codecs.setdefault(name, {}).setdefault(spelled, [])
        if codec not in codecs:  # two modules may each have a class of that name
            codecs.append(codec)
        self._codecs.move_to_end(name)
        if len(self._codecs) > NAMES_KEPT:
            self._codecs.popitem(last=False)

    def of(self, name: str) -> dict[str, list[Codec]]:
        """The codecs of the types of that name, by how the types are written."""
        return self._codecs.get(name, {})


class Inbox:
    """Signals in the order in which they were sent; receivers in the order of their calls."""

    def __init__(self, signals: Iterable[SignalRow] = (), latest: int = 0) -> None:
        self.latest = latest  # the sequence of the latest signal that is known here
        self.changes = 0  # how often a signal came, or came back
        self.calls = count()  # numbers the calls that ask for signals
        self._signals: dict[str, list[SignalRow]] = {}
        self._receivers: dict[str, dict[int, Receiver]] = {}  # by name, by the order of the calls
        for signal in signals:
            self._signals.setdefault(signal.name, []).append(signal)

    def put(self, signal: SignalRow) -> None:
        """Hand a signal that has come to the first receiver that accepts it, or keep it."""
        self.latest = max(self.latest, signal.sequence)
        self._offer(signal)

    def give_back(self, signal: SignalRow) -> None:
        """Hand the signal of a receiver that was cut off to the next one, or keep it."""
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
        receivers = self._receivers.setdefault(receiver.name, {})
        is_last = not receivers or next(reversed(receivers)) < receiver.order
        receivers[receiver.order] = receiver
        if not is_last:
            self._receivers[receiver.name] = dict(sorted(receivers.items()))

    def leave(self, receiver: Receiver) -> None:
        """Hand ``receiver`` no more signals."""
        self._receivers.get(receiver.name, {}).pop(receiver.order, None)

    def signals(self) -> list[SignalRow]:
        """The signals that no call has taken."""
        return [signal for signals in self._signals.values() for signal in signals]

    def untaken(self) -> list[str]:
        """The names of the signals that no call has taken, one for each signal."""
        return [name for name, signals in self._signals.items() for _ in signals]

    def receivers(self, name: str) -> Iterable[Receiver]:
        """The calls that wait for a signal of that name, the earliest first."""
        return self._receivers.get(name, {}).values()

    def _offer(self, signal: SignalRow) -> None:
        self.changes += 1
        signals = self._signals.setdefault(signal.name, [])
        insort(signals, signal, key=attrgetter("sequence"))
        for receiver in self._receivers.get(signal.name, {}).values():
            if receiver.accepts(signal):
                signals.remove(signal)
                self.leave(receiver)
                receiver.hand(signal)
                return
