"""Older files that are opened while something goes wrong: migrated as a whole, or not at all."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from processes import ENVIRONMENT

from taskflow import Runtime
from taskflow.errors import SchemaTooNew
from taskflow.stores.sqlite.statements import MIGRATIONS, SCHEMA

pytestmark = pytest.mark.anyio

PROGRAM = Path(__file__).with_name("migrant.py")
FOLDER = Path(__file__).parents[1] / "schemas"
PATIENCE = 60.0
COPIES = 8000  # of every call of a thread: its indexes take a while to make
ENDS = ("", "-wal")
TABLES = ("run", "checkpoint", "cache")


def old_file(path: Path, schema: int, *, copies: int = 0) -> Path:
    """A file as the taskflow of that schema has left it, with more rows of the same kind."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript((FOLDER / f"{schema}.sql").read_text())
        if copies:
            names = [row[1] for row in db.execute("PRAGMA table_info(checkpoint)")]
            columns = ", ".join(names[1:])
            given = columns.replace("task_id", "task_id || n").replace(", signal", ", NULL")
            db.execute(
                "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT ?)"
                f" INSERT INTO checkpoint ({columns}) SELECT {given} FROM checkpoint, c"
                " WHERE thread_id = 'finished'",
                (copies,),
            )
            db.commit()
    return path


def shape_and_rows(path: Path) -> tuple[int, list[str], list[tuple[object, ...]]]:
    """The schema's number, what the file is made of, and what every schema has in its rows."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (number,) = db.execute("PRAGMA user_version").fetchone()
        made = sorted(
            [
                f"{name}.{column[1]}"
                for name, table in db.execute("SELECT name, tbl_name FROM sqlite_master")
                for column in db.execute(f"PRAGMA table_info({table})")
            ]
        )
        rows = [
            row
            for table in TABLES
            for row in db.execute(f"SELECT {columns_of_first(table)} FROM {table} ORDER BY 1")
        ]
        return number, made, rows


def columns_of_first(table: str) -> str:
    """The columns that a table has since the first schema."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript((FOLDER / "1.sql").read_text())
        return ", ".join(row[1] for row in db.execute(f"PRAGMA table_info({table})"))


