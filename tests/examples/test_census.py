"""The census of a source tree: what is executed again, and what is not."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from taskflow import Runtime
from taskflow.examples.census.__main__ import main
from taskflow.examples.census.counts import Count, Function, count_in
from taskflow.examples.census.sources import Listing, Unreadable, file_at, find, shown
from taskflow.examples.census.survey import Census, take_census
from taskflow.records import TaskRecord

pytestmark = pytest.mark.anyio

# Of a killed worker process asyncio may say (3.12) that its transport was not closed.
WARNINGS = ("-W", "error", "-W", "ignore::ResourceWarning")
PROGRAM = (sys.executable, *WARNINGS, "-m", "taskflow.examples.census")
DEADLINE = 20  # seconds; only a failing test takes that long

Take = Callable[..., str]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Six files in two packages and beside them, no two alike."""
    folder = tmp_path / "tree"
    for package in ("one", "two", "."):
        (folder / package).mkdir(parents=True, exist_ok=True)
        for name in ("a.py", "b.py"):
            (folder / package / name).write_text(f"def f(x):\n    return {package!r} or {name!r}\n")
    return folder


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Where the census is kept."""
    return tmp_path / "census.db"


@pytest.fixture
def take(tree: Path, db: Path) -> Take:
    """Takes the census of ``tree`` in a process of its own; its last line."""

    def take(*options: str) -> str:
        done = subprocess.run(
            [*PROGRAM, str(tree), "--db", str(db), *options], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    return take


async def recorded(db: Path, thread_id: str) -> list[TaskRecord]:
    """What the thread's latest run holds."""
    async with Runtime(db) as runtime:
        run = await runtime.get(thread_id)
        return await runtime.tasks(thread_id, run.run_id)


def test_an_unchanged_tree_is_answered_from_the_record(take: Take) -> None:
    """The second census of a thread executes nothing."""
    assert "6 executed, 0 replayed" in take()
    assert "0 executed, 6 replayed" in take()


def test_another_thread_is_answered_from_the_cache(take: Take) -> None:
    """What one thread has counted, no other thread counts."""
    take("--thread", "one")
    assert "0 executed, 0 replayed from the record, 6 answered" in take("--thread", "two")


async def test_a_changed_file_alone_is_executed(take: Take, tree: Path, db: Path) -> None:
    """Its new content is another call; the contents of all others are in the cache."""
    take("--thread", "t")
    (tree / "one" / "a.py").write_text("changed = True\n")
    assert "1 executed, 0 replayed from the record, 5 answered" in take("--thread", "t")

    executed = [each for each in await recorded(db, "t") if each.attempts]
    assert [each.arguments["path"] for each in executed] == [f"{tree}/one/a.py"]


def test_a_moved_tree_is_not_parsed_again(take: Take, tree: Path) -> None:
    """What is shared depends on the content, not on where it is."""
    take()
    tree.rename(tree.with_name("moved"))
    tree.symlink_to(tree.with_name("moved"))
    assert "0 executed, 0 replayed from the record, 6 answered" in take()


@pytest.fixture
def large_tree(tree: Path) -> Path:
    """Enough to be killed half-way: 40 more files that take a while each."""
    function = "def f{0}(x):\n    return x and {0} if x else [y for y in x if y]\n\n"
    for number in range(40):
        lines = [f"number = {number}\n", *map(function.format, range(500))]
        (tree / f"large{number}.py").write_text("".join(lines))
    return tree


def committed(db: Path) -> int:
    """How many files are counted, as another process sees it."""
    try:
        with closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM checkpoint").fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0


