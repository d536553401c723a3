"""The cost table of `wakegate plan --hours-per-day`: what a month of a GPU costs, rented on demand and otherwise.

By RunPod's own prices of this moment where RUNPOD_API_KEY is set, else by a dated table (gateway/policy/prices.py).
"""

import asyncio
import json as json_format
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import typer

from gateway.policy.costs import Offer, Use, cents, even, offers
from gateway.policy.prices import FLEX_READ, HOURS, TABLE, Gpu, from_catalogue, matching

if TYPE_CHECKING:
    from gateway.config import Settings

Ask = Callable[["Settings"], "Sequence[Gpu] | str"]
"""The vendor's prices of now; a text says why there are none."""

WITHIN = 15.0
"""Seconds for the vendor's answer."""
VAST = (
    "Vast has no list prices: each host makes its own, and they change by the minute. What yours costs it says itself "
    "(dph_total), and WakeGate counts by that."
)


def show(settings: "Settings", named: Sequence[str], use: Use, *, as_json: bool, ask: Ask) -> None:
    """Print the table. Exits with 2 where a GPU has no price."""
    asked = ask(settings)
    table, said = (TABLE, asked) if isinstance(asked, str) else (tuple(asked), "")
    found = _find(named, table)
    if as_json:
        typer.echo(json_format.dumps([_row(gpu, offer) for gpu in found for offer in offers(gpu, use)], indent=2))
        return
    typer.echo(_text(found, use, said, one_each=not named))


def _find(named: Sequence[str], table: Sequence[Gpu]) -> list[Gpu]:
    if not named:
        return list(table)
    found: list[Gpu] = []
    for name in named:
        these = matching(name, table)
        if not these:
            known = ", ".join(gpu.name for gpu in table)
            typer.echo(f"--gpu: no price of {name!r}; there are prices of {known}.", err=True)
            raise typer.Exit(2)
        found += [gpu for gpu in these if gpu not in found]
    return found


def _row(gpu: Gpu, offer: Offer) -> dict[str, object]:
    return {
        "gpu": gpu.name,
        "how": offer.what,
        "dollars_per_hour": offer.price / 1_000_000,
        "hours": round(offer.hours, 2),
        "running_dollars": offer.running / 1_000_000,
        "disk_dollars": offer.disk / 1_000_000,
        "month_dollars": offer.month / 1_000_000,
        "read": FLEX_READ if offer.what == "serverless" and gpu.read != "now" else gpu.read,
        "source": gpu.source,
    }


def _text(found: Sequence[Gpu], use: Use, said: str, *, one_each: bool) -> str:
    parts = [_assumptions(use), ""]
    if one_each:
        parts.append(_columns(("GPU", "GB", "$/h", "on demand", "24/7", "serverless"), map(_short(use), found)))
    for gpu in found if not one_each else ():
        rows = [
            (
                each.what,
                cents(each.price),
                f"{each.hours:.0f}",
                cents(each.running),
                cents(each.disk),
                cents(each.month),
            )
            for each in offers(gpu, use)
        ]
        title = f"{gpu.name}, {gpu.memory} GB" + (f", {use.count} of them" if use.count > 1 else "")
        parts += [title, _columns(("", "$/h", "hours", "running", "disk", "a month"), rows), *_turning(gpu, use), ""]
    parts += ["", *_where_from(found, said), VAST]
    return "\n".join(parts).replace("\n\n\n", "\n\n")


def _assumptions(use: Use) -> str:
    wakes = f"{use.wakes_per_day:g} wakes of {use.boot / 60:g} min to boot and {use.idle / 60:g} min to wait for more"
    busy = f", requests run in {use.busy:.0%} of them" if use.busy < 1 else ""
    return f"A month of {HOURS} h, used {use.hours_per_day:g} h a day{busy}; {wakes}; a disk of {use.disk} GB."


def _short(use: Use) -> Callable[[Gpu], tuple[str, ...]]:
    def row(gpu: Gpu) -> tuple[str, ...]:
        month = {offer.what: offer.month for offer in offers(gpu, use)}
        price = gpu.secure if gpu.secure is not None else gpu.community
        columns = (
            ("on demand, network volume", "community, on demand"),
            ("24/7", "community, 24/7"),
            ("serverless",),
        )
        sums = (next((cents(month[name]) for name in names if name in month), "-") for names in columns)
        return gpu.name, str(gpu.memory), cents((price or 0) * use.count), *sums

    return row


def _turning(gpu: Gpu, use: Use) -> list[str]:
    share = even(gpu, use)
    if share is None:
        return []
    if share >= 1:
        return ["Serverless costs less here, however many requests run."]
    if share <= 0:
        return ["On demand costs less here, however few requests run."]
    return [
        f"Serverless costs less when requests run in less than {share:.0%} of those hours: it is paid for these only."
    ]


def _where_from(found: Sequence[Gpu], said: str) -> list[str]:
    if all(gpu.read == "now" for gpu in found):
        return ["Prices: RunPod's API, now. Your pod's own price may differ; it is what the ledger counts."]
    days = sorted({gpu.read for gpu in found})
    read = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    return [f"Prices: RunPod's list as read {read}, serverless flex {FLEX_READ}. Lists change; {said}."]


def _columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    table = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  "
        + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    )


def prices_of_now(settings: "Settings") -> "Sequence[Gpu] | str":
    """RunPod's catalogue, where there is a key to ask with. A text: why there is none."""
    if settings.runpod_api_key is None:
        return "set RUNPOD_API_KEY for the prices of now"
    return asyncio.run(_ask(settings.runpod_api_url, settings.runpod_api_key.get_secret_value()))


async def _ask(url: str, key: str) -> "Sequence[Gpu] | str":
    from gateway.providers.renting.transport import HttpTransport
    from gateway.providers.renting.vendor import Unanswered
    from gateway.proxy.pool import system_trust

    trust = system_trust() if url.startswith("https:") else None
    transport = HttpTransport(url, headers={"Authorization": f"Bearer {key}"}, trust=trust)
    try:
        answer = await transport("GET", "/catalog/gpus", None, WITHIN)
    except Unanswered as error:
        return f"RunPod was asked for the prices of now, and: {error.reason}"
    finally:
        await transport.close()
    if answer.status != 200:
        return f"RunPod was asked for the prices of now, and answered with status {answer.status}"
    found = from_catalogue(answer.content())
    return found or "RunPod was asked for the prices of now, and its answer has none"
