"""`wakegate pull MODEL`: brings a model onto this machine's disk and does nothing else.

Exit codes: 0 it is there, 1 it could not be brought, 2 the name cannot be understood, 130 interrupted (what came so far
is kept, and the next pull goes on from there).
"""

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from gateway.providers.local.models.model_error import ModelError
from gateway.providers.local.models.model_files import Model, human
from gateway.providers.local.models.models import Download, Places, Wants, parse, resolve

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY = 0.1
"""Where no terminal shows a bar, one line for each tenth of the way."""


@dataclass(frozen=True, slots=True)
class PullSettings:
    """What of the settings a pull needs."""

    places: Places
    wants: Wants = "any"
    token: str | None = field(default=None, repr=False)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)


def pull(spec: str, settings: PullSettings, console: "Console") -> int:
    """Returns the exit code; says everything that a person needs on the console."""
    try:
        model = asyncio.run(_pull(spec, settings, console))
    except ModelError as error:
        console.print(error.sentence, style="red", markup=False, highlight=False, soft_wrap=True)
        return 2 if error.kind == "name" else 1
    except KeyboardInterrupt:
        console.print("Stopped. What came so far is kept; the same command goes on from there.")
        return 130
    console.print(describe(model), markup=False, highlight=False, soft_wrap=True)
    return 0


async def _pull(spec: str, settings: PullSettings, console: "Console") -> Model:
    with _display(console) as show:
        return await resolve(
            parse(spec),
            places=settings.places,
            wants=settings.wants,
            token=settings.token,
            environ=settings.environ,
            on_progress=show,
        )


def describe(model: Model) -> str:
    """Two lines: what it is, and where it lies."""
    facts = [human(model.size)]
    if model.architecture:
        facts.append(model.architecture)
    if model.context_length:
        facts.append(f"{model.context_length} tokens of context")
    return f"{model.name} is here: {', '.join(facts)}\n{model.path}"


class _Show(Protocol):
    def __call__(self, download: Download) -> None: ...


@contextmanager
def _display(console: "Console") -> Iterator[_Show]:
    """A bar on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("looking", total=None)

        def show(download: Download) -> None:
            what = "waiting for another download of" if download.waiting else "downloading"
            name = download.file.rsplit("/", 1)[-1].replace("[", r"\[")
            progress.update(task, description=f"{what} {name}", completed=download.done, total=download.total)

        yield show


class _Lines:
    """Progress for logs and pipes."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._next = 0.0

    def __call__(self, download: Download) -> None:
        if download.ratio >= self._next:
            self._next = download.ratio + LINE_EVERY
            self._console.print(f"downloading: {download}", markup=False, highlight=False)
