"""`Journal`: group commit. Writes that are ready at the same moment go to the store in one trip.

The journal belongs to the runtime, never to a caller, so that no cancellation can reach a commit.
Callers hand in what is to be written with a promise, and wait for that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import anyio

from taskflow.errors import LeaseLost, RunCancelled, StoreError
from taskflow.loops.loop import Loop
from taskflow.loops.promises import Latch, Promise, keep, uninterrupted
from taskflow.records import RunStatus
from taskflow.runs.feeds import Feeds
from taskflow.stores.base import Store
from taskflow.stores.batches import Batch, Claim, Claimed, Finish, Sent, Signal, Unrecord
from taskflow.stores.rows import CacheEntry, Checkpoint, RunKey

__all__ = ("Journal",)

# How a run may end of which a write has failed.
RELEASES: Final = (RunStatus.RUNNING, RunStatus.CANCELLED)
MAX_BATCH_ROWS: Final = 1000
MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
# What may wait to be written behind the backs of callers who do not wait for it.
MAX_BACKLOG_ROWS: Final = 10_000
MAX_BACKLOG_BYTES: Final = 8 * 1024 * 1024


class _Group:
    """What is committed together: a batch, and the promise of each of its writes."""

    __slots__ = ("batch", "checkpoints", "claims", "ends", "signals", "size")

    def __init__(self) -> None:
        self.batch = Batch([], [], [], [], [], [])
        self.size = 0  # bytes of payload
        self.checkpoints: list[tuple[RunKey, Promise]] = []
        self.ends: list[tuple[Unrecord | Finish, Promise]] = []
        self.claims: list[tuple[Promise, list[Claimed]]] = []
        self.signals: list[tuple[Promise, list[Sent]]] = []

    def __len__(self) -> int:
        return len(self.checkpoints) + len(self.ends) + len(self.claims) + len(self.signals)

    def add(self, write: Unrecord | Finish, promise: Promise) -> None:
        """Add the end of a run or of an attempt."""
        if isinstance(write, Finish):
            self.batch.finishes.append(write)
        else:
            self.batch.unrecords.append(write)
        self.ends.append((write, promise))

    def singles(self) -> Iterator[_Group]:
        """The same writes, each in a group of its own; shared results come first."""
        single = _Group()
        single.batch.cached = self.batch.cached
        yield single
        for checkpoint, waiter in zip(self.batch.checkpoints, self.checkpoints, strict=True):
            single = _Group()
            single.batch.checkpoints.append(checkpoint)
            single.checkpoints.append(waiter)
            yield single
        for write, promise in self.ends:
            single = _Group()
            single.add(write, promise)
            yield single
        for claim, waiting in zip(self.batch.claims, self.claims, strict=True):
            single = _Group()
            single.batch.claims.append(claim)
            single.claims.append(waiting)
            yield single
        for signal, sender in zip(self.batch.signals, self.signals, strict=True):
            single = _Group()
            single.batch.signals.append(signal)
            single.signals.append(sender)
            yield single

    def waiters(self) -> Iterator[tuple[RunKey | None, Promise]]:
        """All promises, each with its run's key (None for a claim or a signal)."""
        yield from self.checkpoints
        for write, promise in self.ends:
            yield write.key, promise
        for promise, _ in self.claims:
            yield None, promise
        for promise, _ in self.signals:
            yield None, promise


