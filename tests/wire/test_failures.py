"""The recorded form of a failure: what a rerun meets is what the first run met."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys

import attrs
import httpx
import pytest

from taskflow import TaskFailed, TaskTimeout
from taskflow.wire.failures import Failure, Mark, describe, marks_in, rebuild, record, set_mark


def again(error: BaseException) -> Exception:
    """``error`` as a rerun meets it."""
    return rebuild(Failure.parse(record(error).encode()))


def http_error() -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://shop.test/order")
    try:
        httpx.Response(503, request=request).raise_for_status()
    except httpx.HTTPStatusError as error:
        return error
    raise AssertionError


def json_error() -> json.JSONDecodeError:
    try:
        json.loads('{"a":')
    except json.JSONDecodeError as error:
        return error
    raise AssertionError


class OrderFailed(Exception):
    """Of a user: its __init__ wants other arguments than it passes on."""

    def __init__(self, order: str, *, code: int) -> None:
        super().__init__(f"order {order} failed")
        self.order = order
        self.code = code


class Silent(Exception):
    """Its message is made of its attributes."""

    def __init__(self, order: str) -> None:
        self.order = order

    def __str__(self) -> str:
        return f"order {self.order} failed"


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


@attrs.define(auto_exc=True)
class Declined(Exception):
    code: int


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        ValueError("x", 1, None),
        RuntimeError({"nested": [1, 2.5, "x"]}),
        KeyError("k"),
        KeyError(("two", "parts")),
        RuntimeError((1, (2, b"three")), {4}, {5: "six"}),
        StopIteration(3),
        FileNotFoundError(2, "No such file", "orders.csv"),
        FileNotFoundError(2, "No such file", "from.csv", None, "to.csv"),
        PermissionError(13, "Permission denied"),
        OSError("just text"),
        ConnectionRefusedError(111, "refused"),
        TimeoutError("slow"),
        UnicodeDecodeError("utf-8", b"\xff\xfe", 0, 1, "invalid start byte"),
        UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"),
        SyntaxError("bad", ("orders.py", 3, 4, "text")),
        json_error(),
        http_error(),
        httpx.ConnectError("refused"),
        OrderFailed("A1", code=3),
        Silent("A1"),
        Slotted(3),
        Declined(3),
        TaskTimeout("fetch", 1.0, 1.5),
        subprocess.CalledProcessError(1, ["ls"], "out", "err"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_comes_back_as_it_was(error: Exception) -> None:
    """Class, arguments and message."""
    rebuilt = again(error)

    assert type(rebuilt) is type(error)
    assert rebuilt.args == error.args
    assert str(rebuilt) == str(error)


@pytest.mark.parametrize(
    ("error", "names"),
    [
        (FileNotFoundError(2, "x", "a.csv", None, "b.csv"), ["errno", "filename", "filename2"]),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), ["object", "start", "end", "reason"]),
        (ModuleNotFoundError("no", name="orders"), ["name"]),
        (AttributeError("no", name="total", obj="text"), ["name", "obj"]),
        (SyntaxError("bad", ("orders.py", 3, 4, "text")), ["filename", "lineno", "text", "msg"]),
        (json_error(), ["doc", "pos", "lineno", "colno"]),
        (OrderFailed("A1", code=3), ["order", "code"]),
        (Slotted(3), ["code"]),
        (Declined(3), ["code"]),
        (TaskTimeout("fetch", 1.0, 1.5), ["task_name", "limit", "elapsed"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_attributes_that_json_carries_come_back(error: Exception, names: list[str]) -> None:
    """Wherever they live: in __dict__, in slots, in C."""
    rebuilt = again(error)

    for name in names:
        assert getattr(rebuilt, name) == getattr(error, name)


def test_notes_come_back() -> None:
    """They are attributes too."""
    error = ValueError("x")
    error.add_note("while the order was read")

    assert again(error).__notes__ == ["while the order was read"]


def test_attributes_that_json_does_not_carry_are_left_out() -> None:
    """The others stay."""
    error = OrderFailed("A1", code=3)
    error.client = object()
    error.pair = (1, 2)

    rebuilt = again(error)

    assert rebuilt.order == "A1"
    assert not hasattr(rebuilt, "client")
    assert not hasattr(rebuilt, "pair")


def test_no_init_of_the_user_runs() -> None:
    """It would garble messages, fail, or do something a second time."""
    made: list[str] = []

    class Counted(Exception):
        def __init__(self, order: str) -> None:
            made.append(order)
            super().__init__(f"order {order}")

    assert str(again(Counted("A1"))) == "order A1"
    assert made == ["A1"]


def test_groups_are_rebuilt_member_by_member() -> None:
    """To any depth, each member by its own rules."""

    class Opaque(Exception):
        def __str__(self) -> str:
            return f"{id(self)}"

    error = ExceptionGroup(
        "orders", [KeyError("k"), ExceptionGroup("inner", [OrderFailed("A1", code=3), Opaque()])]
    )

    rebuilt = again(error)

    assert isinstance(rebuilt, ExceptionGroup)
    assert rebuilt.message == "orders"
    key, inner = rebuilt.exceptions
    assert isinstance(key, KeyError)
    assert [type(each) for each in inner.exceptions] == [OrderFailed, TaskFailed]


def test_a_class_that_lives_in_a_function_is_found() -> None:
    """By its qualified name, as long as it lives."""

    class Local(ValueError):
        pass

    assert type(again(Local("x"))) is Local


def test_what_cannot_be_rebuilt_is_task_failed() -> None:
    """It says what it stands for."""

    class Picky(Exception):
        def __new__(cls, order: str, code: int) -> Picky:
            return super().__new__(cls, order)

        def __init__(self, order: str, code: int) -> None:
            super().__init__(f"order {order}")

    rebuilt = again(Picky("A1", 3))

    assert isinstance(rebuilt, TaskFailed)
    assert rebuilt.exception_type.endswith("Picky")
    assert rebuilt.message == "order A1"


@pytest.mark.parametrize(
    "name",
    ["antigravity:Error", "builtins:print", "builtins:int", "os:nothing.at.all", "", ":", "x"],
)
def test_a_name_that_is_no_exception_is_task_failed(name: str) -> None:
    """Nothing named in a database is called or imported."""
    rebuilt = rebuild(Failure(type=name, message="text", args=["text"]))

    assert isinstance(rebuilt, TaskFailed)
    assert "antigravity" not in sys.modules


def test_no_module_is_asked_to_import_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's own __getattr__ may import what is asked of it: it is not asked."""
    asked: list[str] = []
    monkeypatch.setattr(builtins, "__getattr__", asked.append, raising=False)
    monkeypatch.setattr(json, "__getattr__", asked.append, raising=False)

    rebuild(Failure(type="json:Lazy.Error", message="text"))

    assert asked == []


