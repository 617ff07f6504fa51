"""Pictures of one run: the page that draws it, and the trace that other viewers open."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

pytest.importorskip("rich")
pytest.importorskip("typer")

from typer.testing import CliRunner, Result

from taskflow import CachePolicy, RetryPolicy, Runtime, task, workflow
from taskflow.calls.workflows import WorkflowCall
from taskflow.cli.app import app
from taskflow.cli.timeline import Mark, idle_gaps, page_of, timeline_of
from taskflow.cli.trace import trace_of
from taskflow.records import RunRecord, RunStatus, TaskRecord, Wait

DAY = 86_400.0
PAGE_LIMIT = 3_000_000  # bytes
HOSTILE = (
    '</script><script>document.title="taken"</script>'
    '<img src=x onerror="document.title=1"><!-- {run} \u2028'
)
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'"

is_line_up = False
attempts: Counter[str] = Counter()


@task
async def square(n: int) -> int:
    await anyio.lowlevel.checkpoint()
    return n * n


@task
async def echo(text: str) -> str:
    return text


@task(retry=RetryPolicy(max_attempts=3, initial_interval=0.001))
async def flaky(name: str) -> str:
    attempts[name] += 1
    if attempts[name] < 2:
        raise ConnectionError("once more")
    return name


@task(cache=CachePolicy())
async def rate(currency: str) -> float:
    return 1.5


@task
async def outer(n: int) -> int:
    await flaky(f"outer {n}")
    return await square(n) + await square(n + 1)


@task
async def check() -> None:
    if not is_line_up:
        raise ConnectionError("the line is down")


@task
async def breaks_off() -> None:
    await square(7)
    await check()


@workflow
async def squares(count: int) -> int:
    return sum(await square.map(range(count), concurrency=64))


@workflow
async def nested() -> int:
    await rate("EUR")
    sums = await outer.map(range(4), concurrency=4)
    try:
        await check()
    except ConnectionError:
        return sum(sums)
    return 0


@workflow
async def unfinished() -> None:
    await breaks_off()


@workflow
async def says(text: str) -> str:
    return await echo(text)


def record(db: Path, call: WorkflowCall[Any], thread: str = "a", *, fails: bool = False) -> None:
    """Runs a workflow to its end, whatever that is."""

    async def main() -> None:
        async with Runtime(str(db)) as runtime:
            await runtime.run(call, thread_id=thread)

    if fails:
        with pytest.raises(ConnectionError):
            anyio.run(main)
    else:
        anyio.run(main)


Show = Callable[..., Result]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    attempts.clear()
    return tmp_path / "runs.db"


@pytest.fixture
def show(db: Path) -> Show:
    """Executes ``taskflow show``."""

    def show(thread: str, *words: str) -> Result:
        result = CliRunner().invoke(app, ["show", "--db", str(db), *words, "--", thread])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return show


class Elements(HTMLParser):
    """What a browser would make of a page: its tags, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: dict[str, str | None] = {}
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= attrs
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.scripts and not self.scripts[-1]:
            self.scripts[-1] = data


def drawn(page: str) -> dict[str, Any]:
    """The run that a page holds."""
    run: dict[str, Any] = json.loads(Elements(page).scripts[0])
    return run


def run_record(**changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "thread_id": "a",
        "run_id": "r",
        "number": 1,
        "sequence": 1,
        "workflow": "fulfil",
        "status": RunStatus.SUCCESS,
        "input": {},
        "result": None,
        "error": None,
        "owner": None,
        "created": 0.0,
        "started": 0.0,
        "finished": 1.0,
    }
    return RunRecord(**{**fields, **changes})


def call_record(name: str, start: float, end: float, **changes: Any) -> TaskRecord:
    fields: dict[str, Any] = {
        "task_id": f"{name}:{start}",
        "parent_id": None,
        "run_id": "r",
        "sequence": 1,
        "status": "success",
        "attempts": 1,
        "arguments": {},
    }
    return TaskRecord(name=name, started=start, duration=end - start, **{**fields, **changes})


def slices(trace: str) -> list[dict[str, Any]]:
    """The complete events of a trace."""
    return [event for event in json.loads(trace)["traceEvents"] if event["ph"] == "X"]


def check_nesting(events: list[dict[str, Any]]) -> None:
    """On each lane, any two slices are apart or one lies within the other."""
    lanes: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        lanes[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for spans in lanes.values():
        open_ends: list[int] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_ends and open_ends[-1] <= start:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1]
            open_ends.append(end)


