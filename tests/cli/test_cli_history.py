"""The commands that work on recorded history, and what they say."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("typer")

from commands import Invoke, bodies
from processes import ENVIRONMENT

from taskflow.cli import history as cli_history
from taskflow.records import Pruned


def shown(invoke: Invoke, thread: str) -> list[dict[str, object]]:
    """The recorded calls of a thread."""
    tasks: list[dict[str, object]] = json.loads(invoke("show", thread, "--json").out)["tasks"]
    return tasks


@pytest.fixture
def squares(invoke: Invoke, folder: Path) -> list[str]:
    """The ids of the calls of a finished run on the thread ``a``."""
    invoke("run", "jobs:squares", "--thread", "a", "--input", "3")
    (folder / "bodies").unlink()
    return [str(each["task_id"]) for each in shown(invoke, "a")]


def test_the_command_line_has_these_commands_too() -> None:
    """They are found by who types ``taskflow``, and not only by these tests."""
    command = [sys.executable, "-m", "taskflow.cli", "--help"]
    environment = {**ENVIRONMENT, "COLUMNS": "100"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)

    for name in ("fork", "replace", "prune", "export", "import", "forget"):
        assert f" {name} " in done.stdout


def test_fork_copies_a_thread(invoke: Invoke, squares: list[str], folder: Path) -> None:
    """The same call on the copy executes what was left out; a beginning of an id will do."""
    whole = invoke("fork", "a", "--to", "b")
    part = invoke("fork", "a", "--to", "c", "--without", squares[1][:14], "--without", squares[2])

    assert (whole.code, whole.out, part.code, part.out) == (0, "", 0, "")
    assert "The copy has the result" in whole.err
    assert "executes what is not recorded" in part.err
    for thread in ("b", "c"):
        ran = invoke("run", "jobs:squares", "--thread", thread, "--input", "3", "--json")
        assert json.loads(ran.out)["result"] == [0, 1, 4]
    assert bodies(folder) == ["square 1", "square 2"]


def test_replace_gives_a_call_another_result(
    invoke: Invoke, squares: list[str], folder: Path
) -> None:
    """As JSON, or the JSON of a file; the next run sees it."""
    (folder / "value.json").write_text("7")

    assert invoke("replace", "a", squares[0], "5").code == 0
    assert invoke("replace", "a", squares[1][:14], "@value.json").code == 0

    again = invoke("run", "jobs:squares", "--thread", "a", "--input", "3", "--json")
    assert json.loads(again.out)["result"] == [5, 7, 4]
    assert bodies(folder) == []


def test_prune_deletes_what_has_ended(invoke: Invoke, squares: list[str]) -> None:
    """By age, by number and by status; it says how much."""
    assert "Deleted: 0 runs, 0 records." in invoke("prune", "--older-than", "1.5h").err
    assert "Deleted: 0 runs" in invoke("prune", "--keep-last", "0", "--status", "error").err
    assert "Deleted: 0 runs" in invoke("prune", "--keep-last", "1").err

    assert "Deleted: 1 runs, 3 records." in invoke("prune", "--older-than", "0s").err
    assert "No such runs" in invoke("list").err


def test_prune_tells_of_long_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line a second, while there is something to tell."""
    times = iter([0.0, 0.5, 1.5, 1.9, 2.6])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    report = cli_history._Reports()

    for runs in (1, 1000, 2000, 3000):
        report(Pruned(runs, runs * 10, runs == 3000))

    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in said] == [
        "1,000 runs, 10,000 records",
        "3,000 runs, 30,000 records, 1 shared results",
    ]


def test_export_and_import_move_a_thread(invoke: Invoke, squares: list[str], folder: Path) -> None:
    """Through a file or a pipe, into a file that is made for it, under another id too."""
    piped = invoke("export", "a")
    assert invoke("export", "a", "--output", "a.jsonl").out == ""
    assert [json.loads(line)["line"] for line in piped.out.splitlines()] == [
        "export", "run", "checkpoint", "checkpoint", "checkpoint", "end",
    ]  # fmt: skip

    assert invoke("import", "a.jsonl", "--db", "new.db").code == 0
    assert invoke("import", "-", "--to", "b", stdin=piped.out).code == 0

    for words in (["--thread", "a", "--db", "new.db"], ["--thread", "b"]):
        ran = invoke("run", "jobs:squares", "--input", "3", "--json", *words)
        assert json.loads(ran.out)["result"] == [0, 1, 4]
    assert bodies(folder) == []
    assert sorted(each.name for each in folder.glob("a.jsonl*")) == ["a.jsonl"]