def test_arguments_that_cannot_be_recorded_leave_the_message() -> None:
    """The message stands for them."""
    marker = object()

    rebuilt = again(ValueError(marker))

    assert (type(rebuilt), rebuilt.args) == (ValueError, (repr(marker),))


def test_a_long_message_is_cut_the_same_way_each_time() -> None:
    """The record is bounded, and so is what stands in it."""
    error = ValueError(object(), "x" * 1_000_000)

    assert len(record(error).encode()) < 50_000
    assert str(again(error)) == str(again(error))


def test_text_that_utf8_cannot_encode_is_no_reason_to_lose_a_failure() -> None:
    """A lone surrogate in a message comes back."""
    assert str(again(ValueError("bad \ud800"))) == "bad \ud800"


def test_a_failure_says_itself_in_one_line() -> None:
    """Type and message."""
    assert describe(record(OrderFailed("A1", code=3)).encode()) == "OrderFailed: order A1 failed"


@pytest.mark.parametrize("payload", [b"[]", b"1", b"null", b"{", b'"text"'])
def test_what_is_no_failure_is_a_value_error(payload: bytes) -> None:
    """So that whoever reads a damaged row can say so."""
    with pytest.raises(ValueError):
        Failure.parse(payload)


def marked(run: object, task_id: str) -> ValueError:
    error = ValueError(task_id)
    set_mark(error, Mark(run, task_id, (), False))
    return error


def ids(error: BaseException, run: object) -> set[str]:
    return {mark.task_id for mark in marks_in(error, run)}


def test_a_failure_is_passed_on_by_itself_its_group_or_its_cause() -> None:
    """``raise OrderFailed from error`` passes the failure on, also through groups."""
    run = object()
    cause = RuntimeError("outer")
    cause.__cause__ = marked(run, "b")

    assert ids(marked(run, "a"), run) == {"a"}
    assert ids(ExceptionGroup("g", [marked(run, "a"), cause]), run) == {"a", "b"}


def test_a_failure_that_was_handled_is_not_passed_on() -> None:
    """A plain ``raise`` inside ``except`` has dealt with it: its __context__ does not count."""
    run = object()
    error = RuntimeError("outer")
    error.__context__ = marked(run, "a")

    assert ids(error, run) == set()


def test_a_failure_of_another_run_is_none_of_this_one() -> None:
    """Its mark says whose it is."""
    assert ids(marked(object(), "a"), object()) == set()


def test_causes_in_a_circle_end() -> None:
    """Whoever builds them."""
    run = object()
    one, two = RuntimeError("1"), RuntimeError("2")
    one.__cause__, two.__cause__ = two, one

    assert ids(one, run) == set()