def test_a_page_holds_the_run_and_its_calls(db: Path, show: Show, tmp_path: Path) -> None:
    """Every call with its parent, attempts, values and error; the tree is not printed."""
    record(db, nested())
    shown = show("a", "--timeline", str(tmp_path / "run.html"))

    assert (shown.exit_code, shown.stdout) == (0, "")
    assert f"Written: {tmp_path / 'run.html'} (" in shown.stderr
    run = drawn((tmp_path / "run.html").read_text("utf-8"))
    assert (run["thread"], run["workflow"], run["status"]) == ("a", "nested", "success")
    names = [call[0] for call in run["calls"]]
    assert Counter(names) == {"rate": 1, "outer": 4, "flaky": 4, "square": 8, "check": 1}
    parents = Counter(
        (name, names[call[2]]) for name, call in zip(names, run["calls"], strict=True)
    )
    assert (parents["flaky", "outer"], parents["square", "outer"]) == (4, 8)
    flaky_call = run["calls"][names.index("flaky")]
    assert (flaky_call[5], Mark(flaky_call[6])) == (2, Mark.RETRIED)
    assert flaky_call[7] == f"name={flaky_call[8]}"
    assert run["calls"][names.index("check")][7:] == ["", None, "ConnectionError: the line is down"]


def test_the_counts_tell_what_each_call_came_to(db: Path, show: Show, tmp_path: Path) -> None:
    """Executed, failed, retried, and what came from another thread's cache."""
    record(db, nested())
    attempts.clear()
    record(db, nested(), "b")
    show("b", "--timeline", str(tmp_path / "run.html"))

    counts = drawn((tmp_path / "run.html").read_text("utf-8"))["counts"]
    assert counts == {
        "recorded": 18,
        "executed": 17,
        "replayed": 0,
        "failed": 1,
        "retried": 4,
        "cached": 1,
        "wait": 0,
        "unfinished": 0,
    }


