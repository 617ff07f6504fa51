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
import inspect
import logging
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from types import FunctionType
from typing import Any, Final, TypeVar

from msgspec import Struct

from taskflow.calls.workflows import WorkflowCall
from taskflow.loops.clocks import present
from taskflow.runtime import Runtime
from taskflow.stores.base import Store
from taskflow.testing.crashes.judgements import Judge
from taskflow.testing.crashes.processes import LAST, Mode, Point, Silence, on_asyncio
from taskflow.testing.crashes.trials import Known, Outcome, Plan, Raised, Setting, Trial
from taskflow.testing.doubles.virtual import VirtualClock
from taskflow.testing.suspects.functions import count_as_users, reachable
from taskflow.testing.suspects.memory import Memory

__all__ = ("CrashTestFailed", "Crashes", "crash_everywhere")

T = TypeVar("T")

logger = logging.getLogger("taskflow")

MODES: Final[tuple[Mode, ...]] = ("drop", "cancel", "native")
OTHER_CHOICE: Final = (
    "race() or as_completed() chose otherwise in some passes; those were compared with a rerun of "
    "their own"
)
TRIES_ALONE: Final = 20  # of a pass that is to be repeated, where the loop may order it otherwise
TELL_EVERY: Final = 2.0  # seconds, of a test that takes longer, how far it is
TRIES: Final = 3  # to cut a run off at a moment
# A process that has recorded everything but the end of the run: the next one executes nothing.
AT_LAST: Final[tuple[tuple[Point, Mode], ...]] = ((Point("commit", LAST), "drop"),)


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
    tasks, or workflows that may do what they do. ``virtual_time``: waits pass at once.
    ``patience``: seconds of real time for one pass. ``only`` repeats one pass.

    Raises CrashTestFailed where a pass ends in another result, executes a recorded task again, asks
    for other calls than before, leaves the store damaged or a child executing, or does not end; and
    where the workflow does what a rerun would do again or otherwise: awaits a function that is no
    task, has a thread call it, opens a file or a socket, reads the clock, draws random numbers,
    depends on the order of a set, on which branch ends first, or on what was left in memory.
    """
    chosen: tuple[Mode, ...] = tuple(dict.fromkeys(modes))
    if not chosen or set(chosen) - set(MODES):
        raise ValueError(f"modes are some of {MODES}, got {chosen!r}")
    if max_passes < 1:
        raise ValueError(f"max_passes must be at least 1, got {max_passes}")
    if not on_asyncio():
        chosen = tuple(each for each in chosen if each != "native") or MODES[1:2]
    setting = Setting(make_call, store, make_runtime, tuple(signals), tuple(allow), patience)
    with contextlib.ExitStack() as stack:
        if virtual_time and present.clock is None:
            stack.enter_context(VirtualClock())
        silence = Silence()
        logger.addFilter(silence)
        stack.callback(logger.removeFilter, silence)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskflow-")))
        trials = _Trials(setting, folder, seed, same)
        await trials.begin(raises)
        return await trials.try_all(chosen, pairs=pairs, most=max_passes, only=only)


class _Trials:
    """All passes of one workflow."""

    def __init__(
        self,
        setting: Setting,
        folder: Path,
        seed: int,
        same: Callable[[Any, Any], bool] | None,
    ) -> None:
        self._setting = setting
        self._folder = folder
        self._seed = seed
        self._same = same
        self._numbers = count(1)
        self._judge: Judge | None = None
        self._known = Known(set(), {}, Memory(), Memory(only_locks=True))
        self._first = Outcome(Plan())
        self._notes: dict[str, None] = {}

    async def begin(self, raises: type[BaseException] | tuple[type[BaseException], ...]) -> None:
        """The undisturbed run."""
        trial = self._trial(Plan())
        fn = inspect.unwrap(trial.call.definition.fn)
        if isinstance(fn, FunctionType):
            count_as_users(fn)
            self._known.memory.look(reachable(fn))
        outcome = self._first = await trial.run(self._known)
        self._judge = Judge(outcome, trial.call.definition.codec, self._same)
        self._check(outcome)
        self._learn(outcome)
        names = {row.name for row in outcome.history.calls.values()}
        self._known.workflows = names | {trial.call.definition.name}
        if outcome.error is not None and not isinstance(outcome.error, raises):
            raise CrashTestFailed(
                f"crash_everywhere: the undisturbed run raised {outcome.result}: mend that, or, if "
                f"it is what it has to do, pass raises={type(outcome.error).__qualname__}",
                None,
            ) from outcome.error

    async def try_all(
        self, modes: tuple[Mode, ...], *, pairs: bool, most: int, only: str | None
    ) -> Crashes:
        """Every other pass, or ``only`` that one; at most so many."""
        rng = random.Random(self._seed)
        points = self._points()
        looks, holds = self._looks()
        cuts: list[tuple[Point, Mode]] = [
            (point, mode) for point in points for mode in modes if _can_be(point, mode)
        ]
        plans = [Plan((cut,)) for cut in cuts]
        if pairs:
            plans += [Plan((one, other)) for one in cuts for other in cuts]
        if only is not None:
            plans += [Plan((*each.cuts, *AT_LAST)) for each in plans]
            chosen = [each for each in (*looks, *plans, *holds) if each.key == only]
            if not chosen:
                known = ", ".join(repr(each.key) for each in (*looks, *plans, *holds)[:100])
                raise ValueError(f"there is no pass {only!r}; there are {known}")
            looks, plans, holds = chosen, [], []
            if not on_asyncio():  # trio draws the order of what is concurrent
                looks *= TRIES_ALONE
        asked = 1 + len(looks) + len(plans) + len(holds)
        holds = _drawn(holds, max(1, most // 4), rng)
        plans = _drawn(plans, max(0, most - 1 - len(looks) - len(holds)), rng)
        passes = 1 + len(looks) + len(plans) + len(holds)
        unreached, told = 0, time.monotonic()
        for number, plan in enumerate((*looks, *plans, *holds), 1):
            outcome = await self._tried(plan)
            unreached += bool(plan.cuts) and not outcome.was_cut
            if time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                logger.info("crash_everywhere: %d of %d passes", number, passes)
        notes = tuple(self._notes)
        return Crashes(passes, len(points), asked - passes, unreached, self._seed, notes)

    def _points(self) -> list[Point]:
        """Where the undisturbed run could have been cut off."""
        points = list(dict.fromkeys(self._first.processes[0].points))
        if not isinstance(self._first.result, Raised):
            points.append(Point("commit", LAST))
        return points

    def _looks(self) -> tuple[list[Plan], list[Plan]]:
        """Passes that look for what may differ between processes; and for who ends first."""
        if isinstance(self._first.result, Raised):  # it has no end that could be cut off
            return [Plan((), "watch")], []
        looks = [Plan(AT_LAST, what) for what in ("watch", "set order", "forget")]
        return looks, [Plan(AT_LAST, "hold", held) for held in sorted(self._first.history.beside)]

    async def _tried(self, plan: Plan) -> Outcome:
        """A pass in which nothing was wrong."""
        tries = 0
        while True:
            outcome = await self._trial(plan).run(self._known)
            self._check(outcome)
            tries += 1
            # The loop may order what is concurrent otherwise, and the moment does not come.
            if outcome.was_cut or not plan.cuts or tries == TRIES:
                break
        self._learn(outcome)
        assert self._judge is not None
        if self._judge.is_another_choice(outcome) and plan.cuts[-1] != AT_LAST[0]:
            self._notes[OTHER_CHOICE] = None
            again = Plan((*plan.cuts, *AT_LAST), plan.what, plan.held)
            self._check(await self._trial(again).run(self._known))
        for name in outcome.order.without_source if outcome.order else ():
            self._notes[
                f"the source of {name} is not there, or not by itself: its use of sets is unknown"
            ] = None
        for name in outcome.memory.left_out if outcome.memory else ():
            self._notes[f"{name} holds too much to look whether a rerun depends on it"] = None
        return outcome

    def _learn(self, outcome: Outcome) -> None:
        if outcome.witness is not None:
            self._known.executed |= outcome.witness.executed
            self._known.locks.look(outcome.witness.met)
            self._notes |= dict.fromkeys(outcome.witness.effects())

    def _trial(self, plan: Plan) -> Trial:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        return Trial(self._setting, plan, folder)

    def _check(self, outcome: Outcome) -> None:
        assert self._judge is not None
        if problems := self._judge.problems(outcome):
            text = self._judge.report(outcome, problems, self._seed)
            raise CrashTestFailed(text, outcome.plan.key or None)


def _can_be(point: Point, mode: Mode) -> bool:
    """Whether that moment can be met in that way: a cancelled caller cuts off no commit."""
    return mode == "drop" or point.call != LAST


def _drawn(plans: list[Plan], most: int, rng: random.Random) -> list[Plan]:
    return plans if len(plans) <= most else rng.sample(plans, most)
