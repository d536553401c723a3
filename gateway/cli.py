"""The command line: `wakegate serve`, `wakegate keys …` and the others. What only prints imports what printing needs.

docs/reference/cli.md is generated from it (scripts/make_reference.py): every value has a word of its own (`metavar`),
and every command says what its exit codes mean.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway import surroundings
from gateway.commands import control, doctor, keys, logs, plan, rehearse, report, spend
from gateway.config import Settings, SettingsError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="WakeGate: an OpenAI-compatible gateway that wakes its model when asked, and lets it go when nobody asks.",
)


@app.callback()
def _root(context: typer.Context) -> None:
    """Subcommands only. Those in `gateway/commands/` get the settings by calling `context.obj`."""
    context.obj = load_or_exit


@app.command()
def serve() -> None:
    """Run the gateway and its health port until they are told to end: ./start.sh, but nothing is installed.

    Settings come from the environment and from `.env` (docs/reference/settings.md).

    Exit code 0 after an ordinary end, 2 for a setting that is wrong, else that of what ended first.
    """
    script = start_script()
    os.environ["WAKEGATE_PYTHON"] = sys.executable
    os.execv("/bin/bash", ["bash", str(script), "--no-setup"])  # noqa: S606  the same script that a checkout runs


@app.command()
def pull(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model on Hugging Face: org/name, org/name:Q4_K_M or org/name:file.gguf."
        ),
    ],
) -> None:
    """Download a model to this machine's disk, and do nothing else. Goes on where an interrupted pull stopped.

    Exit code 1 when it could not be had, 2 when MODEL cannot be understood or a setting is wrong, 130 after Ctrl-C.
    """
    from rich.console import Console

    from gateway.assembly import places_of, wants_of
    from gateway.providers.local.models.pull import PullSettings
    from gateway.providers.local.models.pull import pull as bring

    settings = load_or_exit()
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    raise typer.Exit(bring(model, PullSettings(places_of(settings), wants_of(settings), token), Console()))


# In the order in which somebody new meets them; groups come last by themselves.
app.command()(control.status)
app.command()(control.wake)
app.command()(control.sleep)
app.command()(control.keep_warm)
app.command()(control.stop)
app.command()(plan.plan)
app.command()(rehearse.rehearse)
app.command()(spend.spend)
app.command()(doctor.doctor)
app.command()(logs.logs)
app.command()(report.report)
app.add_typer(keys.app, name="keys")


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
    from gateway.rehearsal.children import start_script as find

    script = find()
    if script is None:
        typer.echo("start.sh is not where this package was installed; reinstall wakegate.", err=True)
        raise typer.Exit(1)
    return script


def main() -> int:
    """For `python -m gateway WORD` and the `wakegate` command."""
    app()
    return 0
