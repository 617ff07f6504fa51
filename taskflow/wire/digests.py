"""`Digests`: a set of digests that takes little memory, so that a run may make a million calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ("DIGEST_SIZE", "Digests")

DIGEST_SIZE: Final = 16  # bytes
FULL: Final = 12  # digests in a bucket, on average


class Digests:
    """A set of digests that takes 23 bytes for each of a million, where a ``set`` takes 96.

    A hash table whose buckets hold digests end to end. It grows by one bucket at a time, so that no
    moment of growth takes long (linear hashing: W. Litwin, 1980).
    """

    __slots__ = ("_buckets", "_count", "_divided", "_mask")

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(64)]
        self._mask = 63
        self._divided = 0  # the number of leading buckets with a second half beyond the mask
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, digest: bytes) -> bool:
        place = hash(digest) & self._mask
        if place < self._divided:
            place = hash(digest) & (2 * self._mask + 1)
        bucket = self._buckets[place]
        found = bucket.find(digest)
        while found % DIGEST_SIZE and found > 0:  # a match across two neighbouring digests
            found = bucket.find(digest, found + 1)
        return found >= 0

    def update(self, digests: Iterable[bytes]) -> None:
        """Add ``digests``, none of which may be in the set."""
        for digest in digests:
            place = hash(digest) & self._mask
            if place < self._divided:
                place = hash(digest) & (2 * self._mask + 1)
            self._buckets[place] += digest
            self._count += 1
            if self._count > FULL * len(self._buckets):
                self._divide()

    def _divide(self) -> None:
        """Split the next bucket: its second half takes the digests whose next bit is set."""
        bit = self._mask + 1
        halves = bytearray(), bytearray()
        bucket = self._buckets[self._divided]
        for start in range(0, len(bucket), DIGEST_SIZE):
            digest = bytes(bucket[start : start + DIGEST_SIZE])
            halves[bool(hash(digest) & bit)].extend(digest)
        self._buckets[self._divided], second = halves
        self._buckets.append(second)
        self._divided += 1
        if self._divided == bit:
            self._mask = 2 * bit - 1
            self._divided = 0
