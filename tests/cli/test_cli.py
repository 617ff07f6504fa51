"""The command line: what it prints where, what it exits with, and how it is stopped."""

from __future__ import annotations

import io
import json
import os
import pty
import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("typer")

from commands import DEADLINE, Invoke, Spawn, bodies, wait_until
from rich.console import Console

from taskflow.cli import progress as cli_progress
from taskflow.cli.progress import PlainLines, duration
from taskflow.runs.progress import Progress


def test_a_result_goes_to_stdout_and_what_was_done_to_stderr(invoke: Invoke) -> None:
    """A program that reads the result gets that and what the workflow prints, nothing else."""
    done = invoke("run", "jobs:shout", "--thread", "a", "--input", '"hello"')

    assert (done.code, done.out) == (0, "HELLO\n")
    assert "Done: shout on thread 'a', 0 done (0 replayed)" in done.err


def test_a_finished_run_is_answered_from_its_record(invoke: Invoke, folder: Path) -> None:
    """The same command again prints the same result and executes nothing."""
    first = invoke("run", "jobs:squares", "--thread", "a", "--input", "2", "--json")
    again = invoke("run", "jobs:squares", "--thread", "a", "--input", "2", "--json")

    assert json.loads(again.out)["result"] == json.loads(first.out)["result"] == [0, 1]
    assert (json.loads(first.out)["executed"], json.loads(again.out)["executed"]) == (2, 0)
    assert "nothing was executed" in again.err
    assert bodies(folder) == ["square 0", "square 1"]


def test_json_stays_json_though_the_workflow_prints(invoke: Invoke) -> None:
    """With --json, stdout holds one JSON object; the user's own lines go to stderr."""
    done = invoke("run", "jobs:squares", "--thread", "a", "--input", "[3, 1]", "--json")

    answer = json.loads(done.out)
    assert (answer["status"], answer["result"], answer["error"]) == ("success", [1, 4, 9], None)
    assert (answer["thread_id"], answer["workflow"]) == ("a", "squares")
    assert (answer["executed"], answer["replayed"], answer["failed"]) == (3, 0, 0)
    assert "a line of the workflow's own" in done.err


def test_a_failed_run_shows_its_error_and_exits_with_1(invoke: Invoke) -> None:
    """Type, message, place and cause in a few lines, and the command that goes on."""
    failed = invoke("run", "jobs:breaks", "--thread", "a b")

    assert (failed.code, failed.out) == (1, "")
    assert "RuntimeError: it cannot [bold]go on[/]" in failed.err
    assert "caused by ConnectionError: the line is down" in failed.err
    assert "jobs.py, line" in failed.err
    assert "taskflow resume jobs:breaks --thread 'a b'" in failed.err
    assert "Traceback" not in failed.err
    assert "Traceback" in invoke("resume", "jobs:breaks", "--thread", "a b", "--traceback").err


def test_resume_executes_what_is_missing(invoke: Invoke, folder: Path) -> None:
    """After the cause is gone, the failed task is executed again and nothing else."""
    failed = invoke("run", "jobs:breaks", "--thread", "a", "--json")
    (folder / "go").touch()
    resumed = invoke("resume", "jobs:breaks", "--thread", "a", "--json")

    error = {"type": "RuntimeError", "message": "it cannot [bold]go on[/]"}
    assert (failed.code, json.loads(failed.out)["error"]) == (1, error)
    answer = json.loads(resumed.out)
    assert (resumed.code, answer["result"]) == (0, 7)
    assert (answer["executed"], answer["replayed"]) == (1, 1)
    assert bodies(folder) == ["square 7", "check", "check"]


