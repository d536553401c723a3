"""The command line: `wakegate serve`, `wakegate pull MODEL`. What only prints imports what only printing needs."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway import surroundings
from gateway.commands import doctor, keys, logs, report
from gateway.config import Settings, SettingsError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="WakeGate: an OpenAI-compatible gateway that wakes its model when asked, and lets it go when nobody asks.",
)


app.add_typer(keys.app, name="keys")
app.command()(logs.logs)
app.command()(report.report)
app.command()(doctor.doctor)


@app.callback()
def _root(context: typer.Context) -> None:
    """Subcommands only. Those in `gateway/commands/` get the settings by calling `context.obj`."""
    context.obj = load_or_exit


@app.command()
def serve() -> None:
    """Run both ports: the health server and the gateway. All settings come from the environment (docs/reference)."""
    script = start_script()
    os.environ["WAKEGATE_PYTHON"] = sys.executable
    os.execv("/bin/bash", ["bash", str(script), "--no-setup"])  # noqa: S606  the same script that a checkout runs


@app.command()
def pull(
    model: Annotated[
        str, typer.Argument(help="A Hub id (org/name, org/name:Q4_K_M, org/name:file.gguf), as MODEL has it.")
    ],
) -> None:
    """Bring a model onto this machine's disk, and do nothing else. Goes on where an interrupted pull stopped."""
    from rich.console import Console

    from gateway.assembly import places_of, wants_of
    from gateway.providers.local.pull import PullSettings
    from gateway.providers.local.pull import pull as bring

    settings = load_or_exit()
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    raise typer.Exit(bring(model, PullSettings(places_of(settings), wants_of(settings), token), Console()))


def load_or_exit() -> Settings:
    """The settings as the gateway would have them; exit code 2 and one line each for what is wrong."""
    try:
        settings, _ = surroundings.settings_here(os.environ)
    except SettingsError as error:
        for warning in error.warnings:
            typer.echo(f"warning: {warning}", err=True)
        for problem in error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(2) from error
    return settings


def start_script() -> Path:
    """start.sh: beside the package in a checkout, inside it when installed from a wheel."""
    here = Path(__file__).resolve().parent
    for script in (here.parent / "start.sh", here / "start.sh"):
        if script.is_file():
            return script
    typer.echo("start.sh is not where this package was installed; reinstall wakegate.", err=True)
    raise typer.Exit(1)


def main() -> int:
    """For `python -m gateway WORD` and the `wakegate` command."""
    app()
    return 0
