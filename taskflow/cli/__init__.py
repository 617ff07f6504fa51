"""The command ``taskflow``: runs workflows, and shows and edits what is recorded.

In reading order:

- the command line: `main`, `app` (all commands), `options`, `inputs`
- the commands: `commands`, `history`, `waiting`, `check`
- their work: `database`, `execution`, `recovery`, `watch`, `stop`, `files`
- their output: `explanations`, `report`, `records`, `events`, `progress`, `hints`
- a run drawn: `timeline`, `trace`

Only this wing prints, handles the signals of the process, and decides exit codes. It may import
every wing below it, and `testing.replays`; no other module imports it.
"""
