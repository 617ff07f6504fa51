"""A store, a scheduler, and what works in the background while they are open: `Runtime`.

In reading order:

    runtime         `Runtime`: the face; each method documents and delegates
    requests        a caller's claim to a run, until an execution answers it
    executions      `Execution`: the state machine from a claim to the end of a run; its table
    rounds          one way from a claim to the commit of how it ended
    body            the workflow's body, with the recorded input
    conclusions     why nothing more may start in a round, and what is committed by that
    waiters         who waits for an execution, patiently or not
    handle          `RunHandle`: what `Runtime.start` returns
    registry        one execution for each thread, and turns for those that nobody asked for
    elsewhere       what other runtimes have made of a run that sleeps here
    services        what an open runtime consists of; its background is opened and closed
    watch           regular looks at the store for what other processes do
    recovery        runs are continued that are due, or whose owner has died
    blocks          ``Runtime.thread()``: tasks without a workflow
    signals         sending a signal
    subscriptions   readers of events; `transcripts`: each event once and in order
    lookups         what is recorded, as records
    history         changes of what is recorded; `exports`: threads as text

Only this wing claims runs, and only `executions` decides which states a run goes through here. It
may import `calls`, `runs`, `stores`, `wire`, `loops` and the top-level modules.
"""

from taskflow.runtime.runtime import Runtime

__all__ = ("Runtime",)
