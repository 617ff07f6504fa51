"""Doubles: what a test puts in the place of time, or of a store.

    virtual      `VirtualClock`: waits pass at once, and in order
    loop_time    the virtual time of one event loop, asyncio or trio
    wrapped      `WrappedStore`: a store through which every operation of another one passes
    faulty       `FaultyStore`: a wrapped store that fails, delays or repeats operations

The rule of this wing: code under test cannot tell a double from the real thing. Time never runs
backwards and never overtakes what can execute; a store without faults passes the suite for stores.
It imports the engine, and nothing else of `taskflow.testing`.
"""
