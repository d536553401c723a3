"""WRITES DOWN what happened, and decides nothing.

`ended.py`is what is known of a request when it is over, `lines.py` the line that says it. `metrics.py` for Prometheus,
`status.py` for the health port, `console.py` for people, `starts.py` for the next boot.
"""
