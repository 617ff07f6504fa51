"""Times come back with their zone, or are refused: what JSON carries is an offset."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta, timezone
from typing import Any, NamedTuple, TypedDict
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest

from taskflow import Runtime, emit, receive, save, task, workflow
from taskflow.errors import SerializationError
from taskflow.wire.codec import Codec

BERLIN = ZoneInfo("Europe/Berlin")
SUMMER = datetime(2024, 7, 1, 12, tzinfo=BERLIN)
SECOND = datetime(2024, 10, 27, 2, 30, fold=1)  # of that night's two


class Meeting(msgspec.Struct, frozen=True):
    at: datetime


@dataclasses.dataclass
class Day:
    at: datetime | None


@attrs.define
class Slot:
    at: datetime


class Visit(pydantic.BaseModel):
    at: datetime


class Row(TypedDict):
    at: datetime


class Pair(NamedTuple):
    at: datetime
    until: datetime


AT_ANY_DEPTH: list[tuple[Any, Callable[[datetime], Any]]] = [
    (datetime, lambda at: at),
    (Meeting, Meeting),
    (Day, Day),
    (Slot, Slot),
    (Visit, lambda at: Visit(at=at)),
    (Row, lambda at: {"at": at}),
    (Pair, lambda at: Pair(at, at)),
    (list[datetime], lambda at: [at]),
    (dict[str, list[Meeting]], lambda at: {"a": [Meeting(at)]}),
    (dict[datetime, int], lambda at: {at: 1}),
    (set[datetime], lambda at: {at}),
    (frozenset[Meeting], lambda at: frozenset({Meeting(at)})),
    (tuple[int, Visit], lambda at: (1, Visit(at=at))),
    (int | list[datetime | None], lambda at: [at]),
]


@pytest.mark.parametrize(("annotation", "made"), AT_ANY_DEPTH, ids=str)
@pytest.mark.parametrize("at", [SUMMER, SECOND, SECOND.replace(tzinfo=BERLIN)], ids=repr)
def test_a_time_that_would_lose_its_zone_or_fold_is_refused(
    annotation: Any, made: Callable[[datetime], Any], at: datetime
) -> None:
    """With the way out, at any depth, and in every kind of class."""
    with pytest.raises(SerializationError, match=r"astimezone\(UTC\)|fold=0"):
        Codec(annotation, "the result of f()").round_trip(made(at))


@pytest.mark.parametrize(("annotation", "made"), AT_ANY_DEPTH, ids=str)
@pytest.mark.parametrize(
    "zone",
    [None, UTC, timezone(timedelta(hours=5, minutes=45)), ZoneInfo("UTC"), ZoneInfo("Etc/GMT+5")],
    ids=str,
)
def test_utc_and_fixed_offsets_come_back(
    annotation: Any, made: Callable[[datetime], Any], zone: Any
) -> None:
    """No change of clocks can tell them from what they were."""
    value = made(datetime(2024, 7, 1, 12, tzinfo=zone))

    assert Codec(annotation, "the result of f()").round_trip(value)[1] == value


@pytest.mark.parametrize("at", [time(12, tzinfo=BERLIN), time(2, 30, fold=1)], ids=repr)
def test_a_time_of_day_keeps_its_zone_or_is_refused(at: time) -> None:
    """It has no offset without a date: its zone would be dropped."""
    with pytest.raises(SerializationError, match=r"without a zone|fold=0"):
        Codec(time, "the result of f()").round_trip(at)
    assert Codec(time, "it").round_trip(time(1, tzinfo=UTC))[1].tzinfo is not None


@pytest.mark.parametrize("at", [SUMMER, SECOND, time(12, tzinfo=BERLIN)], ids=repr)
async def test_what_would_lose_its_zone_is_refused_wherever_it_enters(
    runtime: Runtime, at: datetime | time
) -> None:
    """As a result, an argument, an input, a signal, a prompt, and saved or emitted."""
    executed: list[str] = []

    @task
    async def give() -> Any:
        return at

    @task
    async def take(when: Any) -> None:
        executed.append("take")

    @workflow
    async def inner(when: Any) -> None: ...

    @workflow
    async def outer() -> int:
        refused = 0
        uses: list[Callable[[], Any]] = [
            give,
            lambda: take([at]),
            lambda: inner({"when": at}),
            lambda: save(at),
            lambda: emit({"at": at}),
            lambda: receive("answer", prompt=at),
        ]
        for use in uses:
            try:
                await use()
            except SerializationError as error:
                refused += (
                    "astimezone" in str(error) or "fold" in str(error) or "zone" in str(error)
                )
        await receive("go")
        return refused

    handle = await runtime.start(outer(), thread_id="order")
    with pytest.raises(SerializationError, match=r"zone|fold"):
        await runtime.send("order", "go", at)
    await runtime.send("order", "go", 1)

    assert await handle.result() == 6
    assert executed == []


async def test_the_same_instant_in_two_zones_is_told_apart_by_a_key(runtime: Runtime) -> None:
    """The zone is no part of an argument's JSON: the task's key may name it."""

    @task(key=lambda at: f"{at.timestamp()} {at.tzinfo}")
    async def shown(at: datetime) -> str:
        return str(at.tzinfo)

    @workflow
    async def both() -> list[str]:
        return [await shown(SUMMER), await shown(SUMMER.astimezone(UTC))]

    assert await runtime.run(both(), thread_id="order") == ["Europe/Berlin", "UTC"]
