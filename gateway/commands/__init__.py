"""SUBCOMMANDS of `wakegate`, one file each. They print; what they print is decided in the room that knows it.

`keys.py`, `logs.py`, `report.py`, `doctor.py`, `plan.py`, `rehearse.py` and `spend.py` are called as their
commands are. `control.py` speaks to a gateway that runs (`status`, `wake`, `sleep`, `keep-warm`, `stop`), `ending.py`
is its `stop --all`, `costs.py` the cost table of `plan`.

Each module defines functions or a `typer.Typer` that `gateway/cli.py` adds. Everything heavy is imported inside, since
`wakegate --help` loads all of them.
"""
