"""``python -m benchmarks``: measure, and show."""

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.case import ScenarioName
from benchmarks.chart import chart
from benchmarks.contenders import CONTENDERS, Contender, missing
from benchmarks.figure import Figure
from benchmarks.progress import Progress
from benchmarks.report import report, write
from benchmarks.scenario import SCENARIOS, scenarios
from benchmarks.suite import Suite
from benchmarks.table import figures_grids, show, verdicts_grid
from benchmarks.target import TARGETS, judged

RESULTS = Path(__file__).parent / "results"
PEERS = tuple(dict.fromkeys(one.family for one in CONTENDERS if one.kind == "peer"))


class Options(NamedTuple):
    """The command line's options."""

    quick: bool
    scenario: list[ScenarioName] | None
    peer: list[str] | None
    repeat: int | None
    dir: Path | None
    results: Path


def options() -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure taskflow, its peers, and the floors that the machine sets.",
    )
    parser.add_argument("--quick", action="store_true", help="smaller cases and fewer rounds")
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIOS, help="only this one; may be repeated"
    )
    parser.add_argument(
        "--peer",
        action="append",
        choices=(*PEERS, "none"),
        help="only this peer; may be repeated",
    )
    parser.add_argument("--repeat", type=int, help="rounds over each case (default 5, quick 3)")
    parser.add_argument(
        "--dir",
        type=Path,
        help="a folder for databases, on a real disk (default: the current directory)",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder for the report")
    return Options(**vars(parser.parse_args()))


def chosen(peers: list[str] | None) -> tuple[Contender, ...]:
    """The contenders that were asked for and are installed; prints the others."""
    present: list[Contender] = []
    for one in CONTENDERS:
        if one.kind == "peer" and peers is not None and one.family not in peers:
            continue
        if module := missing(one):
            print(f"left out: {one.label} ({module} is not installed)")
            continue
        present.append(one)
    return tuple(present)


def main() -> None:
    given = options()
    repeat = given.repeat or (3 if given.quick else 5)
    wanted = tuple(
        one
        for one in scenarios(quick=given.quick)
        if given.scenario is None or one.name in given.scenario
    )
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        print(f"the machine is busy: a load of {load:.1f} on {cores} cores; expect noise")
    with TemporaryDirectory(dir=given.dir or Path.cwd(), prefix="benchmarks-") as folder:
        suite = Suite(wanted, chosen(given.peer), repeat, Path(folder), given.quick)
        progress = Progress(suite.steps())
        figures: list[Figure] = []
        was_stopped = False
        try:
            figures.extend(suite.measure(progress.show))
        except KeyboardInterrupt:
            was_stopped = True
        progress.clear()

    names = {one.name for one in wanted}
    verdicts = [judged(one, figures) for one in TARGETS if one.figure.scenario in names]
    for grid in figures_grids(figures):
        show(grid)
    show(verdicts_grid(verdicts))

    part = given.scenario or given.peer or was_stopped
    name = "partial" if part else "quick" if given.quick else "full"
    found = report(figures, verdicts, quick=given.quick, repeat=repeat, load=load)
    write(found, given.results / f"{name}.json")
    (given.results / f"{name}.svg").write_text(chart(found), encoding="utf-8")
    print(f"\nwritten: {name}.json and {name}.svg in {given.results.name}/")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped")
