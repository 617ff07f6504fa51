"""Complete programs, each started with ``python -m taskflow.examples.<name>``.

In reading order:

    census      counts the functions of a source tree in worker processes
    service     a web service that fulfils orders at a flaky payment provider
    approval    a web service whose expenses wait for people

They use the public API alone, as a user's program does: `taskflow`, its public modules and
`taskflow.fastapi`. No other module imports them.
"""
