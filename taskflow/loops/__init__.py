"""asyncio and trio behind one interface, and the resources that task bodies share.

In reading order:

    promises        one-shot wake-ups: `Promise` for one waiter, `Latch` for several
    cancellation    groups and scopes in which user code is cancelled exactly once
    loop            `Loop`: everything else in which asyncio and trio differ
    steps           execution of a coroutine body in a context of its own
    clocks          the time, and callbacks at a time
    workers         worker threads and worker processes
    scheduler       the slots, clock and workers of one runtime

Only this wing decides how user code is stepped and cancelled, and which event loop is running. It
imports the top-level modules at most, and no other wing.
"""
