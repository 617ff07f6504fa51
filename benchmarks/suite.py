"""The suite: every contender once, then every contender again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from time import perf_counter

from msgspec import Struct

from benchmarks.case import Case
from benchmarks.contenders import Contender
from benchmarks.figure import Figure
from benchmarks.interpreter import IMPORTS, import_time
from benchmarks.process import WorkerProcess
from benchmarks.scenario import Scenario, takes

__all__ = ("Step", "Suite")


class Step(Struct, frozen=True):
    """The sample that is being taken now."""

    case: Case
    contender: str
    round: int
    rounds: int


class Suite(Struct):
    """A run of the suite: ``repeat`` rounds over each case, with databases in ``folder``.

    A contender that has spent ``budget`` seconds on a case, including the filling of its database,
    gets no further round of it; a sample is given up after ``limit`` seconds.
    """

    scenarios: tuple[Scenario, ...]
    contenders: tuple[Contender, ...]
    repeat: int
    folder: Path
    quick: bool
    budget: float = 60.0
    limit: float = 1_200.0

    def steps(self) -> int:
        """The number of samples, if no contender is slow."""
        return sum(
            self.rounds(case)
            * len(IMPORTS if case.scenario == "import" else self.contenders_of(case))
            for scenario in self.scenarios
            for case in scenario.cases
        )

    def rounds(self, case: Case) -> int:
        # The growth of memory is measured in a fresh process, and hardly varies.
        return 1 if case.scenario in {"million", "paused"} else self.repeat

    def contenders_of(self, case: Case) -> list[Contender]:
        return [one for one in self.contenders if takes(one, case, quick=self.quick)]

    def measure(self, show: Callable[[Step], None]) -> Iterator[Figure]:
        """The figures, case by case."""
        for scenario in self.scenarios:
            if scenario.name == "import":
                yield from self.measure_imports(scenario.cases[0], show)
                continue
            with ExitStack() as stack:
                workers = {
                    one.name: stack.enter_context(closing(WorkerProcess(one.name, self.folder)))
                    for one in self.contenders
                }
                if scenario.alternates:
                    yield from self.measure_cases(scenario.cases, workers, show)
                    continue
                for case in scenario.cases:
                    yield from self.measure_cases([case], workers, show)

    def measure_cases(
        self,
        cases: Sequence[Case],
        workers: dict[str, WorkerProcess],
        show: Callable[[Step], None],
    ) -> list[Figure]:
        """The figures of cases that take turns."""
        figures = [
            Figure(case, one.name, one.fsync) for case in cases for one in self.contenders_of(case)
        ]
        spent = [0.0] * len(figures)
        rounds = max(map(self.rounds, cases))
        for number in range(1, rounds + 1):
            for place, figure in enumerate(figures):
                show(Step(figure.case, figure.contender, number, rounds))
                if figure.note or spent[place] > self.budget:
                    continue
                started = perf_counter()
                answer = workers[figure.contender].ask(figure.case, self.limit)
                spent[place] += perf_counter() - started
                figure.note = answer.error
                if answer.sample is not None:
                    figure.samples.append(answer.sample)
                    figure.pragmas = answer.pragmas
        return figures

    def measure_imports(self, case: Case, show: Callable[[Step], None]) -> list[Figure]:
        figures = {label: Figure(case, label, "") for label in IMPORTS}
        # One round more than is kept: the first import writes byte code.
        for number in range(self.repeat + 1):
            for label, statement in IMPORTS.items():
                if figures[label].note:
                    continue
                if number:
                    show(Step(case, label, number, self.repeat))
                try:
                    sample = import_time(statement)
                except ImportError as error:
                    figures[label].note = str(error)
                    continue
                if number:
                    figures[label].samples.append(sample)
        return list(figures.values())
