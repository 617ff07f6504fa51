"""What looks at the user's code, for `crash_everywhere`: guesses, which stand apart for that.

    watcher      `Suspects`: what a crash test is handed, and which passes it asks for
    witness      `Witness`: looks on while workflows execute (profiling and audit hooks)
    coroutines   what a workflow awaits that is no call
    effects      what it changes that outlives the run
    stacks       for whom a frame executes: a workflow, a task, nobody
    findings     what is said of all that
    memory       `Memory`: what is left in the process, taken away from a rerun
    set_order    `OtherSetOrder`: sets in another order; `recompiled` compiles functions for that
    functions    what can be read off a function without calling it
    names        the lists of names that code is judged by

It sees the workflow's own code and what that calls, not what packages do inside, nor what tasks do;
of the world outside only files, sockets, processes and SQLite; clocks, chance and thread pools only
by the names on its lists; sets only in functions whose source is there; memory only by the names in
the code, four objects deep; and nothing that was computed at import, which all passes share.

It alone hooks into the interpreter, changes functions and memory, and puts all of that back. It may
import everything of the package; nothing imports it but `crashes.everywhere`, when it is asked to.
"""