def interrupted(folder: Path, db: Path, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Take a census and send it a signal when a few files are counted."""
    command = [*PROGRAM, str(folder), "--db", str(db), "--thread", "t"]
    census = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + DEADLINE
    while committed(db) < 10:
        assert census.poll() is None
        assert time.monotonic() < deadline
    # A terminal's Ctrl-C reaches the worker processes as well.
    (os.killpg if number == signal.SIGINT else os.kill)(census.pid, number)
    out, err = census.communicate(timeout=DEADLINE)
    return subprocess.CompletedProcess(command, census.returncode, out, err)


async def test_after_a_kill_only_the_rest_is_executed(
    take: Take, large_tree: Path, db: Path
) -> None:
    """Every file that was recorded before SIGKILL is recorded once, and not executed again."""
    assert interrupted(large_tree, db, signal.SIGKILL).returncode == -signal.SIGKILL
    kept = {each.task_id: each.started for each in await recorded(db, "t")}
    assert 10 <= len(kept) < 46

    assert f"{46 - len(kept)} executed, {len(kept)} replayed" in take("--thread", "t")
    after = {each.task_id: each.started for each in await recorded(db, "t")}
    assert len(after) == 46
    assert kept.items() <= after.items()


def test_after_a_kill_and_a_change_what_was_counted_is_in_the_cache(
    take: Take, large_tree: Path, db: Path
) -> None:
    """Another input gives the interrupted run up, not its results."""
    interrupted(large_tree, db, signal.SIGKILL)
    kept = committed(db)
    (large_tree / "new.py").write_text("new = True\n")

    assert f"{47 - kept} executed, 0 replayed from the record, {kept} answ" in take("--thread", "t")


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(take: Take, large_tree: Path, db: Path) -> None:
    """And the same command does so."""
    stopped = interrupted(large_tree, db, signal.SIGINT)

    assert stopped.returncode == 130
    assert "of 46 files are kept in" in stopped.stderr
    assert f"python -m taskflow.examples.census {large_tree} --db {db} --thread t" in stopped.stderr
    assert "KeyboardInterrupt" not in stopped.stderr
    assert f"{46 - committed(db)} executed" in take("--thread", "t")


async def test_a_file_that_is_gone_when_it_is_counted_is_unreadable(tree: Path, db: Path) -> None:
    """So is one that has changed; neither is a crash, and the rest is counted."""
    sources = find(tree).sources
    (tree / "a.py").unlink()
    (tree / "b.py").write_text("other = True\n")

    async with Runtime(db) as runtime:
        census: Census = await runtime.run(take_census(str(tree), sources), thread_id="t")

    assert census.unreadable == [
        Unreadable("a.py", "No such file or directory"),
        Unreadable("b.py", "it changed while the census ran"),
    ]
    assert sum(each.files for each in census.packages) == 4


def test_a_file_that_was_gone_is_looked_at_again(
    tree: Path, db: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is kept of a file that could not be read does not outlive its census."""
    file = tree / "a.py"
    content = file.read_bytes()

    def find_and_lose(folder: Path) -> Listing:
        listing = find(folder)
        file.unlink()
        return listing

    with monkeypatch.context() as patch:
        patch.setattr("taskflow.examples.census.__main__.find", find_and_lose)
        main([str(tree), "--db", str(db)])
    assert "a.py: No such file or directory" in capsys.readouterr().out

    file.write_bytes(content)
    main([str(tree), "--db", str(db)])
    assert "1 executed, 5 replayed" in capsys.readouterr().out


def test_what_cannot_be_read_or_parsed_is_reported(
    tree: Path, db: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link to itself, a bad encoding and old Python are lines of the report."""
    (tree / "loop.py").symlink_to("loop.py")
    (tree / "circle").symlink_to(tree)
    (tree / "bad.py").write_text("# coding: nonsense\n")
    (tree / "old.py").write_text("print 'hello'\n")

    assert main([str(tree), "--db", str(db)]) == 0
    report = capsys.readouterr().out
    assert "loop.py: Too many levels of symbolic links" in report
    total = next(line for line in report.splitlines() if line.startswith("total"))
    assert total.split() == ["total", "8", "14", "0", "6", "6", "2"]


def test_names_need_not_be_utf_8(tree: Path) -> None:
    """A path is recorded as text that leads to the file."""
    name = os.fsdecode(b"caf\xe9 %41.py")
    (tree / name).write_text("x = 1\n")

    found = next(each.path for each in find(tree).sources if "caf" in each.path)
    assert file_at(found) == Path(name)
    assert shown(found).encode() == "caf\N{REPLACEMENT CHARACTER} %41.py".encode()


def test_other_peoples_packages_and_pipes_are_left_out(tree: Path) -> None:
    """And so is what is no Python file."""
    (tree / "site-packages").mkdir()
    (tree / "site-packages" / "theirs.py").write_text("")
    (tree / "readme.txt").write_text("")
    os.mkfifo(tree / "pipe.py")

    assert len(find(tree).sources) == 6


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere"], "there is no folder"),
        (["."], "there is no Python file"),
        ([".", "--jobs", "0"], "--jobs must be at least 1"),
    ],
)
def test_wrong_use_is_said_in_one_line(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With exit code 2."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_database_that_cannot_be_opened_is_named(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit code 1."""
    assert main([str(tree), "--db", str(tmp_path / "nowhere" / "census.db")]) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "branches"),
    [
        ("pass", 0),
        ("if a: pass\n elif b: pass\n else: pass", 2),
        ("for x in a: pass", 1),
        ("while a: pass", 1),
        ("try: pass\n except A: pass\n except B: pass\n finally: pass", 2),
        ("return a and b and c", 2),
        ("return a if b else c", 1),
        ("return [x for x in a if b if c]", 3),
        ("match a:\n  case 1: pass\n  case _: pass", 2),
        ("def g():\n  if a: pass", 0),
    ],
)
def test_branches(body: str, branches: int) -> None:
    """A function's complexity is its own branches, and one."""
    count = count_in(f"def f():\n {body}\n".encode())
    assert Function("f", 1, branches + 1) in count.most_complex


def test_a_method_is_named_after_its_class() -> None:
    """Functions and classes are counted at any depth."""
    count = count_in(b"class A:\n  class B:\n    def f(self):\n      async def g(): pass\n")
    functions = [Function("A.B.f", 3, 1), Function("A.B.f.g", 4, 1)]
    assert count == Count(4, True, 2, 2, 0, functions)


@pytest.mark.parametrize("content", [b"\0", b"(" * 5000, b"-" * 100_000 + b"1", b"\xff = 1"])
def test_what_does_not_parse_is_counted_as_such(content: bytes) -> None:
    """Whatever the parser says of it."""
    assert count_in(content) == Count(1, parses=False)
