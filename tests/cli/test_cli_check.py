"""``taskflow check``: what it prints where, and what it exits with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("rich")
pytest.importorskip("typer")

from commands import Invoke, bodies, wait_until

from taskflow.cli import check as cli_check  # it adds the command
from taskflow.records import RunStatus
from taskflow.testing import RunReplay, Verdict

ORDERS = """
from taskflow import receive, task, workflow
from jobs import note

@task
async def charge(order: str) -> str:
    note(f"charge {order}")
    return f"receipt for {order}"

@task
async def ship(order: str) -> str:
    note(f"ship {order}")
    return f"parcel {order}"

@workflow
async def fulfil(order: str) -> str:
    print("a line of the workflow's own")
    receipt = await charge(order)
    await receive("paid")
    return receipt + await ship(order)
"""
DEPLOYED = ORDERS.replace("charge(order)\n    await", "charge(order.lower())\n    await")
assert DEPLOYED != ORDERS


@pytest.fixture
def orders(folder: Path, invoke: Invoke) -> Path:
    """The module ``orders``, of which one run has finished and one waits."""
    file = folder / "orders.py"
    file.write_text(ORDERS)
    for thread in ("done", "waiting"):
        invoke("run", "orders:fulfil", "--thread", thread, "--input", '"A1"')
    invoke("send", "done", "paid")
    invoke("resume", "orders:fulfil", "--thread", "done")
    assert bodies(folder) == ["charge A1", "charge A1", "ship A1"]
    (folder / "bodies").unlink()
    return file


@pytest.fixture
def deploy(orders: Path) -> Callable[[str], None]:
    """Puts other code in the place of the module ``orders``."""

    def deploy(text: str) -> None:
        orders.write_text(text)
        sys.modules.pop("orders", None)
        for cached in orders.parent.glob("__pycache__/orders*"):
            cached.unlink()

    return deploy


def test_unchanged_code_passes(invoke: Invoke, orders: Path, folder: Path) -> None:
    """Exit code 0, and what becomes of each run; nothing is executed."""
    done = invoke("check", "orders:fulfil")

    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "fulfil: 2 recorded runs: 2 unchanged",
        "unchanged  1 run (paused, thread 'waiting'): would wait for the signal 'paid'",
        "unchanged  1 run (success, thread 'done'): the same calls and the same result",
    ]
    assert bodies(folder) == []


def test_changed_code_fails_the_check(
    invoke: Invoke, deploy: Callable[[str], None], folder: Path
) -> None:
    """Exit code 1; recorded and asked stand side by side, with the way out."""
    deploy(DEPLOYED)

    done = invoke("check", "orders:fulfil")

    assert done.code == 1
    lines = [line.strip() for line in done.out.splitlines()]
    assert lines[0] == "fulfil: 2 recorded runs: 2 changed"
    at = lines.index("charge")
    assert lines[at + 1] == 'recorded: {"order": "A1"} -> "receipt for A1"'
    assert lines[at + 2] == 'asked:    {"order": "a1"}'
    assert "Was that meant? If not:" in lines
    assert "taskflow fork THREAD --to COPY" in done.out
    assert 'on_drift="error"' in done.out
    assert bodies(folder) == []


def test_json_is_all_that_is_on_stdout(invoke: Invoke, deploy: Callable[[str], None]) -> None:
    """What the workflow prints goes to stderr."""
    deploy(DEPLOYED)

    done = invoke("check", "orders:fulfil", "--json")

    told = json.loads(done.out)
    assert (done.code, told["is_unchanged"], told["changed"]) == (1, False, 2)
    new = told["runs"][1]["executes"][0]
    assert new["arguments"] == {"order": "a1"}
    assert new["instead_of"]["arguments"] == {"order": "A1"}
    assert "a line of the workflow's own" in done.err


def test_exports_are_checked_in_place_of_a_database(
    invoke: Invoke, orders: Path, folder: Path
) -> None:
    """Several of them, in one file or in many, or from stdin; where there is no database."""
    first, second = invoke("export", "done").out, invoke("export", "waiting").out
    (folder / "one").write_text(first)
    (folder / "both").write_text(first + second)
    (folder / "taskflow.db").unlink()

    for words, stdin, count in (
        (["--export", "one"], None, 1),
        (["--export", "both"], None, 2),
        (["--export", "one", "--export", "both"], None, 3),
        (["--export", "one", "both", "one"], None, 4),
        (["--export", "-"], second + first, 2),
    ):
        done = invoke("check", "orders:fulfil", "--json", *words, stdin=stdin)
        assert done.code == 0, done.err
        assert json.loads(done.out)["unchanged"] == count


@pytest.mark.parametrize(
    ("words", "threads"),
    [
        (["--thread", "done"], {"done"}),
        (["--status", "paused"], {"waiting"}),
        (["--status", "paused", "--status", "success"], {"done", "waiting"}),
    ],
)
def test_runs_are_chosen(words: list[str], threads: set[str], invoke: Invoke, orders: Path) -> None:
    """By thread and by status."""
    told = json.loads(invoke("check", "orders:fulfil", "--json", *words).out)

    assert {each["thread_id"] for each in told["runs"]} == threads


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere:fulfil"], "there is no module nowhere"),
        (["orders:nothing"], "orders has no nothing"),
        (["orders:charge"], "is a task"),
        (["jobs:squares"], "holds runs of 'fulfil'"),
        (["orders:fulfil", "--thread", "x"], "no such run"),
        (["orders:fulfil", "--status", "error"], "no such run"),
        (["orders:fulfil", "--status", "odd"], "odd"),
        (["orders:fulfil", "--db", "nowhere.db"], "there is no file nowhere.db"),
        (["orders:fulfil", "--db", "jobs.py"], "jobs.py"),
        (["orders:fulfil", "--export", "nowhere"], "cannot read nowhere"),
        (["orders:fulfil", "--export", "jobs.py"], "neither a SQLite file nor an export"),
        (["orders:fulfil", "--export", "cut"], "the export was cut off"),
        (["orders:fulfil", "--export", "cut", "--db", "taskflow.db"], "not both"),
        (["orders:fulfil", "jobs.py"], "what is jobs.py"),
    ],
)
def test_wrong_use_is_told(
    words: list[str], told: str, invoke: Invoke, orders: Path, folder: Path
) -> None:
    """In a line, with exit code 2; a check that has checked nothing is no success."""
    lines = invoke("export", "done").out.splitlines(keepends=True)
    (folder / "cut").write_text("".join(lines[:-1]))

    done = invoke("check", *words)

    assert (done.code, done.out) == (2, "")
    assert told in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_the_command_is_found_by_who_types_taskflow(
    orders: Path, spawn: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, with its exit code."""
    monkeypatch.setenv("COLUMNS", "100")
    process = spawn("check", "orders:fulfil")
    out, err = process.communicate(timeout=60)

    assert (process.returncode, "2 unchanged" in out) == (0, True), err
    assert " check " in spawn("--help").communicate(timeout=60)[0]


