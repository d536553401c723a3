"""KEEPS what was rented, so that no crash forgets a cent: lines that are only ever added, each safe before it counts.

`base.py` is what a ledger promises, and how it fails. `sqlite.py` keeps one on this machine's disk, for one gateway;
`redis.py` in a Redis that several share; `memory.py` nowhere, for rehearsals and tests. `looking.py` reads somebody
else's and changes nothing. What the lines mean, and what they add up to, is policy/books.py.
"""
