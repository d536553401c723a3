"""WRITES DOWN what happened, and decides nothing.

`metrics.py` for Prometheus, `status.py` for the health port, `console.py` for people, `starts.py` for the next boot.
"""
