"""`wakegate doctor`: says why this installation would not serve or would not scale, before it costs money.

`facts.py` looks at the machine and is the only part with I/O; `case.py` is what it found. Each check decides from that
alone, one file per theme: `ports`, `storage`, `model`, `gpu`, `platforms`, `exposure`, `runtime`, `traffic`, `renting`,
`gateway`. `findings.py` has every finding there is, with its words. `sockets.py`, `sizes.py` and `pgo.py` know formats,
rough reckonings and how Pythons are built, purely. `report.py` puts it together: `examine`, `as_text`, `as_json`.
`plan.py` is `wakegate plan`, which may ask the Hub for a model's config.json; the doctor never does.

It connects to nothing but this machine, starts no engine, loads no model, prints no secret, and takes 3 s at most.
"""
