"""Where runs and checkpoints are kept. A store is given bytes: it knows no tasks and no values.

    base             the protocol `Store` and what it promises
    rows             the rows of each table; `kinds` of checkpoints, and the `checksums` of rows
    batches          what a commit carries and what it came to
    commits          how a batch is applied, and which of its writes are refused
    claims           who may own a run: `decide`
    signals          which run a signal goes to
    transitions      what each change makes of a run's row
    edits            what forgetting, replacing and copying makes of calls; `pruning` of runs
    tables           the protocols by which these rules read and write a store's rows
    memory           `MemoryStore`, whose rows are `dicts`
    sqlite           `SQLiteStore`

Only this wing decides who owns a run, and which writes are refused. It imports `wire` and `loops`
and what lies below.
"""
