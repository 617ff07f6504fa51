"""Who is who: section by section, what makes two calls one, and what tells them apart."""

from __future__ import annotations

import dataclasses
import enum
import os
import subprocess
import sys
from collections import OrderedDict
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from taskflow import Runtime, task, workflow
from taskflow.errors import SerializationError
from taskflow.wire.identity import (
    Binder,
    canonical_arguments,
    check_id,
    fingerprint,
    idempotency_key,
    name_part,
    run_digest,
)


class Size(enum.Enum):
    LARGE = "L"


@dataclasses.dataclass
class Order:
    number: int


class Ticket(msgspec.Struct):
    number: int


class Login(pydantic.BaseModel):
    name: str
    password: pydantic.SecretStr


class Note(pydantic.BaseModel):
    tags: set[str] = set()
    hidden: int = pydantic.Field(0, exclude=True)


class Email(pydantic.BaseModel):
    to: str


class Sms(pydantic.BaseModel):
    to: str


class Mood(enum.StrEnum):
    GOOD = "good"


@attrs.define
class Parcel:
    content: object


@dataclasses.dataclass
class Crate:
    content: object


class Box(msgspec.Struct, omit_defaults=True):
    content: object
    sizes: set[str] = set()
    kind: Mood = Mood.GOOD


class Bag(pydantic.BaseModel):
    content: object


class Pair(NamedTuple):
    one: object
    two: object = None


def identity(*args: Any, fn: Any = None, **kwargs: Any) -> tuple[bytes, bytes]:
    def f(x: Any = 0, y: Any = 0, **options: Any) -> None: ...

    binder = Binder(fn or f, "f")
    return canonical_arguments(binder.bind(args, kwargs), "f", binder.variadic)


def test_the_format_of_ids_is_fixed() -> None:
    """Whoever changes it makes every recorded result of every user unusable."""
    assert run_digest("run").hex() == "38bb445f956b6bf70d78e7b12710a8cd"
    assert name_part("charge", "2") == b'["charge","2"]\n'
    assert idempotency_key("thread", "charge:1") == "4a61feeb1de3e763a9560b6e9d0eaab6"
    assert (
        fingerprint(name_part("charge", ""), b'{"order":1}') == "80c43d8da81f751a011d969f10b34a18"
    )


@pytest.mark.anyio
async def test_the_id_of_a_known_call_is_fixed(tmp_path: Path) -> None:
    """The whole of it: run, name, version, arguments, types, occurrence."""
    ids: list[str] = []

    @task(name="charge", version=2)
    async def charge(order: Order, *, tip: float = 0.0) -> int:
        return order.number

    @workflow(name="fulfil")
    async def fulfil() -> None:
        for _ in range(2):
            call = charge(Order(1), tip=0.5)
            ids.append(call.id)
            await call

    async with Runtime(tmp_path / "ids.db") as runtime:
        await runtime.run(fulfil(), thread_id="any", run_id="run")

    assert ids == [
        "charge:f7ffe57f5965a4ef7a5c0204e67d4ddf",
        "charge:8cc90037689e5377d79156aaf9fc3c6c",
    ]


def test_arguments_are_bound_to_their_names() -> None:
    """f(1) and f(x=1) are one call, and the order of keywords is nothing."""
    assert identity(1) == identity(x=1)
    assert identity(1, 2) == identity(y=2, x=1) == identity(1, y=2)
    assert identity(a=1, b=2) == identity(b=2, a=1)
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})


def test_defaults_that_were_not_passed_are_not_part_of_it() -> None:
    """So a parameter with a default may be added; one that is passed counts."""

    def longer(x: Any = 0, y: Any = 0, z: Any = 9, **options: Any) -> None: ...

    assert identity(1) == identity(1, fn=longer)
    assert identity(1) != identity(1, 0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (1, "1"),
        (None, "null"),
        ([1], (1,)),
        ([1], {1}),
        (b"x", "eA=="),
        (Order(1), {"number": 1}),
        (Order(1), Ticket(1)),
        (Size.LARGE, "L"),
        ("a", "b"),
        (0, None),
        (Note(hidden=1), Note(hidden=2)),
    ],
    ids=repr,
)
def test_different_arguments_make_different_calls(one: object, other: object) -> None:
    """By value, and by type."""
    assert identity(one) != identity(other)


