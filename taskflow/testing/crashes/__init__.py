"""Cut off, continue, compare: `crash_everywhere`, and what it is made of.

    everywhere   `crash_everywhere`: which passes there are; `Crashes`, `CrashTestFailed`
    trials       `Trial`: one pass: one process after the other runs the call
    lives        `Life`: what one process does
    processes    `Process`, `CutStore`: where it is cut off; `deaths`: what stands still then
    points       `Point`, `Cut`, `Plan`: the moments, and the text that a pass is repeated by
    histories    `History`: what has happened in a pass
    judgements   `Judge`: what is wrong with a pass, and what its author should change
    looks        `Look`, `Watcher`: the seam to what looks at the user's code

It alone decides what a dropped process may still do: nothing. It may import everything of the
package but `taskflow.testing.suspects`, which `everywhere` loads in one place, when asked to.
"""
