"""`wakegate spend`: what rented compute has cost this month, by the ledger, and what it will come to.

It reads what the gateway wrote, whether one runs or not, and changes nothing. What the figures mean is decided in
policy/account.py; here they are laid out.
"""

import asyncio
import csv
import io
import json as json_format
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gateway.policy.costs import cents

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.policy.account import Account
    from gateway.policy.books import Books

By = Literal["day", "model", "key"]
FULL, PARTS = "█", " ▏▎▍▌▋▊▉"
WIDEST = 60
"""Columns of a bar."""


def spend(
    context: typer.Context,
    by: Annotated[
        str, typer.Option(metavar="WHAT", help="What the chart is by: day, model, or key (the shares of API keys).")
    ] = "day",
    month: Annotated[str, typer.Option(metavar="YYYY-MM", help="Another month, in UTC.", show_default="this one")] = "",
    why: Annotated[bool, typer.Option("--why", help="Where the figure comes from, line by line.")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="For a spreadsheet: one line for each day, model or key.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs: everything, in dollars.")] = False,
) -> None:
    """Show what rented compute has cost this month, what MONTHLY_BUDGET leaves, and what the month will come to.

    It is the ledger that is read, the one that the budget is held by. Asks no vendor and changes nothing.

    Exit code 1 when the ledger cannot be read, 2 when something that was given is wrong.
    """
    if by not in ("day", "model", "key"):
        raise _stop(2, f"--by: {by!r} is none of day, model, key")
    settings: Settings = context.obj()
    from gateway.policy.account import as_json
    from gateway.policy.books import BadEntry

    try:
        shown = _account(settings, month)
    except BadEntry as error:
        raise _stop(2 if month and "is no month" in str(error) else 1, str(error)) from error
    except OSError as error:
        raise _stop(1, f"the ledger cannot be read: {error.strerror or error}") from error
    if shown is None:
        typer.echo("Nothing was rented yet: there is no ledger.")
        return
    if json:
        typer.echo(json_format.dumps(as_json(shown), indent=2))
    elif as_csv:
        typer.echo(_csv(shown, by), nl=False)
    elif why:
        typer.echo("\n".join(_why(shown)))
    else:
        typer.echo("\n".join(_page(shown, by, shutil.get_terminal_size().columns)))


def _stop(code: int, line: str) -> typer.Exit:
    typer.echo(line, err=True)
    return typer.Exit(code)


# -- what is read ----------------------------------------------------------------------------------


def _account(settings: "Settings", month: str) -> "Account | None":
    """Raises OSError, BadEntry. None: there is no ledger."""
    from gateway.assembly import UPSTREAM
    from gateway.policy.account import account
    from gateway.policy.books import month_of
    from gateway.renting import terms_of

    books = read_books(settings)
    if books is None:
        return None
    at = max(int(time.time() * 1000), books.latest)
    names = {UPSTREAM: settings.served_model_name[0]} if settings.served_model_name else {}
    keys = _keys(settings, month or month_of(at))
    return account(books, terms_of(settings), at, month=month, keys=keys, names=names)


def read_books(settings: "Settings") -> "Books | None":
    """What the ledger says. None: there is none yet. Raises OSError, BadEntry."""
    from gateway.policy.account import fold
    from gateway.records.ledger.looking import look

    url = settings.state_url
    entries = asyncio.run(look(url, settings.data_dir))
    return None if entries is None else fold(entries)


def _keys(settings: "Settings", month: str) -> Mapping[str, int] | None:
    """What each key has spent, as all workers of this volume wrote it down; None where nobody counts."""
    from gateway.records.spent import month_on

    return month_on(settings.data_dir / "state" / "spent", month)


# -- how it is shown -------------------------------------------------------------------------------


def _page(shown: "Account", by: str, width: int) -> Iterator[str]:
    from gateway.policy.books import moment

    until = "all of it" if shown.over else f"up to {moment(shown.at)[:16]}"
    yield f"{shown.month} (UTC), {until}"
    yield ""
    yield from _sums(shown)
    rows = _rows(shown, by)
    if rows is None:
        yield "\nNo shares of keys were counted in this month."
    elif rows:
        yield ""
        yield from chart(rows, width)


def _sums(shown: "Account") -> Iterator[str]:
    from gateway.policy.books import day_of

    budget = ""
    if shown.budget:
        budget = f"of {cents(shown.budget)}, {100 * shown.spent // shown.budget} %"
    rows = [("running", shown.running, f"{cents(shown.price)}/h now" if shown.price else "")]
    if shown.storage:
        rows.append(("disks", shown.storage, "to the month's end, whatever runs"))
    rows.append(("together", shown.spent, budget))
    if shown.reserved:
        rows.append(("reserved", shown.reserved, "for what runs now"))
    if not shown.over:
        ends = f"; the budget ends it on {day_of(shown.budget_ends)}" if shown.budget_ends is not None else ""
        rows.append(("forecast", shown.forecast, f"at {cents(shown.per_day)} a day{ends}"))
    wide = max(len(cents(amount)) for _, amount, _ in rows)
    for name, amount, remark in rows:
        yield f"  {name:<9} {cents(amount):>{wide}}  {remark}".rstrip()


def _rows(shown: "Account", by: str) -> Mapping[str, int] | None:
    return {"day": shown.days, "model": shown.models, "key": shown.keys}[by]


def chart(rows: Mapping[str, int], width: int) -> Iterator[str]:
    """One bar each, an eighth of a column exact; what cost anything has one that can be seen."""
    names, sums = max(map(len, rows)), max(len(cents(amount)) for amount in rows.values())
    room = max(8, min(WIDEST, width - names - sums - 8))
    most = max(max(rows.values()), 1)
    for name, amount in rows.items():
        eighths = max(1, amount * room * 8 // most) if amount > 0 else 0
        bar = FULL * (eighths // 8) + PARTS[eighths % 8].strip()
        yield f"  {name:<{names}}  {cents(amount):>{sums}}  {bar}".rstrip()


def _why(shown: "Account") -> Iterator[str]:
    """The lines that add up to the figure, and the figure."""
    from gateway.policy.books import dollars, moment

    wide = max([len(dollars(shown.spent)), *(len(dollars(line.amount)) for line in shown.lines)])
    for line in shown.lines:
        yield f"{moment(line.at)}  {dollars(line.amount) if line.amount else '':>{wide}}  {line.text}"
    yield f"{'':19}  {dollars(shown.spent):>{wide}}  in {shown.month}, rounded up for each line"


def _csv(shown: "Account", by: str) -> str:
    """Dollars with all their digits."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow((by, "dollars"))
    rows = {**(_rows(shown, by) or {})}
    if shown.storage:
        rows["(disks)"] = shown.storage
    for name, amount in rows.items():
        table.writerow((_harmless(name), f"{amount / 1_000_000:.6f}"))
    return text.getvalue()


def _harmless(name: str) -> str:
    """A spreadsheet takes what begins like this for a formula."""
    return f"'{name}" if name[:1] in "=+-@\t\r" else name
