"""`wakegate logs`: what happened, who asked, what came of it, also on a worker that no longer exists.

Reads the files under `DATA_DIR/logs`, of this boot and of every other on the volume, whether their gateways live or
not. Nothing is asked of a running gateway.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.records.log_files import BootFiles, Following
    from gateway.records.log_search import Found, Wanted

POLL = 0.5
"""Seconds between two looks at what is followed."""
LOOK_AROUND = 4
"""Every so many looks, also for new boots."""


def logs(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, metavar="N", help="How many lines, the last ones; 0 is all.")
    ] = 100,
    id: Annotated[
        str, typer.Option(metavar="ID", help="Of one request: its X-Request-Id, ours or the caller's own.")
    ] = "",
    key: Annotated[str, typer.Option(metavar="NAME", help="Of one key, by its name; never the key itself.")] = "",
    outcome: Annotated[
        str,
        typer.Option(metavar="WORD", help="Requests that were answered, refused, left (by their caller) or failed."),
    ] = "",
    route: Annotated[
        str, typer.Option(metavar="PATH", help="Of one path, or of those that end so: chat/completions.")
    ] = "",
    model: Annotated[str, typer.Option(metavar="NAME", help="Of one model, as callers wrote it.")] = "",
    since: Annotated[
        str, typer.Option(metavar="WHEN", help="From then on: 10m, 2h, 1d (ago), or 2026-11-21T14:00 (UTC).")
    ] = "",
    boot: Annotated[
        str,
        typer.Option(
            metavar="BOOT",
            help="Of which start of a gateway: latest, all, a number (1 is the newest), or how its name begins.",
            show_default="latest; all with --id or --since",
        ),
    ] = "",
    engine: Annotated[bool, typer.Option("--engine", help="What the engine printed, instead.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="For programs: one object a line, whichever LOG_FORMAT wrote it.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Look here, instead of DATA_DIR/logs/LOG_NAME; no setting is read."),
    ] = None,
) -> None:
    """Show, follow and filter the logs, also those of workers that are gone.

    Exit code 1 when there are no logs or no such boot, 2 when an option or a setting is wrong, 130 after Ctrl-C.
    """
    from gateway.records.log_files import Following
    from gateway.records.log_search import Wanted, choose

    wanted = Wanted(id=id, key=key, outcome=outcome, route=route, model=model, since=_since(since))
    _check(outcome, engine, wanted)
    place, advice = (folder, "as --folder says") if folder is not None else _place(context)
    boots = _find(place, engine, advice)
    which = boot or ("all" if id or since else "latest")
    chosen = choose(boots, which)
    if not chosen:
        known = ", ".join(each.stamp for each in boots[-5:])
        _fail(f"--boot: no boot {which!r} in {place}; the newest are {known}", code=1)
    show = _Printer(as_json=json, name_boots=len(chosen) > 1 or follow)
    if not follow:
        _quietly(lambda: _show(show, chosen, wanted, lines, place))
        return
    live = [each for each in chosen if each.changed > boots[-1].changed - 3600][-50:] if which == "all" else chosen
    following = Following(place, live, boots, engine=engine)
    try:
        again = {each.stamp: each for each in _find(place, engine, advice)}
        until_here = [following.until_here(again.get(each.stamp, each)) for each in chosen]
        _quietly(lambda: _follow(show, following, until_here, wanted, lines))
    finally:
        following.close()


# --- Showing ----------------------------------------------------------------------------------------------------------


class _Printer:
    """Lines on stdout; a line before them says whose they are, where there may be several."""

    def __init__(self, *, as_json: bool, name_boots: bool) -> None:
        self._as_json = as_json
        self._names_boots = name_boots and not as_json
        self._boot = ""
        self.count = 0
        _reconfigure()

    def __call__(self, found: Iterable["Found"]) -> None:
        for line in found:
            if self._names_boots and line.boot != self._boot:
                sys.stdout.write(f"==> {line.boot} <==\n")
            self._boot = line.boot
            sys.stdout.write((line.as_json() if self._as_json else line.text) + "\n")
            self.count += 1
        sys.stdout.flush()


def _reconfigure() -> None:
    """A terminal that knows no `…` gets `\\u2026`, and no error."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _show(show: _Printer, boots: "list[BootFiles]", wanted: "Wanted", lines: int, place: Path) -> None:
    from gateway.records.log_search import all_of, last

    show(last(boots, wanted, lines) if lines else all_of(boots, wanted))
    if not show.count:
        typer.echo(f"Nothing of that kind in {len(boots)} boot{'s' * (len(boots) != 1)} in {place}.", err=True)


