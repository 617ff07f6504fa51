"""The command line for runs that wait, or were left: pauses, send, watch and recover."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")
pytest.importorskip("typer")

from commands import DEADLINE, Invoke, Spawn, bodies, wait_until

PLANS = """
import os
import signal
from dataclasses import dataclass

import anyio
from jobs import HERE, note

from taskflow import emit, receive, sleep, task, workflow

@dataclass
class Decision:
    approved: bool
    note: str = ""


@task
async def reserve(item: str) -> str:
    note(f"reserve {item}")
    return f"{item}-1"


@task
async def ship(item: str) -> str:
    note(f"ship {item}")
    return f"{item} is on its way"


@workflow
async def order(item: str) -> str:
    reserved = await reserve(item)
    prompt = {"may": f"[bold]{reserved}[/] go?"}
    decision = await receive("approval", Decision, prompt=prompt, timeout=3600)
    return await ship(reserved) if decision.approved else "refused"


@workflow
async def anything() -> object:
    return await receive("answer")


@workflow
async def naps(seconds: float = 3600) -> None:
    await sleep(seconds)


@workflow
async def asks_twice() -> list[str]:
    return [await receive("first", str), await receive("second", str)]


@task
async def hold(name: str) -> None:
    note(f"hold {name}")
    while not (HERE / "go").exists():
        await anyio.sleep(0.01)


@workflow
async def holds(name: str) -> str:
    reserved = await reserve(name)
    await emit({"reserved": reserved})
    await hold(name)
    return await ship(reserved)


@workflow
async def breaks(name: str) -> None:
    await hold(name)
    raise RuntimeError("it cannot go on")


@task
async def die() -> None:
    note("die")
    os.kill(os.getpid(), signal.SIGKILL)


@workflow
async def dies() -> None:
    await die()
"""

APPROVAL = '{"approved": true}'


@pytest.fixture(autouse=True)
def plans(folder: Path) -> None:
    """A module ``plans`` in the folder."""
    (folder / "plans.py").write_text(PLANS)


def shown(invoke: Invoke, thread: str) -> dict[str, Any]:
    """A thread's run, as `show` gives it."""
    run = json.loads(invoke("show", thread, "--json").out)
    assert isinstance(run, dict)
    return run


def offered(text: str, command: str) -> list[str]:
    """The words of a command line that is offered in ``text``."""
    line = next(line for line in text.splitlines() if f" {command} " in line)
    words = shlex.split(line)
    return words[words.index(command) :]


def read_until(process: subprocess.Popen[str], text: str, *, stream: str = "stderr") -> str:
    """What a process writes, up to the line that holds ``text``."""
    lines = ""
    while text not in lines:
        line = getattr(process, stream).readline()
        assert line, f"{text!r} did not come: {lines}"
        lines += line
    return lines


def killed(spawn: Spawn, folder: Path, target: str, thread: str) -> None:
    """A run that was left by a process that was killed while it executed ``hold``."""
    process = spawn("run", target, "--thread", thread, "--input", json.dumps([thread]))
    wait_until(lambda: f"hold {thread}" in bodies(folder))
    process.kill()
    process.communicate()


# Pauses.


def test_a_run_that_pauses_says_what_it_waits_for_and_exits_with_3(invoke: Invoke) -> None:
    """Name, type, deadline and prompt, the command that answers, and the one that goes on."""
    paused = invoke("run", "plans:order", "--thread", "a b", "--input", '"lamp"')

    assert (paused.code, paused.out) == (3, "")
    assert "Paused: order on thread 'a b', 1 done (0 replayed)" in paused.err
    assert "Waits for the signal 'approval' (Decision) until 2" in paused.err
    assert '{"may": "[bold]lamp-1[/] go?"}' in paused.err
    assert "taskflow send 'a b' approval '{\"approved\": true}'" in paused.err
    assert "taskflow resume plans:order --thread 'a b'" in paused.err


