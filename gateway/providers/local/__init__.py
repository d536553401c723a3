"""An engine on this machine, as a guarded child process of the gateway.

`provider` plays one run from model to end · `commands` (pure) knows each engine's command line · `environment` (pure)
what an engine may inherit · `guard` is the process between us and an engine, `guarded` our end of it · `news_pipe`
hears what an engine of our own tells · `sleeping` puts an engine to rest and wakes it · `llama_child` is our server
around llama-cpp-python.

The rest of a run has rooms of its own, each with its map at the door, in the order of a start: `models` finds and
fetches what MODEL means, `planning` chooses what the engine is told about this machine, `loading` helps and watches
until it serves, `ends` says how it ended and why.
"""
