"""`wakegate report`: what a bug report needs, in one file, with the secrets out."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.records.report import Rendered
    from gateway.surroundings import Surroundings


def report(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to; - is standard output.",
            show_default="wakegate-report-TIME.txt in this folder",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file, if it is there.")] = False,
    with_engine_log: Annotated[
        bool,
        typer.Option("--with-engine-log", help="With what the engine printed: prompts may be in it."),
    ] = False,
) -> None:
    """Collect what a bug report needs into one text file, with the secrets taken out. Sends nothing.

    Exit code 1 when the file is there already or cannot be written. Wrong settings are told in the report.
    """
    from gateway.config import SettingsError
    from gateway.records.redact import Redactor
    from gateway.records.report import gather, of_broken_settings, render, secrets_around, secrets_of
    from gateway.surroundings import settings_here

    now = time.gmtime()
    try:
        settings, around = settings_here(os.environ)
    except SettingsError as error:
        sections = of_broken_settings((*error.problems, *error.warnings))
        secrets = set(secrets_around(os.environ))
    else:
        sections = gather(settings, around, doctor=lambda: _doctor(settings, around), with_engine_log=with_engine_log)
        secrets = set(secrets_of(settings, os.environ))
    path = output or Path(time.strftime("wakegate-report-%Y%m%dT%H%M%SZ.txt", now))
    if str(path) != "-" and not force and os.path.lexists(path):
        typer.echo(f"{path} is there already; --force replaces it.", err=True)
        raise typer.Exit(1)
    rendered = render(sections, at=time.strftime("%Y-%m-%dT%H:%M:%SZ", now), redact=Redactor(secrets))
    if str(path) == "-":
        sys.stdout.buffer.write(rendered.text.encode())
        return
    try:
        _write(path, rendered.text, force=force)
    except OSError as error:
        typer.echo(f"{path} cannot be written: {error.strerror or error}; -o names another file.", err=True)
        raise typer.Exit(1) from error
    _say(path, rendered)


def _doctor(settings: "Settings", around: "Surroundings") -> str:
    from gateway.doctor.report import as_text, examine

    return as_text(examine(settings, around))


def _write(path: Path, text: str, *, force: bool) -> None:
    """For our eyes only, and never through a link that somebody laid there."""
    if force:
        path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


def _say(path: Path, rendered: "Rendered") -> None:
    typer.echo(f"{path}: {len(rendered.text.encode()) / 1024:.0f} KiB. In it:\n")
    for title, count in rendered.contents:
        typer.echo(f"  {count:>6} lines  {title}")
    typer.echo("\nNothing was sent. Known secrets are out of it; read it before you send it.")
