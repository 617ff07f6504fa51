"""One run as a timeline: its calls as spans of time, and the page that draws them.

The page is ``timeline.html`` with the run in it as JSON. No value of the run is ever HTML: the page
inserts values as text, and its policy lets the browser execute the page's own script only, by hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime
from enum import IntFlag
from importlib import resources
from typing import Any, Final, TypeAlias, cast

from msgspec import Struct

from taskflow.records import RunRecord, RunStatus, TaskRecord, Wait

__all__ = ("Mark", "Span", "Timeline", "awaited", "capped", "idle_gaps", "page_of", "timeline_of")

Values: TypeAlias = tuple[str | None, str | None, str | None]  # arguments, result, error

SECOND: Final = 1_000_000  # microseconds, the unit of all times of a timeline
WAITS: Final = frozenset({"taskflow.receive", "taskflow.sleep", "taskflow.sleep_until"})
ENDED: Final = (RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.CANCELLED)
# Characters of a value; the first width with which the run fits into RUN_SIZE is used.
VALUE_WIDTHS: Final = (2000, 1000, 500, 200, 100, 50, 20)
RUN_SIZE: Final = 2_800_000  # bytes
SHORTEST_BREAK: Final = SECOND  # a shorter gap is never squeezed
BREAK_SHARE: Final = 10  # a squeezed gap takes at most a tenth of the part drawn to scale


class Mark(IntFlag):
    """The properties of a span that its colour and shape show."""

    REPLAYED = 1  # recorded before the last execution
    FAILED = 2
    RETRIED = 4
    CACHED = 8
    WAIT = 16  # a wait for a signal or a timer, in which nothing executes
    UNFINISHED = 32  # without a record yet


NOT_EXECUTED: Final = Mark.REPLAYED | Mark.CACHED | Mark.WAIT | Mark.UNFINISHED


class Span(Struct, frozen=True):
    """A call as a span of time."""

    name: str
    task_id: str
    parent: int | None  # index of the span of the call whose body made it; None: the run's own body
    start: int  # microseconds since the timeline's origin
    end: int
    marks: Mark
    task: TaskRecord | None = None  # None: not completed; only calls that it made are recorded
    wait: Wait | None = None  # the open wait that the span stands for


class Timeline(Struct, frozen=True):
    """A run's calls as spans, until its end or until now."""

    record: RunRecord
    origin: float  # wall clock, seconds since the epoch
    start: int  # of the run, in microseconds since the origin
    continued: int | None  # the start of its last execution, if that was not the first
    end: int
    has_ended: bool
    spans: list[Span]  # completed calls by start, then the others


def timeline_of(record: RunRecord, tasks: Sequence[TaskRecord], *, now: float) -> Timeline:
    """The spans of a run; unfinished ones last until ``now``, in seconds since the epoch."""
    ordered = sorted(tasks, key=lambda each: (each.started, each.sequence))
    origin = min([record.created, *(each.started for each in ordered[:1])])

    def at(moment: float) -> int:
        return round((moment - origin) * SECOND)

    indices = {each.task_id: index for index, each in enumerate(ordered)}
    # A call that has not ended has no record, but the calls that it has made have.
    unfinished: defaultdict[str, list[TaskRecord]] = defaultdict(list)
    for each in ordered:
        if each.parent_id is not None and each.parent_id not in indices:
            unfinished[each.parent_id].append(each)
    indices |= {task_id: index for index, task_id in enumerate(unfinished, len(ordered))}
    finished = record.finished if record.status in ENDED else None
    end = now if finished is None else finished
    end = max([end, record.created, *(each.started + each.duration for each in ordered)])
    spans = [
        Span(
            each.name,
            each.task_id,
            None if each.parent_id is None else indices[each.parent_id],
            at(each.started),
            at(each.started + each.duration),
            _marks(record, each),
            each,
        )
        for each in ordered
    ]
    for task_id, calls in unfinished.items():
        last = end if finished is None else max(each.started + each.duration for each in calls)
        name = _name_of(task_id)
        spans.append(Span(name, task_id, None, at(calls[0].started), at(last), Mark.UNFINISHED))
    places = {span.task_id: place for place, span in enumerate(spans)}
    for wait in record.waits:
        parent = None if wait.parent_id is None else places.get(wait.parent_id)
        name = _name_of(wait.task_id)
        since = min(at(wait.since), at(end))
        marks = Mark.WAIT | Mark.UNFINISHED
        spans.append(Span(name, wait.task_id, parent, since, at(end), marks, wait=wait))
    continued = at(record.started) if record.started > record.created else None
    has_ended = finished is not None
    return Timeline(record, origin, at(record.created), continued, at(end), has_ended, spans)


def page_of(timeline: Timeline) -> str:
    """The HTML page, self-contained: the browser loads nothing else."""
    template = resources.files("taskflow.cli").joinpath("timeline.html").read_text("utf-8")
    script = template.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    before, _, after = template.replace("{script_hash}", f"sha256-{digest}").partition("{run}")
    return before + _embedded(timeline) + after


