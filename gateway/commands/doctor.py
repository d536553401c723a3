"""`wakegate doctor`: what would not serve, would not scale or would cost money here, and what to type about it."""

import os
from typing import Annotated

import typer


def doctor(
    json: Annotated[bool, typer.Option("--json", help="For programs: each finding's code, level and texts.")] = False,
) -> None:
    """Say why this installation would not serve, or would cost money. Looks only, at this machine only; starts nothing.

    Exit code 1 when something would break, 2 when a setting is wrong.
    """
    from gateway.config import SettingsError
    from gateway.doctor.report import as_json, as_text, examine, exit_code, of_unreadable
    from gateway.surroundings import settings_here

    try:
        settings, around = settings_here(os.environ)
    except SettingsError as error:
        findings = of_unreadable(error)
        code = 2
    else:
        findings = examine(settings, around)
        code = exit_code(findings)
    typer.echo(as_json(findings) if json else as_text(findings), nl=json)
    raise typer.Exit(code)
