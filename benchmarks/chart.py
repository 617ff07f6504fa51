"""The chart that the README shows: bars on a log scale, drawn as SVG by hand."""

from collections.abc import Iterator
from html import escape
from math import ceil, floor, log10

from msgspec import Struct

from benchmarks.case import Case, ScenarioName
from benchmarks.contenders import Kind, contender
from benchmarks.figure import amount
from benchmarks.form import Form
from benchmarks.report import Line, Report

__all__ = ("chart",)

WIDTH = 980
LABEL_END = 236
AXIS_START = 246
AXIS_END = 600
FSYNC_START = 712
BAR = 13
ROW = 18
TITLE = 30
HEAD = 74
FOOT = 30

INK = "#1f2328"
QUIET = "#656d76"
RULE = "#d8dee4"
FILL: dict[Kind, str] = {"taskflow": "#1f6feb", "peer": "#c9762b", "floor": "#a8b1bb"}
MEANING: dict[Kind, str] = {
    "taskflow": "taskflow",
    "peer": "peers",
    "floor": "floors: what the machine allows",
}

MEASURE = "taskflow-full"
SHOWN = (
    "floor-b-full",
    "floor-f-full",
    "taskflow-full",
    "taskflow-async",
    "langgraph-sync",
    "dbos-wal",
    "dbos",
)
GROUPS: tuple[tuple[ScenarioName, Form], ...] = (
    ("chain", "chain"),
    ("fan-out", "gather"),
    ("fan-out", "map"),
    ("replay", "chain"),
    ("replay", "gather"),
    ("threads", "chain"),
    ("payloads", "gather"),
    ("run", "chain"),
    ("resume", "chain"),
)


class Group(Struct, frozen=True):
    """The bars of one case."""

    case: Case
    lines: tuple[Line, ...]


class Scale(Struct, frozen=True):
    """A log scale from one power of ten to another, in µs."""

    low: int
    high: int

    def x(self, value: float) -> float:
        """The position of a number of µs."""
        share = (log10(value) - self.low) / (self.high - self.low)
        return AXIS_START + share * (AXIS_END - AXIS_START)


def chart(found: Report) -> str:
    """The chart of this report, which is empty where none of its cases was measured."""
    groups = [group for scenario, form in GROUPS if (group := chosen(found, scenario, form))]
    costs = [line.cost for group in groups for line in group.lines if line.cost]
    scale = Scale(floor(log10(min(costs))), ceil(log10(max(costs)))) if costs else Scale(0, 1)
    height = HEAD + sum(TITLE + ROW * len(group.lines) for group in groups) + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        "<title>The cost of one durable task</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        text(16, 26, "The cost of one durable task", size=17, weight="600"),
        text(16, 46, subtitle(found), size=12, fill=QUIET),
        *legend(),
        *axis(scale, height),
    ]
    top = HEAD
    for group in groups:
        parts += draw(group, scale, top)
        top += TITLE + ROW * len(group.lines)
    return "\n".join([*parts, "</svg>", ""])


def chosen(found: Report, scenario: ScenarioName, form: Form) -> Group | None:
    """The bars of this case at the size with most contenders; of equal sizes, the largest."""
    by_case: dict[Case, list[Line]] = {}
    for line in found.figures:
        case = line.case
        if not line.cost or line.contender not in SHOWN:
            continue
        # Of the run cases the one with a single caller.
        if scenario == "run" and case.callers > 1:
            continue
        if (case.scenario, case.form) == (scenario, form):
            by_case.setdefault(case, []).append(line)
    if not by_case:
        return None

    case = max(by_case, key=lambda one: (len(by_case[one]), one.size))
    return Group(case, tuple(sorted(by_case[case], key=lambda one: SHOWN.index(one.contender))))


def subtitle(found: Report) -> str:
    machine = found.machine
    return (
        f"µs, medians of {found.repeat} alternating rounds, less is better, log scale. × is the "
        f"ratio to taskflow sync, FULL. Python {machine.python}, SQLite {machine.sqlite}, "
        f"{machine.cores} cores."
    )


def legend() -> Iterator[str]:
    x = 520
    for kind, meaning in MEANING.items():
        yield f'<rect x="{x}" y="17" width="11" height="11" rx="2" fill="{FILL[kind]}"/>'
        yield text(x + 17, 27, meaning, size=12)
        x += 42 + 7 * len(meaning)


def axis(scale: Scale, height: int) -> Iterator[str]:
    for power in range(scale.low, scale.high + 1):
        x = scale.x(10.0**power)
        yield (
            f'<line x1="{x:.1f}" y1="{HEAD - 6}" x2="{x:.1f}" y2="{height - FOOT}" '
            f'stroke="{RULE}" stroke-width="1"/>'
        )
        yield text(x, height - FOOT + 16, tick(power), size=11, fill=QUIET, anchor="middle")


def tick(power: int) -> str:
    if power >= 6:
        return f"{10 ** (power - 6):,} s"
    if power >= 3:
        return f"{10 ** (power - 3):,} ms"
    return f"{10**power:g} µs" if power >= 0 else f"{10.0**power:g} µs"


def draw(group: Group, scale: Scale, top: int) -> Iterator[str]:
    unit = "µs a run, p50" if group.case.unit == "µs a run" else group.case.unit
    yield text(16, top + 19, group.case.title, size=13, weight="600")
    yield text(AXIS_END, top + 19, unit, size=11, fill=QUIET, anchor="end", halo=True)
    yield text(FSYNC_START, top + 19, "fsync", size=11, fill=QUIET)
    measure = next((one.cost for one in group.lines if one.contender == MEASURE), None)
    for position, line in enumerate(group.lines):
        yield from bar(line, measure, scale, top + TITLE + ROW * position)


def bar(line: Line, measure: float | None, scale: Scale, y: float) -> Iterator[str]:
    if line.cost is None:
        return

    end = max(scale.x(line.cost), AXIS_START + 2)
    baseline = y + BAR - 2.5
    own = line.contender == MEASURE
    kind = contender(line.contender).kind
    yield text(
        LABEL_END, baseline, line.label, size=12, anchor="end", weight="600" if own else "400"
    )
    yield (
        f'<rect x="{AXIS_START}" y="{y}" width="{end - AXIS_START:.1f}" height="{BAR}" rx="2" '
        f'fill="{FILL[kind]}"/>'
    )
    ratio = "" if measure is None or own else f"  {amount(line.cost / measure)} ×"
    yield text(
        end + 6,
        baseline,
        f"{amount(line.cost)}{ratio}",
        size=12,
        weight="600",
        halo=True,
    )
    yield text(FSYNC_START, baseline, line.fsync, size=11, fill=QUIET)


def text(
    x: float,
    y: float,
    content: str,
    *,
    size: int,
    fill: str = INK,
    anchor: str = "start",
    weight: str = "400",
    halo: bool = False,
) -> str:
    # The halo keeps a label legible where it crosses a rule of the axis.
    outline = ' stroke="#ffffff" stroke-width="3" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
        f'font-weight="{weight}"{outline} xml:space="preserve">{escape(content)}</text>'
    )