class Migrants:
    """Processes that open one file."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, path: Path, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(path), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@pytest.fixture
def migrants() -> Iterator[Migrants]:
    migrants = Migrants()
    yield migrants
    migrants.close()


@pytest.mark.parametrize("schema", sorted(MIGRATIONS))
def test_a_migration_that_is_killed_before_any_statement_is_made_wholly_or_not_at_all(
    schema: int, migrants: Migrants, rng: random.Random, is_long: bool, tmp_path: Path
) -> None:
    """Each statement of an opening (long), or some: old or new, never in between; and it opens."""
    before = shape_and_rows(old_file(tmp_path / "old.db", schema))
    undisturbed = migrants.start(old_file(tmp_path / "whole.db", schema), "0")
    count = int(undisturbed.communicate(timeout=PATIENCE)[0])
    after = shape_and_rows(tmp_path / "whole.db")
    assert before[2] == after[2]
    found: set[int] = set()

    moments = range(1, count + 1)
    for moment in moments if is_long else sorted([*rng.sample(moments, 4), count]):
        path = old_file(tmp_path / f"{moment}.db", schema)
        killed = migrants.start(path, str(moment))
        killed.communicate(timeout=PATIENCE)

        assert killed.returncode == -signal.SIGKILL
        left = shape_and_rows(path)
        assert left in (before, after)
        found.add(left[0])
        again = migrants.start(path, "0")
        assert again.communicate(timeout=PATIENCE)[1] == ""
        assert shape_and_rows(path) == after

    assert SCHEMA in found


def test_a_migration_that_is_killed_at_any_moment_is_made_wholly_or_not_at_all(
    migrants: Migrants, rng: random.Random, is_long: bool, tmp_path: Path
) -> None:
    """A file with so much that its new indexes take a while."""
    old_file(tmp_path / "old.db", 1, copies=COPIES)
    before = shape_and_rows(tmp_path / "old.db")
    content = (tmp_path / "old.db").read_bytes()
    found: list[int] = []
    for number in range(30 if is_long else 3):
        path = tmp_path / f"{number}.db"
        path.write_bytes(content)
        process = migrants.start(path)
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        lock = path.with_name(f"{path.name}-lock")
        deadline = time.monotonic() + PATIENCE
        while not (lock.exists() or path.with_name(f"{path.name}-shm").exists()):
            assert time.monotonic() < deadline
        time.sleep(rng.random() * 0.04)  # the moment, not a wait for anything
        process.kill()
        process.communicate()

        left = shape_and_rows(path)
        assert left[0] in (1, SCHEMA)
        assert left[2] == before[2]
        assert (left == before) == (left[0] == 1)
        found.append(left[0])
        assert migrants.start(path, "0").communicate(timeout=PATIENCE)[1] == ""
        assert shape_and_rows(path)[0] == SCHEMA
    sys.stdout.write(f"left with schema {found}\n")


def test_several_processes_that_migrate_at_once_all_succeed(
    migrants: Migrants, is_long: bool, tmp_path: Path
) -> None:
    """One makes the new schema, the others find it made; no row is lost or written twice."""
    for number in range(10 if is_long else 1):
        path = old_file(tmp_path / f"{number}.db", 1, copies=COPIES)
        rows = shape_and_rows(path)[2]
        processes = [migrants.start(path) for _ in range(4)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=PATIENCE) for process in processes]

        assert [errors for _, errors in answers] == [""] * 4
        assert shape_and_rows(path)[::2] == (SCHEMA, rows)


@pytest.mark.parametrize("has_log", [False, True], ids=["alone", "with a log"])
async def test_a_newer_file_is_refused_and_not_a_byte_of_it_is_changed(
    has_log: bool, tmp_path: Path
) -> None:
    """Nor of its WAL, though nobody else has it open; the error names both schemas."""
    path = tmp_path / "newer.db"
    old_file(tmp_path / "made.db", 1)
    made = tmp_path / "made.db"
    with closing(sqlite3.connect(made)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
        db.commit()
        if not has_log:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        files = {end: made.with_name(f"made.db{end}").read_bytes() for end in ENDS}
    for end, content in files.items():
        if content:
            path.with_name(f"newer.db{end}").write_bytes(content)

    for _ in range(2):
        with pytest.raises(SchemaTooNew) as refused:
            await Runtime(path).open()

    assert (refused.value.found, refused.value.supported) == (SCHEMA + 1, SCHEMA)
    assert bool(files["-wal"]) == has_log
    left = {each.name: each.read_bytes() for each in tmp_path.glob("newer.db*")}  # noqa: ASYNC240
    left.pop("newer.db-shm", None)  # an index of the WAL, which is made anew by whoever opens it
    assert left == {f"newer.db{end}": content for end, content in files.items() if content}


@pytest.mark.parametrize("what", ["file", "folder"])
def test_an_older_file_that_is_read_only_is_a_clear_error(what: str) -> None:
    """It names the file and the way out; once that is taken, the file is migrated."""
    if sys.platform == "win32":
        pytest.skip("permissions are other ones there")
    with tempfile.TemporaryDirectory() as folder:
        path = old_file(Path(folder) / "old.db", 1)
        path.chmod(0o444)
        Path(folder).chmod(0o777 if what == "file" else 0o555)
        try:
            opened = open_as_nobody(path)
            assert "StoreError" in opened
            assert str(path) in opened
            assert "read-only: make the file and its folder writable" in opened or (
                "check the path and its permissions" in opened
            )
        finally:
            Path(folder).chmod(0o777)
        path.chmod(0o666)
        assert open_as_nobody(path) == "opened\n"
        assert shape_and_rows(path)[0] == SCHEMA


# The first opening imports all that is needed: nobody else may read it.
OPEN_AS_NOBODY = """
import os, sys, tempfile, anyio
from taskflow import Runtime
async def open_(path):
    async with Runtime(path):
        pass
with tempfile.TemporaryDirectory() as folder:
    anyio.run(open_, os.path.join(folder, "scratch.db"))
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    anyio.run(open_, sys.argv[1])
    print("opened")
except Exception as error:
    print(repr(error))
"""


def open_as_nobody(path: Path) -> str:
    """What comes of opening a file as somebody who may not write what is read-only."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN_AS_NOBODY, str(path)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=PATIENCE,
        check=False,
    )
    if "PermissionError" in done.stderr and "setgroups" in done.stderr:
        pytest.skip("root that may not become anybody else, and may write everything")
    assert done.returncode == 0, done.stderr
    return done.stdout
