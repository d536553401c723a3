"""`wakegate plan`: what would be chosen for a model on this machine, without starting anything."""

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.config import Settings


def plan(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="As in the setting of that name.", show_default="the setting"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs: each choice, and what it would pass.")] = False,
) -> None:
    """Say whether a model would fit this machine, with which context, and which setting changes each choice.

    Reads the model's own files, not its weights. Of a model that is not on the disk, its config.json is fetched from
    Hugging Face, and nothing else. Starts nothing.

    Exit code 1 when it cannot work or the model is not found, 2 when a setting is wrong or no model is named.
    """
    settings: Settings = context.obj()
    if settings.provider != "local":
        typer.echo(f"PROVIDER is {settings.provider}: the engine runs elsewhere, and is not planned here.")
        return
    text = model or settings.model
    if text is None:
        typer.echo("MODEL: not set; name one: wakegate plan org/name", err=True)
        raise typer.Exit(2)
    from gateway.assembly import CannotStart
    from gateway.doctor.plan import as_json, as_text, look

    try:
        facts, made = asyncio.run(look(settings, text, os.environ))
    except CannotStart as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    typer.echo(as_json(facts, made) if json else as_text(facts, made))
    raise typer.Exit(1 if made.refusal else 0)
