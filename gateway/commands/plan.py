"""`wakegate plan`: what would be chosen for a model on this machine, without starting anything."""

import asyncio
import json as as_json
import os
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.providers.local.plan import ModelFacts, Plan

WIDTH = 80


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
    from gateway.providers.local.commands import CommandError
    from gateway.providers.local.model_error import ModelError

    try:
        facts, made = asyncio.run(_look(settings, text))
    except ModelError as error:
        typer.echo(error.sentence, err=True)
        raise typer.Exit(1) from error
    except CommandError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    typer.echo(to_json(facts, made) if json else to_text(facts, made))
    raise typer.Exit(1 if made.refusal else 0)


async def _look(settings: "Settings", text: str) -> "tuple[ModelFacts, Plan]":
    from gateway import assembly
    from gateway.providers.local import models
    from gateway.providers.local.planner import Planner
    from gateway.providers.local.provider import find_installed

    planner = Planner(environment=os.environ)
    planner.begin()
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    facts = await models.preview(
        text, places=assembly.places_of(settings), wants=assembly.wants_of(settings), token=token
    )
    return facts, await planner.look_once(assembly.engine_spec(settings, ()), facts, find_installed())


def to_text(facts: "ModelFacts", made: "Plan") -> str:
    """A line for each choice, in 80 columns."""
    lines = [f"{facts.name} with {made.engine}", ""]
    for line in made.lines:
        lines += textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    if made.refusal:
        lines += ["", *textwrap.wrap(f"It cannot work: {made.refusal}", WIDTH, break_on_hyphens=False)]
    return "\n".join(lines)


def to_json(facts: "ModelFacts", made: "Plan") -> str:
    """Fields are added, never changed."""
    said = {
        "model": facts.name,
        "engine": made.engine,
        "works": not made.refusal,
        "refusal": made.refusal,
        "choices": [
            {"what": one.what, "value": one.value, "why": one.why, "setting": one.setting} for one in made.choices
        ],
        "warnings": list(made.warnings),
        "passed": dict(made.changes),
    }
    return as_json.dumps(said, indent=2, ensure_ascii=False)