def test_the_offered_commands_answer_and_go_on(invoke: Invoke, folder: Path) -> None:
    """As they are printed: an example of the type is in them."""
    paused = invoke("run", "plans:order", "--thread", "-a", "--input", '"lamp"', "--db", "my.db")
    sent = invoke(*offered(paused.err, "send"))
    resumed = invoke(*offered(paused.err, "resume"))

    assert (sent.code, sent.out) == (0, "")
    assert "Sent: the signal 'approval' to thread '-a'." in sent.err
    assert (resumed.code, resumed.out) == (0, "lamp-1 is on its way\n")
    assert bodies(folder) == ["reserve lamp", "ship lamp-1"]


def test_a_paused_run_is_told_as_json(invoke: Invoke) -> None:
    """The status is "paused", and each wait comes with its schema."""
    paused = invoke("run", "plans:order", "--thread", "a", "--input", '"lamp"', "--json")

    answer = json.loads(paused.out)
    assert (paused.code, answer["status"], answer["result"]) == (3, "paused", None)
    (wait,) = answer["waits"]
    assert (wait["kind"], wait["name"], wait["type"]) == ("signal", "approval", "Decision")
    assert wait["prompt"] == {"may": "[bold]lamp-1[/] go?"}
    assert wait["schema"]["$defs"]["Decision"]["required"] == ["approved"]
    invoke("send", "a", "approval", APPROVAL)
    done = invoke("resume", "plans:order", "--thread", "a", "--json")
    assert (json.loads(done.out)["status"], json.loads(done.out)["waits"]) == ("success", [])


def leave_napping(spawn: Spawn, invoke: Invoke, thread: str) -> tuple[int, str]:
    """Run what waits for a timer, until Ctrl-C; its exit code and messages."""
    process = spawn("run", "plans:naps", "--thread", thread)
    told = read_until(process, "Waits for a timer until 2")
    wait_until(lambda: shown(invoke, thread)["status"] == "paused")
    process.send_signal(signal.SIGINT)
    return process.wait(timeout=DEADLINE), told + process.communicate(timeout=DEADLINE)[1]


def test_a_timer_is_waited_for(invoke: Invoke) -> None:
    """Without --wait, too: nobody has to do anything."""
    done = invoke("run", "plans:naps", "--thread", "a", "--input", "[1.2]", "--json")

    assert (done.code, json.loads(done.out)["status"]) == (0, "success")


def test_who_does_not_wait_for_a_timer_leaves_the_run_paused(spawn: Spawn, invoke: Invoke) -> None:
    """There is nothing to send: it is told until when, and how to continue."""
    code, told = leave_napping(spawn, invoke, "a")

    assert code == 128 + signal.SIGINT
    assert " send " not in told
    assert offered(told, "resume") == ["resume", "plans:naps", "--thread", "a"]
    assert shown(invoke, "a")["status"] == "paused"


def test_with_wait_a_run_waits_through_pauses(spawn: Spawn, folder: Path, invoke: Invoke) -> None:
    """It says so, with the command that answers, and prints the result of it all."""
    words = ("--thread", "a", "--input", '"lamp"', "--wait", "--json")
    process = spawn("run", "plans:order", *words)
    told = read_until(process, " send ")
    assert "Waits for the signal 'approval' (Decision)" in told
    assert invoke(*offered(told, "send")).code == 0
    out, _ = process.communicate(timeout=DEADLINE)

    answer = json.loads(out)
    assert (process.returncode, answer["result"]) == (0, "lamp-1 is on its way")
    assert (answer["executed"], answer["replayed"]) == (3, 0)  # two tasks, and what it received


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_and_leaves_the_run_paused(
    number: int, spawn: Spawn, invoke: Invoke
) -> None:
    """What it waits for, and how to go on, is said again."""
    process = spawn("run", "plans:order", "--thread", "a", "--input", '"lamp"', "--wait")
    read_until(process, " send ")
    wait_until(lambda: shown(invoke, "a")["status"] == "paused")
    process.send_signal(number)
    _, err = process.communicate(timeout=DEADLINE)

    assert process.returncode == 128 + number
    assert "Stopped: order on thread 'a'" in err
    assert "Traceback" not in err
    assert offered(err, "send")[:3] == ["send", "a", "approval"]
    assert offered(err, "resume") == ["resume", "plans:order", "--thread", "a"]
    assert shown(invoke, "a")["status"] == "paused"


