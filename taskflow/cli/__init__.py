"""The command ``taskflow``: runs workflows, and shows and edits what is recorded.

In reading order:

    main, app                           the entry point; every command and its function
    options, inputs                     shared options; text made into workflows and values
    commands, history, waiting, check   the functions of the commands
    database, execution, recovery,      the work of a command: one question, one run, many runs,
    watch, stop, files                  events; its end at a signal; files read and written
    explanations, report, records,      the output: errors, outcomes, tables and trees, event
    events, progress, hints             lines, live progress, the command to type next
    timeline, trace                     a run as a page, and as a trace

Only this wing prints, reads signals of the process, and decides exit codes. It uses the public
API, and may import every wing below it and `testing.replays`; no other module imports it.
"""