@pytest.mark.parametrize(
    "text",
    [
        '{"orders": [{"id": "a", "amount": 2}, {"id": "b", "amount": 3}], "note": "x"}',
        '[[{"id": "a", "amount": 2}, {"id": "b", "amount": 3}]]',
        "@orders.json",
        "@-",
    ],
)
def test_input_is_decoded_to_the_parameters(text: str, invoke: Invoke, folder: Path) -> None:
    """By name or by position, on the command line, in a file or from stdin."""
    content = '{"orders": [{"id": "a", "amount": 5}]}'
    (folder / "orders.json").write_text(content)

    assert invoke("run", "jobs:total", "--thread", "a", "--input", text, stdin=content).out == "5\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere:squares",), "there is no module nowhere"),
        (("jobs:nothing",), "jobs has no nothing; its workflows: jobs:blocks"),
        (("jobs:square",), "jobs:square is a task"),
        (("jobs:HERE",), "and not a workflow"),
        (("jobs",), "name a workflow, as in module:workflow"),
        (("jobs.py:squares",), "not its file: jobs:squares"),
        ((":squares",), "name a module"),
        (("broken:squares",), "cannot be imported: ZeroDivisionError"),
        (("jobs:squares", "--input", "{"), "--input is not JSON"),
        (("jobs:squares", "--input", "@missing.json"), "No such file"),
        (("jobs:squares",), "missing a required argument: 'count'"),
        (("jobs:squares", "--input", '{"count": "x"}'), "Expected `int`, got `str`"),
        (("jobs:squares", "--input", '{"counts": 1}'), "it has no parameter 'counts'"),
        (("jobs:squares", "--input", "[1, 2, 3]"), "too many positional arguments"),
        (("jobs:squares", "--input", "1", "--db", "nowhere/a.db"), "there is no folder"),
        (("jobs:squares", "--input", "1", "--db", "jobs.py"), "not a SQLite database"),
        (("jobs:squares", "--input", "1", "--db", "foreign.db"), "of another application"),
    ],
)
def test_wrong_use_is_told_in_a_line(
    words: tuple[str, ...], message: str, invoke: Invoke, folder: Path
) -> None:
    """Exit code 2, no traceback, nothing executed and no file made."""
    (folder / "broken.py").write_text("1 / 0")
    with sqlite3.connect(folder / "foreign.db") as db:
        db.execute("CREATE TABLE person (name TEXT)")
    db.close()

    wrong = invoke("run", *words, "--thread", "a")

    assert (wrong.code, wrong.out) == (2, "")
    assert message in wrong.err
    assert "Traceback" not in wrong.err
    assert bodies(folder) == []
    assert not (folder / "taskflow.db").exists()


@pytest.mark.parametrize("thread", ["", "a\0b", "x" * 513])
def test_an_impossible_thread_id_is_wrong_use(thread: str, invoke: Invoke) -> None:
    """It is refused before anything is opened."""
    assert invoke("run", "jobs:squares", "--input", "1", "--thread", thread).code == 2


LOOKING = [
    ("list",),
    ("show", "a"),
    ("forget", "a", "square:0"),
    ("cancel", "a"),
    ("delete", "a"),
    ("send", "a", "answer"),
    ("resume", "jobs:squares", "--thread", "a"),
]


@pytest.mark.parametrize("words", LOOKING)
def test_a_missing_database_is_not_made_by_looking_at_it(
    words: tuple[str, ...], invoke: Invoke, folder: Path
) -> None:
    """A mistyped --db is an error, not an empty file."""
    wrong = invoke(*words, "--db", "other.db")

    assert wrong.code == 2
    assert "there is no file other.db" in wrong.err
    assert list(folder.glob("other*")) == []


@pytest.mark.parametrize("words", LOOKING[1:])
def test_an_unknown_thread_is_wrong_use(words: tuple[str, ...], invoke: Invoke) -> None:
    """Exit code 2, and the thread is named."""
    invoke("run", "jobs:shout", "--thread", "other", "--input", '"x"')

    wrong = invoke(*words)

    assert wrong.code == 2
    assert "thread 'a'" in wrong.err


