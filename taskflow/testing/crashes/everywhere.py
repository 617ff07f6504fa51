"""`crash_everywhere`: a workflow is cut off at every moment, and continued each time.

    import anyio

    from taskflow import task, workflow
    from taskflow.testing import crash_everywhere

    @task
    async def charge(order: str) -> str:
        return f"receipt for {order}"

    @task
    async def ship(order: str, receipt: str) -> str:
        return f"{order} is on its way"

    @workflow
    async def fulfil(order: str) -> str:
        return await ship(order, await charge(order))

    async def main() -> None:
        crashes = await crash_everywhere(lambda: fulfil("A1"))
        assert crashes.passes > 20
        print(crashes)

    anyio.run(main)

A workflow that is not a function of its input and of what its tasks gave fails, and the error says
what it did instead, in which line, and how to repeat the pass.
"""

from __future__ import annotations

import contextlib
import logging
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import Struct

from taskflow.calls.workflows import WorkflowCall
from taskflow.loops.clocks import present
from taskflow.runtime import Runtime
from taskflow.stores.base import Store
from taskflow.testing.crashes.deaths import on_asyncio
from taskflow.testing.crashes.judgements import Judge
from taskflow.testing.crashes.lives import Raised, Silence
from taskflow.testing.crashes.looks import Watcher
from taskflow.testing.crashes.points import LAST, MODES, Cut, Mode, Plan, Point
from taskflow.testing.crashes.trials import Outcome, Setting, Trial
from taskflow.testing.doubles.virtual import VirtualClock

__all__ = ("CrashTestFailed", "Crashes", "crash_everywhere")

T = TypeVar("T")

logger = logging.getLogger("taskflow")

OTHER_CHOICE: Final = (
    "race() or as_completed() chose otherwise in some passes; those were compared with a rerun of "
    "their own"
)
TRIES_ALONE: Final = 20  # of a pass that is to be repeated, where the loop may order it otherwise
TELL_EVERY: Final = 2.0  # seconds, of a test that takes longer, how far it is
TRIES: Final = 3  # to cut a run off at a moment
# A process that has recorded everything but the end of the run: the next one executes nothing.
AT_LAST: Final = Cut(Point("commit", LAST), "drop")


class Crashes(Struct, frozen=True):
    """What `crash_everywhere` has done, where nothing was wrong."""

    passes: int  # how often the workflow was run, from its beginning to its end
    points: int  # moments at which it was cut off
    left_out: int  # passes that would have been more than ``max_passes``
    unreached: int  # passes that were not cut off, as the run took another way to the same result
    seed: int
    notes: tuple[str, ...] = ()  # what no pass could tell from being right, or not look at

    def __str__(self) -> str:
        text = f"{self.passes} passes, cut off at {self.points} points: the result is the same"
        if self.left_out:
            text += f"; {self.left_out} more were left out (seed {self.seed}; see max_passes)"
        if self.unreached:
            text += f"; {self.unreached} took another way, and were not cut off"
        return "\n".join([text, *(f"note: {each}" for each in self.notes)])


class CrashTestFailed(AssertionError):
    """Raised where a pass went wrong: says what happened, what to change, and how to repeat it.

    ``only`` repeats the pass alone, as `crash_everywhere`'s argument of that name.
    """

    def __init__(self, text: str, only: str | None) -> None:
        self.only = only
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.only), self.__dict__  # for tests in other processes


