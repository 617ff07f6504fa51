"""The cost of taskflow, compared with its peers and with the floor that the machine sets.

Run it with ``python -m benchmarks``. Imports point down:

    __main__.py                      the command line
    suite.py                         rounds: every contender once, then every contender again
    table.py, chart.py, report.py    the terminal, the SVG, the JSON
    target.py, scenario.py           the demands; the measured cases
    process.py, interpreter.py       worker processes, seen from the suite
    worker.py                        the process in which one contender is measured
    orphans.py                       the process that is killed, so that others recover its runs
    measurement.py                   one measurement of one open contender
    contenders/                      taskflow, its peers, and the floors
    figure.py, case.py, form.py, page.py, session.py    records and protocols

A *contender* is a library, or a floor, in one configuration. A *case* is a piece of work, a
*sample* one measurement of one case, a *figure* the median of a contender's samples. A *floor* does
the least work that any library on the same storage must do: the same columns and bytes, committed
in the same way.
"""
