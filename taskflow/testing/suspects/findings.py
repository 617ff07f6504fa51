"""`Findings`: what is said of a workflow's code, and in which words.

Each text names the function and the line, says what a rerun makes of it, and shows the way out.
"""

from __future__ import annotations

from types import FrameType
from typing import Final

__all__ = ("Findings", "place_in", "text_of")

TEXTS: Final = {
    "clock": (
        "{name} calls {called} ({place}) outside of tasks: it depends on the time of day, and a "
        "rerun reads another one; use await taskflow.now(), which is recorded, or read the clock "
        "in a task; if nothing comes of it but a line in a log, pass allow=[{path}]"
    ),
    "draw": (
        "{name} calls {called} ({place}) outside of tasks: a rerun draws another value; use "
        "taskflow.random() or taskflow.uuid(), which are recorded, or draw it in a task"
    ),
    "outside": (
        "{name} does {called}() ({place}) outside of tasks: what it finds is not recorded, and "
        "what it does is done again by every rerun: do it in a task, or pass allow=[{path}]"
    ),
    "outside in a child": (
        "a workflow does {called}() outside of tasks: what it finds is not recorded, and what it "
        "does is done again by every rerun: do it in a task"
    ),
    "mock": (
        "{name} ({place}) awaits a mock outside of tasks: what stands for a service is asked again "
        "by every rerun: await it in a task"
    ),
    "package": (
        "{name} ({place}) awaits {called}, which is no task: what it gives is not recorded, and a "
        "rerun asks again"
    ),
    "environment": (
        "{name} ({place}) reads os.environ, which is not recorded, and which the next deploy may "
        "change: pass it as an argument, or read it in a task"
    ),
    "sleep": (
        "{name} ({place}) sleeps, which is not recorded: every rerun does so again, from the "
        "start; taskflow.sleep() is, and lets the process end meanwhile"
    ),
    "limit": (
        "{name} ({place}) sets a time limit, {called}(): what it cuts off is not recorded, and a "
        "rerun may be quicker; use @task(timeout=…), receive(timeout=…) or race() with sleep(), "
        "which are"
    ),
    "no task": (
        "{whole} is awaited by a workflow{where} and is no task: what it gives is not recorded, "
        "and a rerun executes it again: decorate it with @task, or, if it does nothing but "
        "compute, pass allow=[{path}]"
    ),
    "plain function": (
        "{whole} is awaited by a workflow{where} and was called as the plain function of the task "
        "{called!r} (.fn): what it gives is not recorded, and a rerun executes it again: call the "
        "task itself, or, if it does nothing but compute, pass allow=[{path}]"
    ),
    "helper": "{whole}",
    "effect": (
        "{name} ({place}) is called by a workflow, {called}, which outlives the run, and is no "
        "task: a rerun does it again: decorate it with @task, or pass allow=[{path}]"
    ),
    "own effect": (
        "{name} ({place}) {called}, which outlives the run: every rerun does so again"
    ),
    "unseen": "{place} could not be looked at: {called}",
}  # fmt: skip
NOTED: Final = {"environment", "sleep", "own effect"}  # right or not, as the author intends it
SUSPECT: Final = {"limit", "helper", "own effect", "unseen"}  # where a rerun differs, the reason


class Findings:
    """What was found of a workflow's code, each text once: as keys, in the order of finding."""

    def __init__(self) -> None:
        self.wrong: dict[str, None] = {}
        self.suspect: dict[str, None] = {}
        self.noted: dict[str, None] = {}

    def tell(self, kind: str, frame: FrameType, called: object = "") -> None:
        """Say it of the code that executes in a frame."""
        text = text_of(kind, frame, called)
        if kind in NOTED:
            self.noted[text] = None
        if kind in SUSPECT:
            self.suspect[text] = None
        if kind not in NOTED | SUSPECT:
            self.wrong[text] = None


def text_of(kind: str, frame: FrameType, called: object = "", where: str = "") -> str:
    """What is said of the code that executes in a frame. ``called``: what it calls, or does."""
    code = frame.f_code
    return TEXTS[kind].format(
        name=code.co_name,
        place=place_in(frame),
        path=code.co_qualname.rpartition("<locals>.")[2],
        whole=f"{code.co_name} ({code.co_filename}:{code.co_firstlineno})",
        called=called,
        where=where,
    )


def place_in(frame: FrameType) -> str:
    """File and line."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
