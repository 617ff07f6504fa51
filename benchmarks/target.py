"""The demands on the suite's figures, and whether they are met."""

from collections.abc import Iterable

from msgspec import Struct

from benchmarks.case import Case, ScenarioName, Way
from benchmarks.figure import Figure
from benchmarks.form import Form

__all__ = ("TARGETS", "Target", "Verdict", "judged")


class Pick(Struct, frozen=True):
    """Figures of one contender that differ in size alone."""

    contender: str
    scenario: ScenarioName
    form: Form = "chain"
    callers: int = 1
    recorded: int = 0
    way: Way = ""

    def of(self, figures: Iterable[Figure]) -> dict[int, Figure]:
        """The measured ones, by size."""
        return {
            figure.case.size: figure
            for figure in figures
            if figure.samples
            and figure.contender == self.contender
            and figure.case.scenario == self.scenario
            and figure.case.form == self.form
            and figure.case.callers == self.callers
            and figure.case.recorded == self.recorded
            and figure.case.way == self.way
        }


class Target(Struct, frozen=True):
    """A line of the target table: ``figure`` is at most ``limit`` times ``reference``.

    With ``faster`` the reference is at least ``limit`` times the figure. A difference of up to
    ``slack``, in the case's unit, is allowed in any case. Without a reference the limit is in the
    case's unit. ``size`` is the intended size; another measured size is shown.
    """

    line: str
    figure: Pick
    reference: Pick | None
    limit: float
    faster: bool = False
    slack: float = 0.0
    size: int = 0


class Verdict(Struct, frozen=True):
    """A target as measured: ``ratio`` is None where it was not measured."""

    line: str
    demand: str
    ratio: float | None
    measured: str
    met: bool | None
    at: str = ""


FULL = "taskflow-full"
ASYNC = "taskflow-async"
RECEIVES: tuple[Form, ...] = ("chain", "gather")
STREAMS: tuple[Form, ...] = ("gather", "map")
LANGGRAPH = "langgraph-sync"


def against(
    line: str,
    scenario: ScenarioName,
    limit: float,
    reference: str,
    *,
    form: Form = "chain",
    callers: int = 1,
    contender: str = FULL,
    faster: bool = False,
    slack: float = 0.0,
    size: int = 0,
    way: Way = "",
) -> Target:
    """A target whose reference is another contender in the same case."""
    return Target(
        line,
        Pick(contender, scenario, form, callers, way=way),
        Pick(reference, scenario, form, callers, way=way),
        limit,
        faster,
        slack,
        size,
    )


F = "floor-f-full"
B = "floor-b-full"