async def crash_everywhere(
    make_call: Callable[[], WorkflowCall[T]],
    *,
    store: Callable[[Path], Store] | None = None,
    make_runtime: Callable[[Store], Runtime] = Runtime,
    signals: Iterable[tuple[str, object]] = (),
    modes: Iterable[Mode] = MODES,
    pairs: bool = False,
    raises: type[BaseException] | tuple[type[BaseException], ...] = (),
    same: Callable[[Any, Any], bool] | None = None,
    allow: Iterable[Callable[..., Any]] = (),
    suspects: bool = True,
    virtual_time: bool = True,
    seed: int = 0,
    max_passes: int = 1000,
    patience: float = 30.0,
    only: str | None = None,
) -> Crashes:
    """Run a workflow undisturbed, then cut it off everywhere, and continue it each time.

    It is cut off after every commit and at every await of a body between them, in each of
    ``modes``: ``"drop"`` (nothing of its process goes on, as after ``kill -9``), ``"cancel"`` (the
    scope of its caller is cancelled) and ``"native"`` (the caller's asyncio task is; not on trio).
    With ``pairs`` also at every two of these points, one after the other. Then a new `Runtime` runs
    the same call to its end. Passes beyond ``max_passes`` are drawn by ``seed``.

    ``make_call`` makes the call; it is called once for each pass, and is where to reset what
    stands for the world outside. ``store`` opens a store in an empty folder, again for each
    process of a pass; without it everything stays in memory. ``signals`` are sent to the run, each
    a name and a value. ``raises``: what the workflow is to raise, each time. ``same`` compares two
    results (default: ``==``). ``allow``: functions that the workflow may call though they are no
    tasks, or workflows that may do what they do. ``suspects``: whether the code of the workflow is
    looked at, too. ``virtual_time``: waits pass at once. ``patience``: seconds of real time for one
    pass. ``only`` repeats one pass.

    Raises CrashTestFailed where a pass ends in another result, executes a recorded task again, asks
    for other calls than before, depends on which branch ends first, leaves the store damaged or a
    child executing, or does not end.

    With ``suspects`` also where the workflow does what a rerun would do again or otherwise: awaits
    a function that is no task, has a thread call it, opens a file or a socket, reads the clock,
    draws random numbers, depends on the order of a set, or on what was left in memory. That is
    guessed from names and from profiling (see `taskflow.testing.suspects`). Without, nothing of it
    is loaded, ``allow`` has no meaning, and a lock that a dropped process held stays locked.
    """
    chosen = _chosen(modes)
    if max_passes < 1:
        raise ValueError(f"max_passes must be at least 1, got {max_passes}")
    setting = Setting(make_call, store, make_runtime, tuple(signals), patience)
    watch = partial(_watcher, allowed=tuple(allow)) if suspects else Watcher
    with contextlib.ExitStack() as stack:
        if virtual_time and present.clock is None:
            stack.enter_context(VirtualClock())
        silence = Silence()
        logger.addFilter(silence)
        stack.callback(logger.removeFilter, silence)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskflow-")))
        passes = await _begun(_trials_in(folder, setting), watch, same, seed)
        passes.check_first(raises)
        return await passes.try_all(chosen, pairs=pairs, most=max_passes, only=only)


def _chosen(modes: Iterable[Mode]) -> tuple[Mode, ...]:
    """Those of the modes that this event loop has. Raises ValueError for what is none."""
    chosen = tuple(dict.fromkeys(modes))
    if not chosen or set(chosen) - set(MODES):
        raise ValueError(f"modes are some of {MODES}, got {chosen!r}")
    if not on_asyncio():
        return tuple(each for each in chosen if each != "native") or ("cancel",)
    return chosen


async def _begun(
    trials: Iterator[Trial],
    watch: Callable[[Callable[..., Any]], Watcher],
    same: Callable[[Any, Any], bool] | None,
    seed: int,
) -> _Passes:
    """The undisturbed pass, and what compares others with it."""
    trial = next(trials)
    definition = trial.call.definition
    watcher = watch(definition.fn)
    first = await trial.run(Plan(), watcher.look("undisturbed"))
    return _Passes(first, trials, watcher, Judge(first, definition.codec, same, watcher), seed)


