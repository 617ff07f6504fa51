"""The decorators, and everything that can be awaited in a workflow.

In reading order:

    definitions     what a task and a workflow have in common: a function and its options
    wrappers        what may stand between a decorator and the function
    call            `Call`: one use of a task or workflow, to be awaited once
    identities      the identity of a call, taken when the call is made
    arguments       the arguments of a call, shown and compared
    recorded        `RecordedCall`: from call to recorded outcome
    attempts        the attempts of one call, up to an outcome
    bodies          one execution of a body: on the event loop, in a thread or in a process
    remote          a body in a worker process
    tasks           `task` and `Task`
    workflows       `workflow`, `Workflow` and `WorkflowCall`; `previous` and `save`
    maps            ``task.map``: one call for each of many items
    waits           `receive`, `sleep` and `sleep_until`
    races           `race` and `as_completed`
    values          `now`, `random` and `uuid`
    emits           `emit`

Only this wing decides what the outcome of a call is. It may import `runs` and what is below it.
"""
