"""An engine on this machine, as a guarded child process of the gateway.

`provider` plays one run from model to end · `commands` (pure) knows each engine's command line · `environment` (pure)
what an engine may inherit · `guard` is the process between us and an engine, `guarded` our end of it · `news_pipe` what
an engine of our own tells · `endings` (pure) how it ended, in sentences · `models` and its neighbours find and fetch
models · `llama_child` is our server around llama-cpp-python.
"""
