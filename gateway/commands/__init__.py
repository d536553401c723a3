"""SUBCOMMANDS of `wakegate`, one file each. They print; what they print is decided in the room that knows it.

`keys.py`, `logs.py`, `report.py`, `doctor.py` and `plan.py` are called as their commands are.

Each module defines functions or a `typer.Typer` that `gateway/cli.py` adds. Everything heavy is imported inside, since
`wakegate --help` loads all of them.
"""
