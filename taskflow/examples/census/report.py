"""The census as text: a table of the packages, the most complex functions, the unread files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from taskflow.examples.census.sources import Unreadable, shown
from taskflow.examples.census.survey import Census, Package, Place

__all__ = ("lines_of", "unread")

SHOWN: Final = 10  # unreadable files

COLUMNS: Final = ("package", "files", "lines", "classes", "functions", "branches", "unparsed")


def lines_of(census: Census, unreadable: Sequence[Unreadable]) -> Iterator[str]:
    """The lines of the report; ``unreadable`` are added to the census's own unreadable files."""
    total = Package("total")
    rows: list[tuple[str, ...]] = [COLUMNS]
    for package in census.packages:
        rows.append(_row(package, shown(package.name) or "(top level)"))
        for name in COLUMNS[1:]:
            setattr(total, name, getattr(total, name) + getattr(package, name))
    rows.append(_row(total, "total"))
    yield from _aligned(rows, texts=(0,))
    if census.most_complex:
        yield ""
        places = [
            (each.function.name, f"{each.function.complexity:,}", _where(each))
            for each in census.most_complex
        ]
        yield from _aligned([("function", "complexity", "where"), *places], texts=(0, 2))
    left_out = [*unreadable, *census.unreadable]
    if left_out:
        yield ""
        yield from unread(left_out)


def unread(unreadable: Sequence[Unreadable]) -> Iterator[str]:
    """The first of the files that were not read, with the reasons."""
    yield f"not read: {len(unreadable):,}"
    yield from (f"  {shown(each.path)}: {each.reason}" for each in unreadable[:SHOWN])
    if len(unreadable) > SHOWN:
        yield f"  and {len(unreadable) - SHOWN:,} more"


def _row(package: Package, name: str) -> tuple[str, ...]:
    return name, *(f"{getattr(package, each):,}" for each in COLUMNS[1:])


def _where(place: Place) -> str:
    return f"{shown(place.path)}:{place.function.line}"


def _aligned(rows: Sequence[Sequence[str]], texts: Sequence[int]) -> Iterator[str]:
    """Rows with text aligned to the left and numbers to the right; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column in texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
        if number == 0:
            yield "  ".join("─" * width for width in widths)