DAY = date(2024, 5, 17)
# Two values of the same JSON.
TWINS = [
    (Email(to="ann"), Sms(to="ann")),
    (Email(to="ann"), {"to": "ann"}),
    (Order(1), Ticket(1)),
    (DAY, "2024-05-17"),
    (UUID(int=1), str(UUID(int=1))),
    (Decimal("1.5"), "1.5"),
    (b"x", "eA=="),
    (Size.LARGE, "L"),
    (Mood.GOOD, "good"),
    ((1, 2), [1, 2]),
    ({"a"}, ["a"]),
    (frozenset({"a"}), {"a"}),
    (Pair(1), (1, None)),
    (OrderedDict(a=1), {"a": 1}),
    ({Mood.GOOD: 1}, {"good": 1}),
    ((DAY,), (DAY.isoformat(),)),
]
AROUND = [
    lambda it: [it],
    lambda it: [None, it, 2.0],
    lambda it: (it,),
    lambda it: {"a": it},
    lambda it: {"a": {"b": [it]}},
    Crate,
    Parcel,
    Box,
    lambda it: Bag(content=it),
    lambda it: [Crate([Box((it,))])],
    Pair,
    lambda it: OrderedDict(a=it),
]


@pytest.mark.parametrize(("one", "other"), TWINS, ids=repr)
@pytest.mark.parametrize("around", AROUND)
def test_types_at_any_depth_make_different_calls(one: Any, other: Any, around: Any) -> None:
    """What JSON writes alike is told apart by its type, wherever it stands in an argument."""

    def several(*items: object, **named: object) -> None: ...

    assert identity(around(one)) != identity(around(other))
    assert identity(around(one)) == identity(around(one))
    assert identity(around(one), fn=several) != identity(around(other), fn=several)
    assert identity(x=around(one), fn=several) != identity(x=around(other), fn=several)


def test_types_in_different_places_make_different_calls() -> None:
    """Which of several members has the type is part of it, and so is how deep it stands."""
    day, text = DAY, DAY.isoformat()
    values = [
        [day, text], [text, day], [day, day], [[day], text], {"a": day, "b": text},
        {"a": text, "b": day}, {"a": {"b": day}, "b": text}, {"a": {"b": text}, "b": day},
        Crate([day, text]), Crate([text, day]), [(day,), text], [[text], day], [(text,), day],
    ]  # fmt: skip
    assert len({identity(each) for each in values}) == len(values)
    assert len({identity(x=day, y=[day]), identity(x=[day], y=day), identity(x=[day], y=text)}) == 3


def test_the_members_of_a_set_tell_their_types() -> None:
    """A set of dates is none of text, and one of pairs of dates is none of pairs of text."""
    day, text = DAY, DAY.isoformat()
    values: list[Any] = [
        {day}, {text}, {day, text}, {(day, text)}, {(text, day)}, {(text, text)},
        {(text, day), (day, text)}, {(day, day), (text, text)}, {(frozenset({day}), text)},
    ]  # fmt: skip
    assert len({identity(each) for each in values}) == len(values)
    assert len({identity([each]) for each in values}) == len(values)


def test_the_order_of_keys_members_and_fields_is_nothing() -> None:
    """Where they hold such types, too."""
    one, other = {"a": DAY, "b": (1,)}, {"b": (1,), "a": DAY}
    again = dataclasses.make_dataclass("Made", ["one", "two"])(DAY, (1,))
    turned = dataclasses.make_dataclass("Made", ["two", "one"])((1,), DAY)

    assert identity([one]) == identity([other])
    assert identity([again]) == identity([turned])


def test_a_field_that_json_omits_is_nothing() -> None:
    """A field with a default can be added to a class that omits defaults, and to one with UNSET."""
    shorter = msgspec.defstruct("Box", [("content", object)], omit_defaults=True)
    unset = msgspec.UNSET
    marked = msgspec.defstruct(
        "Box", [("content", object), ("note", str | msgspec.UnsetType, unset)]
    )

    assert identity([Box(DAY)]) == identity([shorter(DAY)]) == identity([marked(DAY)])
    assert identity([Box(DAY, {"a"})]) != identity([Box(DAY)])


