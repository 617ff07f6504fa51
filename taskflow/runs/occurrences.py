"""How a body's equal calls are told apart: by the order in which they are made.

Only this module decides which occurrence of equal calls a new one is. Digests are kept by the
million: the first ones in a set, the others packed (`taskflow.wire.digests`).
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Final

from taskflow.wire.digests import Digests

__all__ = ("Occurrences", "Repeat")

FEW_CALLS: Final = 16_384  # digests that a set may hold, which is fast and takes 96 bytes for each
FEW_REPEATS: Final = 4096  # repeated calls that are kept though none of them is in flight


class Repeat:
    """Equal calls under one parent, by the digest of the first."""

    __slots__ = ("in_flight", "occurrence")

    def __init__(self, in_flight: int) -> None:
        self.occurrence = 0  # of the latest; 0 where it has to be looked up among those made
        self.in_flight = in_flight


class Occurrences:
    """The digests of the calls that one body has made."""

    __slots__ = ("_few", "_many", "repeats")

    def __init__(self, first: bytes) -> None:
        self._few = {first}
        self._many: Digests | None = None  # made after those
        self.repeats: dict[bytes, Repeat] | None = None  # of the latest calls that were made again

    def add(self, digest: bytes) -> bool:
        """Note a call with this digest; False where one was made before."""
        few, many = self._few, self._many
        if digest in few or (many is not None and digest in many):
            return False
        if len(few) < FEW_CALLS:
            few.add(digest)
        else:
            if many is None:
                many = self._many = Digests()
            many.update((digest,))
        return True

    def next(
        self, name: str, first: bytes, executing: Container[str], digest_of: Callable[[int], bytes]
    ) -> bytes:
        """The digest of one more call of ``name`` that equals the first one of that digest.

        ``digest_of`` gives the digest of an occurrence, from 1 on; ``executing`` holds the ids of
        the calls that execute now.
        """
        repeat = self.repeat(name, first, executing)
        if not repeat.occurrence:
            repeat.occurrence = self._latest(digest_of)
        repeat.occurrence += 1
        digest = digest_of(repeat.occurrence)
        self.add(digest)
        return digest

    def repeat(self, name: str, first: bytes, executing: Container[str]) -> Repeat:
        """What is counted of the calls that equal the first one of that digest."""
        repeats = self.repeats
        if repeats is None:
            repeats = self.repeats = {}
        repeat = repeats.get(first)
        if repeat is None:
            if len(repeats) % FEW_REPEATS == FEW_REPEATS - 1:
                for digest in [each for each in repeats if not repeats[each].in_flight]:
                    del repeats[digest]
            is_executing = f"{name}:{first.hex()}" in executing
            repeat = repeats[first] = Repeat(in_flight=int(is_executing))
        return repeat

    def enter(
        self, name: str, digest: bytes, first: bytes | None, executing: Container[str]
    ) -> Repeat | None:
        """Count a call that begins among its equals in flight; None where it has no equals.

        ``first`` is the digest of the first of them, where this call is not that one.
        """
        if first is not None:
            repeat: Repeat | None = self.repeat(name, first, executing)
        else:
            repeat = None if self.repeats is None else self.repeats.get(digest)
        if repeat is not None:
            repeat.in_flight += 1
        return repeat

    def leave(self, digest: bytes, first: bytes | None, repeat: Repeat | None) -> None:
        """A call is in flight no more; ``repeat`` is what `enter` gave, if it was asked.

        Its equals may have been made meanwhile.
        """
        if repeat is None and first is None and self.repeats is not None:
            repeat = self.repeats.get(digest)
        if repeat is not None:
            repeat.in_flight -= 1

    def _latest(self, digest_of: Callable[[int], bytes]) -> int:
        """The number of the latest equal call that was made: they have no gaps."""
        made, beyond = 0, 1
        while self._has(digest_of(beyond)):
            made, beyond = beyond, 2 * beyond
        while beyond - made > 1:
            middle = (made + beyond) // 2
            if self._has(digest_of(middle)):
                made = middle
            else:
                beyond = middle
        return made

    def _has(self, digest: bytes) -> bool:
        return digest in self._few or (self._many is not None and digest in self._many)
