"""`wakegate plan`: what would be chosen for a model on this machine, without starting anything; or, with
`--hours-per-day`, what a month of a rented GPU would cost (costs.py)."""

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.config import Settings

RENTED_IDLE = 600.0
"""IDLE_TIMEOUT of what is rented, where nobody set one."""


def plan(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="As in the setting of that name.", show_default="the setting"),
    ] = None,
    hours_per_day: Annotated[
        float | None,
        typer.Option(
            min=0, max=24, metavar="HOURS", help="Instead: what a month costs of a GPU that is used so much each day."
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Which GPU, such as 4090 or A100; once for each. Without: a line for all."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=16, metavar="N", help="GPUs in one machine.")] = 1,
    wakes_per_day: Annotated[
        float, typer.Option(min=0, max=1000, metavar="N", help="How often a day it is woken and given back.")
    ] = 2,
    boot_minutes: Annotated[
        float, typer.Option(min=0, max=600, metavar="MINUTES", help="From its start to the first answer; it is paid.")
    ] = 3,
    busy: Annotated[
        int,
        typer.Option(
            min=1, max=100, metavar="PERCENT", help="In how much of those hours requests run; serverless is paid then."
        ),
    ] = 100,
    disk: Annotated[int, typer.Option(min=0, metavar="GB", help="What the model and its surroundings take.")] = 50,
    json: Annotated[
        bool, typer.Option("--json", help="For programs: each choice and what it would pass, or each price.")
    ] = False,
) -> None:
    """Say whether a model would fit this machine, with which context, and which setting changes each choice.

    Reads the model's own files, not its weights. Of a model that is not on the disk, its config.json is fetched from
    Hugging Face, and nothing else. Starts nothing.

    With --hours-per-day: what a month of a rented GPU costs, on demand, 24/7 and serverless, by RunPod's prices of now
    where RUNPOD_API_KEY is set, else by a table with the day of each price. Rents nothing.

    Exit code 1 when it cannot work or the model is not found, 2 when a setting is wrong, no model is named, or a GPU
    has no price.
    """
    settings: Settings = context.obj()
    if hours_per_day is not None:
        from gateway.commands import costs
        from gateway.policy.costs import Use

        idle = settings.idle_timeout if settings.rents and settings.idle_timeout is not None else RENTED_IDLE
        use = Use(hours_per_day, wakes_per_day, boot_minutes * 60, idle, busy / 100, disk, count)
        costs.show(settings, gpu or (), use, as_json=json, ask=costs.prices_of_now)
        return
    if gpu:
        typer.echo("--gpu: says what it costs, with --hours-per-day.", err=True)
        raise typer.Exit(2)
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
