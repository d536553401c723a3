"""DECIDES. Pure code: facts and `now` go in, orders and the next deadline come out.

Nothing here knows a clock, an event loop, a socket or a log, so a month of traffic is a loop in a test. Time has no
unit of its own: production hands in seconds of a monotonic clock, the stories in `tests/stories/` integer milliseconds,
and the settings that come with them use the same unit.

`lifecycle/` is the life of one upstream, `admission.py` its line and its slots. `activity.py` (what counts as use, and
since when there was none) and `backoff.py` (how long to wait before another try) are what the lifecycle stands on.
`keys.py` is a caller's key and what it may, `rates.py` how often, `spending.py` for how much money, `throttle.py` how
many wrong keys an address may try. `estimate.py` is how far a start is, and how long it will still take, `returning.py`
what is kept for callers who were told to come back. `fallback.py` is who may be answered by somebody else, and when
that one is asked; `purse.py` what it may cost. `books.py` is what was rented and for how much, `ledger_clock.py` the
time that it is counted in, `budget.py` whether there is room for more, `settlement.py` what the vendor's bills say
against them; `account.py` what a month has cost and will, for people. `prices.py` is what GPUs cost where nobody can be
asked, `costs.py` what a month of one does. `schedule.py` is when an upstream is kept up without being asked.
`lease.py` is until when a rented worker goes on without whoever rents it.
"""