def test_show_and_list_tell_what_a_paused_run_waits_for(spawn: Spawn, invoke: Invoke) -> None:
    """In words, in the tree, and as JSON."""
    invoke("run", "plans:order", "--thread", "a", "--input", '"lamp"')
    leave_napping(spawn, invoke, "b")

    (wait,) = shown(invoke, "a")["waits"]
    assert (wait["name"], wait["kind"]) == ("approval", "signal")
    text = invoke("show", "a").out
    assert "waits for the signal 'approval' (Decision) until 2" in text
    assert offered(text, "send")[:3] == ["send", "a", "approval"]
    assert text.splitlines()[-1] == "└── taskflow.receive  waits for signal approval"
    lines = invoke("list", "--status", "paused").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["b", "a"]
    assert lines[1].rstrip().endswith("timer")
    assert lines[2].rstrip().endswith("signal approval")
    records = json.loads(invoke("list", "--json").out)
    assert [record["waits"][0]["kind"] for record in records] == ["timer", "signal"]


# send


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ((), None),
        (("-3",), -3),
        (('"text"',), "text"),
        (("@value.json",), [1, 2]),
        (("@-",), {"from": "stdin"}),
        (("false", "--id", "m1"), False),
    ],
)
def test_a_signal_carries_any_json(
    words: tuple[str, ...], value: object, invoke: Invoke, folder: Path
) -> None:
    """On the command line, in a file or from stdin; null without any."""
    (folder / "value.json").write_text("[1, 2]")
    invoke("run", "plans:anything", "--thread", "a")

    assert invoke("send", "a", "answer", *words, stdin='{"from": "stdin"}').code == 0
    answer = json.loads(invoke("resume", "plans:anything", "--thread", "a", "--json").out)
    assert (answer["status"], answer["result"]) == ("success", value)


def test_a_signal_with_an_id_is_taken_once(invoke: Invoke) -> None:
    """A repeated message answers no second question."""
    invoke("run", "plans:asks_twice", "--thread", "a")
    for name in ("first", "first", "second"):
        assert invoke("send", "a", name, f'"{name}"', "--id", name).code == 0

    done = invoke("resume", "plans:asks_twice", "--thread", "a")
    assert json.loads(done.out) == ["first", "second"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("b", "approval"), "no run on thread 'b'"),
        (("done", "approval"), "no unfinished run on thread 'done'"),
        (("a", "approval", "{"), "the value is not JSON"),
        (("a", "approval", "yes"), "text is written with quotation marks"),
        (("a", "approval", "@missing.json"), "No such file"),
        (("a", ""), "not empty"),
        (("a", "approval", "1", "--id", ""), "not empty"),
        (("a", "approval", "--db", "other.db"), "there is no file other.db"),
    ],
)
def test_what_cannot_be_sent_is_told_in_a_line(
    words: tuple[str, ...], message: str, invoke: Invoke
) -> None:
    """Exit code 2, and no traceback."""
    invoke("run", "plans:order", "--thread", "a", "--input", '"lamp"')
    invoke("run", "plans:anything", "--thread", "done")
    invoke("send", "done", "answer")
    invoke("resume", "plans:anything", "--thread", "done")

    wrong = invoke("send", *words)
    assert (wrong.code, wrong.out) == (2, "")
    assert message in " ".join(wrong.err.replace("│", " ").split())
    assert "Traceback" not in wrong.err


