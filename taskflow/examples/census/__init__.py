"""A census of a source tree: its functions, classes, branches and lines, and what is most complex.

    python -m taskflow.examples.census [FOLDER] [--db census.db] [--thread ID] [--jobs N]

Each file is parsed in a worker process and recorded as soon as it is counted. Kill it half-way, and
the same command goes on where it was; change one file, and the next run parses that one.

    __main__    the command line: runs the workflow, and prints the report
    survey      the workflow and its one task
    counts      the counts of one file's text
    sources     the files of a folder, and the digests of their contents
    report      the census as text
    progress    the progress, on stderr
"""
