"""Fuzzed values and types: what is accepted comes back as it was, what is refused leaves none."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import pytest
from values import (
    Held,
    Host,
    Shape,
    anything,
    carried_by_json,
    fitting,
    fuzz,
    giver,
    plain,
    same,
    shapes,
)

from taskflow import (
    RunNotFound,
    Workflow,
    emit,
    previous,
    receive,
    save,
    workflow,
)
from taskflow.errors import SerializationError
from taskflow.events import Emitted
from taskflow.wire.codec import Codec


class AfterAll(Exception):
    """Ends a run whose tasks are all recorded, so that the next one replays them."""


def annotated(name: str, annotation: Any, returned: Any = Any) -> Workflow[[Any], Any, Any]:
    """A workflow that returns its argument, which is annotated like that."""

    async def give_back(value: Any) -> Any:
        return value

    give_back.__annotations__ = {"value": annotation, "return": returned}
    return workflow(give_back, name=name)


def test_what_fits_its_annotation_comes_back(seed: int, is_long: bool) -> None:
    """Whatever types are put together: nothing that fits is refused, and nothing changed."""

    def check(pair: tuple[Any, Any]) -> None:
        annotation, value = pair
        codec = Codec(annotation, "the result of f()")
        payload, decoded = codec.round_trip(value)
        assert same(value, decoded)
        assert same(value, codec.decode(payload))

    fuzz(check, seed, 20_000 if is_long else 120, fitting)


def test_whatever_does_not_come_back_is_refused(seed: int, is_long: bool) -> None:
    """With an error that names the task; nothing else is ever raised."""

    def check(shape: Shape, values: list[Held]) -> None:
        codec = Codec(shape.annotation, "the result of f()")
        for value in (each.value for each in values):
            try:
                payload, decoded = codec.round_trip(value)
            except SerializationError as error:
                assert str(error).startswith("the result of f()")  # noqa: PT017
            else:
                assert same(value, decoded)
                assert same(value, codec.decode(payload))

    fuzz(check, seed, 20_000 if is_long else 120, shapes, st.lists(anything, max_size=5))


def test_the_first_run_and_every_rerun_see_the_same(host: Host, seed: int, is_long: bool) -> None:
    """A result as it was returned, or the same refusal; no body is executed a second time."""

    def check(held: list[tuple[Any, Held]]) -> None:
        pairs = [(annotation, each.value) for annotation, each in held]
        executed: list[str] = []
        seen: list[list[Any]] = []
        tasks = [giver(*pair, executed, f"give{n}") for n, pair in enumerate(pairs)]

        @workflow(name="shop")
        async def shop() -> None:
            seen.append([])
            for each in tasks:
                try:
                    seen[-1].append(await each())
                except SerializationError as error:
                    seen[-1].append(str(error))
            if len(seen) < 3:
                raise AfterAll

        thread_id = host.new_thread()
        for _ in range(2):
            with pytest.raises(AfterAll):
                host.run(host.runtime.run(shop(), thread_id=thread_id))
        host.run(host.runtime.run(shop(), thread_id=thread_id))

        assert len(executed) == len(set(executed))
        for (_, value), *met in zip(pairs, *seen, strict=True):
            refused = isinstance(met[0], str) and met[0].startswith("the result of give")
            refused = refused or (isinstance(met[0], str) and met[0].startswith("give"))
            for each in met:
                assert same(met[0], each)
                assert refused or same(value, each)

    pairs = st.tuples(shapes.map(lambda shape: shape.annotation), anything) | fitting.map(
        lambda pair: (pair[0], Held(pair[1]))
    )
    fuzz(check, seed, 3_000 if is_long else 25, st.lists(pairs, max_size=5))


def test_a_refused_result_leaves_nothing(host: Host, seed: int, is_long: bool) -> None:
    """The run has failed at that task: nothing further executes, and there is no row of it."""

    def check(shape: Shape, held: Held) -> None:
        value = held.value
        executed: list[str] = []
        first = giver(shape.annotation, value, executed, "first")
        second = giver(Any, 1, executed, "second")

        @workflow(name="shop")
        async def shop() -> None:
            await first()
            await second()

        thread_id = host.new_thread()
        try:
            host.run(host.runtime.run(shop(), thread_id=thread_id))
        except SerializationError as error:
            assert "first()" in str(error)  # noqa: PT017
            assert executed == ["first"]
            assert host.run(host.runtime.tasks(thread_id)) == []
        else:
            assert executed == ["first", "second"]

    fuzz(check, seed, 3_000 if is_long else 25, shapes, anything)


def test_inputs_and_results_of_workflows_come_back_or_are_refused(
    host: Host, seed: int, is_long: bool
) -> None:
    """A refused input begins no run; what is given back is what was put in, also when replayed."""

    def check(shape: Shape, held: Held) -> None:
        value = held.value
        shop = annotated("shop", shape.annotation, shape.annotation)
        thread_id = host.new_thread()
        try:
            call = shop(value)
        except SerializationError as error:
            assert "shop()" in str(error)  # noqa: PT017
            return
        for _ in range(2):
            assert same(value, host.run(host.runtime.run(call, thread_id=thread_id)))
        assert host.run(host.runtime.get(thread_id)).status == "success"

    def check_pair(pair: tuple[Any, Any]) -> None:
        shop = annotated("shop", pair[0], pair[0])
        result = host.run(host.runtime.run(shop(pair[1]), thread_id=host.new_thread()))
        assert same(pair[1], result)

    fuzz(check, seed, 3_000 if is_long else 20, shapes, anything)
    fuzz(check_pair, seed, 3_000 if is_long else 20, fitting.filter(carried_by_json))


def test_what_is_sent_and_saved_comes_back(host: Host, seed: int, is_long: bool) -> None:
    """Decoded to the type that is asked for, by this run and by the next one on the thread."""

    def check(pair: tuple[Any, Any]) -> None:
        annotation, value = pair

        @workflow(name="shop")
        async def shop() -> None:
            before = previous(annotation)
            save(value)
            seen.append((before, await receive("one", annotation)))

        seen: list[tuple[Any, Any]] = []
        thread_id = host.new_thread()
        for run_id in ("1", "2"):

            async def answer(run_id: str = run_id) -> None:
                handle = await host.runtime.start(shop(), thread_id=thread_id, run_id=run_id)
                await host.runtime.send(thread_id, "one", value)
                await handle.result()

            host.run(answer())
        assert seen[0][0] is None
        assert all(same(value, each) for each in (seen[0][1], *seen[1]))

    fuzz(check, seed, 2_000 if is_long else 15, fitting.filter(carried_by_json))


def test_what_json_does_not_carry_is_refused_everywhere(
    host: Host, seed: int, is_long: bool
) -> None:
    """Sent, saved, emitted or asked with: an error that says what, and nothing is recorded."""

    def check(held: Held) -> None:
        value = held.value

        @workflow(name="shop")
        async def shop() -> list[str]:
            refused = []
            for what, use in (
                ("emit", emit),
                ("saved", save),
                ("prompt", lambda value: receive("one", prompt=value)),
            ):
                try:
                    call = use(value)
                except SerializationError as error:
                    assert what in str(error)  # noqa: PT017
                    refused.append(what)
                else:
                    if call is not None:
                        call.close()
            return refused

        thread_id = host.new_thread()
        refused = host.run(host.runtime.run(shop(), thread_id=thread_id))
        assert refused in ([], ["emit"], ["emit", "saved", "prompt"])
        try:
            host.run(host.runtime.send(thread_id, "one", value))
        except SerializationError as error:
            assert "'one'" in str(error)  # noqa: PT017
            assert refused
        except RunNotFound:  # it has ended: but the value was not at fault
            assert refused in ([], ["emit"])
        assert host.run(host.runtime.tasks(thread_id)) == []

    fuzz(
        check, seed, 3_000 if is_long else 25, anything.filter(lambda held: held.value is not None)
    )


def test_what_is_emitted_is_told(host: Host, seed: int, is_long: bool) -> None:
    """Value by value, in order, to whoever asks later."""

    def check(values: list[Any]) -> None:
        @workflow(name="shop")
        async def shop() -> None:
            for value in values:
                await emit(value)

        async def told() -> list[Any]:
            await host.runtime.run(shop(), thread_id=thread_id)
            async with host.runtime.subscribe(thread_id) as events:
                return [event.value async for event in events if isinstance(event, Emitted)]

        thread_id = host.new_thread()
        assert same(host.run(told()), values)

    fuzz(check, seed, 1_000 if is_long else 10, st.lists(plain, max_size=4))


def test_what_is_replaced_copied_and_moved_comes_back(host: Host, seed: int, is_long: bool) -> None:
    """A value in the place of a result; the thread forked, exported and read by another store."""

    def check(shape_and_value: tuple[Any, Any]) -> None:
        annotation, value = shape_and_value
        executed: list[str] = []
        seen: list[Any] = []
        give = giver(annotation, value, executed)
        numbers = itertools.count()

        @workflow(name="shop")
        async def shop() -> None:
            call = give()
            task_ids.append(call.id)
            seen.append(await call)
            if next(numbers) == 0:
                raise AfterAll

        async def move() -> None:
            runtime, moved = host.runtime, f"{thread_id} moved"
            await runtime.replace(thread_id, task_ids[0], value)
            await runtime.fork(thread_id, to=f"{thread_id} forked")
            lines = [line async for line in runtime.export(thread_id)]
            await runtime.import_thread(lines, to=moved)
            for each in (thread_id, f"{thread_id} forked", moved):
                await runtime.run(shop(), thread_id=each)

        task_ids: list[str] = []
        thread_id = host.new_thread()
        with pytest.raises(AfterAll):
            host.run(host.runtime.run(shop(), thread_id=thread_id))
        host.run(move())

        assert executed == ["give"]
        assert len(seen) == 4
        assert all(same(value, each) for each in seen)

    fuzz(check, seed, 1_500 if is_long else 10, fitting)


def test_the_same_object_in_many_places_is_the_same_value(host: Host) -> None:
    """Shared references come back as equal values, and take no more than their text."""
    shared: list[Any] = [1]
    for _ in range(15):
        shared = [shared, shared]
    executed: list[str] = []
    give = giver(list[Any], shared, executed)

    @workflow(name="shop")
    async def shop() -> list[Any]:
        return await give()

    for _ in range(2):
        assert same(host.run(host.runtime.run(shop(), thread_id="shared")), shared)
    assert executed == ["give"]