def test_a_signal_that_nothing_waits_for_is_kept_and_said_to_be(invoke: Invoke) -> None:
    """A mistyped name is seen at once: what the run waits for is told beside it."""
    invoke("run", "plans:asks_twice", "--thread", "a")

    assert "waits for signal first now" in invoke("send", "a", "second", '"early"').err
    assert "waits for signal first now" not in invoke("send", "a", "first", '"x"').err
    done = invoke("resume", "plans:asks_twice", "--thread", "a")
    assert json.loads(done.out) == ["x", "early"]


# watch


def test_watch_shows_what_another_process_does_until_the_run_has_ended(
    spawn: Spawn, folder: Path
) -> None:
    """A line for each event on stdout: what was recorded before, then what happens."""
    process = spawn("run", "plans:holds", "--thread", "a", "--input", '"lamp"')
    wait_until(lambda: "hold lamp" in bodies(folder))
    watching = spawn("watch", "a")
    before = read_until(watching, "emits", stream="stdout").splitlines()
    assert process.poll() is None
    (folder / "go").touch()
    rest, err = watching.communicate(timeout=DEADLINE)

    lines = [line.split(maxsplit=2)[2] for line in [*before, *rest.splitlines()]]
    assert lines[0] == "holds  run begins"
    assert lines[1].startswith("reserve  completed in ")
    assert lines[2] == 'holds  emits {"reserved": "lamp-1"}'
    assert [line.split()[:2] for line in lines[3:5]] == [
        ["hold", "completed"],
        ["ship", "completed"],
    ]
    assert lines[5:] == ['holds  run done: "lamp-1 is on its way"']
    assert (watching.returncode, err) == (0, "")


def test_watch_ends_with_1_when_the_run_has_failed(invoke: Invoke, folder: Path) -> None:
    """So that what comes after it on a command line does not."""
    (folder / "go").touch()
    invoke("run", "plans:breaks", "--thread", "a", "--input", '"x"')

    watched = invoke("watch", "a")
    assert watched.code == 1
    assert watched.out.splitlines()[-1].endswith("run failed: RuntimeError: it cannot go on")
    invoke("cancel", "a")
    assert invoke("watch", "a").code == 1


def test_watch_tells_every_pause_of_another_process(spawn: Spawn, invoke: Invoke) -> None:
    """With what it waits for, and the command that answers it: enough to see the run through."""
    process = spawn("run", "plans:asks_twice", "--thread", "a", "--wait")
    wait_until(lambda: Path("taskflow.db").exists())
    watching = spawn("watch", "a")
    for name in ("first", "second"):
        read_until(watching, f"run paused, waits for signal {name}", stream="stdout")
        words = offered(read_until(watching, f" send a {name} "), "send")
        assert invoke(*words).code == 0
    out, _ = watching.communicate(timeout=DEADLINE)
    process.communicate(timeout=DEADLINE)

    assert "run done" in out.splitlines()[-1]
    assert (watching.returncode, process.returncode) == (0, 0)


def test_watch_waits_for_a_thread_that_has_no_run(spawn: Spawn, invoke: Invoke) -> None:
    """And says so: the thread's id may be mistyped."""
    invoke("run", "plans:anything", "--thread", "other")
    watching = spawn("watch", "a", "--json")
    read_until(watching, "Thread 'a' has no run yet")
    invoke("run", "plans:anything", "--thread", "a")
    read_until(watching, "run_paused", stream="stdout")
    invoke("send", "a", "answer", "7")
    invoke("resume", "plans:anything", "--thread", "a")
    out, _ = watching.communicate(timeout=DEADLINE)

    assert json.loads(out.splitlines()[-1])["result"] == 7


def test_watch_gives_each_event_as_a_line_of_json_at_once(spawn: Spawn, folder: Path) -> None:
    """A program that reads them is not kept waiting by a buffer."""
    spawn("run", "plans:holds", "--thread", "a", "--input", '"lamp"')
    wait_until(lambda: "hold lamp" in bodies(folder))
    watching = spawn("watch", "a", "--json")
    assert watching.stdout is not None
    first = [json.loads(watching.stdout.readline()) for _ in range(3)]
    assert watching.poll() is None
    (folder / "go").touch()
    out, err = watching.communicate(timeout=DEADLINE)

    assert [each["type"] for each in first] == ["run_started", "task_completed", "emitted"]
    rest = [json.loads(line) for line in out.splitlines()]
    assert [each["type"] for each in rest][-3:] == [*["task_completed"] * 2, "run_completed"]
    assert (rest[-1]["result"], err) == ("lamp-1 is on its way", "")


