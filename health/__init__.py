"""The second port: says whether this worker lives and can be sent requests, whatever the gateway is busy with.

A process of its own, started before anything else (`python -I -S health/`), with flat imports and the standard library
only, because it has to answer within 60 ms of its start while pip, the gateway or a model is still loading. It opens no
connection to anything; all it knows stands in one small file that the gateway rewrites.

    __main__   reads the settings, wires the rest, says where it listens
    settings   the five settings it needs, from where the gateway reads them
    status     the file, and the rules: from what the gateway last said to a status code (shared with the gateway)
    server     HTTP for probes: one loop, many sockets, no bodies
"""
