"""WRITES DOWN what happened, and decides nothing.

`ended.py` is what is known of a request when it is over, `lines.py` the line that says it. `logs/` keeps lines for
people, `redact.py` the secrets out of them. `metrics.py` counts for Prometheus (`series.py` is how, `readings.py` what
is so at a scrape, `pulse.py` whether the event loop goes on). `status.py` for the health port, `console.py` for people,
`starts.py` for the next boot, `spent.py` for the month's bills; `ledger/` keeps what was rented, `board/` what
several gateways agree on, `redis_link.py` is the way to both where they are shared. `alerts.py` posts what
somebody should know at once. `onlookers.py` counts who asks for
pages, `boot_log.py` tells how a boot came up, with what `facts.py` and `gpus.py` know of the place;
`log_files.py` and `log_search.py` find lines again, `report.py` collects them and more for a bug report.
"""
