"""An engine on this machine, as a guarded child process of the gateway.

`provider` plays one run from model to end · `commands` (pure) knows each engine's command line · `environment` (pure)
what an engine may inherit, `compile_caches` where it keeps what it compiles · `guard` is the process between us and an
engine, `guarded` our end of it · `knocking` hears that it listens, `news_pipe` what an engine of our own tells,
`warmup` asks it once before anybody else does, `read_ahead` has its files in memory before it asks for them ·
`sleeping` puts it to rest and wakes it · `endings` (pure) makes sentences of its `exits`, by what `reasons` (pure)
reads out of its output, by the kernel's count of `oom_kills` and by the `room` that there was · `progress` (pure) how
far it is, by its output and by what `measures` sees of it from outside · `llama_child` is our server around
llama-cpp-python.

`planner` says before the start what it is told about this machine, which `plan` (pure) decides by the model's `shape`
(pure), what its `cache` (pure) takes, the GPUs and the memory that is free (`free_memory`). `weights` are the model's
files, for all who measure them.

`models` finds and fetches what MODEL means: `model_names` (pure) reads the text, `model_files` and `gguf_header` what
lies on the disk, `hub_cache` the caches there, `hub_download` asks the Hub by way of its child program `hub`, `proof`
compares files with the Hub's checksums, `pull` is the command, `model_error` what is wrong, in one sentence.
"""