class _Passes:
    """All passes of one workflow after the undisturbed one."""

    def __init__(
        self, first: Outcome, trials: Iterator[Trial], watcher: Watcher, judge: Judge, seed: int
    ) -> None:
        self._first = first
        self._trials = trials
        self._watcher = watcher
        self._judge = judge
        self._seed = seed
        self._notes: dict[str, None] = {}

    def check_first(self, raises: type[BaseException] | tuple[type[BaseException], ...]) -> None:
        """Raise CrashTestFailed where the undisturbed pass is wrong, or raises anything else."""
        first = self._first
        self._check(first)
        if first.error is not None and not isinstance(first.error, raises):
            raise CrashTestFailed(
                f"crash_everywhere: the undisturbed run raised {first.result}: mend that, or, if "
                f"it is what it has to do, pass raises={type(first.error).__qualname__}",
                None,
            ) from first.error

    async def try_all(
        self, modes: tuple[Mode, ...], *, pairs: bool, most: int, only: str | None
    ) -> Crashes:
        """Try every other pass, or ``only`` that one; at most so many."""
        points = self._points()
        looks, holds = self._looks()
        cuts = [Cut(each, mode) for each in points for mode in modes if _can_be(each, mode)]
        plans = [Plan((cut,)) for cut in cuts]
        if pairs:
            plans += [Plan((one, other)) for one in cuts for other in cuts]
        if only is not None:
            plans += [Plan((*each.cuts, AT_LAST)) for each in plans]
            looks, plans, holds = _called(only, [*looks, *plans, *holds]), [], []
            if not on_asyncio():  # trio draws the order of what is concurrent
                looks *= TRIES_ALONE
        asked = 1 + len(looks) + len(plans) + len(holds)
        rng = random.Random(self._seed)
        holds = _drawn(holds, max(1, most // 4), rng)
        plans = _drawn(plans, max(0, most - 1 - len(looks) - len(holds)), rng)
        chosen = [*looks, *plans, *holds]
        passes = 1 + len(chosen)
        unreached, told = 0, time.monotonic()
        for number, plan in enumerate(chosen, 1):
            outcome = await self._tried(plan)
            unreached += bool(plan.cuts) and not outcome.was_cut
            if time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                logger.info("crash_everywhere: %d of %d passes", number, passes)
        notes = (*self._watcher.notes, *self._notes)
        return Crashes(passes, len(points), asked - passes, unreached, self._seed, notes)

    def _points(self) -> list[Point]:
        """Where the undisturbed run could have been cut off."""
        points = list(dict.fromkeys(self._first.processes[0].points))
        return [*points, AT_LAST.point] if self._has_end() else points

    def _looks(self) -> tuple[list[Plan], list[Plan]]:
        """Passes that the watcher asks for, and those in which a call ends late."""
        cuts = (AT_LAST,) if self._has_end() else ()
        kinds = self._watcher.kinds(is_rerun=bool(cuts))
        held = sorted(self._first.history.beside) if cuts else []
        return [Plan(cuts, each) for each in kinds], [Plan(cuts, "hold", each) for each in held]

    def _has_end(self) -> bool:
        """Whether it has an end that can be cut off, as one that raises has not."""
        return not isinstance(self._first.result, Raised)

    async def _tried(self, plan: Plan) -> Outcome:
        """A pass in which nothing was wrong."""
        outcome = await self._passed(plan)
        for _ in range(TRIES - 1):
            # The loop may order what is concurrent otherwise, and the moment does not come.
            if outcome.was_cut or not plan.cuts:
                break
            outcome = await self._passed(plan)
        if self._judge.is_another_choice(outcome) and plan.cuts[-1] != AT_LAST:
            self._notes[OTHER_CHOICE] = None
            await self._passed(Plan((*plan.cuts, AT_LAST), plan.look, plan.held))
        return outcome

    async def _passed(self, plan: Plan) -> Outcome:
        outcome = await next(self._trials).run(plan, self._watcher.look(plan.look))
        self._check(outcome)
        return outcome

    def _check(self, outcome: Outcome) -> None:
        if problems := self._judge.problems(outcome):
            text = self._judge.report(outcome, problems, self._seed)
            raise CrashTestFailed(text, outcome.plan.key or None)


def _watcher(fn: Callable[..., Any], allowed: Iterable[Callable[..., Any]]) -> Watcher:
    """What looks at the code of a workflow. Loaded where it is asked for, and nowhere else."""
    from taskflow.testing.suspects.watcher import Suspects

    return Suspects(fn, allowed)


def _trials_in(folder: Path, setting: Setting) -> Iterator[Trial]:
    """One after the other, each in a folder of its own."""
    for number in count(1):
        place = folder / str(number)
        place.mkdir()
        yield Trial(setting, place)


def _can_be(point: Point, mode: Mode) -> bool:
    """Whether that moment can be met in that way: a cancelled caller cuts off no commit."""
    return mode == "drop" or point.call != LAST


def _called(key: str, plans: list[Plan]) -> list[Plan]:
    chosen = [each for each in plans if each.key == key]
    if not chosen:
        known = ", ".join(repr(each.key) for each in plans[:100])
        raise ValueError(f"there is no pass {key!r}; there are {known}")
    return chosen


def _drawn(plans: list[Plan], most: int, rng: random.Random) -> list[Plan]:
    return plans if len(plans) <= most else rng.sample(plans, most)
