"""Fuzzed arguments: equal ones make equal calls in any process, and different ones never do."""

from __future__ import annotations

import copy
import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from processes import ROOT
from values import (
    ATOMS,
    RECORDS,
    SCALARS,
    Held,
    Shape,
    anything,
    fitting,
    fuzz,
    plain,
    same,
    texts,
)

from taskflow.errors import SerializationError
from taskflow.wire.identity import canonical_arguments, key_json
from taskflow.wire.json import canonical_json, decode_plain


def identity(**arguments: Any) -> bytes:
    """What stands for these arguments in the id of a call of f()."""
    return b"|".join(canonical_arguments(arguments, "f"))


def is_one(one: Any, other: Any) -> bool:
    """Whether two arguments are the same: here, 1 and 1.0 are two, and an order of keys is none."""
    return same(one, other, in_order=False) and same(other, one, in_order=False)


def reordered(value: Any, rng: random.Random) -> Any:
    """A copy that equals it: dictionaries and sets are filled in another order."""
    if type(value) is dict:
        items = [(key, reordered(item, rng)) for key, item in value.items()]
        rng.shuffle(items)
        return dict(items)
    if isinstance(value, set | frozenset):
        members = sorted(value, key=lambda _: rng.random())
        return type(value)(members)
    if type(value) in (list, tuple):
        return type(value)(reordered(each, rng) for each in value)
    return value


def test_the_same_value_always_makes_the_same_call(seed: int, is_long: bool) -> None:
    """However it was put together; or it is refused each time."""
    rng = random.Random(seed)

    def check(pair: tuple[Any, Any]) -> None:
        value = pair[1]
        try:
            first = identity(x=value)
        except SerializationError:
            with pytest.raises(SerializationError, match="argument x"):
                identity(x=reordered(value, rng))
            return
        assert identity(x=reordered(value, rng)) == first
        assert identity(x=copy.deepcopy(value)) == first

    fuzz(check, seed, 20_000 if is_long else 100, fitting)


def test_another_value_of_the_same_kind_makes_another_call(seed: int, is_long: bool) -> None:
    """What JSON alone tells is told exactly: 1, 1.0, True and "1", an absent key and None."""

    def check(one: Any, other: Any, way: int) -> None:
        one, other = [(one, other), ([one], [other]), ({"a": one}, {"a": other})][way]
        alike = is_one(one, other)
        assert (identity(x=one) == identity(x=other)) == alike
        assert identity(x=one) != identity(y=one) != identity()

    fuzz(check, seed, 20_000 if is_long else 100, plain, plain, st.integers(0, 2))


def test_another_value_of_one_type_makes_another_call(seed: int, is_long: bool) -> None:
    """Of whatever type: two dates, two Structs, two sets of UUIDs, two attrs objects."""

    def check(shape: Shape, data: st.DataObject) -> None:
        one, other = data.draw(shape.values), data.draw(shape.values)
        try:
            payloads = identity(x=one), identity(x=other)
        except SerializationError as error:
            assert "argument x" in str(error)  # noqa: PT017
        else:
            assert (payloads[0] == payloads[1]) == is_one(one, other)

    fuzz(check, seed, 20_000 if is_long else 100, st.sampled_from([*SCALARS, *RECORDS]), st.data())


def test_a_value_and_what_its_json_shows_are_two(seed: int, is_long: bool) -> None:
    """At any depth, unless the value is of JSON's own types all the way down."""

    def check(pair: tuple[Any, Any], way: int) -> None:
        value = pair[1]
        try:
            shown = decode_plain(canonical_json(value))
            one, other = [(value, shown), ([value], [shown]), ({"a": value}, {"a": shown})][way]
            payloads = identity(x=one), identity(x=other)
        except (SerializationError, TypeError, ValueError):
            return
        assert (payloads[0] == payloads[1]) == is_one(value, shown)

    fuzz(check, seed, 20_000 if is_long else 100, fitting, st.integers(0, 2))


def test_whatever_is_no_identity_is_refused(seed: int, is_long: bool) -> None:
    """With an error that names task and argument and the way out; nothing else is ever raised."""

    def check(held: Held) -> None:
        try:
            payload = identity(x=held.value)
        except SerializationError as error:
            assert str(error).startswith("f(): the argument x ")  # noqa: PT017
            assert "key=lambda" in str(error)  # noqa: PT017
        else:
            assert payload == identity(x=held.value)

    fuzz(check, seed, 20_000 if is_long else 150, anything)


def test_no_two_odd_values_make_one_call() -> None:
    """Each is refused, or differs from each other one that is not the same."""
    known: dict[bytes, Any] = {}
    for value in ATOMS:
        try:
            payload = identity(x=value)
        except SerializationError:
            continue
        before = known.setdefault(payload, value)
        assert same(before, value), (before, value)


@dataclasses.dataclass(frozen=True)
class Line:
    text: str
    number: float


PROGRAM = """
import random, sys
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID
from test_fuzzed_arguments import Line, identity

rng = random.Random(int(sys.argv[1]))

def made(depth):
    kind = rng.randrange(6 if depth else 3)
    words = [str(rng.randrange(10**6)) for _ in range(rng.randrange(12))]
    if kind == 0: return set(words)
    if kind == 1: return frozenset(Decimal(each) for each in words)
    if kind == 2: return {date(2020, 1, 1) + timedelta(int(each) // 10**3) for each in words}
    if kind == 3:
        items = {each: made(depth - 1) for each in words}
        return {each: items[each] for each in sorted(items, key=hash)}
    if kind == 4: return [made(depth - 1) for _ in range(3)]
    return Line(str(kind), 1.5), {UUID(int=int(each)) for each in words}, made(depth - 1)

for _ in range(int(sys.argv[2])):
    print(identity(x=made(3), y={"b": 1, "a": made(1)}))
"""


def test_ids_are_the_same_in_every_process(seed: int, is_long: bool) -> None:
    """Whatever its hashes of text are, and so the order of its sets."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    seen = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(seed), str(5000 if is_long else 50)],
            env={**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": path},
            capture_output=True,
            check=True,
        ).stdout
        for hashes in ("0", "1", "4294967295")
    }

    assert len(seen) == 1
    assert len(seen.pop().splitlines()) == (5000 if is_long else 50)


def test_what_a_key_gives_is_the_identity_or_refused(seed: int, is_long: bool) -> None:
    """Any text is; different texts tell calls apart, and what is no text says so."""

    def check(one: str, other: str) -> None:
        assert (key_json(one, "the key of f") == key_json(other, "the key of f")) == (one == other)

    fuzz(check, seed, 5_000 if is_long else 50, texts, texts)
    with pytest.raises(ValueError, match="the key of f is text"):
        key_json("\ud800", "the key of f")
    for value in (None, 1, b"a", ["a"]):
        with pytest.raises(TypeError, match="the key of f must be text"):
            key_json(value, "the key of f")
