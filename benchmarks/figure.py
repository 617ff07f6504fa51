"""A figure: the median of one contender's samples of one case."""

from statistics import median

from msgspec import Struct, field

from benchmarks.case import Case, Sample

__all__ = ("Figure", "amount")


class Figure(Struct):
    """The samples of one contender in one case.

    ``fsync`` says when a result is safe from loss of power, ``note`` why samples are missing;
    ``pragmas`` are the settings of the contender's own connection.
    """

    case: Case
    contender: str
    fsync: str
    samples: list[Sample] = field(default_factory=list[Sample])
    pragmas: str = ""
    note: str = ""

    @property
    def cost(self) -> float:
        """Median cost, in the case's unit."""
        return median(sample.cost for sample in self.samples)

    @property
    def p99(self) -> float | None:
        """Median of the 99th percentiles, in the case's unit."""
        tails = [sample.p99 for sample in self.samples if sample.p99 is not None]
        return median(tails) if tails else None

    @property
    def spread(self) -> float:
        """Half the range of the samples, as a share of their median."""
        costs = [sample.cost for sample in self.samples]
        return (max(costs) - min(costs)) / 2 / self.cost if self.cost else 0.0


def amount(value: float) -> str:
    """A number with three significant digits at least, and separated thousands."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
