"""Files that are not what was written: an error says so, or the right answer comes all the same.

``ledger.py`` observes a damaged copy from a process of its own. What it is given is compared, step
by step, with what it was given of the whole file: results, statuses, records of calls, exports,
events, waits, and which bodies were executed.
"""

from __future__ import annotations

import json
import random
import selectors
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import pytest
from pages import regions
from processes import ENVIRONMENT

PROGRAM = Path(__file__).with_name("ledger.py")
TIME_LIMIT: Final = 60.0  # seconds, for all that is asked of one copy
FRAME: Final = 24 + 4096  # bytes of a page in the WAL, with its header
WAL_HEADER: Final = 32
REFUSALS: Final = ("StoreError", "CheckpointCorrupt", "SchemaTooNew")
TABLES: Final = ("run", "checkpoint", "cache", "lease")
# What others change, and what a new row does not know. Recovery goes by the first three, pages of
# `runs` by the last.
NOT_COVERED: Final = ("run.due", "run.takeovers", "run.mark", "run rowid")
COMPUTED: Final = ("finished", "new")  # threads whose results follow from their inputs

Found = dict[str, dict[str, Any]]
Files = Mapping[str, bytes]


class Observer:
    """The process that looks at copies, one after another."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.path = folder / "taskflow.db"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def look(self, files: Files) -> Found:
        """What taskflow gives of these files, by the ends of their names."""
        for each in self.path.parent.glob("taskflow.db*"):
            each.unlink()
        for end, content in files.items():
            self.path.with_name(f"taskflow.db{end}").write_bytes(content)
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{self.path}\n".encode())
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(TIME_LIMIT) else b""
        if not line:  # it hangs, or has died
            self.close()
            return {"all": {"bare": "no answer", "bodies": []}}
        found: Found = json.loads(line)
        return found

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(PROGRAM), "observe", *self._options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=ENVIRONMENT,
            )
        return self._process


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files that a killed process has left: nearly everything is in the WAL."""
    folder = tmp_path_factory.mktemp("ledger")
    subprocess.run(
        [sys.executable, str(PROGRAM), "build", str(folder)], check=True, env=ENVIRONMENT
    )
    return {end: (folder / f"taskflow.db{end}").read_bytes() for end in ("", "-wal")}


