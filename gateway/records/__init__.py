"""WRITES DOWN what happened: metrics for Prometheus, the status file for the health port, lines for people."""
