"""One run in the hands of this process, and the journal that commits what runs write.

In reading order:

    frame           one executing body, and `current`
    occurrences     the calls that a body has made, and how equal ones are told apart
    activity        what executes, and why nothing more may start
    recorded        what a rerun is answered from, and what it has left unused
    gate            where a rerun holds new calls until its drift is known
    inbox           signals that no call has taken, and the calls that wait for one
    signals         the lookups that fill the inbox
    waiting         open waits, deadlines, and when the run is idle
    writes          what the run hands to the journal, and when
    journal         group commit: one writer for all runs of a runtime
    run             `Run`: one of each, and what an event means to several of them
    notices         what is told once, to the log or as a warning
    progress        the counters that the command line shows
    contests        which arm of a race has won
    feeds           the listeners of a thread, and their buffers
    cache           results that threads share

Only this wing decides whether a call may start, is answered from its record or waits, and when its
outcome is committed. It may import `stores`, `wire`, `loops` and the top-level modules.
"""