def test_calls_of_a_call_that_is_not_completed_are_shown(
    db: Path, show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no record, and is drawn from the calls that it has made; so it is in a trace."""
    record(db, unfinished(), fails=True)
    page, trace = tmp_path / "run.html", tmp_path / "run.json"
    show("a", "--timeline", str(page), "--trace", str(trace))

    inner, lost = drawn(page.read_text("utf-8"))["calls"]
    assert (inner[0], inner[2], lost[0], Mark(lost[6])) == (
        "square",
        1,
        "breaks_off",
        Mark.UNFINISHED,
    )
    named = {event["name"]: event for event in slices(trace.read_text())}
    assert named["breaks_off"]["args"] == {"task_id": lost[1], "completed": False}

    monkeypatch.setitem(globals(), "is_line_up", True)
    record(db, unfinished())
    show("a", "--timeline", str(page))
    run = drawn(page.read_text("utf-8"))
    marks = {call[0]: Mark(call[6]) for call in run["calls"]}
    assert marks == {"square": Mark.REPLAYED, "check": Mark(0), "breaks_off": Mark(0)}
    assert 0 < run["continued"] < run["end"]


def test_values_are_text_and_nothing_else(db: Path, show: Show, tmp_path: Path) -> None:
    """Whatever a user's value holds, the page has its own elements and its own script only."""
    harmless, hostile = tmp_path / "harmless.html", tmp_path / "hostile.html"
    record(db, says("x"), "x")
    record(db, says(HOSTILE), HOSTILE)
    show("x", "--timeline", str(harmless))
    show(HOSTILE, "--timeline", str(hostile))

    page = hostile.read_text("utf-8")
    elements = Elements(page)
    assert elements.tags == Elements(harmless.read_text("utf-8")).tags
    assert not any(name.startswith("on") for name in elements.attributes)
    assert "<" not in elements.scripts[0]
    assert drawn(page)["calls"][0][8] == json.dumps(HOSTILE, ensure_ascii=False)
    digest = base64.b64encode(hashlib.sha256(elements.scripts[1].encode()).digest()).decode()
    assert POLICY.format(digest) in page


def test_the_page_loads_nothing() -> None:
    """It names no address at all."""
    page = page_of(timeline_of(run_record(), [], now=2.0))

    loading = ("http:", "https:", "src=", "@import", "url(", "fetch(", "import(")
    assert not any(word in page for word in loading)


def test_five_thousand_calls_are_a_small_page(db: Path, show: Show, tmp_path: Path) -> None:
    """A page to send by mail, and a trace in which slices nest on every lane."""
    record(db, squares(5000))
    page, trace = tmp_path / "run.html", tmp_path / "run.json"
    show("a", "--timeline", str(page), "--trace", str(trace))

    run = drawn(page.read_text("utf-8"))
    assert page.stat().st_size < PAGE_LIMIT
    assert (len(run["calls"]), run["counts"]["executed"]) == (5000, 5000)
    assert sorted(int(call[8]) for call in run["calls"]) == [n * n for n in range(5000)]
    events = slices(trace.read_text("utf-8"))
    assert len(events) == 5001
    check_nesting(events)


@pytest.mark.parametrize("text", ["x", "\N{SNOWMAN}", '"', "<", "\ud800"])
def test_long_values_are_cut(text: str) -> None:
    """The more calls there are, the shorter, so that the page stays small."""
    values = {"arguments": {"text": text * 9000}, "value": text * 9000}
    few = [call_record("echo", n, n + 1, **values) for n in range(10)]
    many = [call_record("echo", n / 9, n / 9 + 1, **values) for n in range(5000)]

    longest = drawn(page_of(timeline_of(run_record(), few, now=0.0)))["calls"][0]
    assert [len(longest[7]), len(longest[8]), longest[8][-1]] == [2000, 2000, "…"]
    page = page_of(timeline_of(run_record(), many, now=0.0))
    assert len(page.encode("utf-8", "backslashreplace")) < PAGE_LIMIT


def test_a_run_that_has_not_ended_is_drawn_up_to_now() -> None:
    """Executing or paused; one that has ended is drawn to its end."""
    calls = [call_record("square", 1.0, 2.0)]

    def end(status: RunStatus) -> tuple[int, bool]:
        timeline = timeline_of(run_record(status=status, finished=3.0), calls, now=60.0)
        return timeline.end, timeline.has_ended

    assert end(RunStatus.RUNNING) == end(RunStatus.PAUSED) == (60_000_000, False)
    assert end(RunStatus.SUCCESS) == end(RunStatus.ERROR) == (3_000_000, True)


def test_a_run_that_executes_now_can_be_drawn(db: Path, show: Show, tmp_path: Path) -> None:
    """Another process looks at it while it goes on."""
    page = tmp_path / "run.html"

    @workflow
    async def looks() -> None:
        await square(1)
        await anyio.to_thread.run_sync(lambda: show("a", "--timeline", str(page)))

    begun = time.time()
    record(db, looks())

    run = drawn(page.read_text("utf-8"))
    assert (run["status"], run["ended"], len(run["calls"])) == ("running", False, 1)
    assert 0 < run["end"] <= (time.time() - begun) * 1e6


def test_pauses_in_which_nothing_executes_are_squeezed() -> None:
    """A call that only waits for a wait does not execute; what executes is drawn to scale."""
    parent = call_record("approval", 0.1, 2 * DAY + 0.3)
    calls = [
        call_record("load", 0.0, 0.1),
        parent,
        call_record("taskflow.receive", 0.2, 2 * DAY + 0.2, parent_id=parent.task_id),
        call_record("pack", 2 * DAY + 0.3, 2 * DAY + 0.5),
    ]
    record = run_record(finished=2 * DAY + 0.5)

    assert idle_gaps(timeline_of(record, calls, now=0.0)) == [(200_000, 172_800_200_000)]
    run = drawn(page_of(timeline_of(record, calls, now=0.0)))
    assert run["squeeze"] is True
    assert run["breaks"] == [[200_000, 172_800_200_000, 500_000 // 11]]
    assert run["counts"]["wait"] == 1


def test_an_open_wait_is_drawn_up_to_now() -> None:
    """A paused run shows what it waits for, and since when."""
    wait = Wait("signal", "approved", "taskflow.receive:1", since=0.5, prompt="May it go?")
    record = run_record(status=RunStatus.PAUSED, finished=None, waits=[wait])
    timeline = timeline_of(record, [call_record("load", 0.0, 0.25)], now=DAY)

    call = drawn(page_of(timeline))["calls"][1]
    assert (call[0], call[3], call[3] + call[4]) == ("taskflow.receive", 500_000, DAY * 1_000_000)
    assert (Mark(call[6]), call[7]) == (
        Mark.WAIT | Mark.UNFINISHED,
        'name="approved", prompt="May it go?"',
    )
    told = slices(trace_of(timeline))[2]
    assert (told["cat"], told["args"]["waits_for"]["name"]) == ("wait", "approved")


def test_a_run_that_executes_all_the_time_is_drawn_to_scale() -> None:
    """Short pauses, and long ones beside longer work, stay as they are."""
    calls = [call_record("crunch", 0.0, 500.0), call_record("taskflow.sleep", 500.0, 510.0)]
    run = drawn(page_of(timeline_of(run_record(finished=510.0), calls, now=0.0)))

    assert (run["breaks"], run["squeeze"]) == ([], False)


def test_a_trace_puts_children_within_their_parents(db: Path, show: Show, tmp_path: Path) -> None:
    """On one lane where they fit, and what overlaps on lanes of its own."""
    record(db, nested())
    show("a", "--trace", str(tmp_path / "run.json"))

    trace = (tmp_path / "run.json").read_text("utf-8")
    events = slices(trace)
    check_nesting(events)
    outers = [event for event in events if event["name"] == "outer"]
    assert len({event["tid"] for event in outers}) > 1
    for each in events:
        if each["name"] == "flaky":
            (parent,) = [
                it for it in outers if f"outer {it['args']['arguments']['n']}" in str(each)
            ]
            assert each["tid"] == parent["tid"]
            assert parent["ts"] <= each["ts"]
            assert each["args"]["attempts"] == 2
    lanes = {event["tid"] for event in events}
    named = [event for event in json.loads(trace)["traceEvents"] if event["name"] == "thread_name"]
    assert sorted(event["tid"] for event in named) == sorted(lanes)


def test_a_trace_tells_what_each_call_came_to() -> None:
    """Values as they are, errors, what was replayed, and waits under a category of their own."""
    calls = [
        call_record("square", 1.0, 1.5, arguments={"n": 7}, value=49),
        call_record("taskflow.sleep", 1.5, 3.0),
        call_record("check", 3.0, 3.25, status="error", error="ConnectionError: down", attempts=3),
    ]
    timeline = timeline_of(run_record(started=2.0, finished=4.0), calls, now=0.0)
    run, first, wait, failed = slices(trace_of(timeline))

    assert (run["name"], run["ts"], run["dur"]) == ("fulfil", 0, 4_000_000)
    assert (first["ts"], first["dur"], first["pid"]) == (1_000_000, 500_000, 1)
    told = {"task_id": "square:1.0", "arguments": {"n": 7}, "attempts": 1, "replayed": True}
    assert first["args"] == {**told, "result": 49}
    assert [event["cat"] for event in (run, first, wait, failed)] == ["run", "call", "wait", "call"]
    assert (failed["args"]["error"], failed["args"]["replayed"]) == ("ConnectionError: down", False)


def test_slices_nest_whatever_overlaps() -> None:
    """Also where calls begin together, take no time, or came before their parent's execution."""
    parents = [call_record("outer", n % 5, n % 5 + n % 3, task_id=f"outer:{n}") for n in range(40)]
    children = [
        call_record(
            "inner", n % 7, n % 7 + n % 4, task_id=f"inner:{n}", parent_id=f"outer:{n % 50}"
        )
        for n in range(400)
    ]
    timeline = timeline_of(run_record(created=2.0, finished=9.0), [*parents, *children], now=0.0)
    events = slices(trace_of(timeline))

    assert len(events) == 1 + 40 + 400 + 10
    check_nesting(events)


def test_both_pictures_and_json_go_together(db: Path, show: Show, tmp_path: Path) -> None:
    """Each file is written, and stdout holds the run's JSON and nothing else."""
    record(db, says("x"))
    page, trace = tmp_path / "run.html", tmp_path / "run.json"
    page.write_text("what was there before")
    shown = show("a", "--timeline", str(page), "--trace", str(trace), "--json")

    assert json.loads(shown.stdout)["result"] == "x"
    assert drawn(page.read_text("utf-8"))["result"] == '"x"'
    assert sorted(event["name"] for event in slices(trace.read_text())) == ["echo", "says"]
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.parametrize("option", ["--timeline", "--trace"])
def test_what_cannot_be_written_is_wrong_use(
    option: str, db: Path, show: Show, tmp_path: Path
) -> None:
    """A missing folder, a folder, no name: exit code 2, one line, and nothing written."""
    record(db, says("x"))
    before = sorted(tmp_path.iterdir())

    for file, message in (("no/run", "there is no folder"), ("", "folder"), (".", "folder")):
        wrong = show("a", option, str(tmp_path / file) if file == "no/run" else file)
        assert (wrong.exit_code, wrong.stdout) == (2, "")
        assert message in wrong.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    """Without an error on its console, and without executing what a value says."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    page = tmp_path / "run.html"
    calls = [call_record("echo", n / 9, n / 9 + 1, value=HOSTILE) for n in range(5000)]
    page.write_text(page_of(timeline_of(run_record(), calls, now=0.0)), "utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += ["--no-first-run", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'user'}"]

    words = [browser, *options, "--dump-dom", page.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert "<title>a · fulfil · success</title>" in done.stdout
    assert '<div id="found" role="status">5,000 calls</div>' in done.stdout
    assert '<span class="many"> × 5,000</span>' in done.stdout
    assert "CONSOLE" not in done.stderr