def test_watch_goes_on_after_a_number(invoke: Invoke, folder: Path) -> None:
    """What comes before it was seen already."""
    (folder / "go").touch()
    invoke("run", "plans:holds", "--thread", "a", "--input", '"lamp"')
    events = [json.loads(line) for line in invoke("watch", "a", "--json").out.splitlines()]

    after = str(events[2]["number"])
    rest = invoke("watch", "a", "--json", "--after", after).out.splitlines()
    assert [json.loads(line) for line in rest] == events[3:]


def test_ctrl_c_ends_watch_quietly_and_leaves_the_run_alone(
    spawn: Spawn, folder: Path, invoke: Invoke
) -> None:
    """Who watches has no part in the run."""
    process = spawn("run", "plans:holds", "--thread", "a", "--input", '"lamp"')
    wait_until(lambda: "hold lamp" in bodies(folder))
    watching = spawn("watch", "a")
    read_until(watching, "emits", stream="stdout")
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=DEADLINE)
    assert (watching.returncode, err) == (130, "")

    (folder / "go").touch()
    out, _ = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out) == (0, "lamp-1 is on its way\n")


@pytest.mark.skipif(os.name == "nt", reason="it has no SIGPIPE")
def test_watch_ends_quietly_with_whoever_reads_it(spawn: Spawn, invoke: Invoke) -> None:
    """`| head -1` ends it though nothing more happens in the run."""
    invoke("run", "plans:anything", "--thread", "a")
    watching = spawn("watch", "a", "--json")
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["type"] == "run_started"
    watching.stdout.close()
    assert watching.stderr is not None
    assert watching.stderr.read() == ""

    assert watching.wait(DEADLINE) == 128 + signal.SIGPIPE


def test_a_reader_who_is_gone_before_the_next_event_is_no_error(spawn: Spawn, folder: Path) -> None:
    """Neither then, nor when Python flushes what is left at its end."""
    reader, writer = os.pipe()
    os.close(reader)
    (folder / "go").touch()
    process = spawn("run", "plans:holds", "--thread", "a", "--input", '"lamp"')
    process.communicate(timeout=DEADLINE)
    for words in ((), ("--json",)):
        watching = spawn("watch", "a", *words, stdout=writer)
        _, err = watching.communicate(timeout=DEADLINE)
        assert (watching.returncode, err) == (128 + signal.SIGPIPE, "")
    os.close(writer)


# recover


def test_recover_continues_what_died_and_leaves_other_workflows_alone(
    spawn: Spawn, folder: Path, invoke: Invoke
) -> None:
    """It ends when nothing is left, and says what it did and what it did not."""
    for thread in ("a", "b"):
        killed(spawn, folder, "plans:holds", thread)
    killed(spawn, folder, "plans:breaks", "c")
    (folder / "go").touch()

    recovered = invoke("recover", "plans:holds")
    assert (recovered.code, recovered.out) == (0, "")
    assert "Recovered: 2 runs (2 done)" in recovered.err
    assert "Left alone: runs of 'breaks'" in recovered.err
    assert [shown(invoke, each)["status"] for each in "abc"] == ["success", "success", "running"]
    assert bodies(folder).count("reserve a") == 1
    again = invoke("recover", "plans:holds")
    assert (again.code, "Nothing to recover" in again.err) == (0, True)


