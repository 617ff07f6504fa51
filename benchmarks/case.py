"""`Case`: a piece of work for a contender; `Sample`: one measurement of it."""

from typing import Literal

from msgspec import Struct

from benchmarks.form import Form

__all__ = ("Case", "Sample", "ScenarioName", "Unit", "Way")

ScenarioName = Literal[
    "chain",
    "fan-out",
    "replay",
    "threads",
    "payloads",
    "run",
    "growth",
    "million",
    "receive",
    "stream",
    "subscribe",
    "resume",
    "recovery",
    "paused",
    "opening",
    "import",
]
Way = Literal[
    "",
    "task",
    "signal",
    "alone",
    "reader",
    "replay",
    "awake",
    "asleep",
    "execute",
    "recover",
]
"""The variant of a case, in scenarios that compare variants."""

Unit = Literal["µs a task", "µs a run", "MiB", "ms"]


class Case(Struct, frozen=True):
    """One piece of work: the same for each contender that takes it.

    ``size`` counts tasks, except for ``run``, where it counts the runs of each caller, and for
    ``threads``, where it counts threads of `TASKS_A_THREAD` tasks; for ``resume``, ``recovery``,
    ``paused`` and ``opening`` it counts runs, for ``receive`` also signals. ``recorded`` is the
    number of results that the thread already holds.
    """

    scenario: ScenarioName
    size: int
    form: Form = "chain"
    callers: int = 1
    recorded: int = 0
    way: Way = ""

    TASKS_A_THREAD = 5

    @property
    def unit(self) -> Unit:
        """The unit of a sample's cost."""
        match self.scenario:
            case "run" | "resume":
                return "µs a run"
            case "million" | "paused":
                return "MiB"
            case "import" | "opening":
                return "ms"
            case _:
                return "µs a task"

    @property
    def title(self) -> str:
        """The case in words, as the table and the chart show it."""
        forms = {"chain": "one by one", "gather": "gather", "group": "task group", "map": "map"}
        match self.scenario:
            case "chain":
                return f"chain of {self.size:,}"
            case "fan-out":
                return f"fan-out of {self.size:,}, {forms[self.form]}"
            case "replay" if self.form == "chain":
                return f"replay of a chain of {self.size:,}"
            case "replay":
                return f"replay of a fan-out of {self.size:,}, {forms[self.form]}"
            case "threads":
                return f"{self.size:,} threads of {self.TASKS_A_THREAD}, {self.callers} in flight"
            case "payloads":
                return f"{self.size:,} payloads of 64 KiB, {forms[self.form]}"
            case "run":
                return f"run of one task, {self.callers} caller" + "s" * (self.callers > 1)
            case "growth":
                shape = "chain" if self.form == "chain" else "fan-out"
                return f"{shape} of {self.size:,} on a thread that holds {self.recorded:,}"
            case "million":
                return f"{self.size:,} items through map, growth of memory"
            case "receive":
                what = "receives whose signals are there" if self.way == "signal" else "tasks"
                return f"{self.size:,} {what}, {forms[self.form]}"
            case "stream":
                readers = "one reader of its stream" if self.way == "reader" else "no reader"
                return f"fan-out of {self.size:,}, {forms[self.form]}, {readers}"
            case "subscribe" if self.way == "replay":
                return f"replay of {self.size:,} calls, one by one"
            case "subscribe":
                return f"subscription to a finished run of {self.size:,} calls"
            case "resume":
                state = "paused" if self.way == "asleep" else "waiting in memory"
                return f"send to result of a run {state}, {self.size:,} runs"
            case "recovery":
                what = "orphaned runs" if self.way == "recover" else "new runs"
                held = f" that hold {self.recorded}" if self.recorded else ""
                tasks = f"of {self.TASKS_A_THREAD} tasks{held}"
                return f"{self.size:,} {what} {tasks}, {self.callers} in flight"
            case "paused":
                return f"{self.size:,} paused runs with timers, growth of memory"
            case "opening":
                return f"opening on {self.size:,} paused runs, up to a first result"
            case "import":
                return "import in a fresh interpreter"


class Sample(Struct, frozen=True):
    """One measurement: its cost in the case's unit, and the wall-clock seconds it took.

    The cost of a case in µs a run is the median over its runs; only such a case has a ``p99``.
    """

    cost: float
    seconds: float
    p99: float | None = None
