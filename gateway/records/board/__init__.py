"""One text that several gateways share, and change one at a time: who decides, who wants what. Never money.

`memory.py` for several of them in one process (tests, simulations), `redis.py` for real ones. What the text says is the
business of whoever writes it (providers/renting/page.py). Both keep one contract:

    await board.read()                  -> (version, text)      both "" before anybody wrote
    await board.write(text, version)    -> bool                 False: somebody else wrote meanwhile, read again
    await board.close()

A version never comes again, also not after the board has lost everything. Both raise OSError where the board cannot be
reached; whether a write counted then nobody knows.
"""
