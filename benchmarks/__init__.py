"""What taskflow costs, beside its peers and beside what the machine allows.

Run it with ``python -m benchmarks``; `scenario.py` says what is measured, `contenders/` what is
compared. Imports point down:

    __main__.py                      the command line
    suite.py                         rounds: every contender once, then every contender again
    table.py, chart.py, report.py    the terminal, the SVG, the JSON
    target.py, scenario.py           what must be shown; what is measured
    process.py, interpreter.py       worker processes, seen from the suite
    worker.py                        the process in which one contender is measured
    orphans.py                       the process that is killed, so that others recover its runs
    measurement.py                   one measurement of one open contender
    contenders/                      taskflow, its peers, and the floors
    figure.py, case.py, form.py, page.py, session.py    records and words

A *contender* is what is compared, a *case* is what it is given, a *sample* is one measurement of
one case, a *figure* is the median of its samples. A *floor* does the least work that any library
on the same storage must do: the same columns and bytes, committed in the same way.
"""
