"""The scenarios, with their cases and the contenders that take them."""

from typing import get_args

from msgspec import Struct

from benchmarks.case import Case, ScenarioName, Way
from benchmarks.contenders import Contender
from benchmarks.form import Form

__all__ = ("SCENARIOS", "Scenario", "scenarios", "takes")

SCENARIOS: tuple[ScenarioName, ...] = get_args(ScenarioName)

FAN_OUTS: tuple[Form, ...] = ("gather", "group", "map")
RECEIVES: tuple[Form, ...] = ("chain", "gather")
STREAMS: tuple[Form, ...] = ("gather", "map")
FULL_ONLY = {"taskflow-full", "floor-f-full"}
SIMILAR = {"langgraph-async", "dbos"}


class Scenario(Struct, frozen=True):
    """Cases that one set of worker processes takes, case after case.

    Where it ``alternates`` the cases take turns in each round, to be compared with each other.
    """

    name: ScenarioName
    cases: tuple[Case, ...]
    alternates: bool = False


def scenarios(*, quick: bool) -> tuple[Scenario, ...]:
    """All scenarios; with ``quick`` they are smaller."""
    replays: tuple[Form, ...] = ("chain", *FAN_OUTS)
    sizes = (1_000, 10_000)
    held = (0, 10_000, 100_000)
    return (
        Scenario("chain", (Case("chain", 1_000),)),
        Scenario("fan-out", tuple(Case("fan-out", n, form) for n in sizes for form in FAN_OUTS)),
        Scenario(
            "replay",
            tuple(
                Case("replay", size, form)
                for size in (sizes if quick else (10_000,))
                for form in replays
            ),
        ),
        Scenario("threads", (Case("threads", 200 if quick else 500, callers=100),)),
        Scenario(
            "payloads",
            tuple(Case("payloads", 100 if quick else 200, form) for form in ("chain", "gather")),
        ),
        Scenario(
            "run",
            (
                Case("run", 100 if quick else 300, callers=1),
                Case("run", 10 if quick else 40, callers=50),
            ),
        ),
        Scenario(
            "growth",
            (
                *(Case("growth", 200 if quick else 500, "chain", recorded=n) for n in held),
                *(Case("growth", 2_000, "gather", recorded=n) for n in held),
            ),
        ),
        Scenario("million", (Case("million", 100_000 if quick else 1_000_000, "map"),)),
        Scenario(
            "receive",
            tuple(
                Case("receive", 1_000, form, way=way)
                for form in RECEIVES
                for way in ways("task", "signal")
            ),
            alternates=True,
        ),
        Scenario(
            "stream",
            tuple(
                Case("stream", 1_000 if quick else 10_000, form, way=way)
                for form in STREAMS
                for way in ways("alone", "reader")
            ),
            alternates=True,
        ),
        Scenario(
            "subscribe",
            tuple(Case("subscribe", 10_000, way=way) for way in ways("replay", "reader")),
            alternates=True,
        ),
        Scenario(
            "resume",
            tuple(Case("resume", 30 if quick else 100, way=way) for way in ways("awake", "asleep")),
            alternates=True,
        ),
        Scenario(
            "recovery",
            (
                Case("recovery", 200 if quick else 1_000, callers=100, way="execute"),
                *(
                    Case("recovery", 200 if quick else 1_000, "chain", 100, held, "recover")
                    for held in (0, 3)
                ),
            ),
            alternates=True,
        ),
        Scenario("paused", (Case("paused", 10_000 if quick else 100_000),)),
        Scenario("opening", (Case("opening", 10_000 if quick else 100_000),)),
        Scenario("import", (Case("import", 1),)),
    )


def ways(*names: Way) -> tuple[Way, ...]:
    return names


def takes(contender: Contender, case: Case, *, quick: bool) -> bool:
    """Whether this contender takes this case.

    Peers have one way to fan out, and need minutes for the largest cases, which ``quick`` leaves
    out for them; it also takes only one of two similar contenders. Floors are left out of cases in
    which they have nothing to do.
    """
    if quick and contender.name in SIMILAR:
        return False
    match case.scenario:
        case "import":
            return False
        case "growth" | "million":
            return contender.name in FULL_ONLY
        case "receive" | "stream":
            return contender.kind == "taskflow"
        case "subscribe" | "recovery" | "paused" | "opening":
            return contender.name == "taskflow-full"
        case "resume" if contender.family in {"taskflow_runtime", "floor_raw"}:
            return True
        case "resume":
            # LangGraph unwinds a waiting workflow; DBOS keeps it in memory.
            return contender.family == ("langgraph" if case.way == "asleep" else "dbos")
        case "replay" if contender.family in {"floor_bare", "floor_raw"}:
            return False
        case "replay" if contender.name in {"taskflow-normal", "taskflow-async", "floor-f-normal"}:
            # A replay commits twice, whatever its length.
            return False
        case "fan-out" | "replay" if contender.kind == "peer":
            return case.form in {"chain", "gather"} and not (quick and case.size > 1_000)
        case "fan-out" if contender.family == "floor_raw":
            return case.form == "gather" and not (quick and case.size > 1_000)
        case _:
            return True
