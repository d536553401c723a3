"""`wakegate status | wake | sleep | keep-warm | stop`: a gateway that runs on this machine is told, and says how it is.

It is found by its PORT (gateway/orders.py). What `stop --all` does where none runs, or where it does not answer, is in
`commands/ending.py`.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway import orders
from gateway.kinds import parse_duration
from gateway.orders import NoAnswer, Running

if TYPE_CHECKING:
    from gateway.config import Settings

LOOK_EVERY = 1.0
"""Seconds between two looks at a gateway that wakes its engine."""
CONFIRM_WITHIN = 45.0
"""Seconds beyond DRAIN_TIMEOUT that the end of a gateway may take: it waits 30 for the vendor's word."""
NOT_DONE = 1

AsJson = Annotated[bool, typer.Option("--json", help="For programs: everything that the gateway tells.")]


def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Say how the gateway on PORT is: its engine, who is there, what runs and costs, and when it stops.

    Exit code 1 when none runs on this machine, or it does not answer.
    """
    _show(_told(_ask(_find(context), "status")), as_json)


def wake(
    context: typer.Context,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is ready, or has failed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start the engine, or wake it, without a request. Refused where a request would be: when the budget is spent.

    Exit code 1 when it is refused, with --wait also when it fails, or when no gateway runs here.
    """
    gateway = _find(context)
    told: Mapping[str, Any] = _told(_ask(gateway, "wake"))
    if wait:
        told = until_ready(told, lambda: _told(_ask(gateway, "status")))
    _show(told, as_json)
    raise typer.Exit(NOT_DONE if wait and not told.get("ready") else 0)


def sleep(context: typer.Context, as_json: AsJson = False) -> None:
    """Stop the engine, or what is rented, now, and keep it warm no longer. The next request starts it again.

    Exit code 1 when somebody is served at the moment (it then stops once it is idle), or when no gateway runs here.
    """
    _show(_told(_ask(_find(context), "sleep")), as_json)


def keep_warm(
    context: typer.Context,
    how_long: Annotated[str, typer.Argument(metavar="TIME", help="How long from now: 2h, 30m. Or: off.")],
    as_json: AsJson = False,
) -> None:
    """Keep it up for a time, whether somebody asks or not. Starts it now; the budget and MAX_RUNTIME still hold.

    `off` ends that, and a span of WARM_SCHEDULE that is under way.

    Exit code 1 when it is refused or no gateway runs here, 2 when TIME cannot be understood.
    """
    _show(_told(_ask(_find(context), "keep-warm", {"for": _seconds(how_long)})), as_json)


def stop(
    context: typer.Context,
    leave: Annotated[
        bool, typer.Option("--leave", help="Leave what is rented running, for the gateway that comes next.")
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Then ask the vendor, and end whatever of ours still runs. Needs no gateway."),
    ] = False,
) -> None:
    """End the gateway on PORT in good order, and what it rents with it (ON_EXIT). Waits until it has ended.

    With --all what is rented is ended also where no gateway runs, or it hangs, and where its ledger is lost: the vendor
    is asked what there is.

    Exit code 1 when no gateway runs here, or something may still run and cost; 2 with --all where nothing is rented.
    """
    if leave and everything:
        typer.echo("--leave and --all: what is left to a successor cannot be ended as well.", err=True)
        raise typer.Exit(2)
    settings: Settings = context.obj()
    if everything and not settings.rents:
        typer.echo(f"PROVIDER is {settings.provider}: nothing is rented, so there is nothing to end.", err=True)
        raise typer.Exit(2)
    if not everything:
        raise typer.Exit(0 if _stop(_find(context), settings, leave=leave) else NOT_DONE)
    from gateway.commands.ending import end_rented

    for gateway in orders.running(settings.port, os.environ):  # first, or it would start again what is ended here
        _stop(gateway, settings, leave=False)
    raise typer.Exit(0 if end_rented(settings, typer.echo) else NOT_DONE)


def _stop(gateway: Running, settings: "Settings", *, leave: bool) -> bool:
    """Whether it has ended and nothing runs that was not to be left."""
    within = settings.drain_timeout + CONFIRM_WITHIN
    try:
        with gateway.asking({"do": "stop", "leave": leave}, within=within) as answers:
            _told(next(answers))
            typer.echo(f"The gateway on port {gateway.port} ends; running answers have {settings.drain_timeout:g} s.")
            last = next(answers)
    except NoAnswer as error:
        typer.echo(str(error), err=True)
        return False
    left = last.get("instance")
    if not isinstance(left, dict):
        typer.echo("It has ended, and nothing of it runs.")
        return True
    what = f"{left.get('id')} ({left.get('provider')}), {_price(left.get('dollars_per_hour'))}"
    if leave or settings.on_exit == "leave":
        typer.echo(f"It has ended. Left running: {what}. The next gateway with these settings takes it over.")
        return True
    typer.echo(f"It has ended, and the end of {what} was not confirmed: `wakegate stop --all` tries again.", err=True)
    return False


def until_ready(
    told: Mapping[str, Any],
    look: Callable[[], Mapping[str, Any]],
    *,
    say: Callable[[str], None] = lambda line: typer.echo(line, err=True),
    pause: Callable[[float], None] = time.sleep,
) -> Mapping[str, Any]:
    """What it tells when it is ready, or no longer on its way there."""
    said = ""
    while told.get("state") in ("starting", "stopping"):  # also between two tries, and before one that a stop delays
        line = _progress(told)
        if line != said:
            say(line)
            said = line
        pause(LOOK_EVERY)
        told = look()
    return told