@pytest.mark.parametrize(
    ("value", "types"),
    [
        ([1, 2.5, None, True, "a", [], {"a": [{}]}], b""),
        ({"a": {"b": [1]}}, b""),
        (DAY, b'{"x":"date"}'),
        ((1, "a"), b'{"x":"tuple"}'),
        (Order(1), b'{"x":"Order"}'),
        ({"a", "b"}, b'{"x":"set"}'),
        ([DAY], b'\n[[0,"x","",1,0,"date"]]'),
        (Crate([{"a": (DAY,)}]), b'{"x":"Crate"}\n[[0,"x","",1,"content","",2,0,"",3,"a","tuple",'
         b'4,0,"date"]]'),
        ({Mood.GOOD: 1}, b'\n[[0,"x","",1,["good","Mood"],""]]'),
        ({(1, DAY)}, b'{"x":"set"}\n'
         b'[[0,"x","",1,"[1,\\"2024-05-17\\"]",[0,"","tuple",1,1,"date"]]]'),
    ],
    ids=repr,
)  # fmt: skip
def test_the_form_of_types_is_fixed(value: object, types: bytes) -> None:
    """Also the ids of 0.3, whose arguments have no types but their own."""
    assert identity(value)[1] == types


def test_the_order_of_a_set_is_nothing_in_any_process() -> None:
    """Hashes of text differ from process to process; ids do not."""
    program = (
        "from taskflow.wire.identity import canonical_arguments as ids\n"
        "import enum, msgspec, pydantic\n"
        "Size = enum.Enum('Size', {each: each for each in 'SMLX'})\n"
        "Bag = msgspec.defstruct('Bag', [('sizes', set)], rename='pascal')\n"
        "class Note(pydantic.BaseModel): tags: set[str]\n"
        "words = set('alpha beta gamma delta epsilon'.split())\n"
        "sizes = {*Size, 1, None}\n"
        "print(ids({'a': words, 'b': {'c': [words]}, 'd': Note(tags=words)}, 'f'))\n"
        "print(ids({'a': sizes, 'b': {'c': [sizes]}, 'd': Bag(sizes)}, 'f'))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(seen) == 1


cycle: list = []
cycle.append(cycle)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        print,
        float("nan"),
        [float("inf")],
        {1: "a"},
        {"a": {(1,): 1}},
        "\ud800",
        10**4300,
        cycle,
        Login(name="ann", password="secret"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_carry_asks_for_a_key(value: object) -> None:
    """The error names the argument and says what to write."""
    with pytest.raises(SerializationError, match=r"argument x .*key=lambda order, client: order"):
        identity(value)


def test_a_wrong_argument_is_an_error_that_names_the_task() -> None:
    """At the call, as for any function."""
    with pytest.raises(TypeError, match=r"f\(\)"):
        identity(1, 2, 3)


def test_bind_and_unbind_are_inverse() -> None:
    """What was bound to names calls the function as it was called."""

    def f(a: int, /, b: int, *args: int, c: int = 0, **kwargs: int) -> None: ...

    binder = Binder(f, "f")

    assert binder.unbind(binder.bind((1, 2, 3), {"c": 4, "d": 5})) == (
        (1, 2, 3),
        {"c": 4, "d": 5},
    )


@pytest.mark.parametrize("value", ["a", "'; --", "../", "🧵" * 128, "\n", " "])
def test_any_text_is_an_id(value: str) -> None:
    """Up to 512 bytes of UTF-8, without NUL."""
    assert check_id(value, "thread id") == value


@pytest.mark.parametrize("value", ["", "a\0b", "x" * 513, "🧵" * 129, "\ud800"])
def test_other_text_is_no_id(value: str) -> None:
    """The error says which id."""
    with pytest.raises(ValueError, match="thread id"):
        check_id(value, "thread id")


@pytest.mark.parametrize("value", [None, 1, b"a"])
def test_what_is_no_text_is_no_id(value: object) -> None:
    """Not even where it could be made text."""
    with pytest.raises(TypeError, match="thread id"):
        check_id(value, "thread id")


def test_the_members_of_variadic_parameters_tell_their_types_too() -> None:
    """Each of several arguments is a top-level argument: bytes are not their text."""

    def several(*items: object, **named: object) -> None: ...

    assert identity(b"x", fn=several) != identity("eA==", fn=several)
    assert identity((1,), fn=several) != identity([1], fn=several)
    assert identity(x=b"x", fn=several) != identity(x="eA==", fn=several)
    assert identity(1, "a", x=2, fn=several) == identity(1, "a", x=2, fn=several)