TARGETS = (
    against("chain, FULL / floor b", "chain", 1.15, B, slack=40.0, size=1_000),
    against(
        "chain, NORMAL / floor b",
        "chain",
        1.15,
        "floor-b-normal",
        contender="taskflow-normal",
        slack=40.0,
        size=1_000,
    ),
    against("chain, async / floor b", "chain", 0.15, B, contender="taskflow-async", size=1_000),
    against("fan-out of 10,000, map / floor f", "fan-out", 1.5, F, form="map", size=10_000),
    against("fan-out of 10,000, gather / floor f", "fan-out", 2.0, F, form="gather", size=10_000),
    against("replay of a chain / loading and decoding", "replay", 5.0, F, size=10_000),
    against(
        "replay of a fan-out, gather / same form", "replay", 1.6, F, form="gather", size=10_000
    ),
    against("replay of a fan-out, group / same form", "replay", 1.6, F, form="group", size=10_000),
    against("replay of a fan-out, map / same form", "replay", 1.6, F, form="map", size=10_000),
    against("500 threads of 5 / floor f", "threads", 2.0, F, callers=100, size=500),
    against("one-task run, 1 caller, p50 / floor f", "run", 1.5, F, size=300),
    against("one-task run, 50 callers, p50 / floor f", "run", 2.0, F, callers=50, size=40),
    against("payloads, one by one / floor f", "payloads", 1.5, F, size=200),
    against("payloads, gather / floor f", "payloads", 1.5, F, form="gather", size=200),
    Target(
        "growth of a chain, 100,000 recorded / 0",
        Pick(FULL, "growth", "chain", recorded=100_000),
        Pick(FULL, "growth", "chain"),
        1.3,
        size=500,
    ),
    Target(
        "growth of a fan-out, 100,000 recorded / 0",
        Pick(FULL, "growth", "gather", recorded=100_000),
        Pick(FULL, "growth", "gather"),
        2.5,
        size=2_000,
    ),
    Target(
        "a million items through map, growth of memory",
        Pick(FULL, "million", "map"),
        None,
        250.0,
        size=1_000_000,
    ),
    *(
        Target(
            f"a receive whose signal is there, {form} {words} / a task",
            Pick(contender, "receive", form, way="signal"),
            Pick(contender, "receive", form, way="task"),
            1.3,
            size=1_000,
        )
        for contender, words in ((FULL, "FULL"), (ASYNC, "async"))
        for form in RECEIVES
    ),
    *(
        Target(
            f"fan-out of 10,000, {form}, streamed to a reader / not",
            Pick(FULL, "stream", form, way="reader"),
            Pick(FULL, "stream", form, way="alone"),
            1.3,
            size=10_000,
        )
        for form in STREAMS
    ),
    Target(
        "subscribe to a finished run of 10,000 / replay it",
        Pick(FULL, "subscribe", way="reader"),
        Pick(FULL, "subscribe", way="replay"),
        3.0,
        size=10_000,
    ),
    against("send to result, awake, p50 / 4 commits", "resume", 3.0, B, size=100, way="awake"),
    against("send to result, paused, p50 / 5 commits", "resume", 3.0, B, size=100, way="asleep"),
    *(
        Target(
            f"recovery of 1,000 orphans, {held} of 5 recorded / execution",
            Pick(FULL, "recovery", "chain", 100, held, "recover"),
            Pick(FULL, "recovery", "chain", 100, 0, "execute"),
            2.0,
            size=1_000,
        )
        for held in (0, 3)
    ),
    Target(
        "100,000 paused runs with timers, growth of memory",
        Pick(FULL, "paused"),
        None,
        200.0,
        size=100_000,
    ),
    Target("opening on 100,000 paused runs", Pick(FULL, "opening"), None, 1_000.0, size=100_000),
    Target(
        "import taskflow / its three dependencies",
        Pick("taskflow", "import"),
        Pick("its three dependencies", "import"),
        1.3,
        size=1,
    ),
    against("chain, times as fast as LangGraph", "chain", 2.5, LANGGRAPH, faster=True, size=1_000),
    against(
        "fan-out of 10,000, times as fast as LangGraph",
        "fan-out",
        100.0,
        LANGGRAPH,
        form="gather",
        faster=True,
        size=10_000,
    ),
    against(
        "replay of a chain of 10,000, times as fast as LangGraph",
        "replay",
        50.0,
        LANGGRAPH,
        faster=True,
        size=10_000,
    ),
    against(
        "replay of a fan-out of 10,000, times as fast as LangGraph",
        "replay",
        50.0,
        LANGGRAPH,
        form="gather",
        faster=True,
        size=10_000,
    ),
)


def judged(target: Target, figures: Iterable[Figure]) -> Verdict:
    """The target, held against these figures at the largest size that both sides have."""
    demand = demanded(target)
    known = list(figures)
    found = target.figure.of(known)
    references = target.reference.of(known) if target.reference else found
    common = found.keys() & references.keys()
    if not common:
        return Verdict(target.line, demand, None, "not measured", None)

    size = max(common)
    figure, reference = found[size], references[size]
    at = "" if size == target.size else f"at a size of {size:,}"
    if target.reference is None:
        measured = f"{figure.cost:.0f} {figure.case.unit}"
        met = None if at else figure.cost < target.limit
        return Verdict(target.line, demand, figure.cost, measured, met, at)

    ratio = figure.cost / reference.cost
    if target.faster:
        ratio = 1 / ratio
        # The peer's cost grows with the size: a verdict at another size would mean nothing.
        met = None if at else ratio >= target.limit
        return Verdict(target.line, demand, ratio, f"{ratio:.3g} ×", met, at)

    measured = f"{ratio:.2f} ×"
    if target.slack:
        measured += f", {figure.cost - reference.cost:+.0f} µs"
    allowed = max(target.limit * reference.cost, reference.cost + target.slack)
    return Verdict(target.line, demand, ratio, measured, figure.cost <= allowed, at)


def demanded(target: Target) -> str:
    if target.reference is None:
        return f"under {target.limit:.0f} {Case(target.figure.scenario, 0).unit}"
    if target.faster:
        return f"≥ {target.limit:g} ×"
    return f"≤ {target.limit:g} ×" + (f" or + {target.slack:.0f} µs" if target.slack else "")
