"""ACTS on compute: starts, watches, rests and stops what answers the requests. Vendors do not know each other."""
