"""`wakegate rehearse`: the whole cycle that costs money, played before it does; `--real` plays it once with money."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Annotated, cast

import typer


def rehearse(
    context: typer.Context,
    real: Annotated[
        bool, typer.Option("--real", help="Once with your settings: rents, answers, stops, and looks whether it did.")
    ] = False,
    up_to: Annotated[
        str, typer.Option(metavar="DOLLARS", help="With --real: what it may cost at most; the budget of that run.")
    ] = "0.05",
) -> None:
    """Play the whole cycle: a request comes, a GPU is rented, it boots, it answers, nobody comes, it is given back.

    On a small RunPod on this machine, with a real gateway and a real worker as its pod: needs no settings, costs
    nothing, takes half a minute, and shows each call to the vendor with its price. Nothing is left behind.

    Exit code 1 when something was not as it must be, 2 when a setting is wrong or --up-to is too little, 130 after
    Ctrl-C.
    """
    from gateway.rehearsal.children import start_script
    from gateway.rehearsal.play import Failed, play

    script = start_script()
    if script is None:
        typer.echo("start.sh is not where this package was installed; reinstall wakegate.", err=True)
        raise typer.Exit(1)
    if real:
        from gateway.rehearsal.real import play_for_real

        story = play_for_real(typer.echo, script, os.environ, context.obj(), _money(up_to))
    else:
        story = play(typer.echo, script, os.environ)
    try:
        asyncio.run(_interruptible(story))
    except Failed as error:
        typer.echo(f"\nIt failed: {error}", err=True)
        if error.console:
            typer.echo(f"The gateway said last:\n{error.console}", err=True)
        raise typer.Exit(error.code) from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        typer.echo("\nInterrupted: everything that was started is ended.", err=True)
        raise typer.Exit(130) from None


def _money(text: str) -> int:
    """Micro-dollars."""
    from gateway import kinds

    try:
        amount = kinds.MONEY.parse(text)
    except ValueError as error:
        typer.echo(f"--up-to: {kinds.MONEY.complaint(text, str(error))}", err=True)
        raise typer.Exit(2) from error
    return cast(int, amount)


async def _interruptible(story: Coroutine[object, object, None]) -> None:
    """SIGTERM and a terminal that goes away end it as Ctrl-C does: in order."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(story)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    await task