def test_recover_ends_with_1_when_a_run_has_failed(
    spawn: Spawn, folder: Path, invoke: Invoke
) -> None:
    """The thread, the error, and how to try again are told once."""
    killed(spawn, folder, "plans:holds", "a")
    killed(spawn, folder, "plans:breaks", "b")
    (folder / "go").touch()

    recovered = invoke("recover", "plans:holds", "plans:breaks")
    assert recovered.code == 1
    assert "Recovered: 2 runs (1 done, 1 failed)" in recovered.err
    assert recovered.err.count("Failed: breaks on thread 'b': RuntimeError: it cannot go on") == 1
    assert offered(recovered.err, "resume") == ["resume", "plans:breaks", "--thread", "b"]


def test_recover_continues_paused_runs_that_were_answered(invoke: Invoke) -> None:
    """One that still waits is left paused, and does not keep it."""
    for thread in ("a", "b"):
        invoke("run", "plans:order", "--thread", thread, "--input", f'"{thread}"')
    invoke("send", "a", "approval", APPROVAL)

    recovered = invoke("recover", "plans:order")
    assert (recovered.code, "Recovered: 1 run (1 done)" in recovered.err) == (0, True)
    assert shown(invoke, "a")["result"] == "a-1 is on its way"
    assert shown(invoke, "b")["status"] == "paused"


def test_recover_gives_up_a_run_that_kills_every_process(spawn: Spawn, folder: Path) -> None:
    """After so many take-overs without progress it has failed, and nobody else dies of it."""
    dead = spawn("run", "plans:dies", "--thread", "a")
    dead.communicate(timeout=DEADLINE)
    words = ("recover", "plans:dies", "--max-takeovers", "1")
    told: list[str] = []
    ends: list[int] = []
    for _ in range(3):
        process = spawn(*words)
        told.append(process.communicate(timeout=DEADLINE)[1])
        ends.append(process.returncode)

    assert ends == [-signal.SIGKILL, 1, 0]
    assert told[1].count("Failed: dies on thread 'a': RunSetAside") == 1
    assert told[1].count("was taken over 1 times") == 1  # and it is not in the log besides
    assert bodies(folder) == ["die", "die"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_recover_forever_serves_until_it_is_stopped(
    number: int, spawn: Spawn, folder: Path, invoke: Invoke
) -> None:
    """What is answered meanwhile goes on; what executes ends at SIGTERM, or is continued later."""
    invoke("run", "plans:order", "--thread", "a", "--input", '"lamp"')
    killed(spawn, folder, "plans:holds", "b")
    serving = spawn("recover", "plans:order", "plans:holds", "--forever")
    wait_until(lambda: bodies(folder).count("hold b") == 2)
    invoke("send", "a", "approval", APPROVAL)
    wait_until(lambda: shown(invoke, "a")["status"] == "success")
    assert serving.poll() is None
    serving.send_signal(number)
    told = read_until(serving, "stopping when the executing tasks have ended")
    if number == signal.SIGTERM:
        (folder / "go").touch()
    _, err = serving.communicate(timeout=DEADLINE)
    (folder / "go").touch()

    assert serving.returncode == 128 + number
    assert "Recovered: 2 runs (1 done, 1 not ended)" in err
    assert "Traceback" not in told + err
    names = [call["name"] for call in shown(invoke, "b")["tasks"]]
    assert names == (["reserve", "hold"] if number == signal.SIGTERM else ["reserve"])
    assert invoke("recover", "plans:holds").code == 0
    assert shown(invoke, "b")["status"] == "success"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plans:nothing",), "plans has no nothing"),
        (("plans:order", "plans:ship"), "plans:ship is a task"),
        (("plans:order", "--db", "other.db"), "there is no file other.db"),
        (("plans:order", "--max-takeovers", "0"), "Invalid value for '--max-takeovers'"),
    ],
)
def test_what_cannot_be_recovered_is_wrong_use(
    words: tuple[str, ...], message: str, invoke: Invoke
) -> None:
    """Exit code 2, and nothing is opened."""
    wrong = invoke("recover", *words)

    assert wrong.code == 2
    assert message in " ".join(wrong.err.replace("│", " ").split())
    assert not Path("taskflow.db").exists()