# --- Finding and asking ----------------------------------------------------------------------------------------------


def _find(context: typer.Context) -> Running:
    settings: Settings = context.obj()
    found = orders.running(settings.port, os.environ)
    if not found:
        raise _none(settings.port)
    if len(found) > 1:
        lines = "".join(f"\n  port {each.port}: WAKEGATE_RUN_DIR={each.path.parent}" for each in found)
        typer.echo(f"Several gateways run here; set PORT, or one of these:{lines}", err=True)
        raise typer.Exit(NOT_DONE)
    return found[0]


def _none(port: int) -> typer.Exit:
    where = f"on port {port}" if port else "on this machine"
    typer.echo(f"No gateway of this user runs {where}. Is PORT the same here as there?", err=True)
    return typer.Exit(NOT_DONE)


def _ask(gateway: Running, do: str, more: Mapping[str, object] | None = None) -> dict[str, Any]:
    try:
        return gateway.ask({"do": do, **(more or {})})
    except NoAnswer as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(NOT_DONE) from error


def _told(answer: Mapping[str, Any]) -> dict[str, Any]:
    if not answer.get("ok"):
        typer.echo(str(answer.get("message") or "The gateway refused, and did not say why."), err=True)
        raise typer.Exit(NOT_DONE)
    told = answer.get("told")
    return told if isinstance(told, dict) else {}


def _seconds(text: str) -> float | None:
    word = text.strip().lower()
    try:
        return None if word in ("off", "never") else parse_duration(word) or None
    except ValueError:
        typer.echo(f"TIME: {text!r} is not a time; such as 2h, 30m, or off.", err=True)
        raise typer.Exit(2) from None


# --- Showing ----------------------------------------------------------------------------------------------------------


MONEY_LABELS = {"ends": "budget ends", "warned_percent": "warned at %"}
"""Where the field's own name would say too little."""


def _show(told: Mapping[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(told, indent=2) if as_json else as_text(told))


def as_text(told: Mapping[str, Any]) -> str:
    """A few lines for a person: what is not there, or nobody knows, is left out."""
    lines = [f"{_progress(told)}, for {_span(told.get('state_seconds'))}"]
    rows: list[tuple[str, str]] = []
    if told.get("reason"):
        rows.append(("why", str(told["reason"])))
        if told.get("engine_said"):
            rows.append(("said", _last_line(str(told["engine_said"]))))
    if told.get("models"):
        rows.append(("model", ", ".join(map(str, told["models"]))))
    rows.append(("callers", f"{told.get('in_flight', 0)} in flight, {told.get('waiting', 0)} waiting"))
    instance = told.get("instance")
    if isinstance(instance, dict):
        cost = f", {_price(instance['dollars_per_hour'])}" if instance.get("dollars_per_hour") else ""
        what = f"{instance.get('id')} ({instance.get('provider')}{cost})"
        rows.append(("runs", f"{what}, since {instance.get('started')}"))
    if told.get("idle_stop_in") is not None:
        rows.append(("stops", f"in {_span(told['idle_stop_in'])}, if nobody asks"))
    if told.get("warm_until"):
        rows.append(("kept warm", f"until {told['warm_until']} ({told.get('warm_by')})"))
    if told.get("warm_next"):
        rows.append(("next warm", str(told["warm_next"])))
    money = told.get("money")
    if isinstance(money, dict):
        rows += [_money(str(name), value) for name, value in money.items() if _says_something(str(name), value)]
    width = max(len(name) for name, _ in rows)
    return "\n".join([*lines, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def _last_line(text: str) -> str:
    """What an engine or a vendor said last; all of it is in the log."""
    line = (text.strip().splitlines() or [""])[-1].strip()
    return "".join(c for c in line if c.isprintable())[:300]


def _progress(told: Mapping[str, Any]) -> str:
    """`starting: loading 43 %, 25 s left`."""
    state, progress = str(told.get("state", "unknown")), told.get("progress")
    if not isinstance(progress, dict):
        return state
    ratio, left = progress.get("ratio"), progress.get("seconds_left")
    share = "" if ratio is None else f" {ratio * 100:.0f} %"
    return f"{state}: {progress.get('phase')}{share}" + ("" if left is None else f", {_span(left)} left")


def _span(seconds: object) -> str:
    if not isinstance(seconds, int | float):
        return "?"
    whole = round(seconds)
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if whole >= 2 * size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def _price(dollars: object) -> str:
    return f"${dollars:.2f}/h" if isinstance(dollars, int | float) else "price unknown"


def _says_something(name: str, value: object) -> bool:
    return value not in (None, "") and not (name == "warned_percent" and not value)


def _money(name: str, value: object) -> tuple[str, str]:
    """`spent_dollars` as `spent` and `$3.10`."""
    label = MONEY_LABELS.get(name, name.removesuffix("_dollars").replace("_", " "))
    if not name.endswith("_dollars") or not isinstance(value, int | float):
        return label, str(value)
    return label, f"${value:,.2f}" if value >= 0.1 or not value else f"${value:.4f}"