def _follow(
    show: _Printer, following: "Following", until_here: "list[BootFiles]", wanted: "Wanted", lines: int
) -> None:
    from gateway.records.log_search import Found, all_of, last, time_of

    show(last(until_here, wanted, lines) if lines else all_of(until_here, wanted))
    test, turn = wanted.test(), 0
    at = ""
    while True:
        found = []
        for stamp, raw in following.poll(look_around=turn % LOOK_AROUND == 0):
            at = time_of(raw) or at
            if test(at, raw):
                found.append(Found(at, stamp, raw))
        show(found)
        turn += 1
        time.sleep(POLL)


def _quietly(work: Callable[[], None]) -> None:
    """Ctrl-C, and `| head` that has seen enough, are how this ends: no traceback, no message."""
    try:
        work()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # What is still in the buffer would fail again when Python ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise typer.Exit(0) from None


# --- What was asked ---------------------------------------------------------------------------------------------------


def _since(text: str) -> float | None:
    from gateway.records.log_search import parse_since

    if not text:
        return None
    try:
        return parse_since(text, time.time())
    except (ValueError, OverflowError):
        _fail(f"--since: {text!r} is neither a time span (10m, 2h, 1d) nor a time (2026-11-21T14:00)", code=2)


def _check(outcome: str, engine: bool, wanted: "Wanted") -> None:
    from gateway.records.log_search import OUTCOMES

    if outcome and outcome not in OUTCOMES:
        _fail(f"--outcome: {outcome!r} is none; allowed: {', '.join(OUTCOMES)}", code=2)
    if engine and (wanted.only_requests or wanted.id):
        _fail("--engine: the engine's own log knows nothing of keys, routes and outcomes; leave those out", code=2)


def _place(context: typer.Context) -> tuple[Path, str]:
    """Where logs are, and what to change where there are none."""
    settings: Settings = context.obj()
    if settings.log_to == "console":
        advice = "LOG_TO is console, so nothing is written there; set LOG_TO=both"
    else:
        advice = "DATA_DIR and LOG_NAME say where; or use --folder"
    return settings.data_dir / "logs" / settings.log_name, advice


def _find(place: Path, engine: bool, advice: str) -> "list[BootFiles]":
    from gateway.records.log_files import find

    try:
        boots = find(place, engine=engine)
    except FileNotFoundError:
        beside = _beside(place)
        _fail(f"No logs: {place} is not there ({advice}){beside}.", code=1)
    except OSError as error:
        _fail(f"No logs: {place} cannot be read: {error.strerror or error} ({advice}).", code=1)
    if not boots:
        _fail(f"No logs in {place} ({advice}).", code=1)
    return boots


def _beside(place: Path) -> str:
    """Other LOG_NAMEs on the same volume: the usual reason."""
    if place.parent.name != "logs":  # --folder, mistyped: what lies there is no log
        return ""
    try:
        names = sorted(each.name for each in place.parent.iterdir() if each.is_dir() and each.name != "_boot")
    except OSError:
        return ""
    return f"; there are logs of {', '.join(names[:5])}" if names else ""


def _fail(line: str, *, code: int) -> NoReturn:
    typer.echo(line, err=True)
    raise typer.Exit(code)