@pytest.fixture(scope="module")
def whole(killed: Files, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The same with everything in the file itself."""
    path = tmp_path_factory.mktemp("whole") / "taskflow.db"
    path.write_bytes(killed[""])
    path.with_name("taskflow.db-wal").write_bytes(killed["-wal"])
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return {"": path.read_bytes()}


@pytest.fixture
def observer(tmp_path: Path) -> Iterator[Observer]:
    observer = Observer(tmp_path)
    yield observer
    observer.close()


@pytest.fixture
def unchecked(tmp_path: Path) -> Iterator[Observer]:
    """One that does not look at files as a whole when it opens them: as if they were larger."""
    observer = Observer(tmp_path, "unchecked")
    yield observer
    observer.close()


@pytest.fixture(scope="module")
def truth(whole: Files, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What is given of the whole file."""
    observer = Observer(tmp_path_factory.mktemp("truth"))
    try:
        found = observer.look(whole)
    finally:
        observer.close()
    assert all("value" in step for step in found.values()), found
    return found


def places(content: bytes, path: Path) -> dict[str, list[int]]:
    """The positions in a file, by what stands there."""
    path.write_bytes(content)
    db = sqlite3.connect(path)
    columns = {
        table: [row[1] for row in db.execute(f"PRAGMA table_info({table})")] for table in TABLES
    }
    db.close()
    return {name: found for name, found in regions(content, columns).items() if found}


def drawn(rng: random.Random, kinds: Mapping[str, list[int]], count: int) -> list[tuple[str, int]]:
    """As many positions, of each kind as many as of the others."""
    names = sorted(kinds)
    rng.shuffle(names)
    return [(name, rng.choice(kinds[name])) for name in islice(cycle(names), count)]


def changed(rng: random.Random, content: bytes, at: int) -> bytes:
    """The same but for one byte: one bit of it, or all."""
    byte = content[at] ^ (1 << rng.randrange(8) if rng.random() < 0.5 else rng.randrange(1, 256))
    return content[:at] + bytes([byte]) + content[at + 1 :]


def faults(found: Found, truth: Found) -> list[str]:
    """Where what was found is neither the truth nor an error that says what is wrong."""
    wrong: list[str] = []
    has_failed = False
    for name, step in found.items():
        expected = truth.get(name, {"bodies": []})
        again = Counter(step["bodies"]) - Counter(expected["bodies"])
        if name == "run new":
            again.pop("rate EUR", None)  # a shared result that is damaged is as good as none
        if "bare" in step:
            wrong.append(f"{name}: {step['bare']}")
        elif "error" in step:
            has_failed = True
            says = step["message"]
            if step["error"] not in REFUSALS or not ("taskflow.db" in says or "thread" in says):
                wrong.append(f"{name}: {step['error']}: {says}")
            elif again:
                wrong.append(f"{name}: executed {sorted(again)}, then {says}")
        elif name == "prune" and has_failed:
            continue  # what was not made was not deleted
        elif step["value"] != expected.get("value"):
            wrong.append(f"{name}: {step['value']}, not {expected.get('value')}"[:2000])
        elif again or Counter(expected["bodies"]) - Counter(step["bodies"]):
            wrong.append(f"{name}: executed {step['bodies']}, not {expected['bodies']}")
    return wrong


def faults_of_older(found: Found, truth: Found) -> list[str]:
    """Where what was found is not what was true at some time before, or follows from that."""
    wrong: list[str] = []
    for name, step in found.items():
        what, _, thread_id = name.partition(" ")
        if thread_id == "failed":  # its failure was recorded before it was un-recorded
            continue
        known = truth[name]["value"] if name in truth else None
        if "bare" in step:
            wrong.append(f"{name}: {step['bare']}")
        elif "error" in step:
            if step["error"] not in (*REFUSALS, "RunNotFound", "RunUnfinished"):
                wrong.append(f"{name}: {step['error']}: {step['message']}")
        elif what == "tasks" and step["value"] != known[: len(step["value"])]:
            wrong.append(f"{name}: {step['value']}, not the beginning of {known}"[:2000])
        elif what == "run" and thread_id in COMPUTED and step["value"] != known:
            wrong.append(f"{name}: {step['value']}, not {known}")
    return wrong


def test_one_byte_changed_anywhere(
    whole: Files,
    truth: Found,
    observer: Observer,
    rng: random.Random,
    is_long: bool,
    tmp_path: Path,
) -> None:
    """In 500 copies (long): the right answers, or an error; no wrong value, and no hang."""
    content = whole[""]
    kinds = places(content, tmp_path / "places.db") | {"anywhere": list(range(len(content)))}
    outcomes: Counter[str] = Counter()
    for kind, at in drawn(rng, kinds, 500 if is_long else 12):
        found = observer.look({"": changed(rng, content, at)})

        assert not (wrong := faults(found, truth)), f"{kind}, byte {at}: {wrong}"
        outcomes[outcome_of(found)] += 1

    sys.stdout.write(f"{dict(outcomes)}\n")
    assert not is_long or min(outcomes[each] for each in ("refused", "told", "unharmed"))


def test_one_byte_changed_in_a_row_of_a_larger_file(
    whole: Files,
    truth: Found,
    unchecked: Observer,
    rng: random.Random,
    is_long: bool,
    tmp_path: Path,
) -> None:
    """A file that is too large to be looked at as a whole: the checksums of its rows tell."""
    content = whole[""]
    kinds = {
        kind: found
        for kind, found in places(content, tmp_path / "places.db").items()
        if kind.startswith(TABLES) and kind not in NOT_COVERED
    }
    for kind, at in drawn(rng, kinds, 300 if is_long else 6):
        found = unchecked.look({"": changed(rng, content, at)})

        # A filter goes by what stands in the file: a run that has lost its status is not found.
        found.pop("runs paused", None)
        assert not (wrong := faults(found, truth)), f"{kind}, byte {at}: {wrong}"


@pytest.mark.parametrize(
    "change",
    [
        "checkpoint SET name = 'other' WHERE name = 'label'",
        "checkpoint SET parent_id = 'other:1' WHERE name = 'label'",
        "checkpoint SET arguments = '{}' WHERE name = 'label'",
        "checkpoint SET attempts = 7, started = 1.0, finished = 1e9 WHERE name = 'label'",
        "checkpoint SET task_id = 'word:1' WHERE kind = 'signal' AND name = 'word'",
        "checkpoint SET signal = 'other:1' WHERE signal IS NOT NULL",
        "checkpoint SET signal = NULL WHERE signal IS NOT NULL",
        "run SET sequence = sequence + 1 WHERE thread_id = 'finished'",
        "run SET epoch = 9, created = 1.0, started = 1.0, finished = 1e9",
    ],
)
def test_a_column_that_was_changed_is_told(
    change: str, whole: Files, truth: Found, observer: Observer, tmp_path: Path
) -> None:
    """By whatever program, with its indexes: nothing is given of it, and nothing executes again."""
    path = tmp_path / "changed.db"
    path.write_bytes(whole[""])
    with closing(sqlite3.connect(path)) as db:
        assert db.execute(f"UPDATE {change}").rowcount
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    found = observer.look({"": path.read_bytes()})

    assert not faults(found, truth)
    assert outcome_of(found) == "told"


def test_a_file_that_ends_too_early(
    whole: Files, truth: Found, observer: Observer, rng: random.Random, is_long: bool
) -> None:
    """It is refused, or gives what it has; but an empty file is a new one."""
    content = whole[""]
    pages = range(4096, len(content), 4096)
    lengths = [1, 99, 100, 511, 512, 1024, 4095, *rng.sample(pages, 4)]
    lengths += [rng.randrange(len(content)) for _ in range(60 if is_long else 3)]
    for length in lengths if is_long else rng.sample(lengths, 4):
        found = observer.look({"": content[:length]})

        assert not (wrong := faults(found, truth)), f"{length} bytes: {wrong}"


@pytest.mark.parametrize("what", ["zeros", "noise", "text", "another header"])
def test_what_is_no_database_is_refused(
    what: str, whole: Files, observer: Observer, rng: random.Random
) -> None:
    """With an error that names the file, whatever is asked."""
    content = {
        "zeros": bytes(len(whole[""])),
        "noise": rng.randbytes(50_000),
        "text": b"not a database\n" * 1000,
        "another header": b"SQLite format 2\0" + whole[""][16:],
    }[what]

    found = observer.look({"": content})

    assert list(found) == ["open"]
    assert found["open"]["error"] == "StoreError"
    assert str(observer.path) in found["open"]["message"]


def test_an_empty_file_is_a_new_one(truth: Found, observer: Observer) -> None:
    """Nothing is recorded in it, and runs begin."""
    found = observer.look({"": b""})

    assert found["runs"]["value"] == []
    assert not faults_of_older(found, truth)
    assert found["run finished"]["value"] == truth["run finished"]["value"]


def test_an_empty_file_beside_its_log_is_refused(killed: Files, observer: Observer) -> None:
    """SQLite would delete the log, and all that is recorded in it."""
    found = observer.look({**killed, "": b""})

    assert found["open"]["error"] == "StoreError"
    assert observer.path.with_name("taskflow.db-wal").read_bytes() == killed["-wal"]


def test_a_log_that_is_missing_leaves_what_was_true_before(
    killed: Files, truth: Found, observer: Observer
) -> None:
    """What it held is executed again, to the same results."""
    found = observer.look({"": killed[""]})

    assert not faults_of_older(found, truth)


def test_one_byte_changed_in_the_log(
    killed: Files, truth: Found, observer: Observer, rng: random.Random, is_long: bool
) -> None:
    """SQLite ends the log before the damage: what is given is what was true at that time."""
    log = killed["-wal"]
    for at in [rng.randrange(WAL_HEADER), *rng.sample(range(len(log)), 100 if is_long else 2)]:
        found = observer.look({**killed, "-wal": changed(rng, log, at)})

        assert not (wrong := faults_of_older(found, truth)), f"byte {at}: {wrong}"


def test_a_log_that_ends_too_early(
    killed: Files, truth: Found, observer: Observer, rng: random.Random, is_long: bool
) -> None:
    """The same, at any length."""
    log = killed["-wal"]
    frames = range(WAL_HEADER, len(log), FRAME)
    lengths = [WAL_HEADER, *rng.sample(frames, 20 if is_long else 1)]
    for length in [*lengths, *rng.sample(range(len(log)), 60 if is_long else 1)]:
        found = observer.look({**killed, "-wal": log[:length]})

        assert not (wrong := faults_of_older(found, truth)), f"{length} bytes: {wrong}"


def outcome_of(found: Found) -> str:
    """How a damaged file was noticed, if it was."""
    if "error" in found["open"]:
        return "refused"
    return "told" if any("error" in step for step in found.values()) else "unharmed"
