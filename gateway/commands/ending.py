"""`wakegate stop --all`: ends whatever of ours runs at the vendor. Needs no gateway and no ledger, and writes to none:
a gateway that starts later sees at the vendor what happened.

It believes the vendor alone: a stop counts when the vendor's own status says so (the provider's business), and
"nothing is there" when it says so twice, a while apart, since what was created a moment ago is not in each list yet.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gateway.providers.base import Instance, ProviderError, Renter

if TYPE_CHECKING:
    from gateway.config import Settings

IN_ALL = 300.0
"""Seconds after which it gives up; whoever types it again goes on from there."""
STOP_WITHIN = 60.0
"""Seconds for one try to stop one instance."""
LOOK_AGAIN = 5.0
"""Seconds between two looks."""
LOOKS = 2
"""In a row that find nothing."""

Say = Callable[[str], None]


def end_rented(settings: "Settings", say: Say, *, look_again: float = LOOK_AGAIN) -> bool:
    """Whether nothing of ours runs any more, as far as the vendor knows."""
    from gateway.assembly import CannotStart, make_renter

    async def end() -> bool:
        renter = make_renter(settings)
        try:
            return await end_everywhere(renter, say, look_again=look_again)
        finally:
            await renter.close()

    try:
        return asyncio.run(end())
    except CannotStart as error:
        say(str(error))
        return False


async def end_everywhere(renter: Renter, say: Say, *, look_again: float = LOOK_AGAIN) -> bool:
    """At each vendor in PROVIDER by itself: one that cannot be asked keeps nothing running at another."""
    renters: Sequence[Renter] = getattr(renter, "renters", (renter,))
    ended = await asyncio.gather(*(end_all(each, say, look_again=look_again) for each in renters))
    return all(ended)


async def end_all(
    renter: Renter,
    say: Say,
    *,
    in_all: float = IN_ALL,
    stop_within: float = STOP_WITHIN,
    look_again: float = LOOK_AGAIN,
) -> bool:
    """Look, stop, and look again, until nothing is there or the time is over."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + in_all
    known: set[str] = set()
    problem, nothing = "", 0
    while True:
        try:
            there = await renter.list()
        except ProviderError as error:
            nothing = 0
            if error.reason != problem:
                problem = error.reason
                say(f"{renter.name} cannot be asked: {problem}")
            if error.lasting:
                return False
        else:
            nothing = 0 if there else nothing + 1
            if nothing >= LOOKS:
                say(f"Nothing of ours runs at {renter.name}." if not known else "All of it has ended.")
                return True
            await asyncio.gather(*(_end(renter, each, known, stop_within, say) for each in there))
        if clock() + look_again > deadline:
            say("Not everything is known to have ended: type this again, or look at the vendor's console.")
            return False
        await asyncio.sleep(look_again)


async def _end(renter: Renter, instance: Instance, known: set[str], within: float, say: Say) -> None:
    named = f"{instance.id} ({instance.provider})"
    if instance.id not in known:
        known.add(instance.id)
        say(f"{named} runs, ${instance.price / 1_000_000:.2f}/h: it is stopped.")
    try:
        async with asyncio.timeout(2 * within):
            await renter.stop(instance, within=within)
    except ProviderError as error:
        say(f"{named}: {error.reason}")
    except TimeoutError:
        say(f"{named}: its end is not confirmed yet.")
    else:
        say(f"{named} has ended, says the vendor.")
