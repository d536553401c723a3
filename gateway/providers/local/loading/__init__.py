"""From an engine's first line to its first answer: how far it is, and what makes the way shorter.

`progress` (pure) says how far it is, by its output and by what `measures` sees of it from outside. `knocking` hears
that it listens. `read_ahead` has its files in memory before it asks for them, `compile_caches` keeps what it compiles
for the next start, `warmup` asks it once before anybody else does.
"""
