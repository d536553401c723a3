"""ACTS on compute: starts, watches, rests and stops what answers the requests. Vendors do not know each other.

`base.py` is the contract that every provider keeps, `catalogue.py` the way from a name in the settings to a provider.
`local/` runs an engine on this machine, `external/` looks at one that somebody else runs. `runpod_pod/` and `vast/`
rent a machine for it; what is the same for all vendors is in `renting/`. `own_machine/` is how a rented worker stops
the machine that it is in. `feed.py` (the news of one instance) and `probe.py` (one look at an engine) are tools for
all of them.
"""
