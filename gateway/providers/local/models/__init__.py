"""What MODEL means on this machine: found, fetched, read and checked, before any engine sees it.

`models` finds it, or has it downloaded: `model_names` (pure) reads the text, `model_files` and `gguf_header` what lies
on the disk, `hub_cache` the caches there, `hub_download` asks the Hub by way of its child program `hub`. `shape` (pure)
is what a model keeps for each token, `facts` (pure) what is known of it without its weights, `weights` are its files,
for all who measure them. `proof` compares files with the Hub's checksums, `pull` is the command, `model_error` what is
wrong, in one sentence.
"""
