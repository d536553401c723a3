"""How an engine ended, and why, in sentences for callers and for the console.

`endings` (pure) makes them of its `exits` (pure), by what `reasons` (pure) reads out of its output, by the kernel's
count of `oom_kills` and by the `room` in memory that there was.
"""