def idle_gaps(timeline: Timeline) -> list[tuple[int, int]]:
    """The gaps in which no call executed: only waits, and calls that waited for them, were open.

    A gap ends where any call begins or ends. A call with calls in flight does not count as
    executing itself.
    """
    events = [
        event
        for index, span in enumerate(timeline.spans)
        if span.task is not None or span.wait is not None
        for event in ((span.start, 1, index), (span.end, -1, index))
    ]
    is_open = [0] * len(timeline.spans)
    children = [0] * len(timeline.spans)  # how many children are open

    def is_busy(index: int | None) -> bool:
        if index is None or timeline.spans[index].marks & Mark.WAIT:
            return False
        return is_open[index] > 0 and children[index] == 0

    gaps: list[tuple[int, int]] = []
    busy = 0
    passed = 0
    for moment, change, index in sorted(events):
        if busy == 0 and moment > passed:
            gaps.append((passed, moment))
        passed = moment
        parent = timeline.spans[index].parent
        busy -= is_busy(index) + is_busy(parent)
        is_open[index] += change
        if parent is not None:
            children[parent] += change
        busy += is_busy(index) + is_busy(parent)
    if timeline.end > passed:
        gaps.append((passed, timeline.end))
    return gaps


def awaited(wait: Wait) -> dict[str, Any]:
    """The name, deadline, prompt and type of an open wait, as far as it has them."""
    deadline = None if wait.deadline is None else datetime.fromtimestamp(wait.deadline).isoformat()
    shown = {"name": wait.name, "until": deadline, "prompt": wait.prompt, "type": wait.type}
    return {key: value for key, value in shown.items() if value is not None}


def capped(text: str, width: int) -> str:
    """At most ``width`` characters of a text, the last of them an ellipsis where it was cut."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _name_of(task_id: str) -> str:
    return task_id.rpartition(":")[0]


def _marks(record: RunRecord, task: TaskRecord) -> Mark:
    marks = Mark(0)
    if task.started < record.started:
        marks |= Mark.REPLAYED
    if task.status == "error":
        marks |= Mark.FAILED
    if task.name in WAITS:
        return marks | Mark.WAIT
    if task.attempts == 0:
        marks |= Mark.CACHED
    if task.attempts > 1:
        marks |= Mark.RETRIED
    return marks


def _embedded(timeline: Timeline) -> str:
    """The run as JSON that is safe inside an HTML element, its values cut to keep it small."""
    values = [_values(span) for span in timeline.spans]
    run = ""
    for width in VALUE_WIDTHS:
        drawn = _drawn(timeline, values, width)
        run = json.dumps(drawn, ensure_ascii=False, separators=(",", ":"))
        # In JSON "<" occurs in strings only; without it no value can close the HTML element.
        run = run.replace("<", "\\u003c")
        if len(run.encode("utf-8", "backslashreplace")) <= RUN_SIZE:
            break
    return run


def _drawn(timeline: Timeline, values: Sequence[Values], width: int) -> dict[str, Any]:
    """The fields that the page's script reads."""
    record = timeline.record
    breaks = _breaks(timeline)
    squeezed = sum(to - since for since, to, _ in breaks)
    return {
        "thread": record.thread_id,
        "run": record.run_id,
        "sequence": record.sequence,
        "workflow": record.workflow,
        "status": record.status,
        "owner": record.owner,
        "input": _text(record.input, width),
        "result": _text(record.result, width) if record.status == RunStatus.SUCCESS else None,
        "error": None if record.error is None else capped(record.error, width),
        "origin": timeline.origin,
        "start": timeline.start,
        "continued": timeline.continued,
        "end": timeline.end,
        "ended": timeline.has_ended,
        "width": width,
        "counts": _counts(timeline),
        "breaks": breaks,
        "squeeze": 2 * squeezed > timeline.end,
        "calls": [
            (
                span.name,
                span.task_id,
                -1 if span.parent is None else span.parent,
                span.start,
                span.end - span.start,
                0 if span.task is None else span.task.attempts,
                int(span.marks),
                *(None if text is None else capped(text, width) for text in texts),
            )
            for span, texts in zip(timeline.spans, values, strict=True)
        ],
    }


def _counts(timeline: Timeline) -> dict[str, int]:
    counts = Counter(mark for span in timeline.spans for mark in span.marks)
    return {
        "recorded": sum(span.task is not None for span in timeline.spans),
        "executed": sum(not span.marks & NOT_EXECUTED for span in timeline.spans),
        **{str(mark.name).lower(): counts[mark] for mark in Mark},
    }


def _breaks(timeline: Timeline) -> list[tuple[int, int, int]]:
    """The gaps to squeeze, as start, end and drawn length.

    Squeezed are the gaps that would leave too little room for everything else.
    """
    gaps = [(since, to) for since, to in idle_gaps(timeline) if to - since > SHORTEST_BREAK]
    to_scale = timeline.end - sum(to - since for since, to in gaps)
    gaps = [(since, to) for since, to in gaps if to - since > to_scale // BREAK_SHARE]
    to_scale = timeline.end - sum(to - since for since, to in gaps)
    drawn = to_scale // (BREAK_SHARE + len(gaps))
    return [(since, to, drawn) for since, to in gaps if 0 < drawn < to - since]


def _values(span: Span) -> Values:
    """A span's values as text, cut to the largest width that is shown."""
    if span.wait is not None:
        return _arguments(awaited(span.wait)), None, None
    task = span.task
    if task is None:
        return None, None, None
    value = None if task.status == "error" else _text(task.value, VALUE_WIDTHS[0])
    error = None if task.error is None else capped(task.error, VALUE_WIDTHS[0])
    return _arguments(task.arguments), value, error


def _arguments(arguments: Any) -> str | None:
    if not isinstance(arguments, dict):
        return None if arguments is None else capped(str(arguments), VALUE_WIDTHS[0])
    named = cast("dict[str, Any]", arguments)
    texts = [f"{name}={_text(value, VALUE_WIDTHS[0])}" for name, value in named.items()]
    return capped(", ".join(texts), VALUE_WIDTHS[0])


def _text(value: Any, width: int) -> str:
    return capped(json.dumps(value, ensure_ascii=False), width)
