"""Replays: what a deploy would do to recorded runs, found by running them on the present code.

    import anyio

    from taskflow import MemoryStore, Runtime, task, workflow
    from taskflow.testing import replay

    @task
    async def charge(order: str) -> str:
        return f"receipt for {order}"

    @workflow(name="fulfil")
    async def fulfil(order: str) -> str:
        return await charge(order)

    @workflow(name="fulfil")  # as the next version of the code has it
    async def fulfil_in_capitals(order: str) -> str:
        return await charge(order.upper())

    async def main() -> None:
        store = MemoryStore()
        async with Runtime(store) as runtime:
            await runtime.run(fulfil("a1"), thread_id="order-a1")

        assert (await replay(store, fulfil)).is_unchanged
        report = await replay(store, fulfil_in_capitals)
        (run,) = report.changed
        assert run.executes[0].arguments == {"order": "A1"}
        assert run.ignores[0].arguments == {"order": "a1"}
        print(report)

    anyio.run(main)

Each run is copied into a store of its own in memory, and its workflow executed there, as it would
be on any rerun: recorded calls answer from their records. No body of a task executes: a call that
is not recorded is held for ever. When nothing moves any more, what the code has asked for is
compared with what is recorded, and the run is cut off. Nothing is written to where the history
comes from: of a SQLite file a copy is read, so that an older version may go on using it.

The body of the workflow itself executes, and those of workflows that it calls, as on every rerun:
what it does outside of tasks, it does here too.

``taskflow check module:workflow`` is the same as a command.

- `replaying`: `replay` reads runs, and replays many at a time
- `histories`: a `Reader` reads runs with their calls from a store, a file, or exported lines
- `rehearsals`: a `Rehearsal` executes one run as far as its records go, and cuts it off
- `findings`: a `Hold` holds the calls that are not recorded; `Findings`: what differs
- `comparisons`: a `Comparison` makes an entry of the report of findings and outcome
- `verdicts`: `ReplayReport`, `RunReplay` and their parts, with their text

It alone decides what counts as a change of a recorded run. It imports the engine, and nothing else
of `taskflow.testing`.
"""