def test_list_shows_the_newest_first_and_filters(invoke: Invoke) -> None:
    """By status, by workflow, and at most so many."""
    invoke("run", "jobs:shout", "--thread", "a", "--input", '"x"')
    invoke("run", "jobs:breaks", "--thread", "b")
    invoke("run", "jobs:shout", "--thread", "c\n[red]", "--input", '"x"')

    def threads(*words: str) -> list[str]:
        records = json.loads(invoke("list", "--json", *words).out)
        return [record["thread_id"] for record in records]

    assert threads() == ["c\n[red]", "b", "a"]
    assert threads("--limit", "1") == ["c\n[red]"]
    assert threads("--status", "error") == ["b"]
    assert threads("--workflow", "shout") == ["c\n[red]", "a"]
    lines = invoke("list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["THREAD", r"'c\n[red]'", "b", "a"]
    assert "RuntimeError: it cannot [bold]go on[/]" in lines[2]
    assert invoke("list", "--status", "paused").out == ""


def test_show_draws_the_calls_as_a_tree(invoke: Invoke, folder: Path) -> None:
    """Durations, attempts, errors, and which calls the last execution replayed."""
    invoke("run", "jobs:breaks", "--thread", "a")
    failed = invoke("show", "a").out
    (folder / "go").touch()
    invoke("resume", "jobs:breaks", "--thread", "a")
    lines = invoke("show", "a").out.splitlines()

    assert "error     RuntimeError: it cannot [bold]go on[/]" in failed
    tree = lines[lines.index("breaks") + 1 :]
    shown = [line.partition(")")[0] for line in tree]
    assert shown == ["├── outer(", "│   ├── attempt(", "│   └── square(n=7", "└── check("]
    words = ("replayed", "replayed", "replayed", "executed")
    assert all(word in line and " ms " in line for word, line in zip(words, tree, strict=True))
    assert "2 attempts" in tree[1]


def test_show_tells_of_handled_failures(invoke: Invoke) -> None:
    """A failure that the workflow caught is part of what happened."""
    assert invoke("run", "jobs:handles", "--thread", "a").code == 0

    lines = invoke("show", "a").out.splitlines()
    assert lines[-2].strip("│ ") == "ConnectionError: the line is down"
    assert lines[-1].startswith("└── square(n=1)")


def test_show_gives_everything_as_json(invoke: Invoke) -> None:
    """The run's fields, and each call's with its parent."""
    invoke("run", "jobs:breaks", "--thread", "a")
    run = json.loads(invoke("show", "a", "--json").out)

    assert (run["thread_id"], run["status"], run["workflow"]) == ("a", "error", "breaks")
    calls = {call["name"]: call for call in run["tasks"]}
    assert calls["attempt"]["parent_id"] == calls["outer"]["task_id"]
    assert (calls["attempt"]["attempts"], calls["attempt"]["replayed"]) == (2, False)
    assert (calls["square"]["arguments"], calls["square"]["value"]) == ({"n": 7}, 49)


def test_show_leaves_out_most_of_many_equal_calls(invoke: Invoke) -> None:
    """A run of thousands fits on a screen; --all shows every call."""
    invoke("run", "jobs:squares", "--thread", "a", "--input", "15")

    assert invoke("show", "a").out.count("square(") == 10
    assert "… and 5 more of square" in invoke("show", "a").out
    assert invoke("show", "a", "--all").out.count("square(") == 15


def test_a_forgotten_call_is_executed_again(invoke: Invoke, folder: Path) -> None:
    """The beginning of a task id will do, if it is the beginning of one only."""
    invoke("run", "jobs:squares", "--thread", "a", "--input", "2")
    calls = json.loads(invoke("show", "a", "--json").out)["tasks"]

    ambiguous = invoke("forget", "a", "square:")
    forgotten = invoke("forget", "a", calls[1]["task_id"][:15])
    assert (ambiguous.code, forgotten.code) == (2, 0)
    assert "begins 2 task ids" in ambiguous.err
    invoke("run", "jobs:squares", "--thread", "a", "--input", "2")
    assert bodies(folder) == ["square 0", "square 1", "square 1"]


def test_a_cancelled_run_is_final(invoke: Invoke) -> None:
    """Resuming it is refused, and the next run is a new one."""
    invoke("run", "jobs:breaks", "--thread", "a")
    assert invoke("cancel", "a").code == 0

    refused = invoke("resume", "jobs:breaks", "--thread", "a")
    assert refused.code == 2
    assert "was cancelled, and that is final" in refused.err
    answer = json.loads(invoke("run", "jobs:breaks", "--thread", "a", "--json").out)
    assert (answer["status"], answer["replayed"]) == ("error", 0)


def test_a_deleted_thread_is_gone(invoke: Invoke) -> None:
    """With everything that was recorded on it."""
    invoke("run", "jobs:shout", "--thread", "a", "--input", '"x"')

    assert invoke("delete", "a").code == 0
    assert invoke("show", "a").code == 2


def test_another_input_needs_supersede(spawn: Spawn, invoke: Invoke, folder: Path) -> None:
    """An unfinished run is not given up by accident; the options are named as they are here."""
    process = spawn("run", "jobs:holds", "--thread", "a")
    wait_until(lambda: "hold" in bodies(folder))
    process.send_signal(signal.SIGINT)
    process.wait(timeout=DEADLINE)

    refused = invoke("run", "jobs:shout", "--thread", "a", "--input", '"x"')
    assert refused.code == 2
    assert "pass --supersede" in refused.err
    assert invoke("run", "jobs:shout", "--thread", "a", "--input", '"x"', "--supersede").code == 0


def test_resume_wants_the_workflow_of_the_run(invoke: Invoke) -> None:
    """Another one is refused with the right one's name."""
    invoke("run", "jobs:breaks", "--thread", "a")

    wrong = invoke("resume", "jobs:squares", "--thread", "a")
    assert (wrong.code, "was run by 'breaks'" in wrong.err) == (2, True)


def test_a_run_id_names_the_run(invoke: Invoke) -> None:
    """The same words twice are two runs where their ids differ."""
    for run_id in ("1", "2", "2"):
        invoke("run", "jobs:shout", "--thread", "a", "--input", '"x"', "--run-id", run_id)

    runs = json.loads(invoke("list", "--json").out)
    assert [run["run_id"] for run in runs] == ["2", "1"]
    assert json.loads(invoke("show", "a", "--run-id", "1", "--json").out)["sequence"] == 1


def test_the_database_may_be_named_by_the_environment(
    invoke: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TASKFLOW_DB stands in for --db, and the command to continue names the file."""
    monkeypatch.setenv("TASKFLOW_DB", "mine.db")

    assert "--db mine.db" in invoke("run", "jobs:breaks", "--thread", "a").err
    assert (folder / "mine.db").exists()


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(spawn: Spawn, folder: Path) -> None:
    """The command that it prints executes the rest, and only the rest."""
    process = spawn("run", "jobs:holds", "--thread", "it's", "--db", "my own.db", "--json")
    wait_until(lambda: bodies(folder)[-1:] == ["hold"])
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)

    assert process.returncode == 130
    assert "3 done (0 replayed)" in err
    assert "Traceback" not in err
    answer = json.loads(out)
    assert (answer["status"], answer["executed"]) == ("running", 3)

    (folder / "go").touch()
    words = shlex.split(next(line for line in err.splitlines() if " resume " in line))
    resumed = spawn(*words[words.index("resume") :])
    out, err = resumed.communicate(timeout=DEADLINE)
    assert (resumed.returncode, json.loads(out)) == (0, [0, 1, 4])
    assert "4 done (3 replayed)" in err
    assert bodies(folder) == ["square 0", "square 1", "square 2", "hold", "hold"]


def test_another_ctrl_c_leaves_at_once(spawn: Spawn, folder: Path) -> None:
    """A body that does not end cannot hold the terminal; how to go on is said all the same."""
    process = spawn("run", "jobs:blocks", "--thread", "a")
    wait_until(lambda: bodies(folder) == ["hold"])
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "Ctrl-C again leaves at once" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE)

    assert process.returncode == 130
    assert "resume jobs:blocks --thread a" in err


def test_sigterm_lets_what_executes_end(spawn: Spawn, folder: Path, invoke: Invoke) -> None:
    """What a container's end sends: the task is recorded, and nobody owns the run afterwards."""
    process = spawn("run", "jobs:holds_twice", "--thread", "a")
    wait_until(lambda: bodies(folder)[-1:] == ["hold"])
    process.terminate()
    assert process.stderr is not None
    while "stopping when the executing tasks have ended" not in process.stderr.readline():
        pass
    assert process.poll() is None
    (folder / "go").touch()
    _, err = process.communicate(timeout=DEADLINE)

    assert process.returncode == 128 + signal.SIGTERM
    assert "Stopped: holds_twice on thread 'a', 1 done" in err
    assert "resume jobs:holds_twice --thread a" in err
    run = json.loads(invoke("show", "a", "--json").out)
    assert (run["status"], run["owner"]) == ("running", None)
    assert [call["name"] for call in run["tasks"]] == ["hold"]
    assert invoke("resume", "jobs:holds_twice", "--thread", "a").code == 0
    assert bodies(folder) == ["hold", "square 1"]


def test_a_run_that_ends_while_it_is_drained_is_done(spawn: Spawn, folder: Path) -> None:
    """Its result is printed: SIGTERM came too late to stop anything."""
    process = spawn("run", "jobs:holds", "--thread", "a")
    wait_until(lambda: bodies(folder)[-1:] == ["hold"])
    process.terminate()
    assert process.stderr is not None
    while "stopping when the executing tasks have ended" not in process.stderr.readline():
        pass
    (folder / "go").touch()
    out, _ = process.communicate(timeout=DEADLINE)

    assert (process.returncode, json.loads(out)) == (0, [0, 1, 4])


def test_a_signal_after_sigterm_leaves_at_once(spawn: Spawn, folder: Path) -> None:
    """A body that does not end cannot hold up the end of a container."""
    process = spawn("run", "jobs:blocks", "--thread", "a")
    wait_until(lambda: bodies(folder) == ["hold"])
    process.terminate()
    assert process.stderr is not None
    while "stopping when the executing tasks have ended" not in process.stderr.readline():
        pass
    process.terminate()
    _, err = process.communicate(timeout=DEADLINE)

    assert process.returncode == 128 + signal.SIGTERM
    assert "resume jobs:blocks --thread a" in err


def test_a_run_of_another_process_is_refused_or_waited_for(
    spawn: Spawn, folder: Path, invoke: Invoke
) -> None:
    """Without --wait it is wrong use that names the option; with it, both print one result."""
    first = spawn("run", "jobs:holds", "--thread", "a")
    wait_until(lambda: bodies(folder)[-1:] == ["hold"])
    refused = invoke("run", "jobs:holds", "--thread", "a")
    waiting = spawn("run", "jobs:holds", "--thread", "a", "--wait")
    assert (refused.code, "pass --wait" in refused.err) == (2, True)

    assert waiting.stderr is not None
    waiting.stderr.readline()  # its first line of progress: it waits
    (folder / "go").touch()
    results = [json.loads(each.communicate(timeout=DEADLINE)[0]) for each in (first, waiting)]
    assert results == [[0, 1, 4], [0, 1, 4]]
    assert len(bodies(folder)) == 4


def test_a_terminal_gets_a_live_display(spawn: Spawn, folder: Path) -> None:
    """What executes, what is done and replayed, and the rate; gone when the run has ended."""
    leader, follower = pty.openpty()
    process = spawn("run", "jobs:holds", "--thread", "a", stderr=follower)
    os.close(follower)
    shown = b""
    while b"executing hold" not in shown:
        shown += os.read(leader, 4096)
    (folder / "go").touch()
    while b"Done: " not in shown:
        shown += os.read(leader, 4096)
    process.communicate(timeout=DEADLINE)
    os.close(leader)

    assert b"holds on thread 'a'" in shown
    assert b"3 done (0 replayed)" in shown
    assert b"/s" in shown
    assert b"\x1b[2K" in shown  # lines that are erased


def test_without_a_terminal_progress_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after a second, then further and further apart, at most half a minute."""
    now = 0.0
    monkeypatch.setattr(cli_progress.time, "monotonic", lambda: now)
    text = io.StringIO()
    with PlainLines(Console(file=text, width=20), "digest") as lines:
        for tenth in range(1200):
            now = tenth / 10
            lines.update(Progress(["fetch", "fetch", "load"], tenth, 5, 1, 2))

    first, *rest = text.getvalue().splitlines()
    assert first == (
        "digest: 1.00 s: 14 done (5 replayed), 1 failed, 2 retries, 10.0/s; "
        "executing fetch x2, load"
    )
    assert 10 < len(rest) < 25


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00005, "0.05 ms"),
        (0.0123, "12.3 ms"),
        (0.25, "250 ms"),
        (1.234, "1.23 s"),
        (59.96, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
    ],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    """About three digits, and the unit that fits."""
    assert duration(seconds) == text


def test_a_missing_extra_is_named(folder: Path) -> None:
    """Without typer or rich the command says what to install, and exits with 2."""
    for name in ("typer", "rich"):
        code = f"import sys; sys.modules[{name!r}] = None; import taskflow.cli.main as c; c.main()"
        root = str(Path(cli_progress.__file__).parents[2])
        env = {**os.environ, "PYTHONPATH": root}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.returncode == 2
        assert "pip install 'taskflow-runtime[cli]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_fresh_run_executes_again(invoke: Invoke, folder: Path) -> None:
    """Without --fresh the recorded result is shown."""
    words = ("run", "jobs:squares", "--thread", "a", "--input", "[1]", "--json")
    for more in ((), (), ("--fresh",)):
        assert json.loads(invoke(*words, *more).out)["result"] == [0]

    assert bodies(folder) == ["square 0"] * 2
    refused = invoke(*words, "--fresh", "--run-id", "r")
    assert (refused.code, "give one of them" in refused.err) == (2, True)


def test_the_runs_of_one_thread_are_listed_and_ended(invoke: Invoke, folder: Path) -> None:
    """A failed run stays beside those after it, until it is continued or cancelled by its id."""
    assert invoke("run", "jobs:breaks", "--thread", "a", "--run-id", "first").code == 1
    for thread in ("a", "b"):
        invoke("run", "jobs:squares", "--thread", thread, "--input", "[1]")

    def listed() -> list[str]:
        runs = json.loads(invoke("list", "--thread", "a", "--json").out)
        return [each["status"] for each in runs]

    assert listed() == ["success", "error"]
    assert invoke("resume", "jobs:breaks", "--thread", "a", "--run-id", "first").code == 1
    cancelled = invoke("cancel", "a", "--run-id", "first")
    assert "run 'first' on thread 'a'" in cancelled.err
    assert listed() == ["success", "cancelled"]


def test_cancel_reaches_a_body_in_another_process(
    spawn: Spawn, invoke: Invoke, folder: Path
) -> None:
    """Within the poll interval, and that one ends with an error that says so."""
    process = spawn("run", "jobs:holds", "--thread", "a")
    wait_until(lambda: "hold" in bodies(folder))

    assert invoke("cancel", "a").code == 0

    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    assert "cancelled" in err
