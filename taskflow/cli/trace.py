"""One run in the Chrome trace event format, which Perfetto and chrome://tracing open.

The JSON object format, with complete events (``"ph": "X"``; times in microseconds) and metadata:
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from typing import Any, Final

from taskflow.cli.timeline import Mark, Span, Timeline, awaited, capped

__all__ = ("trace_of",)

PROCESS: Final = 1  # the run
RUN_LANE: Final = 1
VALUE_WIDTH: Final = 2000  # characters of a value's JSON; a longer value is cut, and shown as text


def trace_of(timeline: Timeline) -> str:
    """The trace as JSON: a slice for the run and one for each call, on lanes where they nest."""
    record = timeline.record
    lanes = _lanes(timeline)
    workflow = record.workflow or "Runtime.thread() block"
    run = {
        "thread_id": record.thread_id,
        "run_id": record.run_id,
        "status": record.status,
        "input": _value(record.input),
        "result": _value(record.result),
        "error": record.error,
    }
    events = [
        _metadata("process_name", 0, name=f"{workflow} on thread {record.thread_id}"),
        _metadata("thread_name", RUN_LANE, name=workflow),
        _metadata("thread_sort_index", RUN_LANE, sort_index=RUN_LANE),
        _slice(workflow, "run", RUN_LANE, timeline.start, timeline.end, run),
    ]
    for lane in range(RUN_LANE + 1, max(lanes, default=RUN_LANE) + 1):
        events.append(_metadata("thread_name", lane, name=f"concurrent {lane - RUN_LANE}"))
        events.append(_metadata("thread_sort_index", lane, sort_index=lane))
    if timeline.continued is not None:
        events.append(_instant("continued", timeline.continued))
    for span, lane in zip(timeline.spans, lanes, strict=True):
        category = "wait" if span.marks & Mark.WAIT else "call"
        events.append(_slice(span.name, category, lane, span.start, span.end, _details(span)))
    about = {"workflow": workflow, **run, "begins_at": timeline.origin}
    trace = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}
    return json.dumps(trace, ensure_ascii=False, separators=(",", ":"))


def _lanes(timeline: Timeline) -> list[int]:
    """The lane of each span; on a lane, spans nest or follow each other.

    Lane 1 holds the run. A child is on its parent's lane if it lies within the parent and directly
    under it: a viewer would show a span within a sibling as called by that sibling.
    """
    spans = timeline.spans
    lanes = [0] * len(spans)
    open_spans: dict[int, list[int | None]] = {RUN_LANE: [None]}  # innermost last; None: the run
    ends = [(timeline.end, RUN_LANE)]  # the end of the outermost span of each lane in use
    free: list[int] = []  # lanes without an open span

    def end_of(index: int | None) -> int:
        return timeline.end if index is None else spans[index].end

    for index in sorted(range(len(spans)), key=lambda each: _nesting_order(spans, each)):
        span = spans[index]
        while ends and ends[0][0] <= span.start:
            lane = heapq.heappop(ends)[1]
            open_spans[lane].clear()
            heapq.heappush(free, lane)
        lane = RUN_LANE if span.parent is None else lanes[span.parent]
        stack = open_spans.get(lane, [])
        while stack and end_of(stack[-1]) <= span.start:
            stack.pop()
        fits = bool(stack) and stack[-1] == span.parent and span.end <= end_of(span.parent)
        if not fits or span.start < timeline.start:
            lane = heapq.heappop(free) if free else len(open_spans) + 1
            heapq.heappush(ends, (span.end, lane))
        lanes[index] = lane
        open_spans.setdefault(lane, []).append(index)
    return lanes


def _nesting_order(spans: Sequence[Span], index: int) -> tuple[int, int, int]:
    """A sort key that puts parents before their children, even with equal times."""
    depth = 0
    parent = spans[index].parent
    while parent is not None:
        depth += 1
        parent = spans[parent].parent
    return spans[index].start, -spans[index].end, depth


def _details(span: Span) -> dict[str, Any]:
    if span.task is None:
        details = {"task_id": span.task_id, "completed": False}
        return details if span.wait is None else {**details, "waits_for": awaited(span.wait)}
    task = span.task
    details = {
        "task_id": task.task_id,
        "arguments": _value(task.arguments),
        "attempts": task.attempts,
        "replayed": bool(span.marks & Mark.REPLAYED),
    }
    if task.status == "error":
        return {**details, "error": capped(task.error or "", VALUE_WIDTH)}
    return {**details, "result": _value(task.value)}


def _value(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False)
    return value if len(text) <= VALUE_WIDTH else capped(text, VALUE_WIDTH)


def _slice(
    name: str, category: str, lane: int, start: int, end: int, args: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": PROCESS,
        "tid": lane,
        "ts": start,
        "dur": end - start,
        "args": args,
    }


def _instant(name: str, moment: int) -> dict[str, Any]:
    return {
        "ph": "i",
        "s": "p",
        "name": name,
        "cat": "run",
        "pid": PROCESS,
        "tid": RUN_LANE,
        "ts": moment,
    }


def _metadata(kind: str, lane: int, **args: str | int) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": PROCESS, "tid": lane, "args": args}
