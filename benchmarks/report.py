"""The report: the figures and the machine, as JSON."""

import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.case import Case, Sample
from benchmarks.contenders import CONTENDERS
from benchmarks.figure import Figure
from benchmarks.target import Verdict

__all__ = ("Machine", "Report", "report", "write")

PACKAGES = (
    "taskflow-runtime",
    "anyio",
    "msgspec",
    "aiosqlite",
    "langgraph",
    "langgraph-checkpoint-sqlite",
    "dbos",
)


class Machine(Struct, frozen=True):
    """The machine of the figures; ``load`` is the load average before the first of them."""

    system: str
    cores: int
    load: float
    python: str
    sqlite: str
    packages: dict[str, str]


class Line(Struct, frozen=True):
    """A figure, with its medians written out."""

    case: Case
    title: str
    unit: str
    contender: str
    label: str
    fsync: str
    pragmas: str
    cost: float | None
    p99: float | None
    samples: list[Sample]
    note: str


class Report(Struct, frozen=True):
    """All results of one run of the suite."""

    quick: bool
    repeat: int
    machine: Machine
    verdicts: list[Verdict]
    figures: list[Line]


def report(
    figures: Sequence[Figure],
    verdicts: Sequence[Verdict],
    *,
    quick: bool,
    repeat: int,
    load: float,
) -> Report:
    """The report on these figures; ``load`` is what other programs cost meanwhile."""
    labels = {one.name: one.label for one in CONTENDERS}
    lines = [
        Line(
            case=figure.case,
            title=figure.case.title,
            unit=figure.case.unit,
            contender=figure.contender,
            label=labels.get(figure.contender, figure.contender),
            fsync=figure.fsync,
            pragmas=figure.pragmas,
            cost=figure.cost if figure.samples else None,
            p99=figure.p99,
            samples=figure.samples,
            note=figure.note,
        )
        for figure in figures
    ]
    return Report(quick, repeat, this_machine(load), list(verdicts), lines)


def this_machine(load: float) -> Machine:
    packages: dict[str, str] = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        cores=os.cpu_count() or 1,
        load=load,
        python=".".join(map(str, sys.version_info[:3])),
        sqlite=sqlite3.sqlite_version,
        packages=packages,
    )


def write(found: Report, path: Path) -> None:
    """Write the report as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