def test_ctrl_c_stops_it(orders: Path, folder: Path, spawn: Callable) -> None:
    """With the exit code of that, while a workflow waits for what is no call."""
    stuck = ORDERS.replace("    receipt =", "    note('stuck')\n    await forever()\n    receipt =")
    orders.write_text(f"{stuck}\nfrom anyio import sleep_forever as forever\n")
    process = spawn("check", "orders:fulfil", "--patience", "60")
    wait_until(lambda: "stuck" in bodies(folder))

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 128 + signal.SIGINT
    assert "Stopped" in err
    assert "Traceback" not in err


def test_long_work_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line now and then, the later the rarer."""
    times = iter([0.0, 0.5, 1.5, 1.9, 9.0, 10.0])
    monkeypatch.setattr(cli_check.time, "monotonic", lambda: next(times))
    progress = cli_check._Progress("fulfil")

    for verdict in (*[Verdict.UNCHANGED] * 4, Verdict.CHANGED):
        progress(RunReplay("a", "1", RunStatus.SUCCESS, verdict))

    assert capsys.readouterr().err.splitlines() == [
        "fulfil: 2 runs replayed in 1.50 s: 2 unchanged",
        "fulfil: 4 runs replayed in 9.00 s: 4 unchanged",
    ]


def test_who_reads_the_report_may_leave(orders: Path, spawn: Callable) -> None:
    """``| head -1`` ends it without a traceback."""
    process = spawn("check", "orders:fulfil", stdout=subprocess.PIPE)
    process.stdout.close()
    with process.stderr as err:
        said = err.read()
    process.wait(timeout=60)

    assert "Traceback" not in said
    assert "BrokenPipe" not in said