def test_an_export_that_fails_leaves_the_file_as_it_was(
    invoke: Invoke, squares: list[str], folder: Path
) -> None:
    """Whoever reads it finds an old export or a new one."""
    (folder / "a.jsonl").write_text("what was there")
    invoke("run", "jobs:squares", "--thread", "damaged", "--input", "600")
    with sqlite3.connect("taskflow.db") as db:
        db.execute("UPDATE checkpoint SET payload = '7' WHERE name = 'square' AND sequence > 600")
    db.close()

    failed = invoke("export", "damaged", "--output", "a.jsonl")

    assert failed.code == 1
    assert "is damaged" in failed.err
    assert (folder / "a.jsonl").read_text() == "what was there"
    assert sorted(each.name for each in folder.glob("a.jsonl*")) == ["a.jsonl"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("fork", "a"), "--to"),
        (("fork", "a", "--to", "a"), "thread 'a' exists already"),
        (("fork", "a", "--to", ""), "not empty"),
        (("fork", "x", "--to", "b"), "no run"),
        (("fork", "a", "--to", "b", "--run-id", "x"), "no run 'x'"),
        (("fork", "a", "--to", "b", "--without", "x"), "no recorded call 'x'"),
        (("fork", "a", "--to", "b", "--without", "square"), "begins 3 task ids"),
        (("replace", "a", "square", "1"), "begins 3 task ids"),
        (("replace", "a", "x", "1"), "no recorded call 'x'"),
        (("replace", "a", "x", "{"), "the value is not JSON"),
        (("replace", "a", "x", "@nowhere"), "@nowhere: No such file"),
        (("prune",), "--older-than 30d"),
        (("prune", "--older-than", "soon"), "a number and a unit"),
        (("prune", "--older-than", "99999999999w"), "too long a time"),
        (("prune", "--keep-last", "0", "--status", "running"), "cancel() or delete() it"),
        (("export", "x"), "no run"),
        (("export", "a", "--output", "nowhere/file"), "no folder nowhere"),
        (("import", "nowhere"), "cannot read nowhere"),
        (("import", "jobs.py"), "line 1 of the export"),
        (("import", "jobs.py", "--to", ""), "not empty"),
        (("export", "a", "--db", "nowhere.db"), "there is no file nowhere.db"),
    ],
)
def test_wrong_use_is_told_and_changes_nothing(
    words: tuple[str, ...], told: str, invoke: Invoke, squares: list[str]
) -> None:
    """On stderr, in a line, with exit code 2."""
    done = invoke(*words)

    assert (done.code, done.out) == (2, "")
    assert told in done.err.replace("\n", " ")
    assert "Traceback" not in done.err
    assert [json.loads(invoke("list", "--json").out)[0]["thread_id"]] == ["a"]


def test_a_refused_import_makes_no_file(invoke: Invoke, squares: list[str], folder: Path) -> None:
    """A database that was not there is not there afterwards."""
    lines = invoke("export", "a").out.splitlines(keepends=True)
    (folder / "cut").write_text("".join(lines[:-1]))

    refused = invoke("import", "cut", "--db", "new.db")

    assert refused.code == 2
    assert "the export was cut off" in refused.err.replace("\n", " ")
    assert list(folder.glob("new.db*")) == []


def test_an_export_may_be_cut_off_by_who_reads_it(
    invoke: Invoke, spawn: Callable, squares: list[str]
) -> None:
    """``| head -1`` ends it without a traceback."""
    invoke("run", "jobs:squares", "--thread", "long", "--input", "2000")
    process = spawn("export", "long")
    process.stdout.readline()
    process.stdout.close()

    with process.stderr as err:
        said = err.read()
    process.wait(timeout=20)

    assert "Traceback" not in said
