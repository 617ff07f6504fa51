"""The tables on the terminal: with rich where it is installed, else as plain lines."""

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import groupby

from msgspec import Struct

from benchmarks.contenders import CONTENDERS
from benchmarks.figure import Figure, amount
from benchmarks.target import Verdict

__all__ = ("Grid", "figures_grids", "show", "verdicts_grid")

LABELS = {one.name: one.label for one in CONTENDERS}
MEASURE = "taskflow-full"


class Grid(Struct, frozen=True):
    """A table: a title, and rows of text under headings; ``numbers`` are aligned to the right."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numbers: frozenset[int]


def figures_grids(figures: Sequence[Figure]) -> list[Grid]:
    """One table a case: each contender beside taskflow at its default."""
    return [case_grid(list(some)) for _, some in groupby(figures, lambda one: one.case.title)]


def case_grid(figures: Sequence[Figure]) -> Grid:
    case = figures[0].case
    unit = "p50, µs" if case.unit == "µs a run" else case.unit
    measure = next((one for one in figures if one.contender == MEASURE and one.samples), None)
    measure = measure or next((one for one in figures if one.samples), None)
    rows: list[tuple[str, ...]] = []
    for figure in figures:
        label = LABELS.get(figure.contender, figure.contender)
        if not figure.samples or measure is None:
            rows.append((label, "–", "", "", "", "0", figure.note))
            continue
        rows.append(
            (
                label,
                amount(figure.cost),
                "" if figure.p99 is None else amount(figure.p99),
                ratio(figure.cost / measure.cost) if measure.cost else "",
                f"{figure.spread:.0%}",
                str(len(figure.samples)),
                figure.fsync + (f"; {figure.note}" if figure.note else ""),
            )
        )
    headings = ("", unit, "p99, µs", "ratio", "±", "n", "fsync")
    if case.unit == "µs a run":
        return Grid(case.title, headings, rows, frozenset(range(1, 6)))
    kept = [row[:2] + row[3:] for row in rows]
    return Grid(case.title, headings[:2] + headings[3:], kept, frozenset(range(1, 5)))


def verdicts_grid(verdicts: Sequence[Verdict]) -> Grid:
    """The demands on the suite's figures, line by line."""
    words = {True: "met", False: "NOT MET", None: "–"}
    return Grid(
        "What it must show",
        ("ratio of medians", "demand", "measured", "", ""),
        [(one.line, one.demand, one.measured, words[one.met], one.at) for one in verdicts],
        frozenset({1, 2}),
    )


def ratio(value: float) -> str:
    return f"{amount(value)} ×"


def show(grid: Grid) -> None:
    """Print a table to the standard output."""
    if find_spec("rich"):
        show_rich(grid)
    else:
        show_plain(grid)


def show_rich(grid: Grid) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=grid.title, title_justify="left", title_style="bold")
    for position, heading in enumerate(grid.headings):
        right = position in grid.numbers
        table.add_column(heading, justify="right" if right else "left", no_wrap=position == 0)
    for row in grid.rows:
        table.add_row(*row, style="red" if "NOT MET" in row else None)
    console = Console()
    # A file has no width to keep to.
    (console if console.is_terminal else Console(width=140)).print(table)


def show_plain(grid: Grid) -> None:
    lines = [grid.headings, *grid.rows]
    widths = [max(len(line[position]) for line in lines) for position in range(len(lines[0]))]
    print(f"\n{grid.title}")
    for line in lines:
        cells = [
            cell.rjust(width) if position in grid.numbers else cell.ljust(width)
            for position, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())