class Journal:
    """The one writer of a runtime: it commits in the order in which writes were handed in."""

    def __init__(self, store: Store, loop: Loop, feeds: Feeds | None = None) -> None:
        self._store = store
        self._loop = loop
        self._feeds = feeds  # whose listeners are told what is durable
        self._groups: deque[_Group] = deque()
        self._committing: _Group | None = None
        self._wake: Promise | None = None
        self._closing = False
        self._ended = Latch()
        # Runs of which a write has failed: later writes rest on it, and fail too.
        self._poisoned: set[tuple[int, int]] = set()
        # Releases that failed: no runtime executes these runs, so the next batch tries again.
        self._unreleased: list[Finish] = []

    @property
    def is_crowded(self) -> bool:
        """Whether the backlog is so large that callers should wait for their commits."""
        groups = self._groups
        if len(groups) < 2:  # as nearly always
            return False
        size = sum(group.size for group in groups)
        return len(groups) > MAX_BACKLOG_ROWS // MAX_BATCH_ROWS or size > MAX_BACKLOG_BYTES

    def put(
        self,
        checkpoint: Checkpoint,
        key: RunKey,
        promise: Promise,
        cached: CacheEntry | None = None,
    ) -> None:
        """Have ``checkpoint`` committed; ``promise`` is kept after that.

        Or it is broken, with LeaseLost, RunCancelled or StoreError.
        """
        group = self._open_group()
        group.batch.checkpoints.append(checkpoint)
        group.checkpoints.append((key, promise))
        group.size += len(checkpoint.payload)
        if cached is not None:
            group.batch.cached.append(cached)

    async def record(
        self, checkpoint: Checkpoint, key: RunKey, cached: CacheEntry | None = None
    ) -> None:
        """Commit ``checkpoint``. Raises LeaseLost, RunCancelled or StoreError."""
        promise = self._loop.promise()
        self.put(checkpoint, key, promise, cached)
        await promise

    async def unrecord(self, key: RunKey, task_ids: tuple[str, ...]) -> None:
        """Drop recorded failures. Raises LeaseLost, RunCancelled or StoreError."""
        promise = self._loop.promise()
        self._open_group().add(Unrecord(key, task_ids), promise)
        await promise

    def finish(self, finish: Finish) -> Latch:
        """Have a run ended or released.

        The latch is kept after that, or broken with LeaseLost, RunCancelled or StoreError.
        """
        latch = Latch()
        self._open_group().add(finish, latch)
        return latch

    def claim(self, claim: Claim) -> tuple[Latch, list[Claimed]]:
        """Have a run begun or continued: the latch is kept when the list holds what came of it.

        It is broken with what `taskflow.stores.claims.decide` raises, or StoreError.
        """
        latch = Latch()
        answer: list[Claimed] = []
        group = self._open_group()
        group.batch.claims.append(claim)
        group.claims.append((latch, answer))
        return latch, answer

    def send(self, signal: Signal) -> tuple[Latch, list[Sent]]:
        """Have a signal sent: the latch is kept when the list holds what came of it.

        It is broken with RunNotFound or StoreError.
        """
        latch = Latch()
        answer: list[Sent] = []
        group = self._open_group()
        group.batch.signals.append(signal)
        group.signals.append((latch, answer))
        group.size += len(signal.payload)
        return latch, answer

    def release_again(self) -> None:
        """Try releases again that have failed, though there is nothing else to write."""
        if self._unreleased and not self._groups and not self._closing:
            self._open_group()

    async def run(self) -> None:
        """Commit until `close` is called and nothing is left."""
        with anyio.CancelScope(shield=True):
            while self._groups or not self._closing:
                if self._groups:
                    self._committing = self._groups.popleft()
                    await self._commit(self._committing)
                    self._committing = None
                    continue
                self._wake = self._loop.promise()
                try:
                    await self._wake
                except asyncio.CancelledError:
                    # asyncio.run() cancels every task that is left when its main ends. Those
                    # that wait for a commit are among them; the runtime closes us when they ended.
                    continue
                finally:
                    self._wake = None
        self._ended.set_result()

    async def close(self) -> None:
        """Commit what is left, and end."""
        self._closing = True
        keep(self._wake)
        await uninterrupted(self._ended)

    def abandon(self) -> None:
        """Break every promise: the task of `run` has ended, and nothing is written any more.

        A SystemExit that the handler of an OS signal raises ends it, for one.
        """
        self._ended.set_result()
        for group in (self._committing, *self._groups):
            for _, promise in () if group is None else group.waiters():
                _break(promise, self._over())

    def _open_group(self) -> _Group:
        """The group that takes the next write; it is committed after those before it."""
        if self._ended.done():
            raise self._over()
        groups = self._groups
        if groups:
            group = groups[-1]
            if len(group) < MAX_BATCH_ROWS and group.size < MAX_BATCH_BYTES:
                return group
        # First, as it may fail at the end of the stack: what waits here has woken the writer.
        keep(self._wake)
        group = _Group()
        groups.append(group)
        return group

    def _over(self) -> StoreError:
        return StoreError(f"{self._store.where}: nothing is written after the runtime was closed")

    async def _commit(self, group: _Group) -> None:
        if self._poisoned:
            group = self._without_poisoned(group)
        finishes = group.batch.finishes
        group.batch.finishes = finishes + self._unreleased
        try:
            committed = await self._store.commit(group.batch)
            self._unreleased = []
        except Exception as error:
            group.batch.finishes = finishes
            if isinstance(error, StoreError) and error.row_at_fault and len(group) > 1:
                # One bad row hurts one caller.
                for single in group.singles():
                    await self._commit(single)
                return
            self._unreleased += [each for each in finishes if each.status == RunStatus.RUNNING]
            for key, promise in group.waiters():
                if key is not None:
                    self._poisoned.add((key.number, key.epoch))
                _break(promise, self._explained(error))
            return
        for (promise, answer), claimed in zip(group.claims, committed.claims, strict=True):
            if isinstance(claimed, Claimed):
                answer.append(claimed)
            else:
                _break(promise, claimed)
        for (promise, answers), sent in zip(group.signals, committed.signals, strict=True):
            if isinstance(sent, Sent):
                answers.append(sent)
            else:
                _break(promise, sent)
        if self._feeds is not None and self._feeds.threads:
            self._tell(group, committed.sequences)
        if refused := committed.refused:
            for key, promise in group.waiters():
                if key is not None and (key.number, key.epoch) in refused:
                    _break(promise, _refusal(key, refused[key.number, key.epoch]))
        for _, promise in group.waiters():
            if not promise.done():
                promise.set_result(None)

    def _tell(self, group: _Group, sequences: Sequence[int]) -> None:
        assert self._feeds is not None
        feeds = self._feeds.threads
        for checkpoint, (key, _), sequence in zip(
            group.batch.checkpoints, group.checkpoints, sequences, strict=True
        ):
            feed = feeds.get(key.thread_id)
            if feed is not None and sequence:
                feed.committed(key, checkpoint, sequence)

    def _without_poisoned(self, group: _Group) -> _Group:
        """Refuse writes of runs of which a write has failed: such a run can only be released."""
        left = _Group()
        left.batch.cached = group.batch.cached
        left.batch.claims, left.claims = group.batch.claims, group.claims
        left.batch.signals, left.signals = group.batch.signals, group.signals
        for checkpoint, (key, promise) in zip(
            group.batch.checkpoints, group.checkpoints, strict=True
        ):
            if (key.number, key.epoch) in self._poisoned:
                _break(promise, self._rests_on_a_failure(key))
            else:
                left.batch.checkpoints.append(checkpoint)
                left.checkpoints.append((key, promise))
        for write, promise in group.ends:
            key = write.key
            releases = isinstance(write, Finish) and write.status in RELEASES
            if (key.number, key.epoch) in self._poisoned and not releases:
                _break(promise, self._rests_on_a_failure(key))
            else:
                left.add(write, promise)
        return left

    def _rests_on_a_failure(self, key: RunKey) -> StoreError:
        return StoreError(f"{self._store.where}: an earlier write of run {key.run_id!r} has failed")

    def _explained(self, error: Exception) -> StoreError:
        """A copy of the error for each caller: a shared one would collect their tracebacks."""
        if not isinstance(error, StoreError):
            explained = StoreError(f"{self._store.where}: {error!r}")
            explained.__cause__ = error
            return explained
        copy = type(error).__new__(type(error), *error.args)
        copy.__dict__.update(error.__dict__)
        copy.__cause__ = error.__cause__
        return copy


def _break(promise: Promise, error: BaseException) -> None:
    if not promise.done():
        promise.set_exception(error)


def _refusal(key: RunKey, status: str) -> BaseException:
    if status == RunStatus.CANCELLED:
        return RunCancelled(key.thread_id, key.run_id)
    return LeaseLost(key.thread_id, key.run_id)
