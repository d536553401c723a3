"""The life of one upstream: from stopped over starting to ready, and back when nobody needs it.

`machine.py` is the table and the only place that changes a state; `events.py` is what may happen to it, `effects.py`
what it may order, `states.py` the states themselves.
"""
